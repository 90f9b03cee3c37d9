//! THE DATA PLANE. A connection's way: `listener` accepts → `session` → `client` identifies the client → `routing` decides
//! on a pool (→ `sniff` reads the client's first bytes for it) → `upstream` picks and dials (→ `replay` finds a backend that answers) → `relay` moves bytes → one `outcome`.
//! `server` starts it and `admin` reads from it. It knows no keeper, probe, discovery or admin side.
//!
//! # What an idle session costs
//!
//! There may be hundreds of thousands of idle sessions, so what few of them need is boxed, and what is over is freed:
//!
//! - The task of a session is one future of at most 672 bytes; a test in `session` checks it. tokio adds 96 bytes, and its
//!   allocations come in steps of 128.
//! - `session::run` and `relay` are no `async fn`, which would hold their arguments a second time for as long as they wait.
//! - What is over before the relay begins (identify, route, connect, replay) runs in boxed futures and is freed then.
//! - `Live` holds a waker: the waiter of a `Notify` would take 60 bytes. The client's address is boxed, because few
//!   sessions have another client than their peer.
//! - `SessionRecord` boxes what few sessions have (`Rare`), and holds the time of the first byte in 8 bytes, half of an
//!   `Instant`.
//! - A lease boxes what few leases have, such as a trial.
//! - A relay without traffic has no buffer and no pipe. What a blocked direction holds is boxed.

mod client;
mod client_table;
mod context;
mod dial;
mod early_data;
mod forced_end;
mod handshakes;
mod idle_limits;
mod late_keepalive;
mod limit;
mod listener;
mod live;
mod option;
mod outcome;
mod preconnect;
mod relay;
mod replay;
mod routing;
mod session;
mod shares;
mod sniff;
mod socket;
mod starttls;
mod stock;
mod threads;
mod tries;
mod upstream;
mod worker;

pub use client_table::ClientTable;
pub use forced_end::ForcedEnd;
pub use listener::{Listener, Settings};
pub use live::{LegView, Phase, RoutedBy, SessionKey, SessionRef, SessionView};
pub use option::TcpView;
pub use relay::{Forbidden, PipeCounts, RingCounts, try_ring};
#[cfg(test)]
pub(crate) use session::tests::PANIC as PANIC_NEXT_SESSION;
pub use shares::Places;
pub(crate) use socket::{adopt, change, listen, local_address, takes_ipv4};
pub use threads::{Rings, WorkerThreads, Workers, pipe_descriptors};
