//! Clients do not notice a backend that fails while another one works.

mod budget;
mod exact;
mod first_byte;
mod hedge;
mod replay;
mod spill;

use std::sync::Arc;

use evenkeel::pool::Pool;

use crate::support::Rig;

/// No probes, and no ejection: only the sessions themselves find out what a backend does.
const NO_HEALTH: &str = "check = { kind = \"none\", fall = 1000 }\n";

/// A counter of the pool, by result.
async fn by_result(rig: &Rig, name: &str, result: &str) -> f64 {
    rig.metric(&format!("evenkeel_pool_{name}_total{{pool=\"back\",result=\"{result}\"}}")).await
}

fn pool(rig: &Rig) -> Arc<Pool> {
    Arc::clone(&rig.balancer().state().set().pools[0])
}
