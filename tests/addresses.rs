//! The backend side's addresses: `source`, spread and exhaustion, and what closing leaves behind in the kernel.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, Rig, exchange, until};

/// Records the peers and answers one byte with one byte; keeps connections until the client finishes.
async fn remembering() -> (Backend, Arc<Mutex<Vec<SocketAddr>>>) {
    let peers = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&peers);
    let backend = Backend::serving(move |mut stream| {
        let kept = Arc::clone(&kept);
        async move {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                kept.lock().unwrap().push(stream.peer_addr().unwrap());
                stream.write_all(&byte).await.unwrap();
            }
        }
    })
    .await;
    (backend, peers)
}

#[tokio::test]
async fn sources_are_used_in_turn_and_counted() {
    let (backend, peers) = remembering().await;
    let id = backend.address().to_string();
    let more = "source = [\"127.0.0.2\", \"127.0.0.3\"]\ncheck = { interval = \"100ms\" }\n";
    let rig = Rig::with_backends(&[&id], more).await;
    rig.until_standing(&id, "up").await;

    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        clients.push(client);
    }
    let from = |ip: &str| peers.lock().unwrap().iter().filter(|peer| peer.ip().to_string() == ip).count();
    assert_eq!((from("127.0.0.2"), from("127.0.0.3")), (5, 5));
    for source in ["127.0.0.2", "127.0.0.3"] {
        let series = format!("evenkeel_backend_source_sessions{{pool=\"back\",backend=\"{id}\",source=\"{source}\"}}");
        assert_eq!(rig.metric(&series).await, 5.0);
    }
    drop(clients);
    rig.until_no_sessions().await;
    let series = format!("evenkeel_backend_source_sessions{{pool=\"back\",backend=\"{id}\",source=\"127.0.0.2\"}}");
    assert_eq!(rig.metric(&series).await, 0.0);
}

/// 192.0.2.0/24 is for documentation: no machine has an address of it.
#[tokio::test]
async fn a_source_that_is_not_available_is_counted_and_the_next_one_serves() {
    let (backend, peers) = remembering().await;
    let id = backend.address().to_string();
    let more = "source = [\"192.0.2.1\", \"127.0.0.2\"]\ncheck = { interval = \"100ms\" }\n";
    let rig = Rig::with_backends(&[&id], more).await;
    rig.until_standing(&id, "up").await;
    for _ in 0..10 {
        assert_eq!(exchange(rig.front(), b"x").await.unwrap(), b"x");
    }
    assert!(peers.lock().unwrap().iter().all(|peer| peer.ip().to_string() == "127.0.0.2"));
    let failures = format!(
        "evenkeel_backend_connect_failures_total{{pool=\"back\",backend=\"{id}\",reason=\"address_not_available\"}}"
    );
    assert_eq!(rig.metric(&failures).await, 5.0, "each second session begins with the source that is not there");
    assert_eq!(rig.backend(&id).await.unwrap()["standing"], "up", "it is never the backend's fault");
}

#[tokio::test]
async fn with_no_source_left_the_session_ends_as_a_local_error() {
    let (backend, _) = remembering().await;
    let id = backend.address().to_string();
    // Probes come from the same address, so there are none.
    let more = "source = \"192.0.2.1\"\nconnect = { retry_delay = \"1ms\" }\ncheck = { kind = \"none\" }\n";
    let rig = Rig::with_backends(&[&id], more).await;
    rig.until_standing(&id, "up").await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "an ordinary close");
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::LocalError), 1);
    assert_eq!(rig.backend(&id).await.unwrap()["standing"], "up");
}

#[tokio::test]
async fn a_server_that_closes_first_leaves_no_time_wait_of_ours_a_client_leaves_one() {
    // Addresses of their own: a port of 127.0.0.1 may be one that another test's backend had within the last minute.
    let server_first = Backend::answering_at([127, 0, 6, 1].into(), "bye").await;
    let address = server_first.address();
    // Probes would be connections of the balancer too.
    let rig = Rig::with_backends(&[&address.to_string()], "check = { kind = \"none\" }\n").await;
    for _ in 0..20 {
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        client.write_all(b"?").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"bye");
    }
    rig.until_no_sessions().await;
    assert_eq!(time_waits_towards(address), 0);

    let client_first = Backend::echo_at([127, 0, 6, 2].into()).await;
    let address = client_first.address();
    let rig = Rig::with_backends(&[&address.to_string()], "check = { kind = \"none\" }\n").await;
    for _ in 0..20 {
        assert_eq!(exchange(rig.front(), b"!").await.unwrap(), b"!");
    }
    rig.until_no_sessions().await;
    until("the last FIN is acknowledged", || async { (time_waits_towards(address) == 20).then_some(()) }).await;
}

/// What `ss -tan state time-wait dst ADDRESS` counts, read where `ss` reads it.
fn time_waits_towards(address: SocketAddr) -> usize {
    const TIME_WAIT: &str = "06";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let SocketAddr::V4(v4) = address else { panic!("{address}: the table is of IPv4") };
    // The kernel prints the four bytes as one number of the machine's own order.
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    let is_it = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(2) == Some(&remote.as_str()) && fields.get(3) == Some(&TIME_WAIT)
    };
    table.lines().filter(is_it).count()
}

#[tokio::test]
async fn a_thousand_long_lived_sessions_are_spread_over_the_workers_also_after_churn() {
    let backend = Backend::echo().await;
    let text = format!(
        "workers = 2\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
         backends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\n",
        backend.address()
    );
    let rig = Rig::start(&text).await;
    let mut clients = Vec::new();
    for _ in 0..1_000 {
        clients.push(TcpStream::connect(rig.front()).await.unwrap());
    }
    let spread = || rig.balancer().state().workers.sessions();
    until("all are there", || async { (spread().iter().sum::<usize>() == 1_000).then_some(()) }).await;
    assert_eq!(spread(), [500, 500]);

    // The first half leaves, whichever workers they were on; as many come again.
    clients.drain(..500);
    until("half are gone", || async { (spread().iter().sum::<usize>() == 500).then_some(()) }).await;
    for _ in 0..500 {
        clients.push(TcpStream::connect(rig.front()).await.unwrap());
    }
    until("all are there again", || async { (spread().iter().sum::<usize>() == 1_000).then_some(()) }).await;
    assert!(spread()[0].abs_diff(spread()[1]) <= 50, "{:?}", spread());
}
