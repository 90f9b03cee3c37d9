//! Limits of bandwidth, in every relay and both ways: bytes come in their time, and all of them.

use std::time::{Duration, Instant};

use evenkeel::metrics::{CloseCause, Direction, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Backend, Bench, Last, MODES, Pattern, Received, Rig, Way, both_ways, get_json, reset, soon, until,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a bucket that was full gives at once, as time.
const BURST: Duration = Duration::from_millis(125);

/// The key, for the direction that a bench sends.
fn limited(way: Way, rate: &str, scope: &str) -> String {
    let direction = way.direction().name();
    format!("bandwidth = {{ {direction} = \"{rate}\", scope = \"{scope}\" }}")
}

/// Sends it all with FIN, and checks each byte. Returns how long that took.
async fn transfer(source: &mut TcpStream, sink: &mut TcpStream, size: u64) -> Duration {
    let (there, began) = (Pattern::new(size), Instant::now());
    let send = async {
        there.write(source, 0, size).await.unwrap();
        source.shutdown().await.unwrap();
    };
    let ((), received) = tokio::join!(send, there.read_to_last(sink, 0));
    assert_eq!(received, Received { bytes: size, last: Last::Fin });
    began.elapsed()
}

#[tokio::test]
async fn bytes_come_in_their_time_and_all_of_them() {
    for &mode in MODES {
        for way in [Way::Up, Way::Down] {
            for scope in ["session", "client", "pool"] {
                let bench = Bench::new(mode, way, &limited(way, "2MiB/s", scope)).await;
                let (mut source, mut sink) = bench.ends().await;
                let size = MIB + 7;
                let took = soon("a transfer", transfer(&mut source, &mut sink, size)).await;
                let least = Duration::from_millis(500) - BURST;
                assert!(took >= least, "{} {way:?} {scope}: {took:?} of {least:?}", mode.0);
                // The other direction has no limit, and goes on after the first FIN.
                let back = soon("the other way", transfer(&mut sink, &mut source, 16 * MIB)).await;
                assert!(back < Duration::from_secs(4), "{} {way:?} {scope}: {back:?}", mode.0);
                bench.ended(Outcome::Completed, 1).await;
                assert_eq!(bench.bytes(way.direction()), size);
                let waited = bench.rig.balancer().state().set().pools[0].bandwidth.waited(way.direction());
                assert!(waited >= least / 2, "{} {way:?} {scope}: {waited:?}", mode.0);
                bench.rig.stop().await;
            }
        }
    }
}

/// Small messages within the limit do not wait for one another.
#[tokio::test]
async fn messages_below_the_limit_are_not_held_up() {
    let keys = "bandwidth = { to_client = \"1MiB/s\", to_backend = \"1MiB/s\" }";
    both_ways(keys, async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let (there, began) = (Pattern::new(1), Instant::now());
        for n in 0..200 {
            there.write(&mut source, n * 64, n * 64 + 64).await.unwrap();
            there.read(&mut sink, n * 64, n * 64 + 64).await.unwrap();
            there.write(&mut sink, n * 64, n * 64 + 64).await.unwrap();
            there.read(&mut source, n * 64, n * 64 + 64).await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        drop((source, sink));
        bench.ended(Outcome::Completed, 1).await;
        assert_eq!(bench.rig.balancer().state().set().pools[0].bandwidth.waited(bench.way.direction()), Duration::ZERO);
    })
    .await;
}

/// What a source that was reset had sent before is a prefix, and then comes the reset; an operator does not wait for turns.
#[tokio::test]
async fn ends_are_seen_while_a_direction_waits() {
    for &mode in MODES {
        for way in [Way::Up, Way::Down] {
            let bench = Bench::new(mode, way, &limited(way, "64KiB/s", "session")).await;
            // A reset of the source.
            let (mut source, mut sink) = bench.ends().await;
            let there = Pattern::new(5);
            there.write(&mut source, 0, 40_000).await.unwrap();
            there.read(&mut sink, 0, 10_000).await.unwrap();
            reset(source);
            let received = soon("a reset", there.read_to_last(&mut sink, 10_000)).await;
            assert_eq!(received.last, Last::Reset, "{} {way:?}", mode.0);
            assert!(received.bytes <= 40_000);
            // A reset of the target, although nothing is written to it now.
            let (mut source, mut sink) = bench.ends().await;
            there.write(&mut source, 0, 40_000).await.unwrap();
            there.read(&mut sink, 0, 10_000).await.unwrap();
            reset(sink);
            assert_eq!(soon("a reset", there.read_to_last(&mut source, 0)).await.last, Last::Reset);
            // An operator.
            let (mut source, mut sink) = bench.ends().await;
            there.write(&mut source, 0, 40_000).await.unwrap();
            there.read(&mut sink, 0, 10_000).await.unwrap();
            let state = bench.rig.balancer().state();
            assert_eq!(state.close(CloseCause::Operator, |_| true), 1);
            let received = soon("a reset", there.read_to_last(&mut sink, 10_000)).await;
            assert_eq!(received.last, Last::Reset, "{} {way:?}", mode.0);
            assert!(received.bytes < 40_000, "all of it");
            bench.rig.until_no_sessions().await;
            assert_eq!(bench.rig.ended(way.source_reset()), 1, "{} {way:?}", mode.0);
            assert_eq!(bench.rig.ended(way.sink_reset()), 1, "{} {way:?}", mode.0);
            assert_eq!(bench.rig.ended(Outcome::Killed), 1, "{} {way:?}", mode.0);
            bench.rig.stop().await;
        }
    }
}

/// What went to the backend before the relay is paid for, and no limit of time ends a session that waits for its turn.
#[tokio::test]
async fn replayed_bytes_count_and_a_session_that_waits_is_not_idle() {
    for (name, mode) in MODES {
        let backend = Backend::serving(|mut stream| async move {
            let mut request = Vec::new();
            let _ = stream.read_to_end(&mut request).await;
            let _ = stream.write_all(&request).await;
        })
        .await;
        let keys = "replay = \"until_response\"\nreplay_buffer = \"16KiB\"\ncheck = { kind = \"none\" }\n\
                    timeouts = { idle = \"400ms\", half_close = \"400ms\", first_byte = \"400ms\" }\n\
                    bandwidth = { to_backend = \"16KiB/s\" }\n";
        let rig = Rig::with_backends(&[&backend.address().to_string()], &format!("{keys}{mode}")).await;
        let (request, began) = (vec![7; 20 << 10], Instant::now());
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        client.write_all(&request).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        soon("an answer", client.read_to_end(&mut answer)).await.unwrap();
        assert!(answer == request, "{name}: {} bytes", answer.len());
        let least = Duration::from_millis(1_000) - BURST;
        assert!(began.elapsed() >= least, "{name}: {:?}", began.elapsed());
        rig.until_no_sessions().await;
        assert_eq!(rig.ended(Outcome::Completed), 1, "{name}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn sessions_that_share_a_limit_have_even_parts() {
    for scope in ["client", "pool"] {
        let bench = Bench::new(MODES[0], Way::Down, &limited(Way::Down, "2MiB/s", scope)).await;
        let (mut clients, mut backends) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (client, backend) = bench.session().await;
            clients.push(client);
            backends.push(backend);
        }
        let began = Instant::now();
        let mut sending = tokio::task::JoinSet::new();
        for mut backend in backends {
            sending.spawn(async move { Pattern::new(9).write(&mut backend, 0, u64::MAX).await.is_err() });
        }
        let mut reading = tokio::task::JoinSet::new();
        for mut client in clients {
            reading.spawn(async move {
                let (there, mut bytes, mut buffer) = (Pattern::new(9), 0, vec![0; 65_536]);
                while began.elapsed() < Duration::from_secs(2) {
                    let n = client.read(&mut buffer).await.unwrap();
                    there.check(bytes, &buffer[..n]);
                    bytes += n as u64;
                }
                bytes
            });
        }
        let read = soon("two seconds", reading.join_all()).await;
        let all: u64 = read.iter().sum();
        assert!(all < 5 * MIB, "{scope}: {read:?}");
        assert!(read.iter().all(|bytes| *bytes > all / 6), "{scope}: {read:?}");
        sending.shutdown().await;
        bench.rig.until_no_sessions().await;
        assert_eq!(bench.rig.balancer().state().set().pools[0].bandwidth.clients(), 0);
        bench.rig.stop().await;
    }
}

/// The API says which direction was held up, and a metric for how long; a reload changes the rate of running sessions.
#[tokio::test]
async fn it_shows_and_a_reload_changes_it() {
    let backend = Backend::serving(|mut stream| async move {
        let _ = Pattern::new(3).write(&mut stream, 0, MIB).await;
    })
    .await;
    let text = |rate: &str| {
        format!(
            "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\n[pools.back]\nbackends = [\"{}\"]\n\
             check = {{ kind = \"none\" }}\n{rate}",
            backend.address()
        )
    };
    let rig = Rig::start(&text("bandwidth = { to_client = \"8KiB/s\" }")).await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    let there = Pattern::new(3);
    soon("some bytes", there.read(&mut client, 0, 2 * KIB)).await.unwrap();
    let listed = || async {
        let body = get_json(rig.admin(), "/api/v1/sessions").await;
        (body["sessions"][0]["throttled"] == serde_json::json!(["to_client"])).then_some(())
    };
    until("it is held up", listed).await;
    rig.reload(&text("bandwidth = { to_client = \"1GiB/s\" }")).await.unwrap();
    let rest = soon("the rest", there.read_to_last(&mut client, 2 * KIB)).await;
    assert_eq!(rest, Received { bytes: MIB, last: Last::Fin });
    drop(client);
    rig.until_no_sessions().await;
    let series = "evenkeel_pool_throttled_seconds_total{pool=\"back\",direction=\"to_client\"}";
    assert!(rig.metric(series).await > 0.05);
    let other = "evenkeel_pool_throttled_seconds_total{pool=\"back\",direction=\"to_backend\"}";
    assert_eq!(rig.metric(other).await, 0.0);
    rig.stop().await;
}
