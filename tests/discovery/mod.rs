//! Discovery through a whole balancer.

mod calm;
mod faults;
mod told;
