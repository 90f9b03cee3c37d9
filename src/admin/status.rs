//! `/api/v1/status`, `version` and `listeners`: the whole at a glance.

use std::time::SystemTime;

use axum::Json;
use axum::extract::State as Shared;
use serde::Serialize;

use super::bodies::time;
use super::troubles::troubles;
use super::{AdminState, ready};
use crate::proxy::Listener;
use crate::server::{ReachedLimit, Set};

#[derive(Serialize)]
pub(super) struct VersionBody {
    version: &'static str,
}

#[derive(Serialize)]
pub(super) struct StatusBody {
    version: &'static str,
    pid: u32,
    started: String,
    uptime_seconds: f64,
    ready: bool,
    waiting_for: Vec<String>,
    stopping: bool,
    workers: usize,
    sessions: usize,
    max_connections: usize,
    log_lines_dropped: u64,
    troubles: Vec<String>,
    limits: Vec<LimitBody>,
    /// Where the UNIX socket is.
    admin_socket: Option<String>,
    listeners: Vec<ListenerBody>,
    pools: Vec<PoolSummary>,
}

/// A limit that is reached, or was a short time ago.
#[derive(Serialize)]
struct LimitBody {
    kind: &'static str,
    /// Of which listener or pool.
    name: String,
    says: String,
    since: String,
    /// `None` = it lasts.
    until: Option<String>,
}

#[derive(Serialize)]
pub(super) struct ListenersBody {
    listeners: Vec<ListenerBody>,
}

#[derive(Serialize)]
struct ListenerBody {
    name: String,
    pool: String,
    addresses: Vec<String>,
    sessions: usize,
    max_connections: Option<usize>,
    at_limit: bool,
    accepted: u64,
    ended: u64,
    /// Not in the configuration any more: it waits for its last session.
    leaving: bool,
}

#[derive(Serialize)]
struct PoolSummary {
    name: String,
    backends: usize,
    up: usize,
    eligible: usize,
    sessions: usize,
    /// Sessions that wait for a backend.
    queued: usize,
    when_all_down: &'static str,
    settled: bool,
    all_down: bool,
    fail_open: bool,
    /// Why discovery fails, while it does.
    discovery_error: Option<String>,
    discovery_age_seconds: Option<f64>,
}

pub(super) async fn version() -> Json<VersionBody> {
    Json(VersionBody { version: env!("CARGO_PKG_VERSION") })
}

pub(super) async fn listeners(Shared(admin): Shared<AdminState>) -> Json<ListenersBody> {
    let set = admin.view.state.set();
    Json(ListenersBody { listeners: set.listeners.iter().map(|listener| listener_body(&set, listener)).collect() })
}

pub(super) async fn status(Shared(admin): Shared<AdminState>) -> Json<StatusBody> {
    let state = &admin.view.state;
    let set = state.set();
    let waiting_for = ready::waiting_for(state);
    let pools = set.pools.iter().map(|pool| {
        let (counts, source) = (pool.counts(), pool.source.view());
        PoolSummary {
            name: pool.name.to_string(),
            backends: counts.members,
            up: counts.up,
            eligible: counts.eligible,
            sessions: pool.sessions(),
            queued: pool.queued(),
            when_all_down: pool.settings().when_all_down.name(),
            settled: pool.is_settled(),
            all_down: pool.is_all_down(),
            fail_open: pool.fail_open(),
            discovery_error: source.error.map(|(_, _, text)| text),
            discovery_age_seconds: source.last_success.map(|at| at.elapsed().as_secs_f64()),
        }
    });
    Json(StatusBody {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        started: time(admin.started),
        uptime_seconds: SystemTime::now().duration_since(admin.started).unwrap_or_default().as_secs_f64(),
        ready: waiting_for.is_empty(),
        waiting_for,
        stopping: state.is_draining(),
        workers: state.workers.sessions().len(),
        sessions: state.sessions(),
        max_connections: state.limit.places(),
        log_lines_dropped: (admin.view.log_lines_dropped)(),
        troubles: troubles(&admin.view),
        limits: state.reached_limits().into_iter().map(limit_body).collect(),
        admin_socket: admin.view.socket.as_ref().map(|path| path.display().to_string()),
        listeners: set.listeners.iter().map(|listener| listener_body(&set, listener)).collect(),
        pools: pools.collect(),
    })
}

fn limit_body(limit: ReachedLimit) -> LimitBody {
    LimitBody {
        kind: limit.kind.name(),
        name: limit.name.to_string(),
        says: limit.says.to_string(),
        since: time(limit.since),
        until: limit.until.map(time),
    }
}

fn listener_body(set: &Set, listener: &Listener) -> ListenerBody {
    let (settings, counts) = (listener.settings(), listener.counts());
    ListenerBody {
        name: listener.name.to_string(),
        pool: settings.pool.name.to_string(),
        addresses: listener.addresses().iter().map(ToString::to_string).collect(),
        sessions: counts.sessions,
        max_connections: settings.file.max_connections,
        at_limit: listener.is_at_limit(),
        accepted: counts.accepted,
        ended: counts.ended.iter().sum(),
        leaving: !set.listener_stays(listener),
    }
}
