//! Discovery through a whole balancer.

mod calm;
mod faults;
mod reach;
mod told;
