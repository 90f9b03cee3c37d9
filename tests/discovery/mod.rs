//! Discovery through a whole balancer.

mod calm;
mod faults;
mod names;
mod reach;
mod told;
