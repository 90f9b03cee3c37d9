//! One cell of the comparison: start a system, warm it up, put one case's load on it, end it.
//!
//! A system lives for one cell only, so that nobody's checks and timers run in another one's time, and memory always grows from
//! the same state.

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
use super::machine::Cpu;
use super::process::Running;
use super::system::{Row, Setting, System};
use super::window::{Rates, Sample};
use crate::plan::Plan;
use crate::report::Report;
use crate::run::run;
use crate::scenario::Scenario;

/// How long a system may take until it serves. Envoy needs half a second on a busy machine.
const READY: Duration = Duration::from_secs(15);

/// Before memory is looked at for the first time.
const SETTLE: Duration = Duration::from_millis(300);

/// How long connections live on after their memory was looked at: longer than the time between two looks.
const LINGER: Duration = Duration::from_millis(700);

/// Ports that systems listen on: below those that the kernel gives to connecting sockets, or a connection of the load could
/// take one between our look and the system's bind.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// What stays the same for all cells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bench<'a> {
    /// The backend.
    pub(super) backend: SocketAddr,
    /// Threads of a system.
    pub(super) threads: usize,
    /// Threads of the load generator.
    pub(super) load_threads: usize,
    /// Measured time of a cell.
    pub(super) duration: Duration,
    /// Load before that.
    pub(super) warm_up: Duration,
    /// Idle connections.
    pub(super) idle: u64,
    /// How long they are quiet before memory is looked at.
    pub(super) quiet: Duration,
    /// Where systems have their files.
    pub(super) scratch: &'a Path,
}

/// What one cell gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Measure {
    /// Units of work per second; 0 for idle connections.
    pub(super) throughput: f64,
    /// Latency of an operation in microseconds; of `mixed` that of its messages.
    pub(super) p50: f64,
    /// The same.
    pub(super) p99: f64,
    /// The same.
    pub(super) p99_9: f64,
    /// CPU seconds of the whole machine per unit of work.
    pub(super) cpu: Option<f64>,
    /// CPUs in use while it was measured.
    pub(super) busy: f64,
    /// CPUs that the host of a virtual machine took away meanwhile.
    pub(super) stolen: f64,
    /// User memory per idle connection, in bytes.
    pub(super) memory: Option<f64>,
    /// Sessions that the load made, and lines in the session log. Other lines are counted too, so this may be more.
    pub(super) sessions: u64,
    /// See `sessions`; `None` where sessions are not logged.
    pub(super) log_lines: Option<u64>,
    /// Operations that failed.
    pub(super) failures: u64,
    /// Wrong bytes.
    pub(super) mismatches: u64,
    /// The first few of both in full.
    pub(super) examples: Vec<String>,
}

/// Why a cell could not be measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum CellError {
    /// A file or process.
    #[error("could not set it up")]
    Setup(#[from] io::Error),
    /// It ended, or did not serve in time.
    #[error("it did not serve: {0}")]
    Dead(String),
    /// The load generator.
    #[error("the load could not be made")]
    Load(#[from] crate::run::Error),
}

impl Measure {
    /// Whether nearly all sessions were logged that had to be.
    pub(super) fn logged(&self) -> bool {
        self.log_lines.is_none_or(|lines| lines as f64 >= self.sessions as f64 * 0.99)
    }
}

impl Bench<'_> {
    /// Measures one cell.
    pub(super) fn measure(&self, system: &System, case: Case, row: Row) -> Result<Measure, CellError> {
        let directory = tempfile::tempdir_in(self.scratch)?;
        let setting = Setting {
            front: free_address()?,
            backend: self.backend,
            threads: self.threads,
            sessions: self.idle.max(1_024) + 1_024,
            row,
            directory: directory.path(),
        };
        let mut running = system.command(&setting)?.map(Running::start).transpose()?;
        let address = if running.is_some() { setting.front } else { self.backend };
        let mut sessions = wait_until_it_serves(address, running.as_mut(), &setting)?;

        let plans = |duration| case.plans(address, duration, self.load_threads, self.idle);
        let mut measure = if case == Case::Idle {
            self.idle(&plans(self.quiet + LINGER)[0], running.as_ref())?
        } else {
            let warm_up = drive(case, &plans(self.warm_up))?;
            sessions += warm_up.iter().map(|(report, _)| report.connections_opened).sum::<u64>();
            under_load(&drive(case, &plans(self.duration))?)
        };
        measure.sessions += sessions;

        let has_log = running.is_some() && row == Row::Defaults;
        if let Some(running) = running {
            running.stop();
        }
        if has_log {
            let text = fs::read(setting.session_log()).unwrap_or_default();
            measure.log_lines = Some(text.iter().filter(|&&byte| byte == b'\n').count() as u64);
        }
        Ok(measure)
    }

    /// How long a cell takes, roughly.
    pub(super) fn estimate(&self, case: Case) -> Duration {
        let start_and_stop = Duration::from_millis(500);
        match case {
            Case::Idle => self.quiet + LINGER + SETTLE + start_and_stop,
            _ => self.warm_up + self.duration + start_and_stop,
        }
    }

    fn idle(&self, plan: &Plan, running: Option<&Running>) -> Result<Measure, CellError> {
        let memory = || running.map(Running::memory).transpose();
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
        Ok(Measure { memory, ..counts(&[&report]) })
    }
}

fn under_load(parts: &[(Report, Rates)]) -> Measure {
    let reports: Vec<_> = parts.iter().map(|(report, _)| report).collect();
    let (first, rates) = &parts[0];
    // The parts run at the same time on the same machine: its CPU time counts once, their work adds up.
    let throughput: f64 = parts.iter().map(|(_, rates)| rates.units).sum();
    Measure {
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

fn counts(reports: &[&Report]) -> Measure {
    Measure {
        sessions: reports.iter().map(|report| report.connections_opened).sum(),
        failures: reports.iter().map(|report| report.failure_count()).sum(),
        mismatches: reports.iter().map(|report| report.mismatch_count()).sum(),
        examples: reports.iter().flat_map(|report| report.examples.iter().cloned()).take(5).collect(),
        ..Measure::default()
    }
}

/// Runs all plans at the same time.
fn drive(case: Case, plans: &[Plan]) -> Result<Vec<(Report, Rates)>, CellError> {
    thread::scope(|scope| {
        let runs: Vec<_> = plans.iter().map(|plan| scope.spawn(move || drive_one(case, plan))).collect();
        runs.into_iter().map(|run| run.join().unwrap_or_else(|_| Err(crate::run::Error::Panicked.into()))).collect()
    })
}

fn drive_one(case: Case, plan: &Plan) -> Result<(Report, Rates), CellError> {
    let origin = Instant::now();
    let mut samples = vec![Sample { at: Duration::ZERO, elapsed: None, cpu: Cpu::now()?, units: 0.0 }];
    let report = run(plan, |now| {
        if let Ok(cpu) = Cpu::now() {
            samples.push(Sample { at: origin.elapsed(), elapsed: now.elapsed, cpu, units: case.unit().done(now) });
        }
    })?;
    let rates = Rates::of(&samples, plan.duration.unwrap_or_default());
    Ok((report, rates))
}

/// Returns how many sessions that took.
fn wait_until_it_serves(
    address: SocketAddr,
    mut running: Option<&mut Running>,
    setting: &Setting<'_>,
) -> Result<u64, CellError> {
    let once = Plan {
        connections: 1,
        threads: 1,
        messages: Some(1),
        attempts: 1,
        timeout: Duration::from_secs(1),
        ..Plan::new(address, Scenario::SmallMessages)
    };
    let start = Instant::now();
    loop {
        if let Some(running) = running.as_deref_mut()
            && let Some(status) = running.ended()?
        {
            return Err(CellError::Dead(format!("{status}; {}", last_words(setting))));
        }
        let report = run(&once, |_| {})?;
        if report.passed(false) {
            return Ok(report.connections_opened);
        }
        if start.elapsed() > READY {
            let example = report.examples.first().cloned().unwrap_or_default();
            return Err(CellError::Dead(format!("{example}; {}", last_words(setting))));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The end of what a system said.
fn last_words(setting: &Setting<'_>) -> String {
    let files = [setting.other_log(), setting.session_log()];
    let text: String = files.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() { "it said nothing".into() } else { lines[lines.len().saturating_sub(4)..].join(" | ") }
}

fn free_address() -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Two comparisons at the same time begin at different places.
    let begin = (process::id() % u32::from(count)) as u16;
    for _ in 0..count {
        // Relaxed: only has to count.
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (u32::from(begin) + u32::from(offset)).rem_euclid(u32::from(count)) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port"))
}
