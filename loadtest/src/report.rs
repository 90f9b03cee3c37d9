//! The result of a run: a serialisable value, and its table.
//!
//! The struct is the shape of the JSON. Fields are added, not renamed, because scripts read them. Latencies are in microseconds,
//! sizes in bytes, rates per second.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::counters::ThreadResults;
use crate::plan::LoadPlan;
use crate::progress::RunProgress;
use crate::scenario::Scenario;

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// As in the plan.
    pub scenario: Scenario,
    /// The target.
    pub address: String,
    /// `closed` or `open`.
    pub mode: String,
    /// Intended operations per second (open loop).
    pub rate: Option<f64>,
    /// Connections at the same time.
    pub connections: u64,
    /// Load threads.
    pub threads: usize,
    /// Payload bytes per message or transfer.
    pub size: u64,
    /// Seed of the payload.
    pub seed: u64,
    /// Measured time: from the moment when all connections were open to the end of the last operation.
    pub seconds: f64,
    /// Operations that ended well, each byte checked.
    pub operations: u64,
    /// `operations` per second.
    pub operations_per_second: f64,
    /// Scheduled operations that were never started. The latencies do not include them.
    pub not_started: u64,
    /// Connections opened, also those that replaced a failed one.
    pub connections_opened: u64,
    /// Per second of the measured time if every operation connects, otherwise per second of the time for opening.
    pub connections_per_second: f64,
    /// Bytes sent, headers included.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes both ways per second of the measured time.
    pub bytes_per_second: f64,
    /// From the start of an operation (in an open loop the intended start) to its last byte.
    pub latency: Latency,
    /// The time to connect.
    pub connect: Latency,
    /// Wrong bytes, by kind.
    pub mismatches: BTreeMap<String, u64>,
    /// Failed operations, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Connections that had too many failures in a row.
    pub connections_abandoned: u64,
    /// The first errors in full.
    pub examples: Vec<String>,
}

/// Percentiles, in microseconds; all 0 when nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

impl RunReport {
    pub(crate) fn new(
        plan: &LoadPlan,
        results: ThreadResults,
        snapshot: &RunProgress,
        begun: Instant,
        start: Instant,
    ) -> Self {
        let seconds = results.last.unwrap_or_else(Instant::now).saturating_duration_since(start).as_secs_f64();
        let opening = start.saturating_duration_since(begun).as_secs_f64();
        let churns = plan.scenario == Scenario::ConnectRequestClose;
        let owned = |counts: BTreeMap<&str, u64>| counts.into_iter().map(|(label, n)| (label.into(), n)).collect();
        Self {
            scenario: plan.scenario,
            address: plan.address.to_string(),
            mode: if plan.rate.is_some() { "open" } else { "closed" }.into(),
            rate: plan.rate,
            connections: plan.connections,
            threads: plan.threads,
            size: plan.size,
            seed: plan.seed,
            seconds,
            operations: snapshot.operations,
            operations_per_second: per(snapshot.operations, seconds),
            not_started: results.not_started,
            connections_opened: snapshot.opened,
            connections_per_second: per(snapshot.opened, if churns { seconds } else { opening }),
            bytes_sent: snapshot.sent,
            bytes_received: snapshot.received,
            bytes_per_second: per(snapshot.sent + snapshot.received, seconds),
            latency: Latency::of(&results.latency),
            connect: Latency::of(&results.connect),
            mismatches: owned(results.mismatches),
            failures: owned(results.failures),
            connections_abandoned: results.abandoned,
            examples: results.examples,
        }
    }

    /// Number of operations with wrong bytes.
    pub fn mismatch_count(&self) -> u64 {
        self.mismatches.values().sum()
    }

    /// Number of failed operations.
    pub fn failure_count(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Whether the run was good: no mismatch, and no failure unless failures are allowed.
    pub fn passed(&self, allow_failures: bool) -> bool {
        self.mismatch_count() == 0 && (allow_failures || self.failure_count() == 0)
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: micros(histogram.max()),
        }
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.rate {
            Some(rate) => format!("open loop at {rate}/s"),
            None => "closed loop".into(),
        };
        writeln!(f, "{} to {}: {} connections, {mode}", self.scenario.name(), self.address, self.connections)?;
        let mut row = |name: &str, value: String| writeln!(f, "  {name:<16} {value}");
        row("time", format!("{:.2} s", self.seconds))?;
        row("operations", format!("{} ({:.0}/s), each verified", self.operations, self.operations_per_second))?;
        row("connections", format!("{} ({:.0}/s)", self.connections_opened, self.connections_per_second))?;
        row("throughput", format!("{:.1} MB/s both ways", self.bytes_per_second / 1e6))?;
        row("bytes", format!("{} sent, {} received", self.bytes_sent, self.bytes_received))?;
        row("latency", self.latency.to_string())?;
        row("connect", self.connect.to_string())?;
        if self.not_started > 0 {
            row(
                "NOT STARTED",
                format!("{} scheduled operations, which the latencies do not include", self.not_started),
            )?;
        }
        if self.connections_abandoned > 0 {
            row("abandoned", format!("{} connections, after too many failures in a row", self.connections_abandoned))?;
        }
        row("mismatches", counts(&self.mismatches))?;
        row("failures", counts(&self.failures))?;
        self.examples.iter().try_for_each(|example| writeln!(f, "    {example}"))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return f.write_str("none measured");
        }
        let Self { p50, p90, p99, p99_9, max, .. } = self;
        write!(f, "p50 {p50:.0} µs, p90 {p90:.0} µs, p99 {p99:.0} µs, p99.9 {p99_9:.0} µs, max {max:.0} µs")
    }
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "0".into();
    }
    let parts: Vec<_> = counts.iter().map(|(label, count)| format!("{label} {count}")).collect();
    format!("{} ({})", counts.values().sum::<u64>(), parts.join(", "))
}

fn per(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}
