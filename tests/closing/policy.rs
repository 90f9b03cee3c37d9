//! What becomes of sessions when something happens to their backend, and when they grow old.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use evenkeel::metrics::{CloseCause, Outcome};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::Scene;
use crate::support::{Last, MODES, Pattern, Program, last, pending_error, soon, until};

const CASES: [(CloseCause, &str, Outcome); 3] = [
    (CloseCause::BackendDown, "on_down", Outcome::BackendDown),
    (CloseCause::BackendRemoved, "on_removed", Outcome::BackendRemoved),
    (CloseCause::Maintenance, "on_maintenance", Outcome::Drained),
];

/// Bytes are on their way both ways when the end comes: what arrives is a prefix, and never reads as all of it.
#[tokio::test]
async fn close_resets_both_ends_in_the_middle_of_a_transfer() {
    for &mode in MODES {
        for (cause, key, outcome) in CASES {
            let scene = Scene::new(mode, &format!("{key} = \"close\"")).await;
            let session = scene.session().await;
            let (up, down) = (Pattern::new(1), Pattern::new(2));
            let (mut from_client, mut to_client) = session.client.into_split();
            let (mut from_backend, mut to_backend) = session.backend.into_split();
            let state = scene.rig.balancer().state();
            let act = async {
                until("bytes flow", || async {
                    let sessions = state.workers.list_sessions();
                    let leg = sessions[0].leg.as_ref()?;
                    (leg.to_client > 1_000_000 && leg.to_backend > 1_000_000).then_some(())
                })
                .await;
                scene.until_happened(cause).await;
            };
            let (by_client, by_backend, at_client, at_backend, ()) = soon("the end", async {
                tokio::join!(
                    up.write(&mut to_client, 0, u64::MAX),
                    down.write(&mut to_backend, 0, u64::MAX),
                    down.read_to_last(&mut from_client, 0),
                    up.read_to_last(&mut from_backend, 0),
                    act,
                )
            })
            .await;
            // The kernel reports it once: to the read or to the write.
            for (read, written) in [(at_client.last, by_client), (at_backend.last, by_backend)] {
                let error = written.unwrap_err().kind();
                assert!(
                    read == Last::Reset || error == ErrorKind::ConnectionReset,
                    "{} {key}: {read:?} {error}",
                    mode.0
                );
            }
            assert_eq!(scene.closed(cause), 1);
            scene.ended(outcome, 1).await;
        }
    }
}

/// An end that has been sent FIN is closed; the other is reset.
#[tokio::test]
async fn close_of_a_half_closed_session() {
    for &mode in MODES {
        let scene = Scene::new(mode, "on_down = \"close\"").await;
        let mut session = scene.session().await;
        session.client.shutdown().await.unwrap();
        assert_eq!(soon("FIN", last(&mut session.backend)).await, Last::Fin);
        scene.until_happened(CloseCause::BackendDown).await;
        assert_eq!(soon("the end", last(&mut session.client)).await, Last::Reset);
        assert!(pending_error(&session.backend).is_none());
        scene.ended(Outcome::BackendDown, 1).await;
    }
}

/// By default, and when it is written: whatever happens to the backend, its sessions go on.
#[tokio::test]
async fn with_keep_sessions_are_not_closed() {
    for is_written in [false, true] {
        for (number, (cause, key, _)) in CASES.into_iter().enumerate() {
            // Something else happens to another backend later: when that has closed its session, the task that closes
            // has seen both.
            let (later, later_key, closed) = CASES[(number + 1) % CASES.len()];
            let written = if is_written { format!("{key} = \"keep\"\n") } else { String::new() };
            let scene = Scene::new(MODES[0], &format!("{written}{later_key} = \"close\"")).await;
            let mut session = scene.session().await;
            let scene = scene.with_b().await;
            scene.until_happened(cause).await;
            let mut other = scene.session().await;
            scene.until_happened_to("b", later).await;
            assert_eq!(soon("the end", last(&mut other.client)).await, Last::Reset);
            session.ping().await;
            session.finish().await;
            assert_eq!((scene.closed(cause), scene.closed(later)), (0, 1), "{key}");
            scene.all_ended(&[(Outcome::Completed, 1), (closed, 1)]).await;
        }
    }
}

/// A session that finishes within the time of a drain ends normally.
#[tokio::test]
async fn drain_waits_and_then_closes_what_is_left() {
    for &mode in MODES {
        for (cause, key, outcome) in CASES {
            let scene = Scene::new(mode, &format!("{key} = {{ drain = \"700ms\" }}")).await;
            let (mut long, mut short) = (scene.session().await, scene.session().await);
            let began = Instant::now();
            scene.until_happened(cause).await;
            long.ping().await;
            short.ping().await;
            short.finish().await;
            let ends = soon("the end", async { (last(&mut long.client).await, last(&mut long.backend).await) }).await;
            assert_eq!(ends, (Last::Reset, Last::Reset));
            assert!(began.elapsed() >= Duration::from_millis(690));
            scene.rig.until_no_sessions().await;
            assert_eq!((scene.rig.ended(outcome), scene.rig.ended(Outcome::Completed)), (1, 1), "{key}");
            assert_eq!(scene.closed(cause), 1);
            scene.rig.stop().await;
        }
    }
}

/// Back up while the time runs: nothing is closed.
#[tokio::test]
async fn a_drain_can_be_cancelled() {
    let scene = Scene::new(MODES[0], "on_down = { drain = \"1h\" }\non_maintenance = { drain = \"1h\" }").await;
    let mut session = scene.session().await;
    for _ in 0..3 {
        scene.until_happened(CloseCause::BackendDown).await;
        scene.until_waiting(1.0).await;
        scene.registry.set_status("a", backend_demo::registry::Status::Passing);
        scene.until_waiting(0.0).await;
        scene.until_happened(CloseCause::Maintenance).await;
        scene.until_waiting(1.0).await;
        scene.registry.maintenance("a", false);
        scene.until_waiting(0.0).await;
    }
    session.ping().await;
    session.finish().await;
    assert_eq!((scene.closed(CloseCause::BackendDown), scene.closed(CloseCause::Maintenance)), (0, 0));
    scene.ended(Outcome::Completed, 1).await;
}

/// So few backends are up that sessions are also sent to those that are down: sessions there stay, and new ones are not closed at
/// once.
#[tokio::test]
async fn on_down_closes_nothing_in_a_panic_and_all_of_it_when_that_is_over() {
    let keys = "on_down = \"close\"\non_maintenance = \"close\"\npanic_threshold = 60";
    let scene = Scene::new(MODES[0], keys).await.with_b().await;
    let mut sessions = [scene.session().await, scene.session().await];
    scene.until_happened(CloseCause::BackendDown).await;
    let is_panicking = || scene.rig.balancer().state().set().pools[0].is_panicking();
    until("a panic", || async { is_panicking().then_some(()) }).await;
    let mut late = [scene.session().await, scene.session().await];
    // Another thing happens to `b`: when that has closed its sessions, the task that closes has seen both.
    scene.until_happened_to("b", CloseCause::Maintenance).await;
    until("both at `b` are closed", || async { (scene.closed(CloseCause::Maintenance) == 2).then_some(()) }).await;
    let at_a = |session: &&mut super::Session| session.backend.local_addr().unwrap() == scene.a.local_addr().unwrap();
    for session in sessions.iter_mut().chain(&mut late).filter(at_a) {
        session.ping().await;
    }
    assert_eq!(scene.closed(CloseCause::BackendDown), 0);
    // Two more make two of three, since `b` does not count: the panic is over.
    let more = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    for (id, listener) in ["c", "d"].into_iter().zip(&more) {
        scene.registry.add("web", id, listener.local_addr().unwrap());
    }
    until("both at `a` are closed", || async { (scene.closed(CloseCause::BackendDown) == 2).then_some(()) }).await;
    assert!(!is_panicking());
    until("they have ended", || async { (scene.rig.ended(Outcome::BackendDown) == 2).then_some(()) }).await;
}

/// Half of it is closed when the backend comes back: the other half goes on.
#[tokio::test]
async fn a_close_can_be_cancelled() {
    let scene = Scene::new(MODES[0], "on_down = \"close\"\nclose_rate = 1\nclose_deadline = \"1h\"").await;
    let mut sessions = Vec::new();
    for _ in 0..30 {
        sessions.push(scene.session().await);
    }
    scene.until_happened(CloseCause::BackendDown).await;
    until("one is closed", || async { (scene.closed(CloseCause::BackendDown) > 0).then_some(()) }).await;
    scene.registry.set_status("a", backend_demo::registry::Status::Passing);
    scene.until_waiting(0.0).await;
    scene.rig.until_standing(&scene.registry.id("a"), "up").await;
    let closed = scene.closed(CloseCause::BackendDown);
    // An operator's close goes at the same pace, and would come after all that wait: none does.
    let of = |session: &super::Session| scene.listed(session.client.local_addr().unwrap());
    let last = sessions.iter().rev().find_map(of).unwrap().key;
    assert_eq!(scene.rig.balancer().state().close(CloseCause::Operator, |session| session.key == last), 1);
    until("an operator's close", || async { (scene.closed(CloseCause::Operator) == 1).then_some(()) }).await;
    assert_eq!(scene.closed(CloseCause::BackendDown), closed);
    until("it is gone", || async {
        sessions.iter().all(|session| of(session).is_none_or(|seen| seen.key != last)).then_some(())
    })
    .await;
    let mut left = 0;
    for mut session in sessions {
        if scene.listed(session.client.local_addr().unwrap()).is_some() {
            session.ping().await;
            left += 1;
        }
    }
    assert_eq!(left, 29 - closed);
    scene.rig.until_no_sessions().await;
    scene.rig.stop().await;
}

/// Nothing is up and sessions are sent to what is down, on purpose: they are not closed for it.
#[tokio::test]
async fn not_while_failing_open() {
    let keys = "on_down = \"close\"\non_removed = \"close\"\nwhen_all_down = \"any\"";
    let scene = Scene::new(MODES[0], keys).await;
    let mut at_a = vec![scene.session().await];
    let scene = scene.with_b().await;
    scene.until_happened_to("b", CloseCause::BackendDown).await;
    scene.until_happened(CloseCause::BackendDown).await;
    scene.rig.until_metric("evenkeel_pool_fail_open{pool=\"back\"}", 1.0).await;
    let mut at_b = loop {
        let session = scene.session().await;
        match session.backend.local_addr().unwrap() == scene.a.local_addr().unwrap() {
            true => at_a.push(session),
            false => break session,
        }
    };
    // Another thing happens to `b`: when that has closed its session, the task that closes has seen both.
    scene.until_happened_to("b", CloseCause::BackendRemoved).await;
    assert_eq!(soon("the end", last(&mut at_b.client)).await, Last::Reset);
    for session in &mut at_a {
        session.ping().await;
    }
    // Another one is up again: now those of `a` have somewhere to go.
    let scene = scene.with_b().await;
    for session in &mut at_a {
        assert_eq!(soon("the end", last(&mut session.client)).await, Last::Reset);
    }
    scene.all_ended(&[(Outcome::BackendDown, at_a.len() as u64), (Outcome::BackendRemoved, 1)]).await;
}

/// A backend that moved and then goes down is down where it is now: what is still connected to where it was, stays.
#[tokio::test]
async fn on_down_closes_only_sessions_at_the_current_address() {
    let scene = Scene::new(MODES[0], "on_down = \"close\"").await;
    let mut old = scene.session().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = elsewhere.local_addr().unwrap();
    scene.registry.add("web", "a", address);
    let id = scene.registry.id("a");
    until("it has moved", || async { (scene.rig.backend(&id).await?["address"] == address.to_string()).then_some(()) })
        .await;
    let scene = Scene { b: Some(elsewhere), ..scene };
    let mut new = scene.session().await;
    scene.until_happened(CloseCause::BackendDown).await;
    assert_eq!(soon("the end", last(&mut new.client)).await, Last::Reset);
    old.ping().await;
    old.finish().await;
    scene.rig.until_no_sessions().await;
    assert_eq!((scene.rig.ended(Outcome::BackendDown), scene.rig.ended(Outcome::Completed)), (1, 1));
    scene.rig.stop().await;
}

/// However busy it is.
#[tokio::test]
async fn max_lifetime_ends_it() {
    for &mode in MODES {
        let scene = Scene::new(mode, "max_lifetime = \"600ms\"\nmax_lifetime_jitter = 50").await;
        for _ in 0..2 {
            let began = Instant::now();
            let mut session = scene.session().await;
            let end = soon("the end", async {
                loop {
                    if let Err(error) = session.client.write_all(b"x").await {
                        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                        break Last::Reset;
                    }
                    match tokio::time::timeout(Duration::from_millis(10), last(&mut session.client)).await {
                        Ok(end) => break end,
                        Err(_) => continue,
                    }
                }
            })
            .await;
            assert_eq!(end, Last::Reset, "{}", mode.0);
            assert_eq!(soon("the end", last(&mut session.backend)).await, Last::Reset, "{}", mode.0);
            assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
        }
        assert_eq!(scene.closed(CloseCause::MaxLifetime), 2);
        scene.ended(Outcome::MaxLifetime, 2).await;
    }
}

/// A thousand at once: one line at the begin and one at the end, and nothing is left of it.
#[tokio::test]
async fn a_finished_close_leaves_no_task_and_no_session() {
    const WAVE: usize = 1_000;
    let backend = crate::support::Backend::echo().await;
    let registry = crate::support::Registry::new().await;
    registry.add("web", "a", backend.address());
    let text = registry.config("", "check = { kind = \"none\" }\non_removed = \"close\"\nclose_rate = 2000\n");
    let program = Program::start(
        &format!("workers = 2\nadmin.bind = \"127.0.0.1:0\"\nlog = {{ sessions = false }}\n{text}"),
        &[],
    );
    let (front, admin) = (program.front("front").await, program.admin().await);
    let metric = async |series: &str| {
        let text = crate::support::get(admin, "/metrics").await.unwrap().1;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok())
    };
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count();
    assert_eq!(crate::support::exchange(front, b"warm").await.unwrap(), b"warm");
    until("it has ended", || async {
        (metric("evenkeel_listener_sessions{listener=\"front\"}").await == Some(0.0)).then_some(())
    })
    .await;
    let before = descriptors();
    let mut clients = Vec::new();
    for _ in 0..WAVE {
        clients.push(soon("a connect", tokio::net::TcpStream::connect(front)).await.unwrap());
    }
    until("all are connected", || async {
        (metric("evenkeel_pool_sessions{pool=\"back\"}").await == Some(WAVE as f64)).then_some(())
    })
    .await;
    registry.deregister("a");
    for client in &mut clients {
        assert_eq!(soon("its end", last(client)).await, Last::Reset);
    }
    program.until_says("closing is over").await;
    for (series, wanted) in [
        ("evenkeel_pool_forced_closes_total{pool=\"back\",cause=\"backend_removed\"}", WAVE as f64),
        ("evenkeel_listener_ended_total{listener=\"front\",outcome=\"backend_removed\"}", WAVE as f64),
        ("evenkeel_pool_closing_sessions{pool=\"back\"}", 0.0),
        ("evenkeel_pool_sessions{pool=\"back\"}", 0.0),
        ("evenkeel_listener_sessions{listener=\"front\"}", 0.0),
    ] {
        until(&format!("{series} {wanted}"), || async { (metric(series).await == Some(wanted)).then_some(()) }).await;
    }
    until("descriptors as before", || async { (descriptors() <= before).then_some(()) }).await;
    let log = program.log();
    let lines: Vec<_> = log.iter().filter(|line| line.contains("clos")).collect();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("closing sessions") && lines[0].contains("backend=\"dev/a\""), "{lines:#?}");
    assert!(lines[0].contains("cause=\"backend_removed\" sessions=1000"), "{lines:#?}");
    assert!(lines[1].contains("closing is over") && lines[1].contains("closed=1000"), "{lines:#?}");
}
