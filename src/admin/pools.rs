//! `/api/v1/pools`: every pool and backend with facts, standing, reason and since when.

use std::time::{Instant, SystemTime};

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::config::{Balance, WhenAllDown};
use crate::health::Report;
use crate::metrics::Direction;
use crate::pool::{Backend, Pool};
use crate::server::State;

#[derive(Serialize)]
struct Answer {
    pools: Vec<PoolBody>,
}

#[derive(Serialize)]
struct PoolBody {
    name: String,
    balance: &'static str,
    source: SourceBody,
    check: &'static str,
    when_all_down: &'static str,
    /// Not in the configuration any more: it waits for its last session.
    leaving: bool,
    settled: bool,
    all_down: bool,
    fail_open: bool,
    eligible: usize,
    sessions: usize,
    backends: Vec<BackendBody>,
}

#[derive(Serialize)]
struct SourceBody {
    kind: &'static str,
    age_seconds: Option<f64>,
    error: Option<ErrorBody>,
    rejected: Vec<RejectedBody>,
}

#[derive(Serialize)]
struct ErrorBody {
    at: String,
    kind: &'static str,
    text: String,
}

#[derive(Serialize)]
struct RejectedBody {
    id: String,
    why: String,
}

#[derive(Serialize)]
struct BackendBody {
    id: String,
    address: String,
    weight: u16,
    standing: &'static str,
    reason: String,
    since: String,
    facts: FactsBody,
    sessions: u32,
    bytes_to_backend: u64,
    bytes_to_client: u64,
    last_probe: Option<ProbeBody>,
}

#[derive(Serialize)]
struct FactsBody {
    operator: &'static str,
    registry: &'static str,
    probe: &'static str,
    passive: &'static str,
    guard: &'static str,
}

#[derive(Serialize)]
struct ProbeBody {
    kind: &'static str,
    passed: bool,
    at: String,
    duration_ms: f64,
    asked: String,
    wanted: String,
    got: String,
    in_a_row: u32,
}

pub(super) fn answer(state: &State) -> Response {
    let set = state.set();
    Json(Answer { pools: set.pools.iter().map(|pool| pool_body(pool, !set.stays(pool))).collect() }).into_response()
}

fn pool_body(pool: &Pool, leaving: bool) -> PoolBody {
    let (source, settings) = (pool.source.view(), pool.settings());
    PoolBody {
        name: pool.name.to_string(),
        balance: match settings.balance {
            Balance::RoundRobin => "round_robin",
            Balance::LeastConnections => "least_connections",
        },
        source: SourceBody {
            kind: settings.source.kind(),
            age_seconds: source.last_success.map(|at| Instant::now().duration_since(at).as_secs_f64()),
            error: source.error.map(|(at, kind, text)| ErrorBody { at: time(at), kind, text }),
            rejected: source.rejected.into_iter().map(|r| RejectedBody { id: r.id, why: r.why }).collect(),
        },
        check: settings.check.kind.name(),
        when_all_down: match settings.when_all_down {
            WhenAllDown::Refuse => "refuse",
            WhenAllDown::Any => "any",
        },
        leaving,
        settled: pool.is_settled(),
        all_down: pool.is_all_down(),
        fail_open: pool.fail_open(),
        eligible: pool.counts().eligible,
        sessions: pool.sessions(),
        backends: pool.members().iter().map(|backend| backend_body(pool, backend)).collect(),
    }
}

fn backend_body(pool: &Pool, backend: &Backend) -> BackendBody {
    let view = backend.view();
    BackendBody {
        id: backend.id.to_string(),
        address: view.address.to_string(),
        weight: view.weight,
        standing: view.standing.name(),
        reason: view.reason.to_string(),
        since: time(view.since),
        facts: FactsBody {
            operator: view.facts.operator.name(),
            registry: view.facts.registry.name(),
            probe: view.facts.probe.map_or("none", crate::health::ProbeState::name),
            passive: view.facts.passive.name(),
            guard: view.facts.guard.name(),
        },
        sessions: pool.sessions_of(backend),
        bytes_to_backend: backend.stats.bytes.read(Direction::ToBackend),
        bytes_to_client: backend.stats.bytes.read(Direction::ToClient),
        last_probe: backend.last_report().map(probe_body),
    }
}

fn probe_body(report: Report) -> ProbeBody {
    let result = report.result;
    ProbeBody {
        kind: result.kind,
        passed: result.passed,
        at: time(result.at),
        duration_ms: (result.duration.as_secs_f64() * 1e6).round() / 1e3,
        asked: result.asked.clone(),
        wanted: result.wanted.clone(),
        got: result.got.clone(),
        in_a_row: report.streak,
    }
}

/// RFC 3339, UTC, with milliseconds.
pub(super) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
