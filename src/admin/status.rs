//! `/api/v1/status`, `version` and `listeners`: the whole at a glance.

use std::borrow::Cow;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State as Shared;
use serde::{Deserialize, Serialize};

use super::bodies::time;
use super::troubles::troubles;
use super::{AdminState, ready};
use crate::proxy::Listener;
use crate::server::{ReachedLimit, Set};

#[derive(Serialize)]
pub(super) struct VersionBody {
    version: &'static str,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StatusBody {
    pub(crate) version: Cow<'static, str>,
    pub(crate) pid: u32,
    #[serde(default)]
    pub(crate) started: String,
    pub(crate) uptime_seconds: f64,
    pub(crate) ready: bool,
    pub(crate) waiting_for: Vec<String>,
    #[serde(default)]
    pub(crate) stopping: bool,
    /// Of this balancer, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    pub(crate) workers: usize,
    pub(crate) sessions: usize,
    pub(crate) max_connections: usize,
    #[serde(default)]
    pub(crate) log_lines_dropped: u64,
    /// None of an older balancer; the same of the limits.
    #[serde(default)]
    pub(crate) troubles: Vec<String>,
    #[serde(default)]
    pub(crate) limits: Vec<LimitBody>,
    /// Where the UNIX socket is.
    pub(crate) admin_socket: Option<String>,
    pub(crate) listeners: Vec<ListenerBody>,
    pub(crate) pools: Vec<PoolSummary>,
}

/// A limit that is reached, or was a short time ago.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LimitBody {
    #[serde(default)]
    pub(crate) kind: Cow<'static, str>,
    /// Of which listener or pool.
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) says: String,
    pub(crate) since: String,
    /// `None` = it lasts.
    pub(crate) until: Option<String>,
}

#[derive(Serialize)]
pub(super) struct ListenersBody {
    listeners: Vec<ListenerBody>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ListenerBody {
    pub(crate) name: String,
    /// For what no route takes; `None` = that is refused.
    pub(crate) pool: Option<String>,
    /// All that sessions may go to. None of an older balancer; the same of the routes.
    #[serde(default)]
    pub(crate) pools: Vec<String>,
    #[serde(default)]
    pub(crate) routes: usize,
    pub(crate) addresses: Vec<String>,
    pub(crate) sessions: usize,
    pub(crate) max_connections: Option<usize>,
    pub(crate) at_limit: bool,
    pub(crate) accepted: u64,
    #[serde(default)]
    pub(crate) ended: u64,
    /// Not in the configuration any more: it waits for its last session.
    #[serde(default)]
    pub(crate) leaving: bool,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PoolSummary {
    pub(crate) name: String,
    pub(crate) backends: usize,
    pub(crate) up: usize,
    #[serde(default)]
    pub(crate) eligible: usize,
    pub(crate) sessions: usize,
    /// Sessions that wait for a backend.
    pub(crate) queued: usize,
    pub(crate) when_all_down: Cow<'static, str>,
    /// The pool where its sessions go now, because nothing is up here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) served_by: Option<String>,
    pub(crate) settled: bool,
    pub(crate) all_down: bool,
    pub(crate) fail_open: bool,
    /// Why discovery fails, while it does.
    pub(crate) discovery_error: Option<String>,
    pub(crate) discovery_age_seconds: Option<f64>,
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
            when_all_down: pool.settings().when_all_down.name().into(),
            served_by: pool.lives_from().map(|other| other.name.to_string()),
            settled: pool.is_settled(),
            all_down: pool.is_all_down(),
            fail_open: pool.fail_open(),
            discovery_error: source.error.map(|(_, _, text)| text),
            discovery_age_seconds: source.last_success.map(|at| at.elapsed().as_secs_f64()),
        }
    });
    Json(StatusBody {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        started: time(admin.started),
        uptime_seconds: SystemTime::now().duration_since(admin.started).unwrap_or_default().as_secs_f64(),
        ready: waiting_for.is_empty(),
        waiting_for,
        stopping: state.is_draining(),
        zone: state.zone().map(|zone| zone.to_string()),
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
        kind: limit.kind.name().into(),
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
        pool: settings.file.pool.clone(),
        pools: settings.routes.pools().map(|pool| pool.name.to_string()).collect(),
        routes: settings.file.routes.len(),
        addresses: listener.addresses().iter().map(ToString::to_string).collect(),
        sessions: counts.sessions,
        max_connections: settings.file.max_connections,
        at_limit: listener.is_at_limit(),
        accepted: counts.accepted,
        ended: counts.ended.iter().sum(),
        leaving: !set.listener_stays(listener),
    }
}
