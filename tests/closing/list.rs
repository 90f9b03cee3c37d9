//! The list of sessions and their progress.

use std::time::{Duration, Instant};

use evenkeel::metrics::Outcome;
use evenkeel::proxy::{ForcedEnd, Phase};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Scene;
use crate::support::{Blackhole, Last, MODES, Rig, last, soon, until};

#[tokio::test]
async fn a_listed_session_shows_its_client_and_its_progress() {
    for &mode in MODES {
        let before = Instant::now();
        let scene = Scene::new(mode, "").await;
        let mut session = scene.session().await;
        let client = session.client.local_addr().unwrap();
        let quiet = scene.listed(client).unwrap();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            session.ping().await;
        }
        session.backend.write_all(&[7; 100]).await.unwrap();
        let view = until("its bytes", || async {
            scene.listed(client).filter(|view| view.leg.as_ref().is_some_and(|leg| leg.to_client == 103))
        })
        .await;
        let leg = view.leg.as_ref().unwrap();
        assert_eq!((view.key, view.phase, view.cut), (quiet.key, Phase::Relaying, None));
        assert_eq!((view.client, view.peer), (client, client));
        assert_eq!((&*view.listener.name, &*view.pool.as_ref().unwrap().name), ("front", "back"));
        assert_eq!((&*leg.backend.id, leg.address), ("dev/a", scene.a.local_addr().unwrap()));
        assert_eq!((leg.to_backend, leg.to_client), (3, 103));
        assert!(before <= view.began && view.began <= leg.connected);
        let idle_before = quiet.leg.unwrap().last_activity;
        assert!(leg.last_activity > idle_before && leg.last_activity <= Instant::now(), "{}", mode.0);
        soon("its bytes", session.client.read_exact(&mut [0; 100])).await.unwrap();
        session.finish().await;
        scene.ended(Outcome::Completed, 1).await;
    }
}

#[tokio::test]
async fn the_session_list_shows_sessions_without_a_backend() {
    let hole = Blackhole::new().await;
    let rig = Rig::start(&format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\naccept_proxy = {{ from = \"127.0.0.0/8\", timeout = \"1h\" }}\n\
         [pools.back]\nbackends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\nconnect = {{ timeout = \"1h\", deadline = \"1h\" }}\n",
        hole.address()
    ))
    .await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    let state = rig.balancer().state();
    let listed = || async { state.workers.list_sessions().pop() };
    let view = until("it is listed", listed).await;
    assert_eq!((view.phase, view.peer), (Phase::Identifying, client.local_addr().unwrap()));
    client.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n").await.unwrap();
    let view = until("it is known", || async {
        state.workers.list_sessions().pop().filter(|view| view.phase == Phase::Connecting)
    })
    .await;
    assert_eq!((view.client, view.peer), ("192.0.2.1:1234".parse().unwrap(), client.local_addr().unwrap()));
    assert!(view.leg.is_none());
    // Also they can be ended.
    assert!(state.workers.cut(view.key, ForcedEnd::Killed, |_| ()));
    assert_eq!(soon("the end", last(&mut client)).await, Last::Reset);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Killed), 1);
    rig.stop().await;
}

#[tokio::test]
async fn no_session_is_closed_twice() {
    let scene = Scene::new(MODES[0], "").await;
    let (mut one, mut other) = (scene.session().await, scene.session().await);
    let key = scene.listed(one.client.local_addr().unwrap()).unwrap().key;
    let workers = &scene.rig.balancer().state().workers;
    let mut noted = None;
    assert!(workers.cut(key, ForcedEnd::Drained, |pool| {
        // Time enough for a worker to end it, if the order had been given already.
        std::thread::sleep(Duration::from_millis(50));
        noted = Some((pool.unwrap().name.to_string(), scene.rig.ended(Outcome::Drained)));
    }));
    assert_eq!(noted, Some(("back".into(), 0)), "it is counted before it can end");
    assert_eq!(soon("the end", last(&mut one.client)).await, Last::Reset);
    until("it is gone", || async { (workers.list_sessions().len() == 1).then_some(()) }).await;
    // Its place may be another one's by now; its name is not.
    let third = scene.session().await;
    assert!(!workers.cut(key, ForcedEnd::Killed, |_| panic!("it was cut before")));
    other.ping().await;
    other.finish().await;
    third.finish().await;
    scene.rig.until_no_sessions().await;
    assert_eq!((scene.rig.ended(Outcome::Drained), scene.rig.ended(Outcome::Completed)), (1, 2));
    scene.rig.stop().await;
}

/// More than one look takes at a time, while they come and go.
#[tokio::test]
async fn the_session_list_shows_each_session_once() {
    let backend = crate::support::Backend::echo().await;
    let rig = Rig::with_backends(&[&backend.address().to_string()], "check = { kind = \"none\" }").await;
    let mut clients = Vec::new();
    for _ in 0..700 {
        clients.push(soon("a connect", TcpStream::connect(rig.front())).await.unwrap());
    }
    let workers = &rig.balancer().state().workers;
    let ids = || {
        let mut ids: Vec<_> = workers.list_sessions().iter().map(|view| view.key.id).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "one is shown twice");
        ids
    };
    until("all are listed", || async { (ids().len() == 700).then_some(()) }).await;
    while !clients.is_empty() {
        clients.truncate(clients.len().saturating_sub(7));
        ids();
        tokio::task::yield_now().await;
    }
    rig.until_no_sessions().await;
    assert!(ids().is_empty());
    rig.stop().await;
}
