//! Measures one cell: makes a network, backends, a system in front of them and clients, plays the fault, and removes everything.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::backend;
use super::count::{FaultCounts, FaultTimeline, count};
use super::fault::{BackendMode, CheckKind, Fault, FaultAction, FaultStep};
use super::load::{self, ClientLoad, ClientResults};
use super::network::{self, DropMethod, TestNetwork};
use super::system::{ChaosSetup, ChaosSystem};
use crate::harness::cells::{CellError, last_lines, wait_until_it_serves};
use crate::harness::process::ProcessGroup;

/// How long a system may take until it serves with all backends. Envoy needs half a second on a busy machine.
const READY: Duration = Duration::from_secs(30);

/// How long one of the first clients waits while the system does not serve yet.
const FIRST: Duration = Duration::from_secs(2);

/// Between the end of all preparations and the first client.
const RUN_UP: Duration = Duration::from_millis(100);

/// Measures cells with the same settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct FaultRunner<'a> {
    /// This program, which is also the program of the backends.
    pub(super) program: &'a Path,
    pub(super) drop_method: DropMethod,
    pub(super) load: ClientLoad,
    /// Directory for the files of systems and backends while they run.
    pub(super) scratch: &'a Path,
    /// Directory in which the files of the systems stay.
    pub(super) keep: Option<&'a Path>,
}

impl FaultRunner<'_> {
    pub(super) fn measure(
        &self,
        system: &ChaosSystem,
        fault: Fault,
        check: CheckKind,
    ) -> Result<FaultCounts, CellError> {
        let directory = tempfile::tempdir_in(self.scratch)?;
        let files = match self.keep {
            Some(keep) => keep.join(format!("{}-{check:?}-{}", fault.name(), system.name).to_lowercase()),
            None => directory.path().join("system"),
        };
        fs::create_dir_all(&files)?;
        // Declared first, because it has to outlive everything that runs in it.
        let network = TestNetwork::make(fault.backends(), self.drop_method)?;
        let mut backends = Vec::new();
        for number in 1..=fault.backends() {
            let mut backend =
                BackendProcess { number, control: directory.path().join(format!("b{number}")), running: None };
            backend.start(self.program, &network)?;
            backends.push(backend);
        }
        let addresses: Vec<SocketAddr> = (1..=fault.backends()).map(network::address).collect();
        let setup = ChaosSetup { front: network::front(), backends: &addresses, check, directory: &files };
        let command = system.command(&setup)?;
        let mut system = network.front().inside(|| ProcessGroup::start(command))??;
        network.front().inside(|| wait_for_all_backends(&mut system, &setup))??;

        let (results, timeline) = self.play_fault(fault, &network, &mut backends)?;
        if let Some(status) = system.ended()? {
            return Err(CellError::Dead(format!("it ended meanwhile, {status}; {}", log_end(&setup))));
        }
        system.kill();
        Ok(count(&results.records, &results.breaks, results.messages, &timeline))
    }

    /// A rough estimate of how long a cell takes.
    pub(super) fn estimate(&self) -> Duration {
        self.load.duration + Duration::from_secs(2)
    }

    pub(super) fn fault_length(&self) -> Duration {
        self.load.duration / 2
    }

    /// How long the clients run before the fault.
    fn lead(&self) -> Duration {
        self.load.duration.mul_f64(0.15)
    }

    /// Runs the clients and, at the same time, the steps of the fault.
    fn play_fault(
        &self,
        fault: Fault,
        network: &TestNetwork,
        backends: &mut [BackendProcess],
    ) -> Result<(ClientResults, FaultTimeline), CellError> {
        let origin = Instant::now() + RUN_UP;
        let hit = &mut backends[..usize::from(fault.hit())];
        thread::scope(|scope| {
            let clients = scope.spawn(|| network.front().inside(|| load::run(self.load, origin)));
            let timeline = self.play(&fault.steps(self.fault_length()), origin, network, hit);
            let results = match clients.join() {
                Ok(results) => results.and_then(|results| results).map_err(|error| CellError::Load(error.into()))?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            Ok((results, timeline.map_err(CellError::Fault)?))
        })
    }

    fn play(
        &self,
        steps: &[FaultStep],
        origin: Instant,
        network: &TestNetwork,
        hit: &mut [BackendProcess],
    ) -> io::Result<FaultTimeline> {
        let mut timeline = FaultTimeline { breakages: Vec::new(), repaired: Duration::ZERO, hit: hit.len() as u8 };
        for step in steps {
            thread::sleep((origin + self.lead() + step.at).saturating_duration_since(Instant::now()));
            if step.action.breaks() {
                timeline.breakages.push(origin.elapsed());
            }
            for backend in &mut *hit {
                backend.act(step.action, self.program, network)?;
            }
            timeline.repaired = origin.elapsed();
        }
        Ok(timeline)
    }
}

/// A process that serves as backend number `number`.
#[derive(Debug)]
struct BackendProcess {
    number: u8,
    control: PathBuf,
    running: Option<ProcessGroup>,
}

impl BackendProcess {
    /// Starts it and returns when it serves.
    fn start(&mut self, program: &Path, network: &TestNetwork) -> io::Result<()> {
        let mut command = Command::new(program);
        command.arg("chaos-backend").arg("--listen").arg(network::address(self.number).to_string());
        command.arg("--control").arg(&self.control).arg("--number").arg(self.number.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.running = Some(network.backend(self.number).inside(|| ProcessGroup::start(command))??);
        backend::command(&self.control, BackendMode::Serve)
    }

    fn act(&mut self, action: FaultAction, program: &Path, network: &TestNetwork) -> io::Result<()> {
        let signal = |signal| self.running.as_ref().map_or(Ok(()), |running| running.signal(signal));
        match action {
            FaultAction::Kill => {
                if let Some(running) = self.running.take() {
                    running.kill();
                }
                Ok(())
            }
            FaultAction::Start => self.start(program, network),
            FaultAction::Stop => signal(Signal::STOP),
            FaultAction::Continue => signal(Signal::CONT),
            FaultAction::Drop => network.blackhole(self.number),
            FaultAction::Pass => network.restore(self.number),
            FaultAction::Mode(mode) => backend::command(&self.control, mode),
        }
    }
}

impl Drop for BackendProcess {
    fn drop(&mut self) {
        // SIGKILL, because a stopped process does not react to other signals.
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }
}

/// Waits until every backend has answered through the system; checks may admit them at different times.
fn wait_for_all_backends(system: &mut ProcessGroup, setup: &ChaosSetup<'_>) -> Result<(), CellError> {
    let (mut numbers, mut seen) = (0.., BTreeSet::new());
    let all = setup.backends.len();
    wait_until_it_serves(
        Some(system),
        READY,
        || log_end(setup),
        || {
            match load::once(setup.front, numbers.next().unwrap_or_default(), FIRST)? {
                Some(backend) => drop(seen.insert(backend)),
                None => thread::sleep(Duration::from_millis(10)),
            }
            Ok(if seen.len() == all { Ok(()) } else { Err(format!("{} of {all} backends", seen.len())) })
        },
    )
}

fn log_end(setup: &ChaosSetup<'_>) -> String {
    last_lines(&fs::read_to_string(setup.log()).unwrap_or_default())
}
