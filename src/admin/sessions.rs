//! `/api/v1/sessions`: which client is connected to which backend, one of them with what the kernel knows, and the end of some.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;

use super::AdminState;
use super::bodies::time;
use super::operate::{Who, duration, parsed};
use super::refusal::Refusal;
use super::slots::ConnectionSlot;
use crate::config::{Network, parse_network};
use crate::metrics::{CloseCause, Direction};
use crate::pool::Happened;
use crate::proxy::{Phase, RoutedBy, SessionView, TcpView};
use crate::server::ServerState;

/// Sessions in an answer, unless it says another number, and at most.
const USUAL: usize = 100;
const MOST: usize = 10_000;

/// Which sessions; all that is said has to fit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SessionsQuery {
    /// The number in the log.
    pub(crate) id: Option<u64>,
    pub(crate) pool: Option<String>,
    pub(crate) backend: Option<String>,
    pub(crate) listener: Option<String>,
    /// An address, an address with its port, or a network.
    pub(crate) client: Option<String>,
    pub(crate) phase: Option<String>,
    /// Quiet for at least so long.
    pub(crate) idle: Option<String>,
    /// At least so old.
    pub(crate) age: Option<String>,
    /// Of a list alone.
    pub(crate) sort: Option<SessionSort>,
    pub(crate) limit: Option<usize>,
}

words! {
    pub(crate) enum SessionSort {
        /// The oldest first.
        Age = "age",
        /// The quietest first.
        Idle = "idle",
        /// Those that moved most first.
        Bytes = "bytes",
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseRequest {
    #[serde(default)]
    filter: SessionsQuery,
    /// Said aloud, so that a filter that was forgotten closes nothing.
    #[serde(default)]
    all: bool,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct SessionsBody {
    pub(crate) sessions: Vec<SessionBody>,
    /// That fit, also those beyond the limit.
    pub(crate) matched: usize,
    #[serde(default)]
    pub(crate) all: usize,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct SessionBody {
    pub(crate) id: u64,
    pub(crate) listener: String,
    /// `None` = it has no route yet.
    pub(crate) pool: Option<String>,
    /// The pool that it was routed to, if a fallback of that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fallback_of: Option<String>,
    /// The number of the route that took it, the name that it asked for and the protocols that it offered.
    #[serde(default)]
    pub(crate) route: Option<usize>,
    #[serde(default)]
    pub(crate) sni: Option<String>,
    #[serde(default)]
    pub(crate) alpn: Option<String>,
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) phase: Cow<'static, str>,
    #[serde(default)]
    pub(crate) began: String,
    pub(crate) age_seconds: f64,
    pub(crate) idle_seconds: f64,
    pub(crate) backend: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) local: Option<String>,
    pub(crate) failed_attempts: Option<String>,
    pub(crate) to_backend: u64,
    pub(crate) to_client: u64,
    /// Which sides have finished.
    #[serde(default)]
    pub(crate) finished: Vec<Cow<'static, str>>,
    /// The directions that a limit of bandwidth has held up.
    #[serde(default)]
    pub(crate) throttled: Vec<Cow<'static, str>>,
    pub(crate) is_ending: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcp: Option<TcpBody>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct TcpBody {
    pub(crate) client: SideBody,
    pub(crate) backend: SideBody,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct SideBody {
    pub(crate) rtt_ms: f64,
    pub(crate) rtt_deviation_ms: f64,
    pub(crate) retransmits: u32,
    pub(crate) unacknowledged: u32,
    pub(crate) lost: u32,
    pub(crate) congestion_window: u32,
    pub(crate) receive_queue_bytes: u32,
    pub(crate) send_queue_bytes: u32,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ClosingBody {
    pub(crate) closing: usize,
}

/// A filter that was understood.
struct Judge {
    filter: SessionsQuery,
    client: Option<ClientFilter>,
    idle: Duration,
    age: Duration,
    now: Instant,
}

enum ClientFilter {
    Exact(SocketAddr),
    Network(Network),
}

pub(super) async fn list(
    Shared(admin): Shared<AdminState>,
    Extension(slot): Extension<Arc<ConnectionSlot>>,
    wanted: Result<Query<SessionsQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::bad(error.body_text(), ""))?;
    let (sort, limit) = (wanted.sort.unwrap_or(SessionSort::Age), wanted.limit.unwrap_or(USUAL));
    if limit > MOST {
        return Err(Refusal::bad(format!("`limit` is more than {MOST}"), "narrow the filter"));
    }
    let judge = Judge::new(wanted)?;
    let state = Arc::clone(&admin.view.state);
    admin.maker.make(&slot, move || Json(listed(&state, &judge, sort, limit)).into_response()).await
}

fn listed(state: &ServerState, judge: &Judge, sort: SessionSort, limit: usize) -> SessionsBody {
    let mut sessions = state.workers.list_sessions();
    let all = sessions.len();
    sessions.retain(|session| judge.fits(session));
    let matched = sessions.len();
    match sort {
        SessionSort::Age => sessions.sort_by_key(|session| session.began),
        SessionSort::Idle => sessions.sort_by_key(idle_since),
        SessionSort::Bytes => sessions.sort_by_key(|session| {
            std::cmp::Reverse(session.leg.as_ref().map_or(0, |leg| leg.to_backend + leg.to_client))
        }),
    }
    let sessions = sessions.iter().take(limit).map(|session| session_body(session, judge.now, None)).collect();
    SessionsBody { sessions, matched, all }
}

pub(super) async fn one(
    Shared(admin): Shared<AdminState>,
    Path(id): Path<String>,
) -> Result<Json<SessionBody>, Refusal> {
    let gone = || Refusal::not_found(format!("there is no session `{}`, or not any more", id.escape_debug()));
    let number: u64 = id.parse().map_err(|_| gone())?;
    let _alone = admin.maker.turn().await;
    let workers = &admin.view.state.workers;
    let session = workers.list_sessions().into_iter().find(|session| session.key.id == number).ok_or_else(gone)?;
    let tcp = workers.tcp(session.key);
    Ok(Json(session_body(&session, Instant::now(), tcp)))
}

pub(super) async fn close(
    Shared(admin): Shared<AdminState>,
    Extension(who): Extension<Who>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ClosingBody>, Refusal> {
    let CloseRequest { filter, all } = parsed(body)?;
    if filter.sort.is_some() || filter.limit.is_some() {
        return Err(Refusal::bad("`sort` and `limit` are for a list", "remove them from the `filter`"));
    }
    let text = filter.text();
    if text.is_empty() != all {
        let error = if all { "`all` next to a `filter`" } else { "nothing says which sessions" };
        return Err(Refusal::bad(error, "write a `filter`, or `\"all\": true` for every session"));
    }
    let judge = Judge::new(filter)?;
    let _alone = admin.maker.turn().await;
    let state = &admin.view.state;
    let sessions = state.workers.list_sessions();
    let chosen: HashSet<_> = sessions.iter().filter(|session| judge.fits(session)).map(|s| s.key).collect();
    // Their handles go before the engine looks.
    drop(sessions);
    let closing = state.close(CloseCause::Operator, |session| chosen.contains(&session.key));
    let by = &who.0;
    info!(sessions = closing, %by, "operator: close {}", if all { "every session" } else { &text });
    let says = format!("close {closing} sessions ({}) by {by}", if all { "all" } else { &text });
    state.events.tell(|| Happened::Closing { says });
    Ok(Json(ClosingBody { closing }))
}

impl SessionsQuery {
    /// The names and values of what is said.
    pub(crate) fn said(&self) -> impl Iterator<Item = (&'static str, String)> {
        const NAMES: [&str; 10] =
            ["id", "pool", "backend", "listener", "client", "phase", "idle", "age", "sort", "limit"];
        let all = serde_json::to_value(self).unwrap_or_default();
        NAMES.into_iter().filter_map(move |name| match &all[name] {
            Value::Null => None,
            Value::String(text) => Some((name, text.clone())),
            number => Some((name, number.to_string())),
        })
    }

    fn text(&self) -> String {
        let said = self.said().map(|(name, value)| format!("{name}={}", value.escape_debug()));
        said.collect::<Vec<_>>().join(" ")
    }
}

impl Judge {
    fn new(filter: SessionsQuery) -> Result<Self, Refusal> {
        let time =
            |name: &str, text: &Option<String>| text.as_deref().map_or(Ok(Duration::ZERO), |text| duration(name, text));
        let client = match &filter.client {
            None => None,
            Some(text) => Some(client(text).ok_or_else(|| {
                let error = format!("`client`: \"{}\" is no address", text.escape_debug());
                Refusal::bad(error, "write it like 10.0.0.1, 10.0.0.1:5000 or 10.0.0.0/8")
            })?),
        };
        if let Some(phase) = filter.phase.as_deref().filter(|p| !Phase::ALL.iter().any(|phase| phase.name() == *p)) {
            let error = format!("`phase`: there is no \"{}\"", phase.escape_debug());
            return Err(Refusal::bad(
                error,
                "the phases are identifying, sniffing, queued, connecting, relaying and half_closed",
            ));
        }
        let (idle, age) = (time("idle", &filter.idle)?, time("age", &filter.age)?);
        Ok(Self { filter, client, idle, age, now: Instant::now() })
    }

    fn fits(&self, session: &SessionView) -> bool {
        let SessionsQuery { id, pool, backend, listener, phase, .. } = &self.filter;
        let backend_id = session.leg.as_ref().map(|leg| &*leg.backend.id);
        id.is_none_or(|id| session.key.id == id)
            && pool.as_ref().is_none_or(|pool| session.pool.as_ref().is_some_and(|its| *its.name == **pool))
            && listener.as_ref().is_none_or(|listener| *session.listener.name == **listener)
            && backend.as_ref().is_none_or(|backend| backend_id == Some(backend))
            && phase.as_ref().is_none_or(|phase| session.phase.name() == phase)
            && self.now.saturating_duration_since(idle_since(session)) >= self.idle
            && self.now.saturating_duration_since(session.began) >= self.age
            && match &self.client {
                None => true,
                Some(ClientFilter::Exact(address)) => session.client == *address,
                Some(ClientFilter::Network(network)) => network.contains(session.client.ip()),
            }
    }
}

fn idle_since(session: &SessionView) -> Instant {
    session.leg.as_ref().map_or(session.began, |leg| leg.last_activity)
}

fn client(text: &str) -> Option<ClientFilter> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return parse_network(&ip.to_string()).map(ClientFilter::Network);
    }
    text.parse().map(ClientFilter::Exact).ok().or_else(|| parse_network(text).map(ClientFilter::Network))
}

fn session_body(session: &SessionView, now: Instant, tcp: Option<[TcpView; 2]>) -> SessionBody {
    let age = now.saturating_duration_since(session.began);
    let (leg, by) = (session.leg.as_ref(), session.routed_by.as_ref());
    SessionBody {
        id: session.key.id,
        listener: session.listener.name.to_string(),
        pool: session.pool.as_ref().map(|pool| pool.name.to_string()),
        fallback_of: session.fallback_of.as_ref().map(|pool| pool.name.to_string()),
        route: by.and_then(|by| by.route),
        sni: by.and_then(RoutedBy::server_name).map(str::to_owned),
        alpn: by.and_then(RoutedBy::protocols),
        client: session.client.to_string(),
        peer: session.peer.to_string(),
        phase: session.phase.name().into(),
        began: time(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)),
        age_seconds: age.as_secs_f64(),
        idle_seconds: now.saturating_duration_since(idle_since(session)).as_secs_f64(),
        backend: leg.map(|leg| leg.backend.id.to_string()),
        address: leg.map(|leg| leg.address.to_string()),
        local: leg.and_then(|leg| leg.local).map(|local| local.to_string()),
        failed_attempts: session.failed_attempts.as_deref().map(ToOwned::to_owned),
        to_backend: leg.map_or(0, |leg| leg.to_backend),
        to_client: leg.map_or(0, |leg| leg.to_client),
        finished: leg.map_or_else(Vec::new, |leg| {
            let sides = ["client", "backend"].into_iter().zip(leg.finished);
            sides.filter(|(_, has)| *has).map(|(side, _)| side.into()).collect()
        }),
        throttled: leg.map_or_else(Vec::new, |leg| {
            let directions = Direction::ALL.into_iter().zip(leg.throttled);
            directions.filter(|(_, was)| *was).map(|(direction, _)| direction.name().into()).collect()
        }),
        is_ending: session.cut.is_some(),
        tcp: tcp.map(|[client, backend]| TcpBody { client: side_body(client), backend: side_body(backend) }),
    }
}

fn side_body(view: TcpView) -> SideBody {
    SideBody {
        rtt_ms: view.rtt.as_secs_f64() * 1e3,
        rtt_deviation_ms: view.rtt_deviation.as_secs_f64() * 1e3,
        retransmits: view.retransmits,
        unacknowledged: view.unacknowledged,
        lost: view.lost,
        congestion_window: view.congestion_window,
        receive_queue_bytes: view.receive_queue,
        send_queue_bytes: view.send_queue,
    }
}
