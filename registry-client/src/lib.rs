//! What the clients of registries share: how a server is reached, answers that are bounded, small files, and why there is no
//! answer. Each client has its own settings, calls and errors; here is nothing that only one registry has.

mod address;
pub mod base64;
mod body;
mod failure;
mod file;
mod tls;

pub use address::{Address, http_client};
pub use body::{beginning, shown, whole};
pub use failure::{Cause, Failure, no_answer};
pub use file::{OneAtATime, read};
pub use reqwest;
pub use tls::Tls;
