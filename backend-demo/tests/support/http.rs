//! An HTTP/1.0 client for tests that uses none of the tested code.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "a module of several test binaries")]

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

pub const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub fn index(&self) -> u64 {
        self.header("x-consul-index").and_then(|text| text.parse().ok()).expect("an index")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// `None` if the connection was closed or reset without a complete reply.
pub async fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<Reply> {
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = timeout(LIMIT, async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(answer)
    });
    let text = String::from_utf8(answer.await.expect("an answer in time")?).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Reply { status, head: head.to_owned(), body: body.to_owned() })
}

pub async fn get(address: SocketAddr, path: &str) -> Reply {
    exchange(address, "GET", path, "").await.expect("a reply")
}

pub async fn put(address: SocketAddr, path: &str, body: &str) -> Reply {
    exchange(address, "PUT", path, body).await.expect("a reply")
}

/// Waits for a condition, bounded.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
