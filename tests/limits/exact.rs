//! How many clients come in, and which ones wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Crowd, two_listeners};
use crate::support::{Backend, Rig, exchange, get, soon, until};

/// `max_connections` sessions, not one more; each that ends lets exactly one in; the others wait in the backlog.
#[tokio::test]
async fn a_listener_limit_is_exact() {
    let backend = Backend::echo().await;
    let rig = Rig::start(&two_listeners("", "max_connections = 5", &backend)).await;
    let at_limit = "evenkeel_listener_at_limit{listener=\"one\"}";
    let mut crowd = Crowd::new(rig.front(), 5);
    crowd.until_served(5).await;
    assert_eq!(rig.metric(at_limit).await, 0.0, "the limit is reached, but nobody waits");
    let front = rig.front();
    let more = Crowd::new(front, 10);
    rig.until_metric(at_limit, 1.0).await;
    assert_eq!((more.served(), rig.balancer().state().set().listeners[0].sessions()), (0, 5));
    for n in 1..=5 {
        crowd.leave.send(()).unwrap();
        more.until_served(n).await;
        assert_eq!(rig.metric("evenkeel_listener_sessions{listener=\"one\"}").await, 5.0);
        assert_eq!(rig.metric("evenkeel_listener_accepted_total{listener=\"one\"}").await, 5.0 + n as f64);
    }
    // The other listener has no limit of its own.
    assert_eq!(exchange(rig.balancer().listeners()[1].1, b"y").await.unwrap(), b"y");
    let mut more = more;
    for n in 6..=10 {
        more.leave.send(()).unwrap();
        more.until_served(n).await;
    }
    for _ in 0..5 {
        more.leave.send(()).unwrap();
    }
    rig.until_metric(at_limit, 0.0).await;
    soon("all to leave", async {
        while let Some(result) = crowd.tasks.join_next().await {
            result.unwrap();
        }
        while let Some(result) = more.tasks.join_next().await {
            result.unwrap();
        }
    })
    .await;
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 15);
    rig.stop().await;
}

/// Under a storm of short sessions the limit is never exceeded, and everybody is served.
#[tokio::test]
async fn a_limit_holds_in_a_storm() {
    let backend = Backend::echo().await;
    let rig = Rig::start(&two_listeners("max_connections = 6", "max_connections = 4", &backend)).await;
    let mut tasks = JoinSet::new();
    for (_, front) in rig.balancer().listeners() {
        for _ in 0..20 {
            tasks.spawn(async move {
                for n in 0..10_u8 {
                    assert_eq!(exchange(front, &[n]).await.unwrap(), [n]);
                }
            });
        }
    }
    let state = Arc::clone(rig.balancer().state());
    for _ in 0..10 {
        let text = rig.metrics().await;
        let sum = |name: &str| -> f64 {
            let name = format!("evenkeel_listener_{name}{{listener=\"one\"");
            let lines = text.lines().filter(|line| line.starts_with(&name));
            lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
        };
        assert_eq!(sum("accepted_total"), sum("ended_total") + sum("sessions"), "in the middle of it");
    }
    let watching = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let watch = Arc::clone(&watching);
    let watcher = std::thread::spawn(move || {
        let mut most = (0, 0);
        while watch.load(SeqCst) {
            most = (most.0.max(state.set().listeners[0].sessions()), most.1.max(state.sessions()));
            std::thread::sleep(Duration::from_micros(50));
        }
        most
    });
    soon("the storm", async {
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    })
    .await;
    watching.store(false, SeqCst);
    let (one, both) = watcher.join().unwrap();
    // The two listeners are read one after the other: only each one's own is exact from here.
    assert!(one <= 4, "{one}");
    assert!(both <= 6 + 4, "{both}");
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 200);
    rig.stop().await;
}

/// One limit for the process: what the one listener takes, the other lacks.
#[tokio::test]
async fn the_global_limit_is_shared() {
    let backend = Backend::echo().await;
    let rig = Rig::start(&two_listeners("max_connections = 6", "", &backend)).await;
    let fronts: Vec<_> = rig.balancer().listeners().into_iter().map(|(_, address)| address).collect();
    let first = Crowd::new(fronts[0], 4);
    first.until_served(4).await;
    let second = Crowd::new(fronts[1], 8);
    second.until_served(2).await;
    rig.until_metric("evenkeel_listener_at_limit{listener=\"two\"}", 1.0).await;
    assert_eq!(rig.metric("evenkeel_listener_at_limit{listener=\"one\"}").await, 0.0);
    assert_eq!((second.served(), rig.balancer().state().sessions()), (2, 6));
    for n in 3..=6 {
        first.leave.send(()).unwrap();
        second.until_served(n).await;
        assert_eq!(rig.balancer().state().sessions(), 6);
    }
    drop((first, second));
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// A loop through another proxy: it takes what its listener may have, and the other listener goes on.
#[tokio::test]
async fn a_listener_that_is_full_does_not_starve_the_other() {
    let good = Backend::echo().await;
    let (tell, told) = tokio::sync::watch::channel(None);
    let proxy = Backend::serving(move |mut stream| {
        let told: Option<std::net::SocketAddr> = *told.borrow();
        async move {
            let Some(front) = told else { return };
            let Ok(mut back) = TcpStream::connect(front).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut back).await;
        }
    })
    .await;
    let rig = Rig::start(&format!(
        "max_connections = 40\n[listeners.loop]\nbind = \"127.0.0.1:0\"\npool = \"loop\"\n\
         [listeners.other]\nbind = \"127.0.0.1:0\"\npool = \"good\"\n\
         [pools.loop]\nbackends = [\"{}\"]\ncheck.kind = \"none\"\n\
         [pools.good]\nbackends = [\"{}\"]\ncheck.kind = \"none\"\n",
        proxy.address(),
        good.address()
    ))
    .await;
    tell.send_replace(Some(rig.front()));
    let client = TcpStream::connect(rig.front()).await.unwrap();
    rig.until_metric("evenkeel_listener_at_limit{listener=\"loop\"}", 1.0).await;
    assert_eq!(
        rig.metric("evenkeel_listener_sessions{listener=\"loop\"}").await,
        35.0,
        "all but the part of the other"
    );
    let crowd = Crowd::new(rig.balancer().listeners()[1].1, 5);
    crowd.until_served(5).await;
    // A listener that leaves gives up its part, and one that stays alone has no use for one.
    drop((client, proxy, crowd));
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// One limit for all addresses of a listener, and one word for whether a client waits at any of them.
#[tokio::test]
async fn a_limit_over_several_addresses() {
    let backend = Backend::echo().await;
    let text = format!(
        "[listeners.front]\nbind = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\npool = \"back\"\nmax_connections = 1\n\
         [pools.back]\nbackends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\n",
        backend.address()
    );
    let rig = Rig::start(&text).await;
    let at_limit = "evenkeel_listener_at_limit{listener=\"front\"}";
    let fronts: Vec<_> = rig.balancer().listeners().into_iter().map(|(_, address)| address).collect();
    let first = Crowd::new(fronts[0], 1);
    first.until_served(1).await;
    let (one, two) = (Crowd::new(fronts[0], 1), Crowd::new(fronts[1], 1));
    rig.until_metric(at_limit, 1.0).await;
    first.leave.send(()).unwrap();
    until("one of them", || async { (one.served() + two.served() == 1).then_some(()) }).await;
    // The other one waits on.
    rig.until_metric(at_limit, 1.0).await;
    let (lucky, other) = if one.served() == 1 { (one, two) } else { (two, one) };
    lucky.leave.send(()).unwrap();
    other.until_served(1).await;
    rig.until_metric(at_limit, 0.0).await;
    drop(other);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// A client that gives up in the backlog costs nothing but a look.
#[tokio::test]
async fn clients_that_leave_the_backlog_take_no_slot() {
    let backend = Backend::echo().await;
    let rig = Rig::start(&two_listeners("", "max_connections = 1", &backend)).await;
    let crowd = Crowd::new(rig.front(), 1);
    crowd.until_served(1).await;
    for _ in 0..10 {
        crate::support::reset(TcpStream::connect(rig.front()).await.unwrap());
    }
    crowd.leave.send(()).unwrap();
    assert_eq!(exchange(rig.front(), b"next").await.unwrap(), b"next");
    rig.until_no_sessions().await;
    assert_eq!(rig.metric("evenkeel_listener_at_limit{listener=\"one\"}").await, 0.0);
    rig.stop().await;
}

/// `backend_max_sessions` is one number for all workers: of a crowd that comes at once so many are served, not one more,
/// and one that leaves makes room for exactly one.
#[tokio::test]
async fn a_backends_cap_is_exact_over_workers() {
    let (a, b) = (Backend::echo().await, Backend::echo().await);
    let rig = Rig::start(&format!(
        "workers = 4\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nbackends = [\"{}\", \"{}\"]\n\
         backend_max_sessions = 3\ncheck = {{ kind = \"none\" }}\n",
        a.address(),
        b.address()
    ))
    .await;
    for round in 0..20 {
        let mut tasks = JoinSet::new();
        for _ in 0..40 {
            let front = rig.front();
            tasks.spawn(async move {
                let mut stream = TcpStream::connect(front).await.unwrap();
                // Refused: closed, which may come before the byte is sent.
                let served = stream.write_all(b"x").await.is_ok() && stream.read_u8().await.is_ok();
                served.then_some(stream)
            });
        }
        let mut living: Vec<_> = soon("the crowd", tasks.join_all()).await.into_iter().flatten().collect();
        assert_eq!(living.len(), 6, "round {round}");
        for backend in [&a, &b] {
            assert_eq!(rig.backend(&backend.address().to_string()).await.unwrap()["sessions"], 3, "round {round}");
        }
        assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"", "no room");
        drop(living.pop());
        let pool = Arc::clone(&rig.balancer().state().set().pools[0]);
        until("one has left", || async { (pool.sessions() == 5).then_some(()) }).await;
        assert_eq!(exchange(rig.front(), b"x").await.unwrap(), b"x", "room for one");
        drop(living);
        rig.until_no_sessions().await;
    }
    assert_eq!(rig.ended(Outcome::NoBackend), 20 * 35);
    rig.stop().await;
}
