//! The admin listener: its answers besides metrics, also when the front is full.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, Rig, exchange, get, soon, until};

#[tokio::test]
async fn the_admin_listener_answers_live_and_an_index_and_nothing_unknown() {
    let backend = Backend::echo().await;
    let rig = Rig::with_backends(&[&backend.address().to_string()], "").await;
    assert_eq!(get(rig.admin(), "/live").await.unwrap(), (200, "live\n".to_owned()));
    let (status, index) = get(rig.admin(), "/").await.unwrap();
    assert_eq!(status, 200);
    for path in ["/metrics", "/live", "/ready", "/api/v1/pools", "/api/v1/config"] {
        assert!(index.contains(&format!("\n{path} ")), "{index}");
        let status = until("an answer", || async { get(rig.admin(), path).await.ok() }).await.0;
        assert!(status == 200 || path == "/ready", "{path}: {status}");
    }
    for path in
        ["/nothing", "/live/", "/api/v1", "/api/v1/pools/none", "/api/v1/backends/back", "/../etc/passwd", "/%00"]
    {
        assert_eq!(get(rig.admin(), path).await.unwrap().0, 404, "{path}");
    }
    let mut stream = TcpStream::connect(rig.admin()).await.unwrap();
    stream
        .write_all(b"POST /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    rig.stop().await;
}

#[tokio::test]
async fn bytes_that_are_not_http_do_no_harm() {
    let backend = Backend::echo().await;
    let rig = Rig::with_backends(&[&backend.address().to_string()], "").await;
    // One that says nothing stays open meanwhile.
    let _silent = TcpStream::connect(rig.admin()).await.unwrap();
    for request in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET\r\n\r\n", &[0xff; 100_000]] {
        let mut stream = TcpStream::connect(rig.admin()).await.unwrap();
        // Refused while it is still being written, perhaps.
        let _ = stream.write_all(request).await;
        let _ = stream.shutdown().await;
        let _ = soon("the end", stream.read_to_end(&mut Vec::new())).await;
    }
    assert_eq!(get(rig.admin(), "/live").await.unwrap().0, 200);
    rig.stop().await;
}

#[tokio::test]
async fn the_admin_listener_answers_while_all_front_slots_are_taken() {
    let backend = Backend::echo().await;
    let text = format!(
        "max_connections = 2\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\nbackends = [\"{}\"]\n",
        backend.address()
    );
    let rig = Rig::start(&text).await;
    let mut live = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(rig.front()).await.unwrap();
        stream.write_all(b"!").await.unwrap();
        soon("an echo", stream.read_exact(&mut [0])).await.unwrap();
        live.push(stream);
    }
    let waiting = tokio::spawn(exchange(rig.front(), b"waits"));
    rig.until_metric("evenkeel_listener_at_limit{listener=\"front\"}", 1.0).await;
    assert_eq!(rig.metric("evenkeel_listener_sessions{listener=\"front\"}").await, 2.0);
    assert_eq!(get(rig.admin(), "/live").await.unwrap().0, 200);
    assert_eq!(get(rig.admin(), "/ready").await.unwrap().0, 200);
    assert_eq!(rig.backend(&backend.address().to_string()).await.unwrap()["standing"], "up");
    drop(live.pop());
    assert_eq!(waiting.await.unwrap().unwrap(), b"waits");
    drop(live);
    rig.until_no_sessions().await;
    rig.stop().await;
}
