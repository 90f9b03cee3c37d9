//! Runs a plan: starts the load threads, shows the progress, and adds up the counts.
//!
//! Each thread has its own single-threaded runtime, so a caller needs no runtime, and no thread waits for another.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;

use crate::counters::{LiveCounters, ThreadResults};
use crate::limits::{self, NoRoom};
use crate::load_thread::{LoadThread, StartGate};
use crate::plan::LoadPlan;
use crate::progress::RunProgress;
use crate::protocol::LARGEST;
use crate::report::RunReport;
use crate::scenario::Scenario;

/// How often the progress is shown.
const TICK: Duration = Duration::from_millis(200);

const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Why a run could not be made. Errors during a run are in its [`RunReport`].
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A number of the plan is out of bounds.
    #[error("{0}")]
    Plan(String),
    /// Too many connections for this process.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// A thread, or its runtime, could not be set up.
    #[error("could not start a load thread")]
    Start(#[source] io::Error),
    /// A thread ended without results, which is a bug in the load generator.
    #[error("a load thread panicked")]
    Panicked,
}

/// Runs `plan` to its end; blocks. Calls `show` a few times a second with the progress.
///
/// # Errors
/// When the plan is out of bounds or a thread can't start. Failed operations are in the report.
pub fn run(plan: &LoadPlan, mut show: impl FnMut(&RunProgress)) -> Result<RunReport, RunError> {
    validate(plan)?;
    limits::make_room(plan.connections)?;
    let plan = Arc::new(plan.clone());
    let gate = Arc::new(StartGate::new(plan.connections));
    let all_counters: Vec<Arc<LiveCounters>> = (0..plan.threads).map(|_| Arc::default()).collect();

    let begun = Instant::now();
    let (sender, receiver) = mpsc::channel();
    let mut starts = Vec::new();
    for (index, counters) in all_counters.iter().enumerate() {
        let (start, started) = mpsc::channel();
        starts.push(start);
        let thread = ThreadParts { index, plan: plan.clone(), gate: gate.clone(), counters: counters.clone() };
        let sender = sender.clone();
        let spawned =
            thread::Builder::new().name(format!("load-{index}")).spawn(move || thread.main(&started, &sender));
        spawned.map_err(RunError::Start)?;
    }
    drop(sender);
    // All threads start together. Without this, the others would wait for ever at the gate for a thread that could not start. An
    // early return drops `starts`, and that ends the threads that wait.
    for _ in &starts {
        match receiver.recv() {
            Ok(ThreadEvent::Ready) => {}
            Ok(ThreadEvent::Failed(error)) => return Err(RunError::Start(error)),
            Ok(ThreadEvent::Done(_)) | Err(_) => return Err(RunError::Panicked),
        }
    }
    for start in starts {
        // If the thread has ended, the loop below sees it.
        let _ = start.send(());
    }

    let look = || RunProgress::of(&all_counters, gate.started().map(|start| start.elapsed()));
    let mut total = ThreadResults::new();
    let mut finished = 0;
    while finished < plan.threads {
        match receiver.recv_timeout(TICK) {
            Ok(ThreadEvent::Done(results)) => {
                total.merge(*results);
                finished += 1;
            }
            Ok(ThreadEvent::Ready | ThreadEvent::Failed(_)) | Err(RecvTimeoutError::Timeout) => show(&look()),
            Err(RecvTimeoutError::Disconnected) => return Err(RunError::Panicked),
        }
    }
    let snapshot = look();
    show(&snapshot);
    Ok(RunReport::new(&plan, total, &snapshot, begun, gate.started().unwrap_or(begun)))
}

fn validate(plan: &LoadPlan) -> Result<(), RunError> {
    let threads = 1..=plan.connections.min(256);
    let closed = plan.messages.is_some() || plan.rate.is_some() || plan.duration.is_none();
    let too_long = plan.timeout > LONGEST || plan.duration.is_some_and(|duration| duration > LONGEST);
    let rules = [
        (plan.connections == 0, "at least one connection is needed"),
        (
            !threads.contains(&(plan.threads as u64)),
            "threads must be from 1 to the number of connections, and at most 256",
        ),
        (plan.size == 0 || plan.size > LARGEST, "the size must be from 1 byte to 1 TiB"),
        (plan.timeout.is_zero() || too_long, "timeout and duration may be at most 24h, and the timeout not 0"),
        (
            plan.scenario == Scenario::Idle && closed,
            "idle takes a duration, and neither messages nor a rate: it sends nothing in between",
        ),
        (
            plan.messages.is_none() && plan.duration.is_none(),
            "a number of messages or a duration is needed, or it would never end",
        ),
        (plan.messages == Some(0), "no messages would be a run that can't fail"),
        (
            plan.plain_echo && !plan.scenario.echoes(),
            "a plain echo server can serve small-messages, large-messages and idle only",
        ),
        (
            plan.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e9)),
            "the rate must be above 0 and at most 10^9 per second",
        ),
    ];
    rules.iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, text)| Err(RunError::Plan((*text).into())))
}

enum ThreadEvent {
    Ready,
    Failed(io::Error),
    Done(Box<ThreadResults>),
}

struct ThreadParts {
    index: usize,
    plan: Arc<LoadPlan>,
    gate: Arc<StartGate>,
    counters: Arc<LiveCounters>,
}

impl ThreadParts {
    fn main(self, started: &Receiver<()>, sender: &Sender<ThreadEvent>) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let prepared = runtime.and_then(|runtime| {
            let load_thread =
                runtime.block_on(async { LoadThread::new(self.plan.clone(), self.gate, self.counters) })?;
            Ok((runtime, Rc::new(load_thread)))
        });
        // If the receiver is gone, the run has failed already.
        let (runtime, load_thread) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return drop(sender.send(ThreadEvent::Failed(error))),
        };
        if sender.send(ThreadEvent::Ready).is_err() || started.recv().is_err() {
            return;
        }
        runtime.block_on(run_slots(&self.plan, &load_thread, self.index));
        let _ = sender.send(ThreadEvent::Done(Box::new(load_thread.take_results())));
    }
}

async fn run_slots(plan: &LoadPlan, load_thread: &Rc<LoadThread>, index: usize) {
    let thread = load_thread.clone();
    let driver = tokio::task::spawn_local(async move { thread.timer.drive().await });
    let mut slots = JoinSet::new();
    for (place, slot) in (index as u64..plan.connections).step_by(plan.threads).enumerate() {
        slots.spawn_local(plan.scenario.run(load_thread.clone(), slot, place));
    }
    slots.join_all().await;
    driver.abort();
}
