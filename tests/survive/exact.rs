//! A property of replays: whatever backends do, and in whatever pieces it comes, all bytes that a client gets are from one
//! backend, are a prefix of what that one sends, and end in FIN only if that one finished.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::NO_HEALTH;
use crate::support::{Backend, MODES, Rig, reset, seeds, soon};

/// The first byte of an answer names the connection that sent it, the second how long it is.
const HEAD: u64 = 16;

/// Instead of a connection: a request was not what its client had sent.
const WRONG: u64 = 0;

/// What a backend did on one connection: the bytes of its answer, and whether it sent FIN behind them.
type Deeds = Arc<Mutex<HashMap<u64, (u64, bool)>>>;

fn byte(of: u64, at: u64) -> u8 {
    (of.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(at).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 29) as u8
}

fn piece(of: u64, from: u64, to: u64) -> Vec<u8> {
    (from..to).map(|at| byte(of, at)).collect()
}

/// Reads some of the request, answers some, and ends somehow; the request is checked wherever it is read.
async fn serve(mut stream: TcpStream, mut random: fastrand::Rng, deeds: Deeds) {
    if random.u8(..8) == 0 {
        return if random.bool() { reset(stream) } else { drop(stream) };
    }
    let mut head = [0; HEAD as usize];
    if stream.read_exact(&mut head).await.is_err() {
        return;
    }
    let (request, size) =
        (u64::from_le_bytes(head[..8].try_into().unwrap()), u64::from_le_bytes(head[8..].try_into().unwrap()));
    let most = match random.u8(..4) {
        0 => 0,
        1 => random.u64(..=size),
        _ => size,
    };
    let mut got = 0;
    while got < most {
        let mut some = vec![0; random.usize(1..5_000).min((most - got) as usize)];
        match stream.read(&mut some).await {
            Ok(n) if n > 0 => {
                if some[..n] != piece(request, got, got + n as u64) {
                    deeds.lock().unwrap().insert(WRONG, (got, false));
                }
                got += n as u64;
            }
            _ => return,
        }
    }
    match random.u8(..6) {
        0 => return reset(stream),
        1 => return drop(stream),
        // Silent, until it is cut.
        2 => {
            while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
            return tokio::time::sleep(Duration::from_secs(60)).await;
        }
        _ => {}
    }
    let (id, length) = (random.u64(WRONG + 1..), random.u64(..60_000));
    deeds.lock().unwrap().insert(id, (HEAD + length, false));
    let mut answer = id.to_le_bytes().to_vec();
    answer.extend(length.to_le_bytes());
    answer.extend(piece(id, 0, length));
    let is_whole = random.u8(..4) > 0;
    let end = if is_whole { answer.len() } else { random.usize(1..=answer.len()) };
    let mut sent = 0;
    while sent < end {
        let n = random.usize(1..8_000).min(end - sent);
        if stream.write_all(&answer[sent..sent + n]).await.is_err() {
            return;
        }
        sent += n;
        if random.u8(..4) == 0 {
            tokio::task::yield_now().await;
        }
    }
    if !is_whole && random.bool() {
        return reset(stream);
    }
    deeds.lock().unwrap().insert(id, (end as u64, true));
    let _ = stream.shutdown().await;
    // What the client still sends; unread, it would make a reset of this end.
    while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
}

/// One client; what it got, and whether FIN was behind it.
async fn ask(front: std::net::SocketAddr, mut random: fastrand::Rng) -> (Vec<u8>, bool) {
    let (mut reads, mut writes) = TcpStream::connect(front).await.unwrap().into_split();
    let (request, size) = (random.u64(..), random.u64(..12_000));
    let mut said = request.to_le_bytes().to_vec();
    said.extend(size.to_le_bytes());
    said.extend(piece(request, 0, size));
    let finishes = random.bool();
    let send = async {
        let mut sent = 0;
        while sent < said.len() {
            let n = random.usize(1..4_000).min(said.len() - sent);
            if writes.write_all(&said[sent..sent + n]).await.is_err() {
                return true;
            }
            sent += n;
            if random.u8(..3) == 0 {
                tokio::time::sleep(Duration::from_micros(random.u64(..2_000))).await;
            }
        }
        finishes && writes.shutdown().await.is_err()
    };
    let receive = async {
        let (mut got, mut some) = (Vec::new(), [0; 4_096]);
        loop {
            match reads.read(&mut some).await {
                Ok(0) => return (got, true),
                Ok(n) => got.extend_from_slice(&some[..n]),
                Err(_) => return (got, false),
            }
        }
    };
    // An error is said once: a reader behind a writer that has heard it sees an end like any other.
    let (was_told, (got, fin)) = tokio::join!(send, receive);
    (got, fin && !was_told)
}

#[tokio::test]
async fn a_client_never_gets_bytes_of_two_backends() {
    let mut answered = 0;
    for seed in seeds(1, 1) {
        for (name, mode) in MODES {
            let mut random = fastrand::Rng::with_seed(seed);
            let deeds = Deeds::default();
            let mut backends = Vec::new();
            for _ in 0..4 {
                let (fork, deeds) = (Mutex::new(random.fork()), Arc::clone(&deeds));
                backends.push(
                    Backend::serving(move |stream| serve(stream, fork.lock().unwrap().fork(), Arc::clone(&deeds)))
                        .await,
                );
            }
            let addresses: Vec<String> = backends.iter().map(|backend| backend.address().to_string()).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let more = format!(
                "replay = \"until_response\"\nreplay_buffer = \"8KiB\"\ntimeouts = {{ first_byte = \"500ms\" }}\n\
                 connect = {{ attempts = 4, retry_budget = 1000 }}\n{NO_HEALTH}{mode}"
            );
            let rig = Rig::with_backends(&addresses, &more).await;
            let mut clients = JoinSet::new();
            for _ in 0..60 {
                clients.spawn(ask(rig.front(), random.fork()));
            }
            while let Some(received) = soon("all of them", clients.join_next()).await {
                let (got, fin) = received.unwrap();
                if got.len() < HEAD as usize {
                    continue;
                }
                let id = u64::from_le_bytes(got[..8].try_into().unwrap());
                let (sent, finished) = deeds.lock().unwrap()[&id];
                assert!(got.len() as u64 <= sent, "{name}: more than it sent");
                let body = &got[HEAD as usize..];
                assert!(body == piece(id, 0, body.len() as u64), "{name}: not what it sent");
                assert!(
                    !fin || (finished && got.len() as u64 == sent),
                    "{name}: FIN after {} of {sent} ({finished})",
                    got.len()
                );
                answered += 1;
            }
            rig.until_no_sessions().await;
            assert_eq!(deeds.lock().unwrap().get(&WRONG), None, "{name}: a request that nobody sent");
            rig.stop().await;
        }
    }
    assert!(answered > 0);
}
