//! Load generator for Evenkeel: every byte that comes back is compared with what must come back.
//!
//! The map, top down: [`args`] turns a command line into a [`Plan`]; [`run()`] drives a plan on a few OS threads and gives a
//! [`Report`]; [`Server`] is the matching backend; [`compare()`] runs both around Evenkeel and its peers;
//! [`chaos()`] breaks backends behind them. [`pattern`], [`protocol`] and [`pacing`] are pure: no clock, no socket.
//!
//! A library as well as a program, so that tests, benchmarks and comparisons drive it without a process. Linux only: pacing
//! uses timerfd, because an open loop with timers of a millisecond would measure its own timers.

mod alarm;
pub mod args;
mod chaos;
mod compare;
mod envoy;
mod fault;
mod lane;
mod limits;
mod link;
pub mod pacing;
pub mod pattern;
mod plan;
mod progress;
pub mod protocol;
mod report;
pub mod results;
mod run;
mod scenario;
mod serve;
mod tally;
pub mod units;
mod watch;

pub use chaos::{BackendArgs, ChaosArgs, chaos, chaos_backend};
pub use compare::{CompareArgs, compare};
pub use limits::{NoRoom, raise_descriptor_limit};
pub use plan::{CloseSide, Plan};
pub use progress::{Bar, Snapshot};
pub use report::{Latency, Report};
pub use run::{Error, run};
pub use scenario::Scenario;
pub use serve::{Server, Totals};
