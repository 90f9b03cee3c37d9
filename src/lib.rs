//! Evenkeel, a TCP load balancer: the map of its house.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | listener | accepts on front addresses, belongs to one pool |
//! | session | one client connection, from accept to close, with its backend leg |
//! | pool | a named set of backends with a balance policy, a check and limits |
//! | endpoint | what discovery says exists |
//! | backend | one instance that serves; what the pool keeps about an endpoint |
//! | standing | the one word that says whether and why a backend gets sessions |
//! | eligible | may get a new session now |
//! | pick, lease | choosing an eligible backend; a session's claim on it, given back when dropped |
//! | probe; rise, fall | one active health check; how many in a row flip the state |
//! | relay | moving the bytes of a session |
//! | drain | take nothing new, let the old finish, within limits |
//! | outcome | why a session ended: [`metrics::Outcome`] |
//! | keeper | the one writer of a pool's membership and facts |
//! | worker | one data-plane thread |
//!
//! # Layers
//!
//! Imports only point down; a test reads them off the sources.
//!
//! ```text
//! 5  main, cli, balancer, admin                who tells it what to do, who looks at it
//! 4  server                                    the running set; joins the planes
//! 3  proxy: listener > session > upstream, relay; worker          DATA PLANE
//! 3' keeper     probe     discovery > consul crate                CONTROL PLANE, joined by channels in server
//! 2  pool                                      the only thing that both planes touch
//! 1  endpoint, standing, operator, health, balance, proxy_protocol, pace    pure: no async, no I/O, no global randomness
//! 0  clean, config, metrics                    vocabulary
//! ```
//!
//! # Life of a connection
//!
//! `proxy/listener.rs` waits until a socket is readable, takes a slot under the limits, accepts, and gives the socket to
//! the worker with the fewest sessions. `proxy/session.rs` is the rest of its life, top to bottom: `client` finds out
//! who it is, by the [`proxy_protocol`] of a trusted peer perhaps; `upstream` picks a backend ([`pool::Pool::pick`]) and dials it,
//! with retries as long as no byte of the client has been sent, and another one beside it if that takes long; `replay`,
//! where it is wanted, finds one that answers; `relay` moves bytes both ways until an end; `outcome` writes one set of
//! counters and one log line, whatever way the session ended.
//!
//! # Life of a backend
//!
//! [`discovery`] sends whole sets of [`endpoint::Endpoint`]s; an error is never a set. The [`keeper`] of the pool compares
//! them with what it has, starts probes, and writes facts; [`standing::Facts::standing`] makes one word of them; the
//! [`pool`] lets sessions pick who is up. An identity survives everything that does not change it, with its counters and
//! sessions, and is remembered for ten minutes after it left. What becomes of sessions that run when a standing changes is
//! for `server/closing` to say, which sees standings and sessions and ends the latter at a pace.
//!
//! # Another configuration
//!
//! `cli/run.rs` notices that there may be one, [`Balancer::reload`] has it applied: [`config::Diff`] says what differs,
//! `server/apply.rs` gets everything that can fail and then changes the running set; `server/leaving.rs` waits for the last
//! sessions of what is gone.
//!
//! # Threads
//!
//! N workers, each an OS thread with its own event loop: a session lives and dies on one. The control plane and the admin
//! listener run on the runtime that [`Balancer::start`] was called on (two threads in the program), so that a saturated
//! data plane can still be probed, scraped and drained.

pub mod admin;
pub mod balance;
mod balancer;
mod clean;
pub mod cli;
pub mod config;
mod deadline;
pub mod discovery;
pub mod endpoint;
pub mod health;
pub mod keeper;
pub mod metrics;
pub mod operator;
pub mod pace;
pub mod pool;
pub mod probe;
pub mod proxy;
pub mod proxy_protocol;
pub mod server;
pub mod standing;

pub use balancer::{Balancer, Options, ReloadError, StartError, WorkerDied};
