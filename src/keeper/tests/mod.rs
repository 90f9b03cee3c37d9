//! Members on a bench: the clock, the probes and the sessions are the test's.

mod addresses;
mod advice;
mod aggregate;
mod damping;
mod ejection;
mod held;
mod lines;
mod membership;
mod overrides;
mod shares;
mod simulation;
mod trials;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::members::Members;
use super::{ProbeHandle, Probed, Probing};
use crate::config;
use crate::endpoint::{Endpoint, Mistrust, Registry, Trust, Update};
use crate::health::{ProbeReport, ProbeResult, RiseFall};
use crate::metrics::{ConnectFailure, EarlyEnd};
use crate::pool::{Backend, BackendView, Lease, PickContext, Pool, SessionReport};
use crate::standing::Standing;

/// rise 2, fall 3, no matter what the defaults are.
const TCP: &str = "check = { kind = \"tcp\", rise = 2, fall = 3 }";
const NO_CHECK: &str = "check = { kind = \"none\", fall = 3 }";
const ANY: &str = "check = { kind = \"tcp\", rise = 2, fall = 3 }\nwhen_all_down = \"any\"";

struct Bench {
    pool: Arc<Pool>,
    members: Members,
    observation: mpsc::Receiver<SessionReport>,
    probes: Arc<Mutex<Probes>>,
    now: Instant,
}

/// The probes that run: what the prober would hold.
#[derive(Default)]
struct Probes {
    running: BTreeMap<Arc<str>, Running>,
    started: u64,
}

#[derive(Clone)]
struct Running {
    address: SocketAddr,
    health: RiseFall,
    number: u64,
}

/// Ends its probe when dropped, if no other has taken the place.
struct Interest {
    probes: Arc<Mutex<Probes>>,
    id: Arc<str>,
    number: u64,
    resting: Option<Running>,
    anew: RiseFall,
}

impl Probing for Interest {
    fn pause(&mut self) {
        let running = self.probes.lock().unwrap().running.remove(&self.id);
        self.resting = running.or_else(|| self.resting.take());
    }

    fn resume(&mut self) {
        if let Some(mut running) = self.resting.take() {
            // As one without subscribers.
            running.health = self.anew.clone();
            self.probes.lock().unwrap().running.insert(Arc::clone(&self.id), running);
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut probes = self.probes.lock().unwrap();
        if probes.running.get(&self.id).is_some_and(|running| running.number == self.number) {
            probes.running.remove(&self.id);
        }
    }
}

impl Bench {
    /// A pool with these keys in its table.
    fn new(keys: &str) -> Self {
        let settings = settings(keys);
        let (rise, fall) = (settings.check.rise, settings.check.fall);
        let (pool, observation) = Pool::new(settings, 1);
        let probes = Arc::new(Mutex::new(Probes::default()));
        let members = Members::new(Arc::clone(&pool), watch(&probes, rise, fall), fastrand::Rng::with_seed(1));
        Self { pool, members, observation, probes, now: Instant::now() }
    }

    /// The pool has these keys from now on.
    fn reload(&mut self, keys: &str) {
        let settings = settings(keys);
        let (rise, fall) = (settings.check.rise, settings.check.fall);
        let is_new = settings.check != self.pool.settings().check;
        self.pool.change(settings);
        self.members.changed(self.now, is_new.then(|| watch(&self.probes, rise, fall)));
    }

    /// As [`Self::new`], with these members, all of them up.
    fn up(keys: &str, ids: &[&str]) -> Self {
        let mut bench = Self::new(keys);
        bench.set(ids);
        for id in ids {
            bench.probe(id, true);
        }
        bench
    }

    /// A calm set: these and no others.
    fn set(&mut self, ids: &[&str]) {
        self.set_of(ids.iter().map(|id| endpoint(id)).collect());
    }

    fn set_of(&mut self, endpoints: Vec<Endpoint>) {
        self.hear_of(Trust::Calm, endpoints);
    }

    /// The first set after trouble.
    fn set_doubted(&mut self, mistrust: Mistrust, ids: &[&str]) {
        self.hear_of(Trust::Doubted(mistrust), ids.iter().map(|id| endpoint(id)).collect());
    }

    fn hear_of(&mut self, trust: Trust, endpoints: Vec<Endpoint>) {
        self.members.update(self.now, Update { endpoints, trust });
    }

    /// The running probe of a backend has a result; false = there is none.
    fn probe(&mut self, id: &str, passed: bool) -> bool {
        let probed = {
            let mut probes = self.probes.lock().unwrap();
            let Some(running) = probes.running.get_mut(id) else { return false };
            running.health.record(passed);
            probed(id, running.address, passed, &running.health)
        };
        self.members.report(self.now, probed);
        true
    }

    /// Time passes; the keeper looks when it wanted to.
    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(at) = self.members.next_deadline().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.members.tick(self.now);
        }
        self.now = end;
    }

    /// The keeper hears what sessions said.
    fn hear(&mut self) {
        while let Ok(observation) = self.observation.try_recv() {
            self.members.observation(self.now, &observation);
        }
    }

    /// Sessions try this backend and fail so often.
    fn fail(&mut self, id: &str, times: usize) {
        for _ in 0..times {
            self.lease(id).failed(ConnectFailure::Refused);
            self.hear();
        }
    }

    /// A session that goes well.
    fn succeed(&mut self, id: &str) {
        let lease = self.lease(id);
        lease.connected(Duration::from_millis(1));
        lease.answered(Duration::from_millis(5));
        self.hear();
    }

    /// Sessions reach this backend, and it fails them before its first byte.
    fn end_early(&mut self, id: &str, times: usize) {
        for _ in 0..times {
            let lease = self.lease(id);
            lease.connected(Duration::from_millis(1));
            lease.ended_early(EarlyEnd::Closed);
            self.hear();
        }
    }

    /// The next session, if it is the trial of an ejected backend.
    fn trial(&self) -> Option<Lease> {
        self.pool.pick(&PickContext::FIRST).ok().filter(Lease::is_trial)
    }

    /// A session's claim on this very backend.
    fn lease(&self, id: &str) -> Lease {
        let others: Vec<_> = self.pool.members().iter().filter(|backend| &*backend.id != id).cloned().collect();
        self.pool
            .pick(&PickContext::having_tried(&others))
            .unwrap_or_else(|_| panic!("{id} is not eligible: {:?}", self.view(id)))
    }

    fn backend(&self, id: &str) -> Option<Arc<Backend>> {
        self.pool.members().iter().find(|backend| &*backend.id == id).cloned()
    }

    fn view(&self, id: &str) -> Arc<BackendView> {
        self.backend(id).unwrap_or_else(|| panic!("{id} is forgotten")).view()
    }

    fn standing(&self, id: &str) -> Standing {
        self.view(id).standing
    }

    /// Which backends get sessions, over a few picks.
    fn picked(&self) -> Vec<String> {
        let mut ids: Vec<_> =
            (0..32).filter_map(|_| Some(self.pool.pick(&PickContext::FIRST).ok()?.backend().id.to_string())).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    fn probed(&self, id: &str) -> Option<SocketAddr> {
        self.probes.lock().unwrap().running.get(id).map(|running| running.address)
    }
}

fn settings(keys: &str) -> config::Pool {
    let text = format!(
        "[listeners.l]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n[pools.p]\nbackends = [\"127.0.0.1:1\"]\n{keys}\n"
    );
    let mut config = config::parse(&text, "bench.toml", &|_| None).unwrap_or_else(|error| panic!("{error}"));
    config.pools.remove(0)
}

fn watch(probes: &Arc<Mutex<Probes>>, rise: u32, fall: u32) -> ProbeHandle {
    let running = Arc::clone(probes);
    Box::new(move |id, address| {
        let mut probes = running.lock().unwrap();
        probes.started += 1;
        let number = probes.started;
        let health = RiseFall::new(rise, fall);
        let anew = health.clone();
        probes.running.insert(Arc::clone(id), Running { address, health, number });
        Box::new(Interest { probes: Arc::clone(&running), id: Arc::clone(id), number, resting: None, anew })
    })
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Passing, weight 1, at an address that follows from the id.
fn endpoint(id: &str) -> Endpoint {
    let number = id.bytes().last().unwrap();
    Endpoint {
        id: id.into(),
        address: SocketAddr::from(([10, 0, 0, number], 80)),
        candidates: [].into(),
        weight: 1,
        priority: 0,
        position: 0,
        max_sessions: None,
        zone: None,
        registry: Registry::Passing,
        note: None,
    }
}

fn probed(id: &str, address: SocketAddr, passed: bool, health: &RiseFall) -> Probed {
    let result = ProbeResult {
        kind: "http",
        passed,
        duration: Duration::from_millis(3),
        at: SystemTime::now(),
        asked: "GET /health".to_owned(),
        wanted: "200-399".to_owned(),
        got: if passed { "status 200" } else { "status 503" }.to_owned(),
        advice: None,
        hearing: None,
        certificate: None,
    };
    let report = ProbeReport { result: Arc::new(result), state: health.state(), streak: health.streak() };
    Probed { id: id.into(), address, report }
}

/// As [`endpoint`], with this word of the registry.
fn said(id: &str, registry: Registry) -> Endpoint {
    Endpoint { registry, note: Some("disk: full".into()), ..endpoint(id) }
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
