//! Discovery through a whole balancer.

mod calm;
mod faults;
mod held;
mod names;
mod reach;
mod told;
