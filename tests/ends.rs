//! Every way in which a session ends: what the client sees, and what it is called. (`panicked` needs a hook: see
//! src/server/tests.rs.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel::metrics::{Direction, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Bench, Blackhole, Last, MODES, Pattern, Program, Received, Rig, Way, both_ways, free_port, get, last,
    pending_error, reset, soon, until,
};

const NO_CHECK: &str = "check = { kind = \"none\" }\n";

#[tokio::test]
async fn idle_resets_both() {
    both_ways("timeouts = { idle = \"200ms\" }", async |bench| {
        // Before the session, whose own clock may be well ahead when the test goes on.
        let began = Instant::now();
        let (mut source, mut sink) = bench.ends().await;
        assert_eq!((last(&mut source).await, last(&mut sink).await), (Last::Reset, Last::Reset));
        assert!(began.elapsed() >= Duration::from_millis(190));
        bench.ended(Outcome::IdleTimeout, 1).await;
    })
    .await;
}

#[tokio::test]
async fn any_byte_postpones_idle() {
    both_ways("timeouts = { idle = \"600ms\" }", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let mut byte = [0];
        let began = Instant::now();
        let mut quiet = began;
        // Bytes in one direction only, for longer than the limit.
        while began.elapsed() < Duration::from_millis(1_300) {
            quiet = Instant::now();
            source.write_all(b"x").await.unwrap();
            sink.read_exact(&mut byte).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!((last(&mut source).await, last(&mut sink).await), (Last::Reset, Last::Reset));
        assert!(quiet.elapsed() >= Duration::from_millis(590));
        bench.ended(Outcome::IdleTimeout, 1).await;
    })
    .await;
}

/// The one that has been sent FIN is closed; the one that waits for an answer is reset.
#[tokio::test]
async fn half_closed_for_too_long() {
    both_ways("timeouts = { idle = \"1h\", half_close = \"200ms\" }", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        source.shutdown().await.unwrap();
        assert_eq!(last(&mut sink).await, Last::Fin);
        assert_eq!(last(&mut source).await, Last::Reset);
        bench.ended(Outcome::HalfCloseTimeout, 1).await;
        assert!(pending_error(&sink).is_none());
    })
    .await;
}

/// It does not look idle: the side that has finished is shown, in every relay.
#[tokio::test]
async fn a_half_closed_session_shows() {
    both_ways("", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let shown = async || {
            let text = get(bench.rig.admin(), "/api/v1/sessions").await.unwrap().1;
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
            let session = &answer["sessions"][0];
            (session["phase"].as_str().unwrap().to_owned(), session["finished"].clone())
        };
        assert_eq!(shown().await, ("relaying".to_owned(), serde_json::json!([])));
        source.write_all(b"all").await.unwrap();
        source.shutdown().await.unwrap();
        assert_eq!(sink.read(&mut [0; 3]).await.unwrap(), 3);
        assert_eq!(last(&mut sink).await, Last::Fin);
        let finished = if bench.way == Way::Up { "client" } else { "backend" };
        let expected = ("half_closed".to_owned(), serde_json::json!([finished]));
        until("it shows", async || (shown().await == expected).then_some(())).await;
        let filtered = get(bench.rig.admin(), "/api/v1/sessions?phase=half_closed").await.unwrap().1;
        assert!(filtered.contains("\"matched\":1"), "{filtered}");
    })
    .await;
}

/// `half_close` unset: `idle` while waiting for the backend.
#[tokio::test]
async fn idle_limits_waiting_for_the_backend() {
    for &mode in MODES {
        let bench = Bench::new(mode, Way::Up, "timeouts = { idle = \"300ms\" }").await;
        let (mut client, mut backend) = bench.session().await;
        client.shutdown().await.unwrap();
        assert_eq!(soon("FIN", last(&mut backend)).await, Last::Fin);
        assert_eq!(soon("the limit", last(&mut client)).await, Last::Reset);
        bench.ended(Outcome::HalfCloseTimeout, 1).await;
        bench.rig.stop().await;
    }
}

/// A client that has finished waits for its answer for as long as it takes, and gets all of it.
#[tokio::test]
async fn a_late_answer_to_a_client_that_has_finished() {
    both_ways("", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        source.write_all(b"question").await.unwrap();
        source.shutdown().await.unwrap();
        let mut question = Vec::new();
        sink.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        // What has no half-close cuts here.
        bench.until_half_closed().await;
        let answer = Pattern::new(3);
        let (written, received) = tokio::join!(
            async {
                let written = answer.write(&mut sink, 0, 1_000_000).await;
                sink.shutdown().await.unwrap();
                written
            },
            answer.read_to_last(&mut source, 0),
        );
        written.unwrap();
        assert_eq!(received, Received { bytes: 1_000_000, last: Last::Fin });
        bench.ended(Outcome::Completed, 1).await;
    })
    .await;
}

/// `half_close` unset: 30 s while waiting for the client, so neither a short `idle` nor a long one counts.
#[tokio::test]
async fn idle_does_not_limit_waiting_for_the_client() {
    for &mode in MODES {
        let bench = Bench::new(mode, Way::Down, "timeouts = { idle = \"200ms\" }").await;
        let (mut client, mut backend) = bench.session().await;
        backend.shutdown().await.unwrap();
        assert_eq!(soon("FIN", last(&mut client)).await, Last::Fin);
        // Past `idle`, the session is alive.
        bench.until_another_ends(Outcome::IdleTimeout, b"").await;
        client.write_all(b"still here").await.unwrap();
        let mut said = [0; 10];
        soon("it arrives", backend.read_exact(&mut said)).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(soon("FIN", last(&mut backend)).await, Last::Fin);
        bench.all_ended(&[(Outcome::Completed, 1), (Outcome::IdleTimeout, 1)]).await;
        bench.rig.stop().await;
    }
}

#[tokio::test]
async fn idle_0_is_never() {
    for &mode in MODES {
        let bench = Bench::new(mode, Way::Up, "timeouts = { idle = \"0s\" }").await;
        let (mut client, mut backend) = bench.session().await;
        client.shutdown().await.unwrap();
        assert_eq!(soon("FIN", last(&mut backend)).await, Last::Fin);
        bench.until_half_closed().await;
        backend.write_all(b"late").await.unwrap();
        drop(backend);
        let mut answer = Vec::new();
        soon("the answer", client.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"late");
        bench.ended(Outcome::Completed, 1).await;
        bench.rig.stop().await;
    }
}

/// Connects to a balancer that has no backend to offer; how that ends, and what it counts.
async fn refused(rig: &Rig, outcome: Outcome) {
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    assert_eq!(soon("a refusal", last(&mut client)).await, Last::Fin, "refused before any byte: a clean close");
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(outcome), 1);
}

#[tokio::test]
async fn no_backend_closes() {
    let dead = free_port().to_string();
    let rig = Rig::with_backends(&[&dead], "").await;
    rig.until_standing(&dead, "down").await;
    refused(&rig, Outcome::NoBackend).await;
    let series = "evenkeel_sessions_total{listener=\"front\",pool=\"back\",backend=\"\",outcome=\"no_backend\"}";
    assert_eq!(rig.metric(series).await, 1.0);
    rig.stop().await;
}

/// Its bytes were read before the backend was looked for, and no backend has got them: a clean close would read as an answer.
#[tokio::test]
async fn a_client_that_has_sent_bytes_and_gets_no_backend_is_reset() {
    let hole = Blackhole::new().await;
    let address = hole.address().to_string();
    let connect = "connect = { timeout = \"300ms\", attempts = 1 }\n";
    let more = format!("{connect}{NO_CHECK}");
    // With `defer_accept` the bytes are there before the session is.
    let rig = Rig::start(&format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\ntcp = {{ defer_accept = \"5s\" }}\n\
         [pools.back]\nbackends = [\"{address}\"]\n{more}"
    ))
    .await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    assert_eq!(soon("a refusal", last(&mut client)).await, Last::Reset);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::ConnectFailed), 1);
    rig.stop().await;
}

/// Also where a backend takes what was said before it was dialled: in order, whole, and counted once.
#[tokio::test]
async fn bytes_sent_before_the_session_began_come_first() {
    for said in [1, 2_048, 2_049, 100_000] {
        both_ways("", async |bench| {
            let bytes: Vec<u8> = (0..said).map(|at: u32| (at % 251) as u8).collect();
            let mut client = std::net::TcpStream::connect(bench.rig.front()).unwrap();
            // At once, on a thread that waits for nothing: they race the session's begin, and both may win.
            std::io::Write::write_all(&mut client, &bytes).unwrap();
            client.set_nonblocking(true).unwrap();
            let mut client = TcpStream::from_std(client).unwrap();
            client.shutdown().await.unwrap();
            let (mut backend, _) = bench.backend.accept().await.unwrap();
            let mut arrived = Vec::new();
            backend.read_to_end(&mut arrived).await.unwrap();
            assert!(arrived == bytes, "{} of {said} bytes", arrived.len());
            backend.write_all(b"bye").await.unwrap();
            drop(backend);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"bye");
            bench.ended(Outcome::Completed, 1).await;
            assert_eq!((bench.bytes(Direction::ToBackend), bench.bytes(Direction::ToClient)), (said.into(), 3));
        })
        .await;
    }
}

#[tokio::test]
async fn connect_failed_closes() {
    let dead = free_port().to_string();
    let rig = Rig::with_backends(&[&dead], &format!("connect = {{ retry_delay = \"1ms\" }}\n{NO_CHECK}")).await;
    refused(&rig, Outcome::ConnectFailed).await;
    rig.stop().await;
}

/// A link-local address without a zone: the kernel refuses to dial it, and no backend is at fault.
#[tokio::test]
async fn local_error_closes() {
    let rig =
        Rig::with_backends(&["[fe80::1]:80"], &format!("connect = {{ retry_delay = \"1ms\" }}\n{NO_CHECK}")).await;
    refused(&rig, Outcome::LocalError).await;
    let backend = rig.backend("[fe80::1]:80").await.unwrap();
    assert_eq!(backend["standing"], "up", "it is not the backend's fault");
    rig.stop().await;
}

/// The client resets while the balancer still waits for a backend: the lease and the slot come back at once.
#[tokio::test]
async fn a_client_that_leaves_while_connecting() {
    let hole = Blackhole::new().await;
    let address = hole.address().to_string();
    let rig =
        Rig::with_backends(&[&address], &format!("connect = {{ timeout = \"1m\", deadline = \"1m\" }}\n{NO_CHECK}"))
            .await;
    let client = TcpStream::connect(rig.front()).await.unwrap();
    let pool = Arc::clone(&rig.balancer().state().set().pools[0]);
    until("a dial", || async { (pool.sessions() == 1).then_some(()) }).await;
    reset(client);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::ClientGone), 1);
    let failures =
        format!("evenkeel_backend_connect_failures_total{{pool=\"back\",backend=\"{address}\",reason=\"abandoned\"}}");
    assert_eq!(rig.metric(&failures).await, 1.0);
    assert_eq!(pool.members()[0].failures_in_a_row(), 0, "a client that left is not the backend's fault");
    rig.stop().await;
}

/// A client that only finishes is served: it may wait for an answer.
#[tokio::test]
async fn a_client_that_finishes_while_connecting_is_served() {
    let hole = Blackhole::new().await;
    let backend = crate::support::Backend::answering("here").await;
    let (first, second) = (hole.address().to_string(), backend.address().to_string());
    let rig = Rig::with_backends(&[&first, &second], &format!("connect = {{ timeout = \"200ms\" }}\n{NO_CHECK}")).await;
    for _ in 0..2 {
        assert_eq!(crate::support::exchange(rig.front(), b"?").await.unwrap(), b"here");
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 2);
    rig.stop().await;
}

/// A cut of ours resets each side that has not been sent FIN, in every state of the session.
#[tokio::test]
async fn killed() {
    for &mode in MODES {
        let bench = Bench::new(mode, Way::Up, "").await;
        let (mut open_client, mut open_backend) = bench.session().await;
        let (mut client, mut backend) = bench.session().await;
        client.shutdown().await.unwrap();
        assert_eq!(soon("FIN", last(&mut backend)).await, Last::Fin);
        soon("the kill", bench.rig.balancer().kill()).await;
        assert_eq!(soon("an end", last(&mut open_client)).await, Last::Reset);
        assert_eq!(soon("an end", last(&mut open_backend)).await, Last::Reset);
        assert_eq!(soon("an end", last(&mut client)).await, Last::Reset);
        assert!(pending_error(&backend).is_none(), "it had been sent FIN");
        bench.ended(Outcome::Killed, 2).await;
        bench.rig.stop().await;
    }
}

#[tokio::test]
async fn killed_while_connecting() {
    let hole = Blackhole::new().await;
    let pool = format!("connect = {{ timeout = \"1m\", deadline = \"1m\" }}\n{NO_CHECK}");
    let rig = Rig::with_backends(&[&hole.address().to_string()], &pool).await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    let state = rig.balancer().state();
    until("a dial", || async { (state.set().pools[0].sessions() == 1).then_some(()) }).await;
    soon("the kill", rig.balancer().kill()).await;
    assert_eq!(soon("an end", last(&mut client)).await, Last::Reset);
    rig.until_no_sessions().await;
    assert_eq!((rig.ended(Outcome::Killed), state.set().pools[0].members()[0].failures_in_a_row()), (1, 0));
    rig.stop().await;
}

/// A drain lets sessions finish, and resets what is left when its time is over.
#[tokio::test]
async fn drained() {
    let bench = Bench::new(MODES[0], Way::Up, "[shutdown]\ntimeout = \"1s\"\n").await;
    let (mut long_client, mut long_backend) = bench.session().await;
    let (mut client, mut backend) = bench.session().await;
    let others = async {
        let state = bench.rig.balancer().state();
        until("a drain", || async { state.is_draining().then_some(()) }).await;
        client.write_all(b"last words").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        backend.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"last words");
        drop(backend);
        assert_eq!(last(&mut client).await, Last::Fin);
        assert_eq!((last(&mut long_client).await, last(&mut long_backend).await), (Last::Reset, Last::Reset));
    };
    soon("the drain", async { tokio::join!(bench.rig.balancer().drain(), others) }).await;
    bench.rig.until_no_sessions().await;
    assert_eq!((bench.rig.ended(Outcome::Drained), bench.rig.ended(Outcome::Completed)), (1, 1));
    bench.rig.stop().await;
}
