//! A registry that fails in every way that it can: clients do not notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use backend_demo::registry::Fault;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::support::{Backend, Registry, Rig, exchange, get, soon, until};

const AGE: &str = "evenkeel_discovery_age_seconds{pool=\"back\",source=\"consul\"}";

fn errors(reason: &str) -> String {
    format!("evenkeel_discovery_errors_total{{pool=\"back\",source=\"consul\",reason=\"{reason}\"}}")
}

pub(super) async fn until_fact(rig: &Rig, id: &str, fact: &str, value: &str) {
    until(&format!("{id}: {fact} {value}"), || async {
        rig.backend(id).await.filter(|backend| backend["facts"][fact] == value)
    })
    .await;
}

/// Two instances that answer, a balancer that knows them, and clients that must not notice anything.
pub(super) struct Scene {
    pub(super) registry: Registry,
    pub(super) rig: Arc<Rig>,
    pub(super) backends: Vec<Backend>,
    clients: JoinHandle<usize>,
    enough: Arc<AtomicBool>,
    gate: Arc<Mutex<()>>,
    /// A session from before anything went wrong.
    old: TcpStream,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|registry, id, backend| registry.add("web", id, backend)).await
    }

    /// Each of the two is registered like this.
    pub(super) async fn with(add: impl Fn(&Registry, &str, SocketAddr)) -> Self {
        let registry = Registry::new().await;
        let backends = vec![Backend::answering("a").await, Backend::answering("b").await];
        for (id, backend) in ["a", "b"].iter().zip(&backends) {
            add(&registry, id, backend.address());
        }
        let rig = Arc::new(registry.rig("", "").await);
        for id in ["a", "b"] {
            rig.until_standing(&registry.id(id), "up").await;
        }
        let old = session_on(&rig, &registry.id("a")).await;
        let (enough, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(())));
        let clients = tokio::spawn(go_on(Arc::clone(&rig), Arc::clone(&enough), Arc::clone(&gate)));
        Self { registry, rig, backends, clients, enough, gate, old }
    }

    /// Waits until clients have been served a while longer.
    pub(super) async fn a_while(&self) {
        let asked = self.rig.balancer().state().set().listeners[0].accepted.load(SeqCst);
        until("clients go on", || async {
            assert!(!self.clients.is_finished(), "a client noticed");
            (self.rig.balancer().state().set().listeners[0].accepted.load(SeqCst) >= asked + 30).then_some(())
        })
        .await;
    }

    pub(super) async fn until_guard(&self, id: &str, guard: &str) {
        until_fact(&self.rig, &self.registry.id(id), "guard", guard).await;
    }

    /// A third instance is found: discovery works.
    async fn finds(&self, third: &Backend) {
        self.registry.add("web", "c", third.address());
        self.rig.until_standing(&self.registry.id("c"), "up").await;
    }

    pub(super) async fn end(mut self) -> Registry {
        self.a_while().await;
        self.enough.store(true, SeqCst);
        let served = soon("the clients", &mut self.clients).await.expect("a client noticed");
        assert!(served > 0);
        self.old.write_all(b"still there?").await.unwrap();
        let mut answer = String::new();
        soon("the old session", self.old.read_to_string(&mut answer)).await.unwrap();
        assert!(answer == "a" || answer == "b", "{answer:?}");
        self.old.shutdown().await.unwrap();
        drop(self.old);
        self.rig.until_no_sessions().await;
        Arc::into_inner(self.rig).unwrap().stop().await;
        self.registry
    }
}

/// A session on just that backend, which lasts.
async fn session_on(rig: &Rig, id: &str) -> TcpStream {
    loop {
        let session = TcpStream::connect(rig.front()).await.unwrap();
        let pool = Arc::clone(&rig.balancer().state().set().pools[0]);
        until("it has a backend", || async { (pool.sessions() == 1).then_some(()) }).await;
        if rig.backend(id).await.unwrap()["sessions"] == 1 {
            return session;
        }
        drop(session);
        until("it is gone", || async { (pool.sessions() == 0).then_some(()) }).await;
    }
}

/// Sessions one after another; none may fail, and the pool may never be empty. The holder of the gate stops the next session,
/// because a backend may only be stopped while it has no session.
async fn go_on(rig: Arc<Rig>, enough: Arc<AtomicBool>, gate: Arc<Mutex<()>>) -> usize {
    let mut served = 0;
    while !enough.load(SeqCst) {
        let _open = gate.lock().await;
        let answer = exchange(rig.front(), b"who?").await.expect("a session");
        assert!(!answer.is_empty(), "refused after {served} sessions");
        assert!(rig.balancer().state().set().pools[0].counts().eligible > 0, "nobody is left after {served} sessions");
        served += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    served
}

/// Errors of a kind change nothing for clients, are counted and shown, and are over when they are over.
async fn survives(fault: Fault, reason: &str) {
    let scene = Scene::new().await;
    scene.registry.inject(Some(fault));
    until(&format!("two errors {reason}"), || async { (scene.rig.metric(&errors(reason)).await >= 2.0).then_some(()) })
        .await;
    scene.a_while().await;
    let pools = scene.rig.pools().await;
    assert_eq!(pools["pools"][0]["source"]["error"]["kind"], reason);
    for id in ["a", "b"] {
        let backend = scene.rig.backend(&scene.registry.id(id)).await.unwrap();
        assert_eq!((&backend["standing"], &backend["facts"]["guard"]), (&"up".into(), &"none".into()));
    }
    let age = scene.rig.metric(AGE).await;
    until("the data ages", || async { (scene.rig.metric(AGE).await > age).then_some(()) }).await;
    assert_eq!(get(scene.rig.admin(), "/ready").await.unwrap().0, 200);

    scene.registry.inject(None);
    let third = Backend::answering("c").await;
    scene.finds(&third).await;
    assert!(scene.rig.pools().await["pools"][0]["source"]["error"].is_null());
    scene.end().await;
}

#[tokio::test]
async fn the_pool_survives_a_missing_leader() {
    survives(Fault::Status500, "no_leader").await;
}

#[tokio::test]
async fn the_pool_survives_a_server_error() {
    survives(Fault::Status(502, "<html>Bad gateway</html>".to_owned()), "server_error").await;
}

#[tokio::test]
async fn the_pool_survives_a_token_without_rights() {
    survives(Fault::Forbidden, "forbidden").await;
}

#[tokio::test]
async fn the_pool_survives_a_rate_limit() {
    survives(Fault::TooManyRequests, "rate_limited").await;
}

#[tokio::test]
async fn the_pool_survives_garbage_from_the_agent() {
    survives(Fault::Garbage, "decode").await;
}

#[tokio::test]
async fn the_pool_survives_an_agent_that_hangs() {
    let scene = Scene::new().await;
    scene.registry.inject(Some(Fault::Hang));
    scene.registry.deregister("a");
    scene.a_while().await;
    scene.registry.add("web", "a", scene.backends[0].address());
    scene.a_while().await;
    scene.registry.inject(None);
    // What waited gets a 500.
    scene.rig.until_metric(&errors("server_error"), 1.0).await;
    let third = Backend::answering("c").await;
    scene.finds(&third).await;
    scene.end().await;
}

#[tokio::test]
async fn an_empty_list_after_errors_is_not_believed_while_probes_pass() {
    let mut scene = Scene::new().await;
    scene.registry.inject(Some(Fault::Status500));
    until("an error", || async { (scene.rig.metric(&errors("no_leader")).await >= 1.0).then_some(()) }).await;
    scene.registry.inject(Some(Fault::Empty200));
    for id in ["a", "b"] {
        scene.until_guard(id, "held").await;
    }
    let held = scene.rig.backend(&scene.registry.id("a")).await.unwrap();
    assert_eq!((&held["standing"], &held["facts"]["registry"]), (&"up".into(), &"absent".into()));
    assert_eq!(held["reason"], "held: it left the registry while that was in trouble, and its own probes pass");
    scene.a_while().await;

    // The probes find out which backend is really gone.
    let closed = Arc::clone(&scene.gate);
    let closed = closed.lock().await;
    let pool = Arc::clone(&scene.rig.balancer().state().set().pools[0]);
    until("only the old session is left", || async { (pool.sessions() == 1).then_some(()) }).await;
    scene.backends.pop().unwrap().stop().await;
    drop(closed);
    scene.rig.until_standing(&scene.registry.id("b"), "removed").await;
    scene.a_while().await;
    scene.registry.deregister("b");
    scene.registry.inject(None);
    scene.until_guard("a", "none").await;
    assert_eq!(scene.rig.backend(&scene.registry.id("a")).await.unwrap()["standing"], "up");
    scene.end().await;
}

#[tokio::test]
async fn an_index_that_goes_back_removes_no_backend() {
    let scene = Scene::new().await;
    // The agent counts from 2 again, and does not know of one instance. The question that waits learns of it.
    until("a question waits", || async { (scene.registry.waiting() > 0).then_some(()) }).await;
    let asked = scene.registry.requests();
    scene.registry.rewind_index(2);
    // Twice: at once, because nothing is known any more, and then with the low index, waiting.
    let asked_again = || scene.registry.requests() >= asked + 2 && scene.registry.waiting() > 0;
    until("asked again", || async { asked_again().then_some(()) }).await;
    scene.registry.deregister("a");
    scene.until_guard("a", "held").await;
    scene.a_while().await;
    scene.registry.add("web", "a", scene.backends[0].address());
    scene.until_guard("a", "none").await;
    // Discovery still gets changes, because it waits with the low index.
    let third = Backend::answering("c").await;
    scene.finds(&third).await;
    scene.end().await;
}

#[tokio::test]
async fn a_registry_that_restarts_empty_removes_nothing_while_probes_pass() {
    let scene = Scene::new().await;
    let changes = |id: &str| {
        format!("evenkeel_backend_standing_changes_total{{pool=\"back\",backend=\"{}\"}}", scene.registry.id(id))
    };
    scene.registry.restart_empty().await;
    for id in ["a", "b"] {
        scene.until_guard(id, "held").await;
    }
    scene.a_while().await;
    for (id, backend) in ["a", "b"].iter().zip(&scene.backends) {
        scene.registry.add("web", id, backend.address());
        scene.until_guard(id, "none").await;
        assert_eq!(scene.rig.metric(&changes(id)).await, 1.0, "up it was all the time");
    }
    scene.end().await;
}

#[tokio::test]
async fn a_registry_that_is_gone_changes_nothing() {
    let mut scene = Scene::new().await;
    let address = scene.registry.address();
    scene.registry.stop().await;
    until("connects fail", || async { (scene.rig.metric(&errors("connect")).await >= 2.0).then_some(()) }).await;
    scene.a_while().await;
    assert_eq!(get(scene.rig.admin(), "/ready").await.unwrap().0, 200);

    scene.registry = Registry::at(address).await;
    for id in ["a", "b"] {
        scene.until_guard(id, "held").await;
    }
    scene.end().await;
}

#[tokio::test]
async fn dropped_connections_to_the_agent_are_opened_again() {
    let scene = Scene::new().await;
    scene.registry.drop_connections().await;
    let third = Backend::answering("c").await;
    scene.finds(&third).await;
    scene.end().await;
}

#[tokio::test]
async fn an_answer_without_news_changes_nothing() {
    let scene = Scene::new().await;
    let views: Vec<_> =
        scene.rig.balancer().state().set().pools[0].members().iter().map(|backend| backend.view()).collect();
    for _ in 0..3 {
        let asked = scene.registry.requests();
        scene.registry.wake("web");
        until("asked again", || async {
            (scene.registry.requests() > asked && scene.registry.waiting() > 0).then_some(())
        })
        .await;
    }
    for (before, backend) in views.iter().zip(scene.rig.balancer().state().set().pools[0].members().iter()) {
        assert!(Arc::ptr_eq(before, &backend.view()), "nothing was written");
    }
    scene.end().await;
}
