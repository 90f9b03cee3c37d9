//! An identity that moves: its old address is gone from the registry, and `on_removed` applies to the sessions that are still
//! connected there.

use std::net::{Ipv4Addr, SocketAddr};

use evenkeel::metrics::{CloseCause, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Scene, Session};
use crate::support::{Blackhole, Last, MODES, Program, Registry, Rig, last, soon, until};

async fn move_to(rig: &Rig, registry: &Registry, address: SocketAddr) {
    registry.add("web", "a", address);
    let id = registry.id("a");
    until("it has moved", || async { (rig.backend(&id).await?["address"] == address.to_string()).then_some(()) }).await;
}

/// `a` moves; the sessions that come then are those of the second listener.
async fn moved(mut scene: Scene) -> Scene {
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    move_to(&scene.rig, &scene.registry, elsewhere.local_addr().unwrap()).await;
    scene.b = Some(elsewhere);
    scene
}

async fn is_reset(session: &mut Session) {
    let ends = soon("the end", async { (last(&mut session.client).await, last(&mut session.backend).await) }).await;
    assert_eq!(ends, (Last::Reset, Last::Reset));
}

#[tokio::test]
async fn sessions_at_the_old_address_are_closed_and_at_the_new_one_stay() {
    for &mode in MODES {
        let scene = Scene::new(mode, "on_removed = \"close\"").await;
        let mut first = scene.session().await;
        let scene = moved(scene).await;
        is_reset(&mut first).await;
        let mut second = scene.session().await;
        second.ping().await;
        // And once more.
        let scene = moved(scene).await;
        is_reset(&mut second).await;
        let mut third = scene.session().await;
        third.ping().await;
        assert_eq!(scene.closed(CloseCause::BackendRemoved), 2);
        third.finish().await;
        scene.rig.until_no_sessions().await;
        assert_eq!((scene.rig.ended(Outcome::BackendRemoved), scene.rig.ended(Outcome::Completed)), (2, 1));
        scene.until_waiting(0.0).await;
        scene.rig.stop().await;
    }
}

/// It comes back before the time is over: now the sessions of the time between are at the address that it has left.
#[tokio::test]
async fn moving_back_cancels_the_drain_and_drains_the_other_address() {
    let scene = Scene::new(MODES[0], "on_removed = { drain = \"1h\" }").await;
    let mut first = scene.session().await;
    let scene = moved(scene).await;
    scene.until_waiting(1.0).await;
    let (mut second, mut third) = (scene.session().await, scene.session().await);
    move_to(&scene.rig, &scene.registry, scene.a.local_addr().unwrap()).await;
    scene.until_waiting(2.0).await;
    for session in [&mut first, &mut second, &mut third] {
        session.ping().await;
    }
    second.finish().await;
    third.finish().await;
    scene.until_waiting(0.0).await;
    first.ping().await;
    first.finish().await;
    assert_eq!(scene.closed(CloseCause::BackendRemoved), 0);
    scene.ended(Outcome::Completed, 3).await;
}

/// The backend was on its way to be dialled where it was, and answers there when it has moved.
#[tokio::test]
async fn a_session_that_reaches_the_old_address_late_is_closed() {
    let (hole, registry) = (Blackhole::new().await, Registry::new().await);
    registry.add("web", "a", hole.address());
    let connect = "connect = { attempts = 1, timeout = \"20s\", deadline = \"20s\" }";
    let rig = registry.rig("", &format!("check = {{ kind = \"none\" }}\non_removed = \"close\"\n{connect}")).await;
    rig.until_standing(&registry.id("a"), "up").await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    client.write_all(b"?").await.unwrap();
    let id = registry.id("a");
    let dialled = format!("evenkeel_backend_connect_attempts_total{{pool=\"back\",backend=\"{id}\"}}");
    rig.until_metric(&dialled, 1.0).await;
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    move_to(&rig, &registry, elsewhere.local_addr().unwrap()).await;

    let late = hole.open();
    let mut backend = soon("the session", async {
        loop {
            let mut backend = late.accept().await.unwrap().0;
            if backend.read_exact(&mut [0]).await.is_ok() {
                break backend;
            }
        }
    })
    .await;
    let ends = soon("the end", async { (last(&mut client).await, last(&mut backend).await) }).await;
    assert_eq!(ends, (Last::Reset, Last::Reset));
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::BackendRemoved), 1);
    rig.stop().await;
}

fn file(address: SocketAddr, more: &str) -> String {
    format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\ncheck.kind = \"none\"\n\
         backends = [{{ id = \"a\", address = \"{address}\" }}]\n{more}\n"
    )
}

/// The address and what it means change in one file, or what it means changes afterwards.
#[tokio::test]
async fn a_changed_address_closes_or_keeps_sessions_as_the_same_file_says() {
    let (a, b) = (crate::support::Backend::echo().await, crate::support::Backend::echo().await);
    let before = format!("admin.bind = \"127.0.0.1:0\"\n{}", file(a.address(), ""));
    let program = Program::start(&before, &[]);
    let front = program.front("front").await;
    let session = async || {
        let mut client = TcpStream::connect(front).await.unwrap();
        client.write_all(b"?").await.unwrap();
        soon("an echo", client.read_exact(&mut [0])).await.unwrap();
        client
    };
    let apply = async |text: &str| {
        let path = program.directory().join("next.toml");
        std::fs::write(&path, text).unwrap();
        let admin = format!("http://{}", program.admin().await);
        let mut plan = tokio::process::Command::new(Program::PATH);
        plan.args(["plan", "--config", "next.toml", "--admin", &admin]).current_dir(program.directory());
        let planned = String::from_utf8(plan.output().await.unwrap().stdout).unwrap();
        std::fs::rename(path, program.directory().join("lb.toml")).unwrap();
        planned
    };
    let admin = "admin.bind = \"127.0.0.1:0\"\n";
    let mut first = session().await;
    let planned = apply(&format!("{admin}{}", file(b.address(), "on_removed = \"close\""))).await;
    assert!(planned.contains("all live sessions: 0 kept, 0 drained, 1 closed"), "{planned}");
    assert_eq!(soon("the end", last(&mut first)).await, Last::Reset);

    let mut second = session().await;
    let planned = apply(&format!("{admin}{}", file(a.address(), "on_removed = \"keep\""))).await;
    assert!(planned.contains("all live sessions: 1 kept, 0 drained, 0 closed"), "{planned}");
    until("it has moved", || async {
        let pools = crate::support::get(program.admin().await, "/api/v1/pools").await.unwrap().1;
        pools.contains(&a.address().to_string()).then_some(())
    })
    .await;
    second.write_all(b"?").await.unwrap();
    soon("an echo", second.read_exact(&mut [0])).await.unwrap();
    let planned = apply(&format!("{admin}{}", file(a.address(), "on_removed = \"close\""))).await;
    assert!(planned.contains("at addresses that their backends have left"), "{planned}");
    assert_eq!(soon("the end", last(&mut second)).await, Last::Reset);
}
