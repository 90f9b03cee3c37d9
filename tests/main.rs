//! Whole-program tests: one binary, one module a topic. Hermetic: port 0, temporary directories, every wait bounded and on
//! a condition.

#![allow(
    unreachable_pub,
    dead_code,
    unused_imports,
    reason = "support is written for all modules; not each uses all of it"
)]

mod architecture;
mod balancing;
mod binds;
mod ends;
mod limits;
mod relay;
mod retry;
mod ring;
mod smoke;
mod support;
