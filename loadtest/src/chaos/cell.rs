//! One cell: a network, backends, a system in front of them, clients, a fault; then all of it is gone.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::arena::{self, Arena, Blackhole};
use super::backend;
use super::count::{Counts, Timeline, count};
use super::fault::{Action, Check, Fault, Mode, Step};
use super::load::{self, Harvest, Load};
use super::system::{Setting, Subject};
use crate::compare::process::Running;

/// How long a system may take until it serves with all backends. Envoy needs half a second on a busy machine.
const READY: Duration = Duration::from_secs(30);

/// How long one of the first clients waits, while there is nobody yet.
const FIRST: Duration = Duration::from_secs(2);

/// Between the end of all preparations and the first client.
const RUN_UP: Duration = Duration::from_millis(100);

/// What stays the same for all cells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bench<'a> {
    /// This program: backends are processes of it.
    pub(super) program: &'a Path,
    pub(super) blackhole: Blackhole,
    /// How long new connections come.
    pub(super) duration: Duration,
    /// New ones per second.
    pub(super) rate: f64,
    /// Connections that stay.
    pub(super) long_lived: u64,
    /// How long a client waits for an answer.
    pub(super) patience: Duration,
    /// Where systems and backends have their files while they run.
    pub(super) scratch: &'a Path,
    /// Where the systems' files are kept, if they are.
    pub(super) keep: Option<&'a Path>,
}

/// Why a cell could not be measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum CellError {
    /// A namespace, a file or a process.
    #[error("could not set it up")]
    Setup(#[from] io::Error),
    /// It ended, or did not serve in time.
    #[error("it did not serve: {0}")]
    Dead(String),
    /// The clients.
    #[error("the load could not be made")]
    Load(#[source] io::Error),
    /// What was to go wrong did not.
    #[error("the fault could not be made")]
    Fault(#[source] io::Error),
}

impl Bench<'_> {
    /// Measures one cell.
    pub(super) fn measure(&self, subject: &Subject, fault: Fault, check: Check) -> Result<Counts, CellError> {
        let directory = tempfile::tempdir_in(self.scratch)?;
        let files = match self.keep {
            Some(keep) => keep.join(format!("{}-{check:?}-{}", fault.name(), subject.name).to_lowercase()),
            None => directory.path().join("system"),
        };
        fs::create_dir_all(&files)?;
        // Before everything that runs in it, since it has to outlive that.
        let arena = Arena::make(fault.backends(), self.blackhole)?;
        let mut backends = Vec::new();
        for number in 1..=fault.backends() {
            let mut backend = Backend { number, control: directory.path().join(format!("b{number}")), running: None };
            backend.start(self.program, &arena)?;
            backends.push(backend);
        }
        let addresses: Vec<SocketAddr> = (1..=fault.backends()).map(arena::address).collect();
        let setting = Setting { front: arena::front(), backends: &addresses, check, directory: &files };
        let command = subject.command(&setting)?;
        let mut system = arena.front().inside(|| Running::start(command))??;
        arena.front().inside(|| wait_until_it_serves(&mut system, &setting))??;

        let (harvest, timeline) = self.storm(fault, &arena, &mut backends)?;
        if let Some(status) = system.ended()? {
            return Err(CellError::Dead(format!("it ended meanwhile, {status}; {}", last_words(&setting))));
        }
        system.kill();
        Ok(count(&harvest.records, &harvest.breaks, harvest.messages, &timeline))
    }

    /// How long a cell takes, roughly.
    pub(super) fn estimate(&self) -> Duration {
        self.duration + Duration::from_secs(2)
    }

    /// How long the fault lasts.
    pub(super) fn fault_length(&self) -> Duration {
        self.duration / 2
    }

    /// How long all is well before it.
    fn lead(&self) -> Duration {
        self.duration.mul_f64(0.15)
    }

    /// Clients come, and meanwhile things break.
    fn storm(&self, fault: Fault, arena: &Arena, backends: &mut [Backend]) -> Result<(Harvest, Timeline), CellError> {
        let Self { rate, duration, long_lived, patience, .. } = *self;
        let load = Load { front: arena::front(), rate, duration, long_lived, patience };
        let origin = Instant::now() + RUN_UP;
        let hit = &mut backends[..usize::from(fault.hit())];
        thread::scope(|scope| {
            let clients = scope.spawn(|| arena.front().inside(|| load::run(load, origin)));
            let timeline = self.play(&fault.steps(self.fault_length()), origin, arena, hit);
            let harvest = match clients.join() {
                Ok(harvest) => harvest.and_then(|harvest| harvest).map_err(CellError::Load)?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            Ok((harvest, timeline.map_err(CellError::Fault)?))
        })
    }

    fn play(&self, steps: &[Step], origin: Instant, arena: &Arena, hit: &mut [Backend]) -> io::Result<Timeline> {
        let mut timeline = Timeline { blows: Vec::new(), mended: Duration::ZERO, hit: hit.len() as u8 };
        for step in steps {
            thread::sleep((origin + self.lead() + step.at).saturating_duration_since(Instant::now()));
            if step.action.is_blow() {
                timeline.blows.push(origin.elapsed());
            }
            for backend in &mut *hit {
                backend.act(step.action, self.program, arena)?;
            }
            timeline.mended = origin.elapsed();
        }
        Ok(timeline)
    }
}

/// A backend, and what can be done to it.
#[derive(Debug)]
struct Backend {
    number: u8,
    control: PathBuf,
    running: Option<Running>,
}

impl Backend {
    /// Returns once it serves.
    fn start(&mut self, program: &Path, arena: &Arena) -> io::Result<()> {
        let mut command = Command::new(program);
        command.arg("chaos-backend").arg("--listen").arg(arena::address(self.number).to_string());
        command.arg("--control").arg(&self.control).arg("--number").arg(self.number.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.running = Some(arena.backend(self.number).inside(|| Running::start(command))??);
        backend::command(&self.control, Mode::Serve)
    }

    fn act(&mut self, action: Action, program: &Path, arena: &Arena) -> io::Result<()> {
        let signal = |signal| self.running.as_ref().map_or(Ok(()), |running| running.signal(signal));
        match action {
            Action::Kill => {
                if let Some(running) = self.running.take() {
                    running.kill();
                }
                Ok(())
            }
            Action::Start => self.start(program, arena),
            Action::Stop => signal(Signal::STOP),
            Action::Continue => signal(Signal::CONT),
            Action::Drop => arena.blackhole(self.number),
            Action::Pass => arena.restore(self.number),
            Action::Mode(mode) => backend::command(&self.control, mode),
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // One that is stopped would not hear a request to end.
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }
}

/// With every backend: a check may let one in later than another.
fn wait_until_it_serves(system: &mut Running, setting: &Setting<'_>) -> Result<(), CellError> {
    let start = Instant::now();
    let mut seen = BTreeSet::new();
    for number in 0.. {
        if let Some(status) = system.ended()? {
            return Err(CellError::Dead(format!("{status}; {}", last_words(setting))));
        }
        match load::once(setting.front, number, FIRST)? {
            Some(backend) => drop(seen.insert(backend)),
            None => thread::sleep(Duration::from_millis(10)),
        }
        if seen.len() == setting.backends.len() {
            break;
        }
        if start.elapsed() > READY {
            let text = format!("{} of {} backends; {}", seen.len(), setting.backends.len(), last_words(setting));
            return Err(CellError::Dead(text));
        }
    }
    Ok(())
}

/// The end of what a system said.
fn last_words(setting: &Setting<'_>) -> String {
    let text = fs::read_to_string(setting.log()).unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() { "it said nothing".into() } else { lines[lines.len().saturating_sub(4)..].join(" | ") }
}
