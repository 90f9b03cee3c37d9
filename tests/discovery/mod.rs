//! Discovery through a whole balancer.

mod calm;
mod etcd;
mod faults;
mod file;
mod held;
mod many;
pub(crate) mod names;
mod presence;
mod reach;
mod told;
