//! What the API says of a pool and of a backend: facts, standing, reason and since when.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::health::{AdvisedWeight, ProbeReport};
use crate::metrics::{ConnectFailure, Direction, Outcome};
use crate::operator::{Lasting, Override, Overrides, printable};
use crate::pool::{Backend, Histogram, Pool, SHARE_OF_WEIGHT, TrialState};
use crate::server::Set;
use crate::standing::Guard;

#[derive(Serialize)]
pub(super) struct PoolBody {
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
    panic: bool,
    outliers: &'static str,
    tiers: Vec<TierBody>,
    eligible: usize,
    sessions: usize,
    /// Sessions that wait for a backend; none where the pool has no queue.
    queued: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<OrderBody<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<TimesBody>,
    backends: Vec<BackendBody>,
}

/// Only tiers that get sessions.
#[derive(Serialize)]
struct TierBody {
    priority: usize,
    percent: u32,
}

#[derive(Serialize)]
struct SourceBody {
    kind: &'static str,
    age_seconds: Option<f64>,
    error: Option<ErrorBody>,
    /// Stays when it is over.
    last_error: Option<ErrorBody>,
    /// ACLs keep something of the last answer from us.
    filtered: bool,
    /// The first of those that can't be used.
    rejected: Vec<RejectedBody>,
    /// How many there are in all.
    rejected_count: usize,
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
pub(super) struct BackendBody {
    pub(super) id: String,
    address: String,
    /// Where its host is a name: all the addresses of that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<String>,
    weight: u16,
    effective_weight: f64,
    priority: u8,
    max_sessions: Option<u32>,
    standing: &'static str,
    reason: String,
    since: String,
    facts: FactsBody,
    ejected: Option<EjectedBody>,
    damped_until: Option<String>,
    held: Option<HeldBody>,
    advice: Option<AdviceBody>,
    sessions: u32,
    /// Of these, where its host is a name: those at addresses that it has left.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    elsewhere: Vec<ElsewhereBody>,
    bytes_to_backend: u64,
    bytes_to_client: u64,
    connects: u64,
    connect_failures: u64,
    sessions_ended: u64,
    last_probe: Option<ProbeBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<OrderBody<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator_weight: Option<OrderBody<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator_probe: Option<OrderBody<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<TimesBody>,
}

#[derive(Serialize)]
struct ElsewhereBody {
    address: String,
    /// As far as sessions there are concerned.
    standing: &'static str,
    sessions: u32,
}

#[derive(Serialize)]
struct EjectedBody {
    /// When it ends at the latest, unless `passive` waits for a probe.
    until: String,
    in_a_row: u32,
    /// Whether a single session is to show if it works again.
    trial: &'static str,
}

/// The registry says otherwise and is not believed.
#[derive(Serialize)]
struct HeldBody {
    reason: &'static str,
    /// `None` = for as long as the registry fails.
    until: Option<String>,
}

#[derive(Serialize)]
struct AdviceBody {
    weight_percent: Option<u8>,
    weight: Option<u16>,
    wish: &'static str,
    max_sessions: Option<u32>,
}

#[derive(Serialize)]
struct FactsBody {
    operator: &'static str,
    registry: &'static str,
    agent: &'static str,
    probe: &'static str,
    passive: &'static str,
    guard: &'static str,
}

/// An operator's.
#[derive(Serialize)]
pub(super) struct OrderBody<T> {
    value: T,
    by: String,
    at: String,
    until: Option<String>,
    survives_restart: bool,
    note: Option<String>,
}

/// Cumulative counts by upper bound in seconds, as Prometheus has them; of successful connects.
#[derive(Serialize)]
struct TimesBody {
    connect_buckets: Vec<(f64, u64)>,
    connect_count: u64,
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
    certificate_ends: Option<String>,
}

pub(super) fn pool_body(set: &Set, pool: &Pool, with_times: bool) -> PoolBody {
    let (source, settings) = (pool.source.view(), pool.settings());
    let overrides = pool.overrides.current();
    PoolBody {
        name: pool.name.to_string(),
        balance: settings.balance.name(),
        source: SourceBody {
            kind: settings.source.kind(),
            age_seconds: source.last_success.map(|at| Instant::now().duration_since(at).as_secs_f64()),
            error: source.error.map(error_body),
            last_error: source.last_error.map(error_body),
            filtered: source.filtered,
            rejected_count: source.rejected.count(),
            rejected: source.rejected.iter().map(|r| RejectedBody { id: r.id.clone(), why: r.why.clone() }).collect(),
        },
        check: settings.check.kind.name(),
        when_all_down: settings.when_all_down.name(),
        leaving: !set.stays(pool),
        settled: pool.is_settled(),
        all_down: pool.is_all_down(),
        fail_open: pool.fail_open(),
        panic: pool.is_panicking(),
        outliers: settings.resilience.outliers.mode.name(),
        tiers: tiers(pool),
        eligible: pool.counts().eligible,
        sessions: pool.sessions(),
        queued: pool.queued(),
        operator: overrides.pool().map(|order| order_body(order, order.value.name())),
        times: with_times.then(|| times_body(&pool.times.connect)),
        backends: pool.members().iter().map(|backend| backend_body(pool, backend, &overrides, with_times)).collect(),
    }
}

fn error_body((at, kind, text): (SystemTime, &'static str, String)) -> ErrorBody {
    ErrorBody { at: time(at), kind, text }
}

fn tiers(pool: &Pool) -> Vec<TierBody> {
    let loads = pool.tier_loads().into_iter().enumerate();
    loads.filter(|(_, percent)| *percent > 0).map(|(priority, percent)| TierBody { priority, percent }).collect()
}

pub(super) fn backend_body(pool: &Pool, backend: &Backend, overrides: &Overrides, with_times: bool) -> BackendBody {
    let view = backend.view();
    BackendBody {
        id: backend.id.to_string(),
        address: view.address.to_string(),
        candidates: view.candidates.iter().map(ToString::to_string).collect(),
        weight: view.weight,
        effective_weight: f64::from(view.share) / f64::from(SHARE_OF_WEIGHT),
        priority: view.priority,
        max_sessions: view.max_sessions,
        standing: view.standing.name(),
        reason: backend.reason().to_string(),
        since: time(view.since),
        facts: FactsBody {
            operator: view.facts.operator.name(),
            registry: view.facts.registry.name(),
            agent: view.facts.agent.name(),
            probe: view.facts.probe.map_or("none", crate::health::ProbeState::name),
            passive: view.facts.passive.name(),
            guard: view.facts.guard.name(),
        },
        ejected: view.ejected.map(|(until, in_a_row)| EjectedBody {
            until: time(until),
            in_a_row,
            trial: match pool.trial_of(backend) {
                TrialState::None => "none",
                TrialState::Offered => "offered",
                TrialState::Running(_) => "running",
            },
        }),
        damped_until: view.damped_until.map(time),
        held: match view.facts.guard {
            Guard::Held(mistrust) => Some(HeldBody { reason: mistrust.name(), until: view.held_until.map(time) }),
            Guard::None | Guard::Damped => None,
        },
        advice: view.advice.map(|advice| AdviceBody {
            weight_percent: advice.weight.and_then(|weight| match weight {
                AdvisedWeight::Percent(percent) => Some(percent),
                AdvisedWeight::Absolute(_) => None,
            }),
            weight: advice.weight.and_then(|weight| match weight {
                AdvisedWeight::Percent(_) => None,
                AdvisedWeight::Absolute(weight) => Some(weight),
            }),
            wish: advice.wish.name(),
            max_sessions: advice.max_sessions,
        }),
        sessions: pool.sessions_of(backend),
        elsewhere: elsewhere(backend),
        bytes_to_backend: backend.stats.bytes.read(Direction::ToBackend),
        bytes_to_client: backend.stats.bytes.read(Direction::ToClient),
        connects: backend.stats.connects.load(Relaxed),
        connect_failures: ConnectFailure::ALL.into_iter().map(|reason| backend.stats.failures.read(reason)).sum(),
        sessions_ended: ended(backend),
        last_probe: backend.last_report().map(probe_body),
        operator: overrides.order(&backend.id).map(|order| order_body(order, order.value.name())),
        operator_weight: overrides.weight(&backend.id).map(|order| order_body(order, order.value)),
        operator_probe: overrides.pause(&backend.id).map(|order| order_body(order, "paused")),
        times: with_times.then(|| times_body(&backend.stats.times.connect)),
    }
}

fn elsewhere(backend: &Backend) -> Vec<ElsewhereBody> {
    let others = backend.sessions_by_address().into_iter().filter(|(address, _)| !backend.is_at(*address));
    let body = |(address, sessions): (SocketAddr, u32)| ElsewhereBody {
        address: address.to_string(),
        standing: backend.standing_at(address).name(),
        sessions,
    };
    others.map(body).collect()
}

fn probe_body(report: ProbeReport) -> ProbeBody {
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
        certificate_ends: result.certificate.map(|certificate| time(certificate.not_after)),
    }
}

fn order_body<T, W>(order: &Override<T>, value: W) -> OrderBody<W> {
    let until = match order.lasting {
        Lasting::Until { at, .. } => Some(time(at)),
        Lasting::Kept | Lasting::Restart => None,
    };
    OrderBody {
        value,
        by: order.by.to_string(),
        at: time(order.at),
        until,
        survives_restart: order.lasting != Lasting::Restart,
        note: order.note.as_ref().map(ToString::to_string),
    }
}

fn times_body(connect: &Histogram) -> TimesBody {
    let (connect_buckets, connect_count, _) = connect.read();
    TimesBody { connect_buckets, connect_count }
}

fn ended(backend: &Backend) -> u64 {
    let all = backend.stats.ended.read();
    all.iter().flat_map(|(_, outcomes)| Outcome::ALL.map(|outcome| outcomes.read(outcome))).sum()
}

/// RFC 3339, UTC, with milliseconds.
pub(super) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(printable(at)).to_string()
}
