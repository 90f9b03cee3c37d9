//! `/metrics`: read from the state at scrape, so series come and go with what they describe. The door to the prometheus
//! crate.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, UNIX_EPOCH};

use prometheus::proto::{self, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::troubles::troubles;
use super::{AdminView, process};
use crate::config::CheckKind;
use crate::endpoint::Mistrust;
use crate::health::Hearing;
use crate::metrics::{
    self as names, AcceptFailure, CloseCause, ConnectFailure, Detection, Direction, EarlyEnd, Hedge, Metric,
    MetricKind, Outcome, Refusal, Replay,
};
use crate::pool::{Backend, EndedCounts, Histogram, Pool, SHARE_OF_WEIGHT};
use crate::proxy::Listener;
use crate::server::ReloadResult;
use crate::standing::{Guard, Standing};

pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Everything, in Prometheus' text format.
pub(super) fn text(view: &AdminView) -> Result<Vec<u8>, prometheus::Error> {
    let mut families = Families::new();
    process_wide(&mut families, view);
    let set = view.state.set();
    for listener in &set.listeners {
        add_listener(&mut families, listener);
    }
    let mut histograms_left = set.config.admin.backend_histograms;
    let mut omitted = 0;
    for pool in &set.pools {
        let fronts = set.listeners.iter().filter(|listener| listener.settings().leads_to(pool));
        let listeners: Vec<&str> = fronts.map(|listener| &*listener.name).collect();
        add_pool(&mut families, pool);
        add_sessions(&mut families, pool, "", &pool.ended_without_backend, &listeners);
        for backend in pool.members().iter() {
            let with_histograms = histograms_left > 0;
            histograms_left -= usize::from(with_histograms);
            omitted += usize::from(!with_histograms);
            add_backend(&mut families, pool, &listeners, backend, with_histograms);
        }
    }
    families.value(&names::BACKEND_HISTOGRAMS_OMITTED, &[], omitted as f64);

    let mut text = Vec::new();
    let mut all = families.finish();
    all.extend(process::values().into_iter().map(|(metric, value)| family(&metric, vec![series(&metric, &[], value)])));
    TextEncoder::new().encode(&all, &mut text)?;
    Ok(text)
}

fn process_wide(families: &mut Families, view: &AdminView) {
    let state = &view.state;
    families.value(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    let sessions = state.workers.sessions();
    families.value(&names::WORKERS, &[], sessions.len() as f64);
    for (index, sessions) in sessions.into_iter().enumerate() {
        families.value(&names::WORKER_SESSIONS, &[&index.to_string()], sessions as f64);
    }
    families.value(&names::MAX_CONNECTIONS, &[], state.limit.places() as f64);
    families.value(&names::DRAINING, &[], flag(state.is_draining()));
    let reloads = state.reloads.view();
    for result in ReloadResult::ALL {
        families.value(&names::CONFIG_RELOADS, &[result.name()], reloads.count(result) as f64);
    }
    let refused = reloads.last.is_some_and(|(_, result, _)| result == ReloadResult::Refused);
    families.value(&names::CONFIG_LAST_RELOAD_SUCCESS, &[], flag(!refused));
    let applied_at = reloads.applied_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    families.value(&names::CONFIG_APPLIED_TIMESTAMP, &[], applied_at.as_secs_f64());
    families.value(&names::CONFIG_GENERATION, &[], reloads.generation as f64);
    families.value(&names::CONFIG_NEEDS_RESTART, &[], reloads.needs_restart.len() as f64);
    families.value(&names::TROUBLES, &[], troubles(view).len() as f64);
    families.value(&names::LOG_LINES_DROPPED, &[], (view.log_lines_dropped)() as f64);
    let (pipes, missing) = state.workers.pipes();
    families.value(&names::RELAY_PIPES, &[], pipes as f64);
    families.value(&names::RELAY_PIPES_MISSING, &[], missing as f64);
    let (on_ring, buffers) = state.workers.rings();
    families.value(&names::RELAY_RING_SESSIONS, &[], on_ring as f64);
    families.value(&names::RELAY_RING_BUFFERS, &[], buffers as f64);
    let probes = state.prober.stats();
    families.value(&names::PROBES_IN_FLIGHT, &[], probes.in_flight as f64);
    families.value(&names::PROBES_UNSENT, &[], probes.local_errors as f64);
}

fn add_listener(families: &mut Families, listener: &Listener) {
    let name = &*listener.name;
    let counts = listener.counts();
    for (outcome, ended) in Outcome::ALL.into_iter().zip(counts.ended) {
        families.value(&names::LISTENER_ENDED, &[name, outcome.name()], ended as f64);
    }
    families.value(&names::LISTENER_SESSIONS, &[name], counts.sessions as f64);
    families.value(&names::LISTENER_ACCEPTED, &[name], counts.accepted as f64);
    for reason in Refusal::ALL {
        families.value(&names::REFUSALS, &[name, reason.name()], listener.refusals.read(reason) as f64);
    }
    let settings = listener.settings();
    if let Some(clients) = &settings.clients {
        for reason in [Refusal::ClientConnections, Refusal::ClientRate] {
            families.value(&names::OBSERVED_REFUSALS, &[name, reason.name()], clients.observed(reason) as f64);
        }
        families.value(&names::LISTENER_CLIENTS, &[name], clients.known() as f64);
        families.value(&names::LISTENER_WAITING, &[name], f64::from(clients.waiting()));
    }
    if settings.file.accept.as_ref().is_some_and(|accept| accept.handshakes.is_some()) {
        families.value(&names::LISTENER_HANDSHAKES, &[name], listener.handshakes() as f64);
    }
    for reason in AcceptFailure::ALL {
        let errors = listener.accept_errors(reason) as f64;
        families.value(&names::LISTENER_ACCEPT_ERRORS, &[name, reason.name()], errors);
    }
    add_routed(families, listener);
    families.value(&names::LISTENER_AT_LIMIT, &[name], flag(listener.is_at_limit()));
    if let Some(max) = settings.file.max_connections {
        families.value(&names::LISTENER_MAX_CONNECTIONS, &[name], max as f64);
    }
}

/// Where sessions were routed to, and those that ended before.
fn add_routed(families: &mut Families, listener: &Listener) {
    let (name, settings) = (&*listener.name, listener.settings());
    let has_routes = settings.routes.only().is_none();
    for outcome in Outcome::ALL {
        let count = listener.ended_unrouted.read(outcome);
        if has_routes || count > 0 {
            families.value(&names::SESSIONS, &[name, "", "", outcome.name()], count as f64);
        }
    }
    let mut routed = listener.routed.read();
    if has_routes {
        settings.routes.pools().for_each(|pool| _ = routed.entry(Arc::clone(&pool.name)).or_default());
    }
    for (pool, count) in routed {
        families.value(&names::ROUTED_SESSIONS, &[name, &pool], count as f64);
    }
}

fn add_zones(families: &mut Families, pool: &Pool) {
    let name = &*pool.name;
    if pool.zone().is_some() {
        let elsewhere: u32 = pool.tier_loads().iter().map(|load| load.elsewhere).sum();
        families.value(&names::POOL_ELSEWHERE_LOAD, &[name], f64::from(elsewhere) / 100.0);
    }
    for (zone, counts) in pool.zones() {
        families.value(&names::POOL_ZONE_UP, &[name, &zone], counts.up as f64);
        families.value(&names::POOL_ZONE_ELIGIBLE, &[name, &zone], counts.eligible as f64);
        families.value(&names::POOL_ZONE_SESSIONS, &[name, &zone], f64::from(counts.sessions));
    }
}

fn add_pool(families: &mut Families, pool: &Pool) {
    let name = &*pool.name;
    families.value(&names::POOL_ELIGIBLE, &[name], pool.counts().eligible as f64);
    families.value(&names::POOL_ALL_DOWN, &[name], flag(pool.is_all_down()));
    families.value(&names::POOL_FAIL_OPEN, &[name], flag(pool.fail_open()));
    families.value(&names::POOL_PANIC, &[name], flag(pool.is_panicking()));
    for (tier, load) in pool.tier_loads().into_iter().enumerate().filter(|(_, load)| load.percent() > 0) {
        families.value(&names::POOL_TIER_LOAD, &[name, &tier.to_string()], f64::from(load.percent()) / 100.0);
    }
    add_zones(families, pool);
    for detection in Detection::ALL {
        let count = pool.outliers.detected(detection) as f64;
        families.value(&names::OUTLIER_DETECTED, &[name, detection.name()], count);
    }
    families.value(&names::OUTLIER_REFUSED, &[name], pool.outliers.refused() as f64);
    let ejected = pool.members().iter().filter(|backend| backend.view().ejected.is_some()).count();
    families.value(&names::OUTLIER_EJECTED, &[name], ejected as f64);
    families.value(&names::POOL_SESSIONS, &[name], pool.sessions() as f64);
    if pool.settings().fallback.is_some() {
        families.value(&names::POOL_ON_FALLBACK, &[name], flag(pool.lives_from().is_some()));
        families.value(&names::POOL_FALLBACK_SESSIONS, &[name], pool.fallback_sessions() as f64);
    }
    families.value(&names::POOL_QUEUED, &[name], pool.queued() as f64);
    families.value(&names::POOL_REBALANCING, &[name], f64::from(pool.closes.rebalancing.load(Relaxed)));
    if let Some(table) = pool.sticky(0) {
        families.value(&names::POOL_STICKY_CLIENTS, &[name], table.entries as f64);
        families.value(&names::POOL_STICKY_FORGOTTEN, &[name], table.forgotten as f64);
    }
    families.value(&names::POOL_CLOSING, &[name], pool.closes.waiting.load(Relaxed) as f64);
    for cause in CloseCause::ALL {
        families.value(&names::POOL_FORCED_CLOSES, &[name, cause.name()], pool.closes.closed.read(cause) as f64);
    }
    for direction in Direction::ALL {
        families.value(&names::POOL_BYTES, &[name, direction.name()], pool.bytes(direction) as f64);
        let waited = pool.bandwidth.waited(direction).as_secs_f64();
        families.value(&names::POOL_THROTTLED, &[name, direction.name()], waited);
    }
    families.histogram(&names::POOL_QUEUE_SECONDS, &[name], &pool.queue_time);
    families.histogram(&names::POOL_CONNECT_SECONDS, &[name], &pool.times.connect);
    families.histogram(&names::POOL_FIRST_BYTE_SECONDS, &[name], &pool.times.first_byte);
    families.histogram(&names::POOL_SESSION_SECONDS, &[name], &pool.times.session);
    families.histogram(&names::PROBE_SECONDS, &[name], &pool.probe_time);
    families.value(&names::POOL_RETRIES, &[name], pool.retries.granted() as f64);
    families.value(&names::POOL_RETRIES_HELD, &[name], pool.retries.held() as f64);
    for result in Hedge::ALL {
        families.value(&names::POOL_HEDGES, &[name, result.name()], pool.second.hedges.read(result) as f64);
    }
    for result in Replay::ALL {
        families.value(&names::POOL_REPLAYS, &[name, result.name()], pool.second.replays.read(result) as f64);
    }

    families.value(&names::POOL_FORGOTTEN, &[name], pool.forgotten_early.load(Relaxed) as f64);
    let guards: Vec<_> = pool.members().iter().map(|backend| backend.view().facts.guard).collect();
    for mistrust in Mistrust::ALL {
        let held = guards.iter().filter(|guard| **guard == Guard::Held(mistrust)).count();
        families.value(&names::POOL_HELD, &[name, mistrust.name()], held as f64);
    }
    let source = pool.source.view();
    let kind = pool.settings().source.kind();
    if let Some(at) = source.last_success {
        let age = Instant::now().duration_since(at).as_secs_f64();
        families.value(&names::DISCOVERY_AGE, &[name, kind], age);
    }
    for reason in source.kinds {
        let count = source.errors.get(reason).map_or(0, |errors| errors.count);
        families.value(&names::DISCOVERY_ERRORS, &[name, kind, reason], count as f64);
    }
    for (reason, errors) in source.errors {
        let at = errors.last.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        families.value(&names::DISCOVERY_LAST_ERROR, &[name, kind, reason], at);
    }
    families.value(&names::DISCOVERY_FAILING, &[name, kind], f64::from(u8::from(source.error.is_some())));
    families.value(&names::DISCOVERY_FILTERED, &[name, kind], flag(source.filtered));
    families.value(&names::DISCOVERY_REJECTED, &[name, kind], source.rejected.count() as f64);
}

/// Sessions of one backend, or (`""`) of a pool's that reached none. A series that is there from the start loses no event
/// for `rate()`; outcomes times backends would be mostly zeros, so a backend begins with `completed` alone.
fn add_sessions(families: &mut Families, pool: &Pool, id: &str, ended: &EndedCounts, listeners: &[&str]) {
    let counted = ended.read();
    for listener in listeners.iter().filter(|name| counted.iter().all(|(known, _)| **known != ***name)) {
        for outcome in Outcome::ALL.into_iter().filter(|outcome| id.is_empty() || *outcome == Outcome::Completed) {
            families.value(&names::SESSIONS, &[listener, &pool.name, id, outcome.name()], 0.0);
        }
    }
    for (listener, outcomes) in counted {
        for outcome in Outcome::ALL {
            let count = outcomes.read(outcome);
            if count > 0 || id.is_empty() || outcome == Outcome::Completed {
                families.value(&names::SESSIONS, &[&listener, &pool.name, id, outcome.name()], count as f64);
            }
        }
    }
}

fn add_backend(families: &mut Families, pool: &Pool, listeners: &[&str], backend: &Backend, with_histograms: bool) {
    let (name, id, stats) = (&*pool.name, &*backend.id, &backend.stats);
    let (view, settings) = (backend.view(), pool.settings());
    add_sessions(families, pool, id, &stats.ended, listeners);
    families.value(&names::BACKEND_SESSIONS, &[name, id], f64::from(pool.sessions_of(backend)));
    for source in &settings.sources {
        let sessions = stats.sources.read(*source) as f64;
        families.value(&names::BACKEND_SOURCE_SESSIONS, &[name, id, &source.to_string()], sessions);
    }
    if settings.preconnect > 0 {
        let kept = &stats.preconnects;
        families.value(&names::BACKEND_PRECONNECTED, &[name, id], kept.waiting.load(Relaxed) as f64);
        families.value(&names::BACKEND_PRECONNECTS_OPENED, &[name, id], kept.opened.load(Relaxed) as f64);
        families.value(&names::BACKEND_PRECONNECTS_USED, &[name, id], kept.used.load(Relaxed) as f64);
    }
    for direction in Direction::ALL {
        let bytes = stats.bytes.read(direction) as f64;
        families.value(&names::BACKEND_BYTES, &[name, id, direction.name()], bytes);
    }
    families.value(&names::BACKEND_CONNECTS, &[name, id], stats.connects.load(Relaxed) as f64);
    let failed: u64 = ConnectFailure::ALL.into_iter().map(|reason| stats.failures.read(reason)).sum();
    families.value(&names::BACKEND_FAILED_CONNECTS, &[name, id], failed as f64);
    for reason in ConnectFailure::ALL {
        let count = stats.failures.read(reason);
        if count > 0 {
            families.value(&names::BACKEND_CONNECT_FAILURES, &[name, id, reason.name()], count as f64);
        }
    }
    for end in EarlyEnd::ALL {
        let count = stats.early_ends.read(end);
        if count > 0 {
            families.value(&names::BACKEND_EARLY_ENDS, &[name, id, end.name()], count as f64);
        }
    }
    families.value(&names::OUTLIER_EJECTIONS, &[name, id], stats.ejections.load(Relaxed) as f64);
    for (result, count) in [("pass", &stats.trials_passed), ("fail", &stats.trials_failed)] {
        families.value(&names::OUTLIER_TRIALS, &[name, id, result], count.load(Relaxed) as f64);
    }
    for standing in Standing::ALL {
        let is = flag(view.standing == standing);
        families.value(&names::BACKEND_STANDING, &[name, id, standing.name()], is);
    }
    families.value(&names::BACKEND_STANDING_CHANGES, &[name, id], stats.changes.load(Relaxed) as f64);
    families.value(&names::BACKEND_WEIGHT, &[name, id], f64::from(view.weight));
    let share = f64::from(view.share) / f64::from(SHARE_OF_WEIGHT);
    families.value(&names::BACKEND_SHARE, &[name, id], share);
    let kind = settings.check.kind.name();
    for (result, count) in [("pass", &stats.probes_passed), ("fail", &stats.probes_failed)] {
        families.value(&names::PROBES, &[name, id, kind, result], count.load(Relaxed) as f64);
    }
    if settings.agent.is_some() || matches!(settings.check.kind, CheckKind::Agent(_)) {
        for hearing in Hearing::ALL {
            let count = stats.agent_answers.read(hearing) as f64;
            families.value(&names::BACKEND_AGENT_ANSWERS, &[name, id, hearing.name()], count);
        }
    }
    if let Some(report) = backend.last_report() {
        families.value(&names::PROBE_LAST_SECONDS, &[name, id], report.result.duration.as_secs_f64());
        if let Some(certificate) = report.result.certificate {
            let ends = certificate.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            families.value(&names::PROBE_CERTIFICATE_EXPIRY, &[name, id], ends.as_secs_f64());
            families.value(&names::PROBE_CERTIFICATE_EXPIRES_SOON, &[name, id], flag(certificate.expires_soon));
        }
    }
    if with_histograms {
        families.histogram(&names::BACKEND_CONNECT_SECONDS, &[name, id], &stats.times.connect);
        families.histogram(&names::BACKEND_FIRST_BYTE_SECONDS, &[name, id], &stats.times.first_byte);
        families.histogram(&names::BACKEND_SESSION_SECONDS, &[name, id], &stats.times.session);
    }
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// Families in the making, in the order of [`names::ALL`].
struct Families {
    series: Vec<Vec<proto::Metric>>,
    /// Name → index in `series`: looked up once for each of what may be hundreds of thousands of series.
    places: HashMap<&'static str, usize>,
}

impl Families {
    fn new() -> Self {
        Self {
            series: names::ALL.iter().map(|_| Vec::new()).collect(),
            places: names::ALL.iter().enumerate().map(|(place, metric)| (metric.name, place)).collect(),
        }
    }

    fn value(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        self.push(metric, series(metric, labels, value));
    }

    fn histogram(&mut self, metric: &Metric, labels: &[&str], from: &Histogram) {
        let (buckets, count, sum) = from.read();
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let bucket = |(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        histogram.set_bucket(buckets.into_iter().map(bucket).collect());
        let mut series = proto::Metric::from_label(pairs(metric, labels));
        series.set_histogram(histogram);
        self.push(metric, series);
    }

    fn push(&mut self, metric: &Metric, series: proto::Metric) {
        if let Some(&place) = self.places.get(metric.name) {
            self.series[place].push(series);
        }
    }

    fn finish(self) -> Vec<MetricFamily> {
        let families = names::ALL.iter().zip(self.series).filter(|(_, series)| !series.is_empty());
        families.map(|(metric, series)| family(metric, series)).collect()
    }
}

fn family(metric: &Metric, series: Vec<proto::Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        MetricKind::Counter => MetricType::COUNTER,
        MetricKind::Gauge => MetricType::GAUGE,
        MetricKind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(series);
    family
}

fn series(metric: &Metric, labels: &[&str], value: f64) -> proto::Metric {
    let mut series = proto::Metric::from_label(pairs(metric, labels));
    match metric.kind {
        MetricKind::Counter => {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            series.set_counter(counter);
        }
        MetricKind::Gauge | MetricKind::Histogram => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            series.set_gauge(gauge);
        }
    }
    series
}

fn pairs(metric: &Metric, values: &[&str]) -> Vec<proto::LabelPair> {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    metric.labels.iter().zip(values).map(pair).collect()
}
