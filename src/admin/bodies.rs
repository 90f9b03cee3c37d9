//! What the API says of a pool and of a backend: facts, standing, reason and since when.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::health::{AdvisedWeight, ProbeReport};
use crate::metrics::{ConnectFailure, Direction, Outcome};
use crate::operator::{Lasting, Override, Overrides, ProbeSwitch, printable};
use crate::pool::{Backend, Histogram, Pool, SHARE_OF_WEIGHT, TierLoad, TrialState, ZoneCounts};
use crate::server::Set;
use crate::standing::{Guard, Operator};

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct PoolBody {
    pub(crate) name: String,
    pub(crate) balance: Cow<'static, str>,
    pub(crate) source: SourceBody,
    pub(crate) check: Cow<'static, str>,
    pub(crate) when_all_down: Cow<'static, str>,
    /// The pool where sessions go while this one has nothing for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fallback: Option<String>,
    /// The pool where they go now, because nothing is up here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) served_by: Option<String>,
    /// Not in the configuration any more: it waits for its last session.
    pub(crate) leaving: bool,
    pub(crate) settled: bool,
    pub(crate) all_down: bool,
    pub(crate) fail_open: bool,
    pub(crate) panic: bool,
    pub(crate) outliers: Cow<'static, str>,
    pub(crate) tiers: Vec<TierBody>,
    /// Nothing if no backend has a zone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) zones: Vec<ZoneBody>,
    pub(crate) eligible: usize,
    pub(crate) sessions: usize,
    /// Sessions that wait for a backend; none where the pool has no queue.
    pub(crate) queued: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operator: Option<OverrideBody<Operator>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) times: Option<TimesBody>,
    pub(crate) backends: Vec<BackendBody>,
}

/// Only tiers that get sessions.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct TierBody {
    pub(crate) priority: usize,
    pub(crate) percent: u32,
    /// Of that: outside of the balancer's zone; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) elsewhere: Option<u32>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct ZoneBody {
    /// Empty: the backends without a zone.
    pub(crate) zone: String,
    pub(crate) backends: usize,
    pub(crate) up: usize,
    pub(crate) eligible: usize,
    pub(crate) sessions: u32,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct SourceBody {
    pub(crate) kind: Cow<'static, str>,
    pub(crate) age_seconds: Option<f64>,
    pub(crate) error: Option<ErrorBody>,
    /// Stays when it is over.
    pub(crate) last_error: Option<ErrorBody>,
    /// ACLs keep something of the last answer from us.
    pub(crate) filtered: bool,
    /// The first of those that can't be used.
    pub(crate) rejected: Vec<RejectedBody>,
    /// How many there are in all.
    pub(crate) rejected_count: usize,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct ErrorBody {
    pub(crate) at: String,
    pub(crate) kind: Cow<'static, str>,
    pub(crate) text: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct RejectedBody {
    pub(crate) id: String,
    pub(crate) why: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct BackendBody {
    pub(crate) id: String,
    pub(crate) address: String,
    /// Where its host is a name: all the addresses of that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) candidates: Vec<String>,
    pub(crate) weight: u16,
    pub(crate) effective_weight: f64,
    pub(crate) priority: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    /// All new sessions go to tiers before its own: `failback` counts for its sessions.
    pub(crate) relieved: bool,
    pub(crate) max_sessions: Option<u32>,
    pub(crate) standing: Cow<'static, str>,
    pub(crate) reason: String,
    pub(crate) since: String,
    pub(crate) facts: FactsBody,
    pub(crate) ejected: Option<EjectedBody>,
    pub(crate) damped_until: Option<String>,
    pub(crate) held: Option<HeldBody>,
    pub(crate) advice: Option<AdviceBody>,
    pub(crate) sessions: u32,
    /// Of these, where its host is a name: those at addresses that it has left.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) elsewhere: Vec<ElsewhereBody>,
    pub(crate) bytes_to_backend: u64,
    pub(crate) bytes_to_client: u64,
    pub(crate) connects: u64,
    pub(crate) connect_failures: u64,
    pub(crate) sessions_ended: u64,
    pub(crate) last_probe: Option<ProbeBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operator: Option<OverrideBody<Operator>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operator_weight: Option<OverrideBody<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operator_probe: Option<OverrideBody<ProbeSwitch>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) times: Option<TimesBody>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct ElsewhereBody {
    pub(crate) address: String,
    /// As far as sessions there are concerned.
    pub(crate) standing: Cow<'static, str>,
    pub(crate) sessions: u32,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct EjectedBody {
    /// When it ends at the latest, unless `passive` waits for a probe.
    pub(crate) until: String,
    pub(crate) in_a_row: u32,
    /// Whether a single session is to show if it works again.
    pub(crate) trial: Cow<'static, str>,
}

/// The registry says otherwise and is not believed.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct HeldBody {
    pub(crate) reason: Cow<'static, str>,
    /// `None` = for as long as the registry fails.
    pub(crate) until: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct AdviceBody {
    pub(crate) weight_percent: Option<u8>,
    pub(crate) weight: Option<u16>,
    pub(crate) wish: Cow<'static, str>,
    pub(crate) max_sessions: Option<u32>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct FactsBody {
    pub(crate) operator: Cow<'static, str>,
    pub(crate) registry: Cow<'static, str>,
    pub(crate) agent: Cow<'static, str>,
    pub(crate) probe: Cow<'static, str>,
    pub(crate) passive: Cow<'static, str>,
    pub(crate) guard: Cow<'static, str>,
}

/// An operator's.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct OverrideBody<T> {
    pub(crate) value: T,
    pub(crate) by: String,
    pub(crate) at: String,
    pub(crate) until: Option<String>,
    pub(crate) survives_restart: bool,
    pub(crate) note: Option<String>,
}

/// Cumulative counts by upper bound in seconds, as Prometheus has them; of successful connects.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct TimesBody {
    pub(crate) connect_buckets: Vec<(f64, u64)>,
    pub(crate) connect_count: u64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct ProbeBody {
    pub(crate) kind: Cow<'static, str>,
    pub(crate) passed: bool,
    pub(crate) at: String,
    pub(crate) duration_ms: f64,
    pub(crate) asked: String,
    pub(crate) wanted: String,
    pub(crate) got: String,
    pub(crate) in_a_row: u32,
    pub(crate) certificate_ends: Option<String>,
}

pub(super) fn pool_body(set: &Set, pool: &Pool, with_times: bool) -> PoolBody {
    let (source, settings) = (pool.source.view(), pool.settings());
    let overrides = pool.overrides.current();
    PoolBody {
        name: pool.name.to_string(),
        balance: settings.balance.name().into(),
        source: SourceBody {
            kind: settings.source.kind().into(),
            age_seconds: source.last_success.map(|at| Instant::now().duration_since(at).as_secs_f64()),
            error: source.error.map(error_body),
            last_error: source.last_error.map(error_body),
            filtered: source.filtered,
            rejected_count: source.rejected.count(),
            rejected: source.rejected.iter().map(|r| RejectedBody { id: r.id.clone(), why: r.why.clone() }).collect(),
        },
        check: settings.check.kind.name().into(),
        when_all_down: settings.when_all_down.name().into(),
        fallback: settings.fallback.clone(),
        served_by: pool.lives_from().map(|other| other.name.to_string()),
        leaving: !set.stays(pool),
        settled: pool.is_settled(),
        all_down: pool.is_all_down(),
        fail_open: pool.fail_open(),
        panic: pool.is_panicking(),
        outliers: settings.resilience.outliers.mode.name().into(),
        tiers: tiers(pool),
        zones: pool.zones().into_iter().map(zone_body).collect(),
        eligible: pool.counts().eligible,
        sessions: pool.sessions(),
        queued: pool.queued(),
        operator: overrides.pool().map(override_body),
        times: with_times.then(|| times_body(&pool.times.connect)),
        backends: pool.members().iter().map(|backend| backend_body(pool, backend, &overrides, with_times)).collect(),
    }
}

fn error_body((at, kind, text): (SystemTime, &'static str, String)) -> ErrorBody {
    ErrorBody { at: time(at), kind: kind.into(), text }
}

fn tiers(pool: &Pool) -> Vec<TierBody> {
    let loads = pool.tier_loads().into_iter().enumerate();
    let has_zone = pool.zone().is_some();
    let body = |(priority, load): (usize, TierLoad)| TierBody {
        priority,
        percent: load.percent(),
        elsewhere: has_zone.then_some(load.elsewhere),
    };
    loads.filter(|(_, load)| load.percent() > 0).map(body).collect()
}

fn zone_body((zone, counts): (Arc<str>, ZoneCounts)) -> ZoneBody {
    let ZoneCounts { backends, up, eligible, sessions } = counts;
    ZoneBody { zone: zone.to_string(), backends, up, eligible, sessions }
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
        zone: view.zone.as_ref().map(ToString::to_string),
        relieved: pool.is_relieved(backend),
        max_sessions: view.max_sessions,
        standing: view.standing.name().into(),
        reason: backend.reason().to_string(),
        since: time(view.since),
        facts: FactsBody {
            operator: view.facts.operator.name().into(),
            registry: view.facts.registry.name().into(),
            agent: view.facts.agent.name().into(),
            probe: view.facts.probe.map_or("none", crate::health::ProbeState::name).into(),
            passive: view.facts.passive.name().into(),
            guard: view.facts.guard.name().into(),
        },
        ejected: view.ejected.map(|(until, in_a_row)| EjectedBody {
            until: time(until),
            in_a_row,
            trial: match pool.trial_of(backend) {
                TrialState::None => "none",
                TrialState::Offered => "offered",
                TrialState::Running(_) => "running",
            }
            .into(),
        }),
        damped_until: view.damped_until.map(time),
        held: match view.facts.guard {
            Guard::Held(mistrust) => {
                Some(HeldBody { reason: mistrust.name().into(), until: view.held_until.map(time) })
            }
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
            wish: advice.wish.name().into(),
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
        operator: overrides.order(&backend.id).map(override_body),
        operator_weight: overrides.weight(&backend.id).map(override_body),
        operator_probe: overrides.pause(&backend.id).map(override_body),
        times: with_times.then(|| times_body(&backend.stats.times.connect)),
    }
}

fn elsewhere(backend: &Backend) -> Vec<ElsewhereBody> {
    let others = backend.sessions_by_address().into_iter().filter(|(address, _)| !backend.is_at(*address));
    let body = |(address, sessions): (SocketAddr, u32)| ElsewhereBody {
        address: address.to_string(),
        standing: backend.standing_at(address).name().into(),
        sessions,
    };
    others.map(body).collect()
}

fn probe_body(report: ProbeReport) -> ProbeBody {
    let result = report.result;
    ProbeBody {
        kind: result.kind.into(),
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

fn override_body<T: Copy>(order: &Override<T>) -> OverrideBody<T> {
    let until = match order.lasting {
        Lasting::Until { at, .. } => Some(time(at)),
        Lasting::Kept | Lasting::Restart => None,
    };
    OverrideBody {
        value: order.value,
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
