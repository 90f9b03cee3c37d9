//! THE DATA PLANE. A connection's way: `listener` accepts → `session` → `caller` says who it is → `upstream` picks and
//! dials (→ `replay` finds one that answers) → `relay` moves bytes → one `outcome`. Nothing in here knows of keepers, probes, discovery or the admin side.

mod caller;
mod cut;
mod dial;
mod limit;
mod listener;
mod live;
mod opening;
mod option;
mod outcome;
mod preconnect;
mod quiet;
mod relay;
mod replay;
mod session;
mod shares;
mod socket;
mod tries;
mod upstream;
mod worker;
mod young;

pub use cut::Cut;
pub use listener::{Listener, Settings};
pub use live::{Glimpse, LegView, Phase, SessionKey, SessionView};
pub use option::TcpView;
pub use relay::{Forbidden, PipeCounts, RingCounts, try_ring};
#[cfg(test)]
pub(crate) use session::tests::PANIC as PANIC_NEXT_SESSION;
pub use shares::Places;
pub(crate) use socket::{adopt, change, listen, local_address, takes_ipv4};
pub use worker::{Floor, Rings, Workers, pipe_descriptors};
