//! Load generator for Evenkeel: every byte that comes back is compared with what must come back.
//!
//! [`args`] makes a [`LoadPlan`] from a command line; [`run()`] runs a plan on a few OS threads and returns a [`RunReport`];
//! [`Server`] is the matching backend. [`compare()`] runs both around Evenkeel and its peers, and [`chaos()`] breaks backends behind
//! them; `harness` is what these two share. [`pattern`], [`protocol`] and [`pacing`] are pure: no clock, no socket.
//!
//! It is a library too, so that tests and benches need no process. Linux only: the open loop uses timerfd, because timers with a
//! precision of a millisecond would measure themselves.

pub mod args;
mod chaos;
mod closed_set;
mod compare;
mod connection;
mod counters;
mod harness;
mod limits;
mod load_thread;
mod operation_error;
mod operation_timeout;
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
mod shares;
mod timer;
pub mod units;

pub use chaos::{BackendArgs, ChaosArgs, chaos, chaos_backend};
pub use compare::{CompareArgs, compare};
pub use limits::{NoRoom, raise_descriptor_limit};
pub use plan::{CloseSide, LoadPlan};
pub use progress::{RunBar, RunProgress};
pub use report::{Latency, RunReport};
pub use run::{RunError, run};
pub use scenario::Scenario;
pub use serve::{Server, Totals};
pub use shares::{POLICIES, SharesArgs, shares};
