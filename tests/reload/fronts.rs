//! Listeners come, go, move and change hands; what can't be had changes nothing.

use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Live, file};
use crate::support::{Backend, Rig, exchange, free_port, get, soon, spoken_to, until, until_refused};

#[tokio::test]
async fn the_new_address_listens_before_the_old_one_closes() {
    let backend = Backend::echo().await;
    let (old, new) = (free_port(), free_port());
    let at = |binds: &[std::net::SocketAddr]| {
        let binds: Vec<_> = binds.iter().map(ToString::to_string).collect();
        file(&[backend.address()], "", "").replace("bind = \"127.0.0.1:0\"", &format!("bind = {binds:?}"))
    };
    let rig = Rig::start(&at(&[old])).await;
    let mut live = Live::new(old).await;
    rig.reload(&at(&[new, old])).await.unwrap();
    let mut both = (Live::new(new).await, Live::new(old).await);
    rig.reload(&at(&[new])).await.unwrap();
    until_refused(old).await;
    live.goes_on().await;
    both.0.goes_on().await;
    both.1.goes_on().await;
    drop((live, both, Live::new(new).await));
    rig.until_no_sessions().await;
    // The connects that tested the old address may have been the last ones there.
    assert!(rig.ended(Outcome::Completed) >= 4);
    rig.stop().await;
}

/// Clients connect all the while: none is refused, although the socket has another owner each time.
#[tokio::test]
async fn a_socket_passes_to_another_listener_without_a_gap() {
    let backend = Backend::answering("a").await;
    let address = free_port();
    let named = |name: &str| {
        file(&[backend.address()], "", "")
            .replace("[listeners.front]", &format!("[listeners.{name}]"))
            .replace("127.0.0.1:0", &address.to_string())
    };
    let rig = Rig::start(&named("x0")).await;
    let clients = tokio::spawn(async move {
        let mut served = 0;
        while served < 300 {
            assert_eq!(exchange(address, b"?").await.unwrap(), b"a", "after {served}");
            served += 1;
        }
    });
    let mut n = 0;
    while !clients.is_finished() {
        n += 1;
        rig.reload(&named(&format!("x{}", n % 3))).await.unwrap();
        tokio::task::yield_now().await;
    }
    clients.await.unwrap();
    assert!(n > 3, "{n} reloads");
    rig.stop().await;
}

/// A client that waits for the first probe at a removed address is served after it.
#[tokio::test]
async fn a_waiting_client_of_a_listener_removed_at_the_start_is_served() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let backend = Backend::serving(move |mut stream| {
        let mut gate = gate.clone();
        async move {
            let mut request = [0; 64];
            gate.wait_for(|&open| open).await.unwrap();
            while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                let _ = stream.write_all(b"a").await;
            }
        }
    })
    .await;
    let (old, new) = (free_port(), free_port());
    let check = "check = { kind = \"script\", timeout = \"20s\", interval = \"20s\", \
                 steps = [{ send = \"?\" }, { expect = \"a\" }] }";
    let at =
        |bind: std::net::SocketAddr| file(&[backend.address()], "", check).replace("127.0.0.1:0", &bind.to_string());
    let rig = Rig::start(&at(old)).await;
    let mut waiting = TcpStream::connect(old).await.unwrap();
    rig.reload(&at(new)).await.unwrap();
    until_refused(old).await;
    open.send_replace(true);
    let mut answer = [0];
    waiting.write_all(b"?").await.unwrap();
    soon("an answer", waiting.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, *b"a");
    assert_eq!(exchange(new, b"?").await.unwrap(), b"a");
    drop(waiting);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::NoBackend), 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_reload_with_a_port_in_use_changes_nothing() {
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    let rig = Rig::start(&file(&[a.address()], "", "")).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = free_port();
    let more = format!(
        "[listeners.aaa]\nbind = \"{free}\"\npool = \"back\"\n[listeners.zzz]\nbind = \"{}\"\npool = \"back\"\n",
        taken.local_addr().unwrap()
    );
    let text = format!("{}{more}", file(&[b.address()], "max_connections = 3", "balance = \"least_connections\""));
    let error = rig.reload(&text).await.unwrap_err().to_string();
    assert!(error.contains("listener `zzz` can't listen on") && error.contains("another program"), "{error}");
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"a");
    until_refused(free).await;
    let pools = rig.pools().await;
    assert_eq!((&pools["pools"][0]["balance"], rig.balancer().listeners().len()), (&"round_robin".into(), 1));
    assert_eq!(rig.metric("evenkeel_listener_max_connections{listener=\"front\"}").await, 0.0);
    assert_eq!(rig.metric("evenkeel_config_reloads_total{result=\"refused\"}").await, 1.0);
    assert_eq!(rig.metric("evenkeel_config_generation").await, 1.0);
    let config = get(rig.admin(), "/api/v1/config").await.unwrap().1;
    assert!(config.contains("zzz"), "{config}");

    let limit =
        rig.reload(&format!("max_connections = 900000000\n{}", file(&[a.address()], "", ""))).await.unwrap_err();
    assert!(limit.to_string().contains("open files"), "{limit}");
    // The error says that an address becomes free only with this change.
    let wide = file(&[a.address()], "", "").replace("127.0.0.1:0", &format!("0.0.0.0:{}", rig.front().port()));
    let overlap = rig.reload(&wide).await.unwrap_err().to_string();
    assert!(overlap.contains("listener `front` still has"), "{overlap}");
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"a");
    rig.until_no_sessions().await;
    rig.stop().await;
}

#[tokio::test]
async fn a_removed_listener_stays_until_its_last_session_ends_and_may_come_back() {
    let backend = Backend::echo().await;
    let (front, keeps) = (free_port(), "[listeners.keeps]\nbind = \"127.0.0.1:0\"\npool = \"keeps\"\n");
    let keeps = format!("{keeps}[pools.keeps]\nbackends = [\"{}\"]\n", backend.address());
    let with = file(&[backend.address()], "", "").replace("127.0.0.1:0", &front.to_string());
    let rig = Rig::start(&format!("{with}{keeps}")).await;
    let mut live = Live::new(front).await;
    let accepted = "evenkeel_listener_accepted_total{listener=\"front\"}";
    rig.reload(&keeps).await.unwrap();
    until_refused(front).await;
    live.goes_on().await;
    // The connects that tested whether it listens may have been served too.
    let before = rig.metric(accepted).await;
    assert!(before >= 1.0, "shown as long as it has sessions");
    let pools = rig.pools().await;
    assert_eq!((&pools["pools"][0]["name"], &pools["pools"][0]["leaving"]), (&"back".into(), &true.into()));

    // Back again, it is the same one.
    rig.reload(&format!("{with}{keeps}")).await.unwrap();
    let second = Live::new(front).await;
    assert_eq!(rig.metric(accepted).await, before + 1.0);
    rig.until_metric("evenkeel_pool_sessions{pool=\"back\"}", 2.0).await;
    rig.reload(&keeps).await.unwrap();
    drop(second);
    live.goes_on().await;
    drop(live);
    until("both are gone", || async {
        let set = rig.balancer().state().set();
        (set.listeners.len() == 1 && set.pools.len() == 1).then_some(())
    })
    .await;
    assert!(!rig.metrics().await.contains("\"back\""));
    assert_eq!(rig.balancer().state().prober.stats().running, 1, "nobody probes what is gone");
    rig.stop().await;
}

#[tokio::test]
async fn after_the_drain_timeout_sessions_of_what_is_removed_are_cut() {
    let backend = Backend::echo().await;
    let keeps = format!(
        "[listeners.keeps]\nbind = \"127.0.0.1:0\"\npool = \"keeps\"\n[pools.keeps]\nbackends = [\"{}\"]\n",
        backend.address()
    );
    let front = file(&[backend.address()], "", "");
    let rig = Rig::start(&format!("{front}{keeps}")).await;
    let (gone, kept) = (rig.balancer().listeners()[0].1, rig.balancer().listeners()[1].1);
    let (gone, mut kept) = (Live::new(gone).await, Live::new(kept).await);
    rig.reload(&format!("reload.drain_timeout = \"100ms\"\n{keeps}")).await.unwrap();
    assert!(gone.ends_reset().await);
    kept.goes_on().await;
    drop(kept);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// The backends of a removed pool are probed for as long as they have sessions.
#[tokio::test]
async fn the_backends_of_a_removed_pool_are_still_probed() {
    let backend = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = backend.local_addr().unwrap();
    let check = "on_down = \"close\"\ncheck = { interval = \"100ms\", fast_interval = \"20ms\", timeout = \"5s\" }";
    let rig = Rig::start(&file(&[address], "", check)).await;
    rig.until_standing(&address.to_string(), "up").await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    client.write_all(b"!").await.unwrap();
    let leg = spoken_to(&backend).await;
    let other = Backend::echo().await;
    let renamed =
        file(&[other.address()], "", "").replace("front", "new").replace("back", "new").replace("newends", "backends");
    rig.reload(&renamed).await.unwrap();
    drop(backend);
    assert!(soon("its end", client.read(&mut [0])).await.is_err());
    rig.until_no_sessions().await;
    drop(leg);
    rig.stop().await;
}
