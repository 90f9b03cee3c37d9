//! `timeouts.first_byte`: a backend that took a request and says nothing.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Bench, Last, MODES, Way, last, soon};

const LIMIT: &str = "timeouts = { first_byte = \"300ms\" }";

/// Where a test has to be faster than the limit.
const LONG_LIMIT: &str = "timeouts = { first_byte = \"2s\" }";

async fn in_every_mode(more: &str, test: impl AsyncFn(&Bench)) {
    for &mode in MODES {
        let bench = Bench::new(mode, Way::Up, more).await;
        soon(mode.0, test(&bench)).await;
        bench.rig.until_no_sessions().await;
        bench.rig.stop().await;
    }
}

#[tokio::test]
async fn silence_resets_both() {
    in_every_mode(LIMIT, async |bench| {
        let (mut client, mut backend) = bench.session().await;
        let began = Instant::now();
        client.write_all(b"request").await.unwrap();
        assert_eq!((last(&mut client).await, last(&mut backend).await), (Last::Reset, Last::Reset));
        assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
        bench.ended(Outcome::FirstByteTimeout, 1).await;
    })
    .await;
}

/// Also one that waits half-closed: it is the backend's FIN that it has been promised.
#[tokio::test]
async fn silence_after_the_clients_fin() {
    in_every_mode(LIMIT, async |bench| {
        let (mut client, mut backend) = bench.session().await;
        client.write_all(b"request").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!((last(&mut backend).await, last(&mut client).await), (Last::Fin, Last::Reset));
        bench.ended(Outcome::FirstByteTimeout, 1).await;
    })
    .await;
}

/// Bytes that go on do not postpone it: an upload into nowhere ends, too.
#[tokio::test]
async fn more_request_bytes_do_not_extend_the_first_byte_timeout() {
    in_every_mode(LIMIT, async |bench| {
        let (client, mut backend) = bench.session().await;
        let (mut reads, mut writes) = client.into_split();
        let send = async {
            loop {
                if let Err(error) = writes.write_all(&[1; 100]).await {
                    break error.kind();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let (refused, end, _) = tokio::join!(send, last(&mut reads), last(&mut backend));
        // The kernel reports a reset once: to the write or to the read.
        assert!(end == Last::Reset || refused == ErrorKind::ConnectionReset, "{end:?}, {refused}");
        bench.ended(Outcome::FirstByteTimeout, 1).await;
    })
    .await;
}

/// Server-first protocols: the limit does not run while the client has sent nothing, and a greeting counts as an answer.
#[tokio::test]
async fn a_server_that_speaks_first_is_not_hurried() {
    in_every_mode(LIMIT, async |bench| {
        let (mut client, mut backend) = bench.session().await;
        bench.until_another_ends(Outcome::FirstByteTimeout, b"request").await;
        backend.write_all(b"220 ready").await.unwrap();
        client.read_exact(&mut [0; 9]).await.unwrap();
        client.write_all(b"HELO").await.unwrap();
        backend.read_exact(&mut [0; 4]).await.unwrap();
        bench.until_another_ends(Outcome::FirstByteTimeout, b"request").await;
        backend.write_all(b"250").await.unwrap();
        client.read_exact(&mut [0; 3]).await.unwrap();
        drop((client, backend));
        bench.all_ended(&[(Outcome::Completed, 1), (Outcome::FirstByteTimeout, 2)]).await;
    })
    .await;
}

/// The first byte is all that is waited for.
#[tokio::test]
async fn the_first_byte_ends_the_first_byte_timeout() {
    in_every_mode(LONG_LIMIT, async |bench| {
        let (mut client, mut backend) = bench.session().await;
        for round in 0..3 {
            client.write_all(b"request").await.unwrap();
            backend.read_exact(&mut [0; 7]).await.unwrap();
            if round == 1 {
                bench.until_another_ends(Outcome::FirstByteTimeout, b"request").await;
            }
            backend.write_all(b"answer").await.unwrap();
            client.read_exact(&mut [0; 6]).await.unwrap();
        }
        drop((client, backend));
        bench.all_ended(&[(Outcome::Completed, 1), (Outcome::FirstByteTimeout, 1)]).await;
    })
    .await;
}

/// A backend that closed without a word is not waited for.
#[tokio::test]
async fn after_a_fin_from_the_backend_the_session_does_not_wait() {
    in_every_mode(LONG_LIMIT, async |bench| {
        let (mut client, mut backend) = bench.session().await;
        client.write_all(b"request").await.unwrap();
        backend.read_exact(&mut [0; 7]).await.unwrap();
        backend.shutdown().await.unwrap();
        assert_eq!(last(&mut client).await, Last::Fin);
        bench.until_another_ends(Outcome::FirstByteTimeout, b"request").await;
        client.write_all(b"more").await.unwrap();
        backend.read_exact(&mut [0; 4]).await.unwrap();
        drop((client, backend));
        bench.all_ended(&[(Outcome::Completed, 1), (Outcome::FirstByteTimeout, 1)]).await;
    })
    .await;
}
