//! `replay = "until_response"`: a backend that fails before its first byte is not noticed while another one works.

use std::net::SocketAddr;

use evenkeel::metrics::{Direction, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{NO_HEALTH, by_result, pool};
use crate::support::{Backend, Last, MODES, Pattern, Received, Rig, exchange, last, reset, soon, until};

/// How a backend fails every session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    ResetOnAccept,
    CloseOnAccept,
    ResetOnRequest,
    CloseOnRequest,
    Silent,
}

pub(super) const FAULTS: [Fault; 5] =
    [Fault::ResetOnAccept, Fault::CloseOnAccept, Fault::ResetOnRequest, Fault::CloseOnRequest, Fault::Silent];

pub(super) async fn failing(fault: Fault) -> Backend {
    Backend::serving(move |mut stream| async move {
        match fault {
            Fault::ResetOnAccept => return reset(stream),
            Fault::CloseOnAccept => return,
            Fault::ResetOnRequest | Fault::CloseOnRequest => {
                let _ = stream.read(&mut [0; 1024]).await;
            }
            Fault::Silent => {
                let mut request = Vec::new();
                let _ = stream.read_to_end(&mut request).await;
                std::future::pending::<()>().await;
            }
        }
        if fault == Fault::ResetOnRequest {
            reset(stream);
        }
    })
    .await
}

async fn rig(backends: &[SocketAddr], more: &str) -> Rig {
    let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    Rig::with_backends(&backends, &format!("replay = \"until_response\"\n{NO_HEALTH}{more}")).await
}

/// One exchange without a FIN from the client before the answer.
async fn ask(front: SocketAddr, request: &[u8]) -> Vec<u8> {
    soon("an answer", async {
        let mut client = TcpStream::connect(front).await.unwrap();
        client.write_all(request).await.unwrap();
        let mut answer = vec![0; request.len()];
        client.read_exact(&mut answer).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        answer
    })
    .await
}

#[tokio::test]
async fn no_fault_of_one_backend_is_noticed() {
    for (_, mode) in MODES {
        for fault in FAULTS {
            let (bad, good) = (failing(fault).await, Backend::echo().await);
            let limits = "timeouts = { first_byte = \"200ms\" }\n";
            // An echo of a slow machine must not be taken for silence.
            let limits = if fault == Fault::Silent { limits } else { "" };
            let rig =
                rig(&[bad.address(), good.address()], &format!("{mode}{limits}connect = {{ attempts = 5 }}\n")).await;
            for n in 0..6_u8 {
                let request = vec![n; 1_000 + usize::from(n)];
                assert_eq!(ask(rig.front(), &request).await, request, "{fault:?}");
                assert_eq!(exchange(rig.front(), &request).await.unwrap(), request, "{fault:?}, half-closed");
            }
            rig.until_no_sessions().await;
            assert_eq!(rig.ended(Outcome::Completed), 12, "{fault:?}");
            let bad_id = bad.address().to_string();
            if fault != Fault::ResetOnAccept {
                assert!(by_result(&rig, "replays", "answered").await >= 4.0, "{fault:?}");
                assert!(rig.backend_metric("connect_attempts_total", &bad_id).await >= 4.0);
            }
            assert_eq!(by_result(&rig, "replays", "no_backend").await, 0.0);
            rig.stop().await;
        }
    }
}

/// The counters of a session that was replayed: each backend's bytes are what its socket took, and the log line has it all.
#[tokio::test]
async fn bytes_and_attempts_are_counted() {
    let (bad, good) = (failing(Fault::CloseOnRequest).await, Backend::echo().await);
    let rig = rig(&[bad.address(), good.address()], "").await;
    for _ in 0..2 {
        assert_eq!(ask(rig.front(), b"request").await, b"request");
    }
    rig.until_no_sessions().await;
    let pool = pool(&rig);
    let replays = by_result(&rig, "replays", "answered").await;
    assert!(replays >= 1.0);
    assert_eq!((pool.bytes(Direction::ToBackend) as f64, pool.bytes(Direction::ToClient)), (14.0 + 7.0 * replays, 14));
    let sent = |id: SocketAddr| {
        format!("evenkeel_backend_bytes_total{{pool=\"back\",backend=\"{id}\",direction=\"to_backend\"}}")
    };
    assert_eq!(
        (rig.metric(&sent(bad.address())).await, rig.metric(&sent(good.address())).await),
        (7.0 * replays, 14.0)
    );
    let ended = |id: SocketAddr| {
        format!("evenkeel_sessions_total{{listener=\"front\",pool=\"back\",backend=\"{id}\",outcome=\"completed\"}}")
    };
    assert_eq!((rig.metric(&ended(bad.address())).await, rig.metric(&ended(good.address())).await), (0.0, 2.0));
    rig.stop().await;
}

/// When all have failed, the client sees what the last one did.
#[tokio::test]
async fn the_outcome_is_that_of_the_last_failure() {
    for (_, mode) in MODES {
        for (fault, end, outcome) in [
            (Fault::ResetOnRequest, Last::Reset, Outcome::BackendReset),
            (Fault::CloseOnRequest, Last::Fin, Outcome::Completed),
            (Fault::Silent, Last::Reset, Outcome::FirstByteTimeout),
        ] {
            let (one, other) = (failing(fault).await, failing(fault).await);
            let more = format!("{mode}timeouts = {{ first_byte = \"200ms\" }}\n");
            let rig = rig(&[one.address(), other.address()], &more).await;
            let mut client = TcpStream::connect(rig.front()).await.unwrap();
            client.write_all(b"request").await.unwrap();
            assert_eq!(soon("an end", last(&mut client)).await, end, "{fault:?}");
            drop(client);
            rig.until_no_sessions().await;
            assert_eq!(rig.ended(outcome), 1, "{fault:?}");
            assert_eq!(
                (by_result(&rig, "replays", "failed").await, by_result(&rig, "replays", "no_backend").await),
                (1.0, 1.0)
            );
            assert_eq!((one.connections(), other.connections()), (1, 1));
            assert_eq!(pool(&rig).bytes(Direction::ToBackend), 14);
            rig.stop().await;
        }
    }
}

/// `connect.attempts` is for backends that were tried: as long as one is left that was not, it gets the request.
#[tokio::test]
async fn every_untried_backend_gets_a_replay() {
    let mut backends = Vec::new();
    for _ in 0..5 {
        backends.push(failing(Fault::CloseOnRequest).await);
    }
    let addresses: Vec<SocketAddr> = backends.iter().map(Backend::address).collect();
    let rig = rig(&addresses, "connect = { attempts = 1 }\n").await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    client.write_all(b"request").await.unwrap();
    assert_eq!(soon("an end", last(&mut client)).await, Last::Fin);
    drop(client);
    rig.until_no_sessions().await;
    assert_eq!(backends.iter().map(Backend::connections).sum::<usize>(), 5);
    rig.stop().await;
}

/// More than the buffer holds: the session goes on, exactly, and is not replayed.
#[tokio::test]
async fn a_request_that_is_too_large_is_relayed_without_replay() {
    const SIZE: u64 = 3 << 20;
    for (_, mode) in MODES {
        let good = Backend::echo().await;
        let rig = rig(&[good.address()], &format!("{mode}replay_buffer = \"8KiB\"\n")).await;
        let pattern = Pattern::new(1);
        let (mut reads, mut writes) = TcpStream::connect(rig.front()).await.unwrap().into_split();
        let send = async {
            pattern.write(&mut writes, 0, SIZE).await.unwrap();
            writes.shutdown().await.unwrap();
        };
        let ((), received) = soon("all of it", async { tokio::join!(send, pattern.read_to_last(&mut reads, 0)) }).await;
        assert_eq!(received, Received { bytes: SIZE, last: Last::Fin });
        rig.until_no_sessions().await;
        let pool = pool(&rig);
        assert_eq!((pool.bytes(Direction::ToBackend), pool.bytes(Direction::ToClient)), (SIZE, SIZE));
        rig.stop().await;

        let bad = failing(Fault::ResetOnRequest).await;
        let rig = self::rig(&[bad.address(), good.address()], &format!("{mode}replay_buffer = \"8KiB\"\n")).await;
        let request = vec![1; 100_000];
        let mut ended = Vec::new();
        for _ in 0..2 {
            ended.push(exchange(rig.front(), &request).await.is_ok_and(|answer| answer == request));
        }
        assert!(ended.contains(&true) && ended.contains(&false), "{ended:?}");
        rig.until_no_sessions().await;
        assert_eq!(by_result(&rig, "replays", "answered").await, 0.0);
        rig.stop().await;
    }
}

/// A server that speaks first answers at once; what comes later is the relay's.
#[tokio::test]
async fn a_greeting_is_an_answer() {
    for (_, mode) in MODES {
        let greet = |mut stream: TcpStream| async move {
            let _ = stream.write_all(b"220 ready\n").await;
            let _ = stream.read(&mut [0; 100]).await;
            // Fails after its first byte: the client has to see that.
            reset(stream);
        };
        let (one, other) = (Backend::serving(greet).await, Backend::serving(greet).await);
        let rig = rig(&[one.address(), other.address()], mode).await;
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        let mut greeting = [0; 10];
        soon("a greeting", client.read_exact(&mut greeting)).await.unwrap();
        client.write_all(b"HELO\n").await.unwrap();
        assert_eq!(soon("an end", last(&mut client)).await, Last::Reset);
        rig.until_no_sessions().await;
        assert_eq!((rig.ended(Outcome::BackendReset), one.connections() + other.connections()), (1, 1));
        rig.stop().await;
    }
}

/// The client leaves, or an operator ends it, while an answer is awaited.
#[tokio::test]
async fn ends_that_are_not_the_fault_of_the_backend_are_not_counted_against_it() {
    let silent = failing(Fault::Silent).await;
    for (_, mode) in MODES {
        for half_closed in [false, true] {
            let rig = rig(&[silent.address()], mode).await;
            let dialled = silent.connections();
            let [mut leaves, mut stays] =
                [TcpStream::connect(rig.front()).await.unwrap(), TcpStream::connect(rig.front()).await.unwrap()];
            for client in [&mut leaves, &mut stays] {
                client.write_all(b"request").await.unwrap();
                if half_closed {
                    client.shutdown().await.unwrap();
                }
            }
            let pool = pool(&rig);
            until("both ask", || async { (pool.bytes(Direction::ToBackend) == 14).then_some(()) }).await;
            reset(leaves);
            until("one is over", || async { (rig.ended(Outcome::ClientReset) == 1).then_some(()) }).await;
            rig.balancer().kill().await;
            assert_eq!(soon("an end", last(&mut stays)).await, Last::Reset);
            rig.until_no_sessions().await;
            assert_eq!(rig.ended(Outcome::Killed), 1);
            // The kernel has completed them before the backend's task counts them.
            until("both have been there", || async { (silent.connections() >= dialled + 2).then_some(()) }).await;
            assert_eq!(silent.connections(), dialled + 2);
            rig.stop().await;
        }
    }
}

#[tokio::test]
async fn idle_and_half_close_hold_while_an_answer_is_awaited() {
    let silent = failing(Fault::Silent).await;
    for (request, half_closed, outcome) in
        [("", false, Outcome::IdleTimeout), ("x", false, Outcome::IdleTimeout), ("x", true, Outcome::HalfCloseTimeout)]
    {
        let rig = rig(&[silent.address()], "timeouts = { idle = \"200ms\" }\n").await;
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        if half_closed {
            client.shutdown().await.unwrap();
        }
        assert_eq!(soon("an end", last(&mut client)).await, Last::Reset);
        rig.until_no_sessions().await;
        assert_eq!(rig.ended(outcome), 1, "{request:?} {half_closed}");
        rig.stop().await;
    }
}

/// Each backend gets the client's address before the request.
#[tokio::test]
async fn every_backend_gets_the_header() {
    let bad = failing(Fault::CloseOnRequest).await;
    let good = Backend::serving(|mut stream| async move {
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        let _ = stream.write_all(&said).await;
    })
    .await;
    for more in ["send_proxy = \"v1\"\n", "send_proxy = \"v1\"\npreconnect = 1\n"] {
        let rig = rig(&[bad.address(), good.address()], more).await;
        for _ in 0..2 {
            let said = String::from_utf8(exchange(rig.front(), b"hello").await.unwrap()).unwrap();
            assert!(said.starts_with("PROXY TCP4 127.0.0.1 ") && said.ends_with("\r\nhello"), "{said}");
            assert_eq!(said.matches("PROXY").count(), 1);
        }
        rig.until_no_sessions().await;
        rig.stop().await;
    }
}
