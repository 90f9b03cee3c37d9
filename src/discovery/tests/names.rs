//! Names over time, seen through a static follower.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::{Host, HostPort, StaticBackend};

/// What the name resolves to now, and how often it was asked for.
struct Zone {
    addresses: Mutex<Vec<&'static str>>,
    asked: AtomicUsize,
}

fn db() -> Source {
    let address = HostPort { host: Host::Name("db".to_owned()), port: 80 };
    let backend = StaticBackend {
        id: "db".to_owned(),
        address,
        weight: 1,
        priority: 0,
        zone: None,
        max_sessions: None,
        position: None,
    };
    Source::Static(vec![backend])
}

impl Zone {
    fn start() -> (Arc<Self>, Running) {
        let (zone, names) = Self::new();
        (zone, Running::start(&mut Discovery::with(names, no_fronts(), quick()), &db()))
    }

    fn new() -> (Arc<Self>, Resolver) {
        let zone = Arc::new(Self { addresses: Mutex::new(vec!["10.0.0.1"]), asked: AtomicUsize::new(0) });
        let answers = Arc::clone(&zone);
        let names = resolver(move |_| {
            let addresses: Vec<IpAddr> = answers.addresses.lock().unwrap().iter().map(|a| a.parse().unwrap()).collect();
            answers.asked.fetch_add(1, Ordering::SeqCst);
            Some(if addresses.is_empty() { Err(io::Error::other("no such name")) } else { Ok(addresses) })
        });
        (zone, names)
    }

    /// Returns once the name has been asked for with these, and again.
    async fn change(&self, addresses: &[&'static str]) {
        *self.addresses.lock().unwrap() = addresses.to_vec();
        let asked = self.asked.load(Ordering::SeqCst);
        soon("look-up", async {
            while self.asked.load(Ordering::SeqCst) < asked + 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

fn candidates(update: &Update) -> Vec<String> {
    update.endpoints[0].candidates.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn all_addresses_of_a_name_are_candidates_and_keep_their_order() {
    let (zone, mut running) = Zone::start();
    assert_eq!(candidates(&running.update().await), ["10.0.0.1:80"]);
    zone.change(&["10.0.0.2", "10.0.0.1", "fd00::1"]).await;
    let update = running.update().await;
    assert_eq!(candidates(&update), ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]);
    assert_eq!(shown(&update), ["db 10.0.0.1:80 1 passing"]);
    // A server that turns its answers round has no news.
    zone.change(&["fd00::1", "10.0.0.1", "10.0.0.2"]).await;
    assert!(running.updates.try_recv().is_err());
    zone.change(&["10.0.0.3", "10.0.0.2"]).await;
    let update = running.update().await;
    assert_eq!(candidates(&update), ["10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!(shown(&update), ["db 10.0.0.2:80 1 passing"]);
}

/// Nothing is asked for out of turn here, and the turn is an hour away.
async fn rarely() -> (Arc<Zone>, Running) {
    let (zone, names) = Zone::new();
    let mut running =
        Running::start_with(&mut Discovery::with(names, no_fronts(), quick()), &db(), Duration::from_secs(3600));
    running.set().await;
    (zone, running)
}

#[tokio::test]
async fn a_failing_address_has_its_name_looked_up_at_once() {
    let (zone, mut running) = rarely().await;
    *zone.addresses.lock().unwrap() = vec!["10.0.0.2"];
    running.failing.send("db".into()).await.unwrap();
    assert_eq!(running.set().await, ["db 10.0.0.2:80 1 passing"]);
}

#[tokio::test]
async fn look_ups_out_of_turn_are_rationed() {
    let (zone, mut running) = rarely().await;
    for round in 0..5u8 {
        for _ in 0..100 {
            running.failing.send("db".into()).await.unwrap();
        }
        *zone.addresses.lock().unwrap() = vec![["10.0.0.2", "10.0.0.3"][usize::from(round % 2)]];
        running.failing.send("nobody".into()).await.unwrap();
        // All is heard when the channel is empty, and acted on when the follower waits again.
        soon("all is heard", async {
            while running.failing.capacity() < running.failing.max_capacity() {
                let _ = running.updates.try_recv();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    // The first one, and three out of turn.
    assert_eq!(zone.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn names_are_refreshed_as_often_as_is_written() {
    let (zone, names) = Zone::new();
    let _running =
        Running::start_with(&mut Discovery::with(names, no_fronts(), quick()), &db(), Duration::from_millis(20));
    let began = tokio::time::Instant::now();
    soon("look-ups", async {
        while zone.asked.load(Ordering::SeqCst) < 11 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    // Ten times nine tenths of it, at the least.
    assert!(began.elapsed() >= Duration::from_millis(180), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_failed_look_up_keeps_the_last_address() {
    let (zone, mut running) = Zone::start();
    running.set().await;
    zone.change(&[]).await;
    let view = running.status(|view| view.error.is_some()).await;
    assert_eq!(view.error.unwrap().2, "db: no such name");
    assert!(running.updates.try_recv().is_err());
    zone.change(&["10.0.0.1"]).await;
    let view = running.status(|view| view.error.is_none()).await;
    assert!(view.rejected.is_empty());
    assert!(running.updates.try_recv().is_err());
}

#[tokio::test]
async fn an_answer_that_is_nobodys_address_is_none() {
    let (zone, mut running) = Zone::start();
    running.set().await;
    zone.change(&["0.0.0.0", "::", "224.0.0.1"]).await;
    let view = running.status(|view| view.error.is_some()).await;
    assert_eq!(view.error.unwrap().2, "db: 0.0.0.0 is no instance's address");
    assert!(running.updates.try_recv().is_err());
    zone.change(&["0.0.0.0", "10.0.0.7"]).await;
    assert_eq!(running.set().await, ["db 10.0.0.7:80 1 passing"]);
}

#[tokio::test]
async fn look_ups_at_once_are_bounded() {
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    let mut names = resolver(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        None
    });
    names.times.limit = Duration::from_millis(20);
    // Nothing waits any more, but a thread would still hang in each.
    for round in 0..3 {
        let mut look_ups = tokio::task::JoinSet::new();
        for name in 0..20 {
            let names = names.clone();
            look_ups.spawn(async move { names.look_up(format!("{round}-{name}")).await });
        }
        for result in soon("answers", look_ups.join_all()).await {
            assert_eq!(result, Err("no answer within 20ms".to_owned()));
        }
    }
    assert_eq!(open.load(Ordering::SeqCst), 16);
}
