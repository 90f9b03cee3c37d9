//! What was read of a client reaches its backend, all of it and once, whatever stands between.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::support::MODES;

/// Bytes that differ everywhere.
fn noise(count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(11);
    (0..count).map(|_| random.u8(..)).collect()
}

/// Sends in pieces, then FIN; everything has to come back from an echo.
async fn comes_back(rig: &Rig, pieces: &[&[u8]], what: &str) {
    let stream = connect(rig).await;
    let (mut read, mut write) = stream.into_split();
    let whole = pieces.concat();
    let mut back = Vec::new();
    let send = async {
        for piece in pieces {
            write.write_all(piece).await.unwrap();
            // So that they are different segments, mostly.
            tokio::task::yield_now().await;
        }
        write.shutdown().await.unwrap();
    };
    soon(what, async { tokio::join!(send, read.read_to_end(&mut back)).1.unwrap() }).await;
    assert!(back == whole, "{what}: {} of {} bytes", back.len(), whole.len());
}

#[tokio::test]
async fn a_hello_in_any_pieces_and_what_follows_it_in_every_relay() {
    for &(mode, relay) in MODES {
        let (echo, other) = (Backend::echo().await, Backend::answering("other").await);
        let pools = [pool("echo", &echo, relay), pool("other", &other, relay)];
        let rig = routed("pool = \"other\"\nroutes = [{ sni = \"a.example\", pool = \"echo\" }]", &pools).await;
        let (hello, rest) = (hello("a.example"), noise(300_000));
        comes_back(&rig, &[&hello], &format!("{mode}: a hello")).await;
        comes_back(&rig, &[&hello, &rest], &format!("{mode}: a hello and more")).await;
        comes_back(&rig, &[&[&hello[..], &rest[..]].concat()], &format!("{mode}: in one piece")).await;
        let bytes: Vec<&[u8]> = hello.chunks(1).collect();
        comes_back(&rig, &[&bytes[..], &[&rest]].concat(), &format!("{mode}: byte by byte")).await;
        // A hello of several KiB, as post-quantum ones are, in two records.
        let large = Shape::named("a.example").with(51, noise(6_000));
        let records = shape::records(&large.message(), 1_000);
        comes_back(&rig, &[&records[..3], &records[3..1_100], &records[1_100..], &rest], &format!("{mode}: large"))
            .await;
        rig.until_no_sessions().await;
        rig.stop().await;
    }
}
