//! The relay, in every mode and both ways: what one end sends, and how it ends, is what the other end gets.

use std::time::Duration;

use evenkeel::metrics::{Direction, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::support::{
    Bench, Last, MODES, Pattern, Received, Way, both_ways, fill, pending_error, reset, seeds, soon, until,
};

const MIB: u64 = 1 << 20;

/// More than sockets hold of a stream that is not read.
const TOO_MUCH: u64 = 256 * MIB;

/// All of it arrives, then FIN; the same back; the counts are exact.
async fn all_arrives(bench: &Bench, size: u64) {
    let (mut source, mut sink) = bench.ends().await;
    let (there, back) = (Pattern::new(size), Pattern::new(size + 1));
    let send = async {
        there.write(&mut source, 0, size).await.unwrap();
        source.shutdown().await.unwrap();
    };
    let ((), received) = tokio::join!(send, there.read_to_last(&mut sink, 0));
    assert_eq!(received, Received { bytes: size, last: Last::Fin });
    // The other direction goes on after the first FIN.
    let send = async {
        back.write(&mut sink, 0, size / 2).await.unwrap();
        sink.shutdown().await.unwrap();
    };
    let ((), received) = tokio::join!(send, back.read_to_last(&mut source, 0));
    assert_eq!(received, Received { bytes: size / 2, last: Last::Fin });
    bench.rig.until_no_sessions().await;
}

#[tokio::test]
async fn sizes_around_the_buffer() {
    both_ways("", async |bench| {
        let sizes = [0, 1, 100, 65_535, 65_536, 65_537, MIB + 3];
        for size in sizes {
            all_arrives(bench, size).await;
        }
        bench.ended(Outcome::Completed, sizes.len() as u64).await;
        assert_eq!(bench.bytes(bench.way.direction()), sizes.iter().sum::<u64>());
        assert_eq!(bench.bytes(bench.way.back()), sizes.iter().map(|size| size / 2).sum::<u64>());
    })
    .await;
}

#[tokio::test]
async fn bulk() {
    both_ways("", async |bench| {
        all_arrives(bench, 32 * MIB).await;
        bench.ended(Outcome::Completed, 1).await;
        assert_eq!(bench.bytes(bench.way.direction()), 32 * MIB);
        assert_eq!(bench.bytes(bench.way.back()), 16 * MIB);
    })
    .await;
}

#[tokio::test]
async fn both_directions_at_once() {
    both_ways("", async |bench| {
        let (source, sink) = bench.ends().await;
        let (there, back) = (Pattern::new(1), Pattern::new(2));
        let ((mut source_reads, mut source_writes), (mut sink_reads, mut sink_writes)) =
            (source.into_split(), sink.into_split());
        let ((), (), one, other) = tokio::join!(
            async {
                there.write(&mut source_writes, 0, 8 * MIB + 1).await.unwrap();
                source_writes.shutdown().await.unwrap();
            },
            async {
                back.write(&mut sink_writes, 0, 5 * MIB + 7).await.unwrap();
                sink_writes.shutdown().await.unwrap();
            },
            there.read_to_last(&mut sink_reads, 0),
            back.read_to_last(&mut source_reads, 0),
        );
        assert_eq!(one, Received { bytes: 8 * MIB + 1, last: Last::Fin });
        assert_eq!(other, Received { bytes: 5 * MIB + 7, last: Last::Fin });
        bench.ended(Outcome::Completed, 1).await;
    })
    .await;
}

#[tokio::test]
async fn messages_go_to_and_fro_and_counters_advance() {
    both_ways("", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let (there, back) = (Pattern::new(1), Pattern::new(2));
        for n in 0..200 {
            there.write(&mut source, n * 64, n * 64 + 64).await.unwrap();
            there.read(&mut sink, n * 64, n * 64 + 64).await.unwrap();
            back.write(&mut sink, n * 10, n * 10 + 10).await.unwrap();
            back.read(&mut source, n * 10, n * 10 + 10).await.unwrap();
            if n % 50 == 0 {
                let counted = || async {
                    let bytes = (bench.bytes(bench.way.direction()), bench.bytes(bench.way.back()));
                    (bytes == (n * 64 + 64, n * 10 + 10)).then_some(())
                };
                until("counters that advance during the session", counted).await;
            }
        }
        assert_eq!(bench.rig.balancer().state().sessions(), 1);
        drop((source, sink));
        bench.ended(Outcome::Completed, 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_stalls_the_sender_and_loses_nothing() {
    both_ways("", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let (there, back) = (Pattern::new(3), Pattern::new(4));
        let taken = fill(&source, &there, TOO_MUCH).await;
        assert!(taken < TOO_MUCH, "nothing held the sender back");
        // The other direction is not held up by it.
        back.write(&mut sink, 0, 100_000).await.unwrap();
        back.read(&mut source, 0, 100_000).await.unwrap();
        source.shutdown().await.unwrap();
        assert_eq!(there.read_to_last(&mut sink, 0).await, Received { bytes: taken, last: Last::Fin });
        drop((source, sink));
        bench.ended(Outcome::Completed, 1).await;
        assert_eq!(bench.bytes(bench.way.direction()), taken);
    })
    .await;
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    both_ways("", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let there = Pattern::new(5);
        there.write(&mut source, 0, 100_000).await.unwrap();
        there.read(&mut sink, 0, 100_000).await.unwrap();
        reset(source);
        let received = there.read_to_last(&mut sink, 100_000).await;
        assert_eq!(received, Received { bytes: 100_000, last: Last::Reset });
        bench.ended(bench.way.source_reset(), 1).await;
        assert_eq!(bench.bytes(bench.way.direction()), 100_000);
    })
    .await;
}

#[tokio::test]
async fn a_reset_before_any_byte() {
    both_ways("", async |bench| {
        let (source, mut sink) = bench.ends().await;
        reset(source);
        assert_eq!(Pattern::new(0).read_to_last(&mut sink, 0).await, Received { bytes: 0, last: Last::Reset });
        bench.ended(bench.way.source_reset(), 1).await;
    })
    .await;
}

/// What was read before the reset is still written: an exact prefix arrives, then a reset, never FIN.
#[tokio::test]
async fn a_reset_behind_bytes_that_wait() {
    both_ways("", async |bench| {
        let (source, mut sink) = bench.ends().await;
        let there = Pattern::new(6);
        let taken = fill(&source, &there, TOO_MUCH).await;
        let written = bench.bytes(bench.way.direction());
        reset(source);
        let received = there.read_to_last(&mut sink, 0).await;
        assert_eq!(received.last, Last::Reset);
        assert!(received.bytes <= taken);
        bench.ended(bench.way.source_reset(), 1).await;
        let counted = bench.bytes(bench.way.direction());
        assert!(written <= counted && received.bytes <= counted && counted <= taken);
    })
    .await;
}

/// The peer of a source that was reset never reads: that is noticed, and ends within the half-close limit.
#[tokio::test]
async fn a_reset_is_noticed_while_the_peer_does_not_read() {
    both_ways("timeouts = { idle = \"1h\", half_close = \"300ms\" }", async |bench| {
        let (source, mut sink) = bench.ends().await;
        let there = Pattern::new(7);
        let taken = fill(&source, &there, TOO_MUCH).await;
        reset(source);
        bench.ended(Outcome::HalfCloseTimeout, 1).await;
        let received = there.read_to_last(&mut sink, 0).await;
        assert_eq!(received.last, Last::Reset);
        assert!(received.bytes <= taken);
    })
    .await;
}

/// The one that does not read resets: the sender hears of it.
#[tokio::test]
async fn the_sender_sees_the_reset_of_a_peer_that_does_not_read() {
    both_ways("", async |bench| {
        let (mut source, sink) = bench.ends().await;
        let there = Pattern::new(8);
        fill(&source, &there, TOO_MUCH).await;
        reset(sink);
        assert_eq!(Pattern::new(0).read_to_last(&mut source, 0).await, Received { bytes: 0, last: Last::Reset });
        bench.ended(bench.way.sink_reset(), 1).await;
    })
    .await;
}

/// Its FIN came first and was passed on: the stream was complete, and the other end must not see it as cut.
#[tokio::test]
async fn a_reset_after_fin_closes_the_other_end_normally() {
    both_ways("", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let there = Pattern::new(9);
        there.write(&mut source, 0, 10_000).await.unwrap();
        source.shutdown().await.unwrap();
        assert_eq!(there.read_to_last(&mut sink, 0).await, Received { bytes: 10_000, last: Last::Fin });
        reset(source);
        bench.ended(bench.way.source_reset(), 1).await;
        assert!(pending_error(&sink).is_none(), "a reset after FIN");
        assert_eq!(sink.read(&mut [0; 10]).await.unwrap(), 0);
    })
    .await;
}

/// The source has finished and waits for an answer; the sink, which has been sent FIN, resets.
#[tokio::test]
async fn a_reset_while_half_closed() {
    both_ways("", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let (there, back) = (Pattern::new(10), Pattern::new(11));
        source.shutdown().await.unwrap();
        assert_eq!(there.read_to_last(&mut sink, 0).await, Received { bytes: 0, last: Last::Fin });
        back.write(&mut sink, 0, 5_000).await.unwrap();
        back.read(&mut source, 0, 5_000).await.unwrap();
        reset(sink);
        assert_eq!(back.read_to_last(&mut source, 5_000).await, Received { bytes: 5_000, last: Last::Reset });
        bench.ended(bench.way.sink_reset(), 1).await;
    })
    .await;
}

/// Blocked in the one direction, half-closed in the other: the reset of the one that has finished shows on no read.
#[tokio::test]
async fn a_reset_while_half_closed_and_blocked() {
    both_ways("timeouts = { half_close = \"1h\" }", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let back = Pattern::new(12);
        source.shutdown().await.unwrap();
        assert_eq!(back.read_to_last(&mut sink, 0).await, Received { bytes: 0, last: Last::Fin });
        fill(&sink, &back, TOO_MUCH).await;
        reset(source);
        bench.ended(bench.way.source_reset(), 1).await;
    })
    .await;
}

/// A server that answers early and closes with the request unread (its kernel then resets): the answer, which had
/// arrived before the reset, reaches the other end, then the reset.
#[tokio::test]
async fn an_early_answer_with_the_request_unread() {
    both_ways("", async |bench| {
        for _ in 0..20 {
            let (mut source, mut sink) = bench.ends().await;
            let (there, back) = (Pattern::new(13), Pattern::new(14));
            fill(&source, &there, 8 * MIB).await;
            back.write(&mut sink, 0, 3_000).await.unwrap();
            drop(sink);
            assert_eq!(back.read_to_last(&mut source, 0).await, Received { bytes: 3_000, last: Last::Reset });
        }
        bench.ended(bench.way.sink_reset(), 20).await;
    })
    .await;
}

/// Sessions side by side never get each other's bytes, whatever the pieces and pauses.
#[tokio::test]
async fn random_pieces_and_pauses() {
    for seed in seeds(2, 1) {
        for &mode in MODES {
            let bench = Bench::new(mode, Way::Up, "").await;
            let mut random = fastrand::Rng::with_seed(seed);
            let mut sessions = tokio::task::JoinSet::new();
            let (mut up, mut down) = (0, 0);
            for _ in 0..12 {
                let (client, backend) = bench.session().await;
                let ((client_reads, client_writes), (backend_reads, backend_writes)) =
                    (client.into_split(), backend.into_split());
                for (writes, reads, total) in
                    [(client_writes, backend_reads, &mut up), (backend_writes, client_reads, &mut down)]
                {
                    let (size, pattern) = (random.u64(..2 * MIB), random.u64(..));
                    *total += size;
                    sessions.spawn(send_in_pieces(writes, pattern, size, random.fork()));
                    sessions.spawn(receive_in_pieces(reads, pattern, size, random.fork()));
                }
            }
            soon("all of them", async {
                while let Some(result) = sessions.join_next().await {
                    result.unwrap();
                }
            })
            .await;
            bench.ended(Outcome::Completed, 12).await;
            assert_eq!((bench.bytes(Direction::ToBackend), bench.bytes(Direction::ToClient)), (up, down));
            bench.rig.stop().await;
        }
    }
}

async fn send_in_pieces(mut target: OwnedWriteHalf, pattern: u64, size: u64, mut random: fastrand::Rng) {
    let pattern = Pattern::new(pattern);
    let mut sent = 0;
    while sent < size {
        let longest = 1 << random.u32(..20);
        let piece = random.u64(1..=longest).min(size - sent);
        pattern.write(&mut target, sent, sent + piece).await.unwrap();
        sent += piece;
        pause(&mut random).await;
    }
    target.shutdown().await.unwrap();
}

async fn receive_in_pieces(mut source: OwnedReadHalf, pattern: u64, size: u64, mut random: fastrand::Rng) {
    let pattern = Pattern::new(pattern);
    let mut got = 0;
    while got < size {
        let longest = 1 << random.u32(..20);
        let piece = random.u64(1..=longest).min(size - got);
        pattern.read(&mut source, got, got + piece).await.unwrap();
        got += piece;
        pause(&mut random).await;
    }
    assert_eq!(source.read(&mut [0]).await.unwrap(), 0, "more than was sent");
}

async fn pause(random: &mut fastrand::Rng) {
    match random.u8(..8) {
        0 => tokio::time::sleep(Duration::from_micros(random.u64(..3_000))).await,
        1 | 2 => tokio::task::yield_now().await,
        _ => {}
    }
}
