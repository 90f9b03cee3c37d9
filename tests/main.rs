//! Whole-program tests: one binary, one module a topic. Hermetic: port 0, temporary directories, every wait bounded and on
//! a condition.

#![allow(
    unreachable_pub,
    dead_code,
    unused_imports,
    reason = "support is written for all modules; not each uses all of it"
)]

mod addresses;
mod admin;
mod architecture;
mod balancing;
mod bandwidth;
mod binds;
mod checks;
mod cli;
mod closing;
mod console;
mod discovery;
mod embedded;
mod ends;
mod failback;
mod fallback;
mod health;
mod interop;
mod lifecycle;
mod limits;
mod logs;
mod loops;
mod map;
mod metrics;
mod outliers;
mod packages;
mod pages;
mod pauses;
mod policies;
mod preconnect;
mod proxy_protocol;
mod queue;
mod readme;
mod relay;
mod reload;
mod retry;
mod ring;
mod routing;
mod secrets;
mod smoke;
mod stalled;
mod starttls;
mod support;
mod survive;
mod systemd;
mod urgent;
mod zones;
