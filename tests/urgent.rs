//! Urgent data (TCP's MSG_OOB: Oracle's break, FTP's ABOR): every ordinary byte arrives, whatever way it is relayed. The
//! urgent byte itself is not passed on.

use evenkeel::metrics::Outcome;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Pattern, both_ways, fill};

/// In no ordinary data here.
const URGENT: u8 = b'!';

/// Writes ordinary bytes.
async fn say(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}

/// Writes one urgent byte.
async fn urge(stream: &TcpStream) {
    loop {
        stream.writable().await.unwrap();
        let urge = || SockRef::from(stream).send_out_of_band(&[URGENT]);
        match stream.try_io(tokio::io::Interest::WRITABLE, urge) {
            Ok(sent) => return assert_eq!(sent, 1),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Ordinary data: the urgent byte is not in it.
fn ordinary(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Pattern::new(seed).piece(0, length as u64).to_vec();
    while bytes.len() < length {
        let more = Pattern::new(seed).piece(bytes.len() as u64, (length - bytes.len()) as u64).to_vec();
        bytes.extend(more);
    }
    bytes.iter_mut().filter(|byte| **byte == URGENT).for_each(|byte| *byte = b'.');
    bytes
}

/// What arrived but for urgent bytes: TCP knows one at a time, and makes an ordinary one of an older one that no program has
/// read by then.
fn without_urgent(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.retain(|byte| *byte != URGENT);
    bytes
}

/// In the middle of bulk, and right before the end.
#[tokio::test]
async fn urgent_bytes_in_bulk() {
    both_ways("timeouts = { idle = \"5s\" }", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let (first, second) = (ordinary(1, 2_000_000), ordinary(2, 2_000_000));
        let send = async {
            say(&mut source, &first).await;
            urge(&source).await;
            say(&mut source, &second).await;
            urge(&source).await;
            say(&mut source, b"end").await;
            source.shutdown().await.unwrap();
        };
        let mut arrived = Vec::new();
        let ((), read) = tokio::join!(send, sink.read_to_end(&mut arrived));
        read.unwrap();
        let arrived = without_urgent(arrived);
        assert_eq!(arrived.len(), 4_000_003, "{} {:?}", bench.mode, bench.way);
        assert!(arrived == [&*first, &*second, b"end"].concat());
        drop((source, sink));
        bench.ended(Outcome::Completed, 1).await;
    })
    .await;
}

/// With more behind it, and nothing that comes later: both sides stay open, and wait for each other.
#[tokio::test]
async fn urgent_bytes_in_messages() {
    both_ways("timeouts = { idle = \"1h\" }", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        source.set_nodelay(true).unwrap();
        for round in 0..20 {
            say(&mut source, b"ab").await;
            urge(&source).await;
            say(&mut source, b"cd").await;
            // Of several, the last one.
            if round % 2 == 1 {
                urge(&source).await;
                urge(&source).await;
                say(&mut source, b"ef").await;
            }
            let expected: &[u8] = if round % 2 == 1 { b"abcdef" } else { b"abcd" };
            let mut arrived = Vec::new();
            while arrived.len() < expected.len() {
                let mut some = [0; 100];
                let read = sink.read(&mut some).await.unwrap();
                assert!(read > 0);
                arrived.extend(without_urgent(some[..read].to_vec()));
            }
            assert_eq!(arrived, expected, "{} {:?} {round}", bench.mode, bench.way);
            say(&mut sink, b"yes").await;
            let mut answer = [0; 3];
            source.read_exact(&mut answer).await.unwrap();
        }
        // The last thing before FIN.
        say(&mut source, b"bye").await;
        urge(&source).await;
        source.shutdown().await.unwrap();
        let mut arrived = Vec::new();
        sink.read_to_end(&mut arrived).await.unwrap();
        assert_eq!(without_urgent(arrived), b"bye");
        drop((source, sink));
        bench.ended(Outcome::Completed, 1).await;
    })
    .await;
}

/// Behind bytes that wait for a slow reader: the mark is met whole, with what is behind it and FIN.
#[tokio::test]
async fn urgent_bytes_behind_a_stalled_reader() {
    both_ways("timeouts = { idle = \"5s\" }", async |bench| {
        let (mut source, mut sink) = bench.ends().await;
        let there = Pattern::new(3);
        // Not so full that the end does not fit.
        let mut sent = fill(&source, &there, 6 << 20).await as usize;
        let mut expected = Vec::new();
        while expected.len() < sent {
            expected.extend_from_slice(there.piece(expected.len() as u64, (sent - expected.len()) as u64));
        }
        let finish = async {
            urge(&source).await;
            let more = ordinary(4, 100_000);
            say(&mut source, &more).await;
            source.shutdown().await.unwrap();
            more
        };
        let mut arrived = Vec::new();
        let (more, read) = tokio::join!(finish, sink.read_to_end(&mut arrived));
        read.unwrap();
        expected.extend(more);
        sent = expected.len();
        let (arrived, expected) = (without_urgent(arrived), without_urgent(expected));
        assert!(arrived == expected, "{} {:?}: {} of {sent}", bench.mode, bench.way, arrived.len());
        drop((source, sink));
        bench.ended(Outcome::Completed, 1).await;
    })
    .await;
}
