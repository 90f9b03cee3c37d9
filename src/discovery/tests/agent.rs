//! An agent whose answers the test gives, one question at a time.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::soon;

pub(super) struct Agent {
    pub(super) at: SocketAddr,
    /// What it says of the leader.
    pub(super) leader: watch::Sender<Leader>,
    asked: mpsc::UnboundedReceiver<Asked>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leader {
    Known,
    Unknown,
    /// 404, as by a proxy that lets through what it knows.
    Refused,
    /// No answer until it is another one.
    Silence,
}

/// A question that waits for its answer. Dropped, it ends the connection.
pub(super) struct Asked {
    /// What comes after `/v1/health/service/`.
    pub(super) path: String,
    answer: oneshot::Sender<Vec<u8>>,
}

impl Agent {
    pub(super) async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(super) fn on(listener: TcpListener) -> Self {
        let at = listener.local_addr().unwrap();
        let (questions, asked) = mpsc::unbounded_channel();
        let leader = watch::Sender::new(Leader::Known);
        let leaders = leader.subscribe();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, questions.clone(), leaders.clone()));
            }
        });
        Self { at, leader, asked, accepting }
    }

    pub(super) fn address(&self) -> String {
        format!("http://{}", self.at)
    }

    pub(super) async fn asked(&mut self) -> Asked {
        soon("question", self.asked.recv()).await.unwrap()
    }

    /// The next question, whenever it comes.
    pub(super) async fn wait(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Asked {
    pub(super) fn ok(self, index: u64, body: &str) {
        self.ok_with(index, "", body);
    }

    /// With more headers, each with its line's end.
    pub(super) fn ok_with(self, index: u64, headers: &str, body: &str) {
        self.raw(&format!(
            "HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\nX-Consul-Knownleader: false\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }

    pub(super) fn status(self, status: &str, body: &str) {
        self.raw(&format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    }

    pub(super) fn raw(self, bytes: &str) {
        // The one that asked may have left.
        let _ = self.answer.send(bytes.as_bytes().to_vec());
    }

    /// Whether the client that asked has left.
    pub(super) async fn left(mut self) {
        soon("end of the question", self.answer.closed()).await;
    }
}

async fn converse(stream: TcpStream, questions: mpsc::UnboundedSender<Asked>, mut leaders: watch::Receiver<Leader>) {
    let mut stream = BufStream::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let path = lines[0].trim_start_matches("GET /v1/health/service/").trim_end_matches(" HTTP/1.1").to_owned();
        let (answer, answered) = oneshot::channel();
        if path.contains("/v1/status/leader") {
            assert!(lines.iter().any(|line| line.eq_ignore_ascii_case("connection: close")), "{lines:?}");
            let leader = leaders.wait_for(|leader| *leader != Leader::Silence).await.map(|leader| *leader);
            let answer = Asked { path, answer };
            match leader {
                Ok(Leader::Known) => answer.ok(0, "\"127.0.0.1:8300\""),
                Ok(Leader::Unknown) => answer.ok(0, "\"\""),
                _ => answer.status("404 Not Found", "no such path"),
            }
        } else if questions.send(Asked { path, answer }).is_err() {
            return;
        }
        let bytes = tokio::select! {
            answered = answered => answered,
            // No pipelining: what can be read now is the end.
            _ = stream.fill_buf() => return,
        };
        let Ok(bytes) = bytes else { return };
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// An instance as Consul writes it.
pub(super) fn instance(id: &str, address: &str, status: &str) -> String {
    format!(
        r#"{{"Node":{{"ID":"","Node":"n","Address":"10.0.0.1","Meta":null}},
            "Service":{{"ID":"{id}","Service":"web","Tags":null,"Address":"{address}","Port":80,
                        "Weights":{{"Passing":2,"Warning":1}}}},
            "Checks":[{{"CheckID":"c","Name":"check","Status":"{status}","Output":"said so","ServiceID":"{id}"}}]}}"#
    )
}

pub(super) fn list(instances: &[String]) -> String {
    format!("[{}]", instances.join(","))
}

/// `ids`, all passing, at the node's address.
pub(super) fn passing(ids: &[&str]) -> String {
    list(&ids.iter().map(|id| instance(id, "", "passing")).collect::<Vec<_>>())
}
