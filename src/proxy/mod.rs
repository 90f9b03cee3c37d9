//! THE DATA PLANE. A connection's way: `listener` accepts → `session` → `client` says who it is → `upstream` picks and
//! dials (→ `replay` finds one that answers) → `relay` moves bytes → one `outcome`. Nothing in here knows of keepers, probes, discovery or the admin side.

mod client;
mod dial;
mod early_data;
mod forced_end;
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
mod session;
mod shares;
mod socket;
mod tries;
mod upstream;
mod worker;

pub use forced_end::ForcedEnd;
pub use listener::{Listener, Settings};
pub use live::{LegView, Phase, SessionKey, SessionRef, SessionView};
pub use option::TcpView;
pub use relay::{Forbidden, PipeCounts, RingCounts, try_ring};
#[cfg(test)]
pub(crate) use session::tests::PANIC as PANIC_NEXT_SESSION;
pub use shares::Places;
pub(crate) use socket::{adopt, change, listen, local_address, takes_ipv4};
pub use worker::{Rings, WorkerThreads, Workers, pipe_descriptors};
