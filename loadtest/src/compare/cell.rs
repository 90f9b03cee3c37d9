//! Measures one cell of the comparison: starts a system, warms it up, puts the load of one case on it, and ends it.
//!
//! Each cell starts its system new. So no check and no timer of a system runs in the time of another one, and memory always grows
//! from the same state.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::record::CompareSettings;
use super::system::{ComparedSystem, LogMode, SystemSetup};
use super::window::{Rates, Sample};
use crate::harness::cells::{CellError, last_lines, wait_until_it_serves};
use crate::harness::machine::CpuTime;
use crate::harness::process::ProcessGroup;
use crate::plan::LoadPlan;
use crate::report::RunReport;
use crate::run::{RunError, run};
use crate::scenario::Scenario;

/// How long a system may take until it serves. Envoy needs half a second on a busy machine.
const READY: Duration = Duration::from_secs(15);

/// Wait before the first reading of memory.
const SETTLE: Duration = Duration::from_millis(300);

/// How long connections stay open after the second reading of memory; longer than the interval of `run`'s calls.
const LINGER: Duration = Duration::from_millis(700);

/// Ports for the systems. They are below the range that the kernel gives to connecting sockets; otherwise a connection of the load
/// could take a port between our test and the system's bind.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Measures cells with the same settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct CaseRunner<'a> {
    pub(super) settings: &'a CompareSettings,
    pub(super) backend: SocketAddr,
    /// Measured time of a cell.
    pub(super) duration: Duration,
    pub(super) warm_up: Duration,
    /// How long idle connections send nothing before their memory is read.
    pub(super) quiet: Duration,
    pub(super) scratch: &'a Path,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Measurement {
    /// Units of work per second; 0 for idle connections.
    pub(super) throughput: f64,
    /// Latencies of an operation are in microseconds; for `mixed` those of its messages.
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    /// CPU seconds of the whole machine per unit of work.
    pub(super) cpu: Option<f64>,
    pub(super) busy: f64,
    /// CPUs that the host of a virtual machine took away during that time.
    pub(super) stolen: f64,
    /// User memory per idle connection, in bytes.
    pub(super) memory: Option<f64>,
    pub(super) sessions: u64,
    /// Lines of the session log, which may have other lines too; `None` where sessions are not logged.
    pub(super) log_lines: Option<u64>,
    pub(super) failures: u64,
    pub(super) mismatches: u64,
    /// Some failures and mismatches in full.
    pub(super) examples: Vec<String>,
}

impl Measurement {
    /// Whether nearly all sessions were logged that had to be.
    pub(super) fn logged(&self) -> bool {
        self.log_lines.is_none_or(|lines| lines as f64 >= self.sessions as f64 * 0.99)
    }
}

impl CaseRunner<'_> {
    pub(super) fn measure(&self, system: &ComparedSystem, case: Case, row: LogMode) -> Result<Measurement, CellError> {
        let directory = tempfile::tempdir_in(self.scratch)?;
        let setup = SystemSetup {
            front: free_address()?,
            backend: self.backend,
            threads: self.settings.threads,
            sessions: self.settings.idle.max(1_024) + 1_024,
            row,
            directory: directory.path(),
        };
        let mut running = system.command(&setup)?.map(ProcessGroup::start).transpose()?;
        let address = if running.is_some() { setup.front } else { self.backend };
        let mut sessions = wait_until_it_serves(running.as_mut(), READY, || log_end(&setup), || serves(address))?;

        let plans = |duration| case.plans(address, duration, self.settings.load_threads, self.settings.idle);
        let mut measurement = if case == Case::Idle {
            self.idle(&plans(self.quiet + LINGER)[0], running.as_ref())?
        } else {
            let warm_up = drive(case, &plans(self.warm_up))?;
            sessions += warm_up.iter().map(|(report, _)| report.connections_opened).sum::<u64>();
            under_load(&drive(case, &plans(self.duration))?)
        };
        measurement.sessions += sessions;

        let has_log = running.is_some() && row == LogMode::Defaults;
        if let Some(running) = running {
            running.stop();
        }
        if has_log {
            let text = fs::read(setup.session_log()).unwrap_or_default();
            measurement.log_lines = Some(text.iter().filter(|&&byte| byte == b'\n').count() as u64);
        }
        Ok(measurement)
    }

    /// A rough estimate of how long a cell takes.
    pub(super) fn estimate(&self, case: Case) -> Duration {
        let start_and_stop = Duration::from_millis(500);
        match case {
            Case::Idle => self.quiet + LINGER + SETTLE + start_and_stop,
            _ => self.warm_up + self.duration + start_and_stop,
        }
    }

    fn idle(&self, plan: &LoadPlan, running: Option<&ProcessGroup>) -> Result<Measurement, CellError> {
        let memory = || running.map(ProcessGroup::memory).transpose();
        thread::sleep(SETTLE);
        let before = memory()?;
        let mut after = None;
        let report = run(plan, |now| {
            if after.is_none() && now.elapsed.is_some_and(|elapsed| elapsed >= self.quiet) {
                after = Some(memory());
            }
        })?;
        let after = after.transpose()?.flatten();
        let growth = before.zip(after).map(|(before, after)| after as f64 - before as f64);
        let memory = growth.map(|bytes| bytes / plan.connections as f64);
        Ok(Measurement { memory, ..counts(&[&report]) })
    }
}

impl From<RunError> for CellError {
    fn from(error: RunError) -> Self {
        Self::Load(error.into())
    }
}

fn under_load(parts: &[(RunReport, Rates)]) -> Measurement {
    let reports: Vec<_> = parts.iter().map(|(report, _)| report).collect();
    let (first, rates) = &parts[0];
    // The parts run at the same time on the same machine: its CPU time counts once, their work adds up.
    let throughput: f64 = parts.iter().map(|(_, rates)| rates.units).sum();
    Measurement {
        throughput,
        p50: first.latency.p50,
        p99: first.latency.p99,
        p99_9: first.latency.p99_9,
        cpu: (throughput > 0.0).then(|| rates.busy / throughput),
        busy: rates.busy,
        stolen: rates.stolen,
        ..counts(&reports)
    }
}

fn counts(reports: &[&RunReport]) -> Measurement {
    Measurement {
        sessions: reports.iter().map(|report| report.connections_opened).sum(),
        failures: reports.iter().map(|report| report.failure_count()).sum(),
        mismatches: reports.iter().map(|report| report.mismatch_count()).sum(),
        examples: reports.iter().flat_map(|report| report.examples.iter().cloned()).take(5).collect(),
        ..Measurement::default()
    }
}

/// Runs all plans at the same time.
fn drive(case: Case, plans: &[LoadPlan]) -> Result<Vec<(RunReport, Rates)>, CellError> {
    thread::scope(|scope| {
        let runs: Vec<_> = plans.iter().map(|plan| scope.spawn(move || drive_one(case, plan))).collect();
        runs.into_iter().map(|run| run.join().unwrap_or_else(|_| Err(RunError::Panicked.into()))).collect()
    })
}

fn drive_one(case: Case, plan: &LoadPlan) -> Result<(RunReport, Rates), CellError> {
    let origin = Instant::now();
    let mut samples = vec![Sample { at: Duration::ZERO, elapsed: None, cpu: CpuTime::now()?, units: 0.0 }];
    let report = run(plan, |now| {
        if let Ok(cpu) = CpuTime::now() {
            samples.push(Sample { at: origin.elapsed(), elapsed: now.elapsed, cpu, units: case.unit().done(now) });
        }
    })?;
    let rates = Rates::of(&samples, plan.duration.unwrap_or_default());
    Ok((report, rates))
}

/// Makes one exchange. Returns the number of sessions, or the reason why the exchange failed.
fn serves(address: SocketAddr) -> Result<Result<u64, String>, CellError> {
    let once = LoadPlan {
        connections: 1,
        threads: 1,
        messages: Some(1),
        attempts: 1,
        timeout: Duration::from_secs(1),
        ..LoadPlan::new(address, Scenario::SmallMessages)
    };
    let report = run(&once, |_| {})?;
    if report.passed(false) {
        return Ok(Ok(report.connections_opened));
    }
    thread::sleep(Duration::from_millis(10));
    Ok(Err(report.examples.first().cloned().unwrap_or_default()))
}

fn log_end(setup: &SystemSetup<'_>) -> String {
    let logs = [setup.other_log(), setup.session_log()];
    last_lines(&logs.iter().filter_map(|path| fs::read_to_string(path).ok()).collect::<String>())
}

fn free_address() -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Two comparisons at the same time start with different ports.
    let begin = (process::id() % u32::from(count)) as u16;
    for _ in 0..count {
        // Relaxed: it is only a counter.
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (u32::from(begin) + u32::from(offset)).rem_euclid(u32::from(count)) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port"))
}
