//! Discovery through a whole balancer.

mod calm;
mod faults;
mod held;
pub(crate) mod names;
mod reach;
mod told;
