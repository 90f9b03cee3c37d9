//! Drives a plan: starts the lanes, shows how far they are, and adds up what they counted.
//!
//! Blocking, on threads of its own, each with its own single-threaded runtime: a caller needs no runtime, and the load of one
//! thread never waits for another.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;

use crate::lane::{Gate, Lane};
use crate::limits::{self, NoRoom};
use crate::plan::Plan;
use crate::progress::Snapshot;
use crate::protocol::LARGEST;
use crate::report::Report;
use crate::scenario::Scenario;
use crate::tally::{Meter, Tally};

/// How often the progress is shown.
const TICK: Duration = Duration::from_millis(200);

const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Why a run could not be made. What goes wrong during a run is in its [`Report`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number of the plan is out of bounds.
    #[error("{0}")]
    Plan(String),
    /// Too many connections for this process.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// A thread, or its runtime, could not be set up.
    #[error("could not start a load thread")]
    Start(#[source] io::Error),
    /// A thread ended without its numbers: a bug in the load generator.
    #[error("a load thread panicked")]
    Panicked,
}

/// Runs `plan` to its end. `show` is called a few times a second with the state so far.
pub fn run(plan: &Plan, mut show: impl FnMut(&Snapshot)) -> Result<Report, Error> {
    validate(plan)?;
    limits::make_room(plan.connections)?;
    let plan = Arc::new(plan.clone());
    let gate = Arc::new(Gate::new(plan.connections));
    let meters: Vec<Arc<Meter>> = (0..plan.threads).map(|_| Arc::default()).collect();

    let begun = Instant::now();
    let (sender, receiver) = mpsc::channel();
    let mut starts = Vec::new();
    for (index, meter) in meters.iter().enumerate() {
        let (start, started) = mpsc::channel();
        starts.push(start);
        let thread = Thread { index, plan: plan.clone(), gate: gate.clone(), meter: meter.clone() };
        let sender = sender.clone();
        let spawned =
            thread::Builder::new().name(format!("load-{index}")).spawn(move || thread.main(&started, &sender));
        spawned.map_err(Error::Start)?;
    }
    drop(sender);
    // Nobody goes before all can: the slots of a thread that never came up would be missed at the gate forever. Returning
    // early drops `starts`, and that ends the threads that wait.
    for _ in &starts {
        match receiver.recv() {
            Ok(Event::Ready) => {}
            Ok(Event::Failed(error)) => return Err(Error::Start(error)),
            Ok(Event::Done(_)) | Err(_) => return Err(Error::Panicked),
        }
    }
    for start in starts {
        // A thread that is gone shows below.
        let _ = start.send(());
    }

    let look = || Snapshot::of(&meters, gate.started().map(|start| start.elapsed()));
    let mut total = Tally::new();
    let mut finished = 0;
    while finished < plan.threads {
        match receiver.recv_timeout(TICK) {
            Ok(Event::Done(tally)) => {
                total.merge(*tally);
                finished += 1;
            }
            Ok(Event::Ready | Event::Failed(_)) | Err(RecvTimeoutError::Timeout) => show(&look()),
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Panicked),
        }
    }
    let snapshot = look();
    show(&snapshot);
    Ok(Report::new(&plan, total, &snapshot, begun, gate.started().unwrap_or(begun)))
}

fn validate(plan: &Plan) -> Result<(), Error> {
    let refuse = |text: &str| Err(Error::Plan(text.into()));
    if plan.connections == 0 {
        return refuse("at least one connection is needed");
    }
    if plan.threads == 0 || plan.threads as u64 > plan.connections || plan.threads > 256 {
        return refuse("threads must be from 1 to the number of connections, and at most 256");
    }
    if plan.size == 0 || plan.size > LARGEST {
        return refuse("the size must be from 1 byte to 1 TiB");
    }
    if plan.timeout.is_zero() || plan.timeout > LONGEST || plan.duration.is_some_and(|duration| duration > LONGEST) {
        return refuse("timeout and duration may be at most 24h, and the timeout not 0");
    }
    if plan.scenario == Scenario::Idle && (plan.messages.is_some() || plan.rate.is_some() || plan.duration.is_none()) {
        return refuse("idle takes a duration, and neither messages nor a rate: it sends nothing in between");
    }
    if plan.messages.is_none() && plan.duration.is_none() {
        return refuse("a number of messages or a duration is needed, or it would never end");
    }
    if plan.messages == Some(0) {
        return refuse("no messages would be a run that can't fail");
    }
    if plan.plain_echo && !plan.scenario.echoes() {
        return refuse("a plain echo server can serve small-messages, large-messages and idle only");
    }
    if plan.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e9)) {
        return refuse("the rate must be above 0 and at most 10^9 per second");
    }
    Ok(())
}

enum Event {
    Ready,
    Failed(io::Error),
    Done(Box<Tally>),
}

struct Thread {
    index: usize,
    plan: Arc<Plan>,
    gate: Arc<Gate>,
    meter: Arc<Meter>,
}

impl Thread {
    fn main(self, started: &Receiver<()>, sender: &Sender<Event>) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let prepared = runtime.and_then(|runtime| {
            let lane = runtime.block_on(async { Lane::new(self.plan.clone(), self.gate, self.meter) })?;
            Ok((runtime, Rc::new(lane)))
        });
        // A receiver that is gone has already given up on this run.
        let (runtime, lane) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return drop(sender.send(Event::Failed(error))),
        };
        if sender.send(Event::Ready).is_err() || started.recv().is_err() {
            return;
        }
        runtime.block_on(run_slots(&self.plan, &lane, self.index));
        let _ = sender.send(Event::Done(Box::new(lane.take_tally())));
    }
}

async fn run_slots(plan: &Plan, lane: &Rc<Lane>, index: usize) {
    let alarm = lane.clone();
    let driver = tokio::task::spawn_local(async move { alarm.alarm.drive().await });
    let mut slots = JoinSet::new();
    for (place, slot) in (index as u64..plan.connections).step_by(plan.threads).enumerate() {
        slots.spawn_local(plan.scenario.run(lane.clone(), slot, place));
    }
    slots.join_all().await;
    driver.abort();
}
