//! Which backend gets a session, seen from outside: exact over all workers, by weight, through changes of membership.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Backend, Rig, exchange, soon, until};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Says its name at once and holds the connection until the client finishes.
async fn greeting(name: &'static str) -> Backend {
    Backend::serving(move |mut stream| async move {
        let _ = stream.write_all(name.as_bytes()).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await
}

/// A rig on four workers; `weights` of backends that say their names.
async fn rig(weights: &[u16], pool: &str) -> (Rig, Vec<Backend>) {
    let mut backends = Vec::new();
    let mut entries = Vec::new();
    for (&weight, name) in weights.iter().zip(NAMES) {
        let backend = greeting(name).await;
        entries.push(format!("{{ address = \"{}\", id = \"{name}\", weight = {weight} }}", backend.address()));
        backends.push(backend);
    }
    let text = format!(
        "workers = 4\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\ncheck = {{ kind = \"none\" }}\n\
         backends = [{}]\n{pool}",
        entries.join(", ")
    );
    (Rig::start(&text).await, backends)
}

/// A session that has been greeted, and the name of its backend.
async fn greeted(rig: &Rig) -> (TcpStream, char) {
    soon("a greeting", async {
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        let name = client.read_u8().await.unwrap();
        (client, char::from(name))
    })
    .await
}

fn count(names: impl IntoIterator<Item = char>) -> BTreeMap<char, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Short sessions from many clients at once; the number of answers of each backend.
async fn storm(rig: &Rig, clients: usize, each: usize) -> BTreeMap<char, usize> {
    let mut tasks = JoinSet::new();
    let front = rig.front();
    for _ in 0..clients {
        tasks.spawn(async move {
            let mut names = Vec::new();
            for _ in 0..each {
                names.push(char::from(exchange(front, b"x").await.unwrap()[0]));
            }
            names
        });
    }
    let names = soon("the storm", tasks.join_all()).await;
    rig.until_no_sessions().await;
    count(names.concat())
}

#[tokio::test]
async fn round_robin_is_exact_over_workers_and_concurrent_clients() {
    let (rig, _backends) = rig(&[1, 1, 1], "").await;
    assert_eq!(storm(&rig, 20, 15).await, BTreeMap::from([('a', 100), ('b', 100), ('c', 100)]));
    assert_eq!(rig.ended(Outcome::Completed), 300);
    rig.stop().await;
}

#[tokio::test]
async fn weights_are_exact_shares() {
    let (rig, _backends) = rig(&[5, 3, 1], "").await;
    assert_eq!(storm(&rig, 18, 10).await, BTreeMap::from([('a', 100), ('b', 60), ('c', 20)]));
    rig.stop().await;
}

#[tokio::test]
async fn weight_0_gets_nothing() {
    let (rig, _backends) = rig(&[1, 0, 1], "").await;
    assert_eq!(storm(&rig, 10, 4).await, BTreeMap::from([('a', 20), ('c', 20)]));
    rig.stop().await;
}

/// In the middle of sessions, one is taken out and comes back: those that stay share exactly, live sessions go on.
#[tokio::test]
async fn membership_changes_keep_shares_and_sessions() {
    let (a, b) = (greeting("a").await, greeting("b").await);
    let c = greeting("c").await;
    let address = c.address();
    let rig = Rig::with_backends(&[&a.address().to_string(), &b.address().to_string(), &address.to_string()], "").await;
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(greeted(&rig).await);
    }
    assert_eq!(count(first.iter().map(|(_, name)| *name)), BTreeMap::from([('a', 1), ('b', 1), ('c', 1)]));
    first.retain(|(_, name)| *name == 'a');
    let (mut held, _) = first.remove(0);
    c.stop().await;
    rig.until_standing(&address.to_string(), "down").await;
    let mut names = Vec::new();
    for _ in 0..20 {
        names.push(greeted(&rig).await.1);
    }
    assert_eq!(count(names), BTreeMap::from([('a', 10), ('b', 10)]));
    let _c = Backend::on(address, |mut stream| async move {
        let _ = stream.write_all(b"c").await;
        let _ = stream.read_u8().await;
    })
    .await;
    rig.until_standing(&address.to_string(), "up").await;
    let mut names = Vec::new();
    for _ in 0..30 {
        names.push(greeted(&rig).await.1);
    }
    assert_eq!(count(names), BTreeMap::from([('a', 10), ('b', 10), ('c', 10)]));
    assert!(held.try_read(&mut [0]).is_err(), "the first session lives");
    held.shutdown().await.unwrap();
    assert_eq!(held.read(&mut [0]).await.unwrap(), 0);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// Long sessions count: new ones go where there are fewest, also after some have ended.
#[tokio::test]
async fn least_connections_counts_long_sessions() {
    let (rig, _backends) = rig(&[1, 1, 2], "balance = \"least_connections\"").await;
    let mut held: Vec<(TcpStream, char)> = Vec::new();
    for _ in 0..16 {
        held.push(greeted(&rig).await);
    }
    assert_eq!(count(held.iter().map(|h| h.1)), BTreeMap::from([('a', 4), ('b', 4), ('c', 8)]));
    held.retain(|(_, name)| *name != 'b');
    let pool = Arc::clone(&rig.balancer().state().set().pools[0]);
    until("b is free", || async { (pool.sessions() == 12).then_some(()) }).await;
    let mut new = Vec::new();
    for _ in 0..4 {
        new.push(greeted(&rig).await);
    }
    assert!(new.iter().all(|(_, name)| *name == 'b'), "{new:?}");
    drop((held, new));
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// One listening socket, and yet long sessions spread over the threads.
#[tokio::test]
async fn long_sessions_are_even_over_workers() {
    let backend = greeting("a").await;
    let text = format!(
        "workers = 2\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nbackends = [\"{}\"]\n",
        backend.address()
    );
    let rig = Rig::start(&text).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(greeted(&rig).await);
    }
    assert_eq!(rig.balancer().state().workers.sessions(), [4, 4]);
    drop(held);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// As [`greeted`], from an address of its own.
async fn greeted_from(rig: &Rig, last: u8) -> char {
    soon("a greeting", async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 1, last], 0).into()).unwrap();
        let mut client = socket.connect(rig.front()).await.unwrap();
        char::from(client.read_u8().await.unwrap())
    })
    .await
}

/// Whom each of many clients meets.
async fn met_by(rig: &Rig) -> Vec<char> {
    let mut met = Vec::new();
    for client in 1..=60 {
        met.push(greeted_from(rig, client).await);
    }
    met
}

/// Two balancers agree on every client, whatever they have served before and whatever is down; a backend that fails loses
/// its clients to the others, and no other client moves.
#[tokio::test]
async fn clients_meet_the_same_backend_behind_every_balancer() {
    for policy in ["maglev", "ring_hash"] {
        let (rig, mut backends) = rig(&[1, 1, 2], &format!("balance = \"{policy}\"")).await;
        let entries: Vec<_> = backends.iter().zip([(1, "a"), (1, "b"), (2, "c")]).rev().collect();
        let entries = entries.iter().map(|(backend, (weight, id))| {
            format!("{{ address = \"{}\", id = \"{id}\", weight = {weight} }}", backend.address())
        });
        let other = format!(
            "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\ncheck = {{ kind = \"none\" }}\n\
             balance = \"{policy}\"\nbackends = [{}]\n",
            entries.collect::<Vec<_>>().join(", ")
        );
        let other = Rig::start(&other).await;
        let before = met_by(&rig).await;
        assert_eq!(before, met_by(&other).await, "{policy}: the order of the list makes no difference");
        assert_eq!(count(before.iter().copied()).len(), 3, "{policy}: {before:?}");

        backends.remove(0).stop().await;
        for rig in [&rig, &other] {
            let after = met_by(rig).await;
            for (before, after) in before.iter().zip(&after) {
                assert!(if *before == 'a' { *after != 'a' } else { before == after }, "{policy}: {before} → {after}");
            }
        }
        for rig in [rig, other] {
            rig.until_no_sessions().await;
            rig.stop().await;
        }
    }
}

/// A reload to a policy that hashes, to another one, and back: the tables are there each time.
#[tokio::test]
async fn policies_change_with_a_reload() {
    let (rig, backends) = rig(&[1, 1, 1], "balance = \"round_robin\"").await;
    let entries: Vec<_> = backends
        .iter()
        .zip(NAMES)
        .map(|(backend, id)| format!("{{ address = \"{}\", id = \"{id}\" }}", backend.address()))
        .collect();
    let file = |balance: &str| {
        format!(
            "workers = 4\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
             check = {{ kind = \"none\" }}\nbalance = \"{balance}\"\nbackends = [{}]\n",
            entries.join(", ")
        )
    };
    let mut hashed = Vec::new();
    for balance in ["maglev", "random", "maglev", "power_of_two", "maglev"] {
        rig.reload(&file(balance)).await.unwrap();
        let met = met_by(&rig).await;
        if balance == "maglev" {
            hashed.push(met);
        } else {
            assert_eq!(count(met).len(), 3, "{balance}");
        }
    }
    assert!(hashed.windows(2).all(|pair| pair[0] == pair[1]), "{hashed:?}");
    assert_eq!(count(hashed[0].iter().copied()).len(), 3);
    rig.until_no_sessions().await;
    rig.stop().await;
}
