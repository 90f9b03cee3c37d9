//! A reader that has stopped: what the kernels hold for it is bounded, whatever the source would send.

use tokio::io::AsyncWriteExt;

use crate::support::{Bench, Last, Pattern, Received, Way, both_ways, fill, until};

/// Bytes to be sent. A mebibyte is meant, and what is on its way to the reader's kernel; without a bound it comes to four.
const UNSENT: u32 = 2 << 20;

/// Bytes received. A mebibyte is meant, which may turn out to be up to two.
const UNREAD: u32 = 9 << 18;

/// What the balancer's kernel holds for the only session: received from the source, not acknowledged by the sink.
fn held(bench: &Bench) -> Option<(u32, u32)> {
    let workers = &bench.rig.balancer().state().workers;
    let [client, backend] = workers.tcp(workers.list_sessions().first()?.key)?;
    let (source, sink) = if bench.way == Way::Up { (client, backend) } else { (backend, client) };
    Some((source.receive_queue, sink.send_queue))
}

#[tokio::test]
async fn a_reader_that_never_reads_makes_the_kernels_hold_little() {
    both_ways("timeouts = { idle = \"1h\" }", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let there = Pattern::new(31);
        let sent = fill(&source, &there, 64 << 20).await;
        let (received, unacknowledged) = until("the session is shown", || async { held(bench) }).await;
        let case = format!("{} {:?}: {received} + {unacknowledged}", bench.mode, bench.way);
        assert!(unacknowledged < UNSENT, "{case}");
        // On the ring the kernel may receive half a mebibyte in one go, before anything can be bounded, and offers more for
        // that.
        let may_have_been_on_the_ring = ["auto", "io_uring"].contains(&bench.mode);
        assert!(received < UNREAD || may_have_been_on_the_ring, "{case}");
        // It is a bound, not the end: all arrives once it reads.
        let more = async {
            there.write(&mut source, sent, sent + (8 << 20)).await.unwrap();
            source.shutdown().await.unwrap();
        };
        let ((), received) = tokio::join!(more, there.read_to_last(&mut sink, 0));
        assert_eq!(received, Received { bytes: sent + (8 << 20), last: Last::Fin });
    })
    .await;
}
