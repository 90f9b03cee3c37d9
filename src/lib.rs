//! Evenkeel, a TCP load balancer.

pub mod admin;
pub mod balance;
mod balancer;
pub mod cli;
pub mod config;
pub mod discovery;
pub mod endpoint;
pub mod health;
pub mod keeper;
pub mod metrics;
pub mod pace;
pub mod pool;
pub mod probe;
pub mod proxy;
pub mod server;
pub mod standing;

pub use balancer::{Balancer, StartError, Surroundings, WorkerDied};
