//! An agent that says what a test wants it to say, and remembers what it was asked.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// For every wait: long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What an agent was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Such as `GET /v1/kv/a?index=1`.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What an agent does.
#[derive(Clone)]
pub(crate) enum Say {
    /// These bytes, then the next request.
    Bytes(Vec<u8>),
    /// These bytes, then the end of the connection.
    Last(Vec<u8>),
    /// Nothing, for ever.
    Nothing,
    /// That status, and a body without an end.
    Endless(&'static str),
}

/// An answer with these further header lines.
pub(crate) fn reply(status: &str, headers: &str, body: &str) -> Say {
    Say::Bytes(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len()).into_bytes())
}

pub(crate) fn ok(body: &str) -> Say {
    reply("200 OK", "", body)
}

#[derive(Clone)]
pub(crate) struct Agent {
    say: Say,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    gone: mpsc::UnboundedSender<()>,
}

impl Agent {
    /// And what tells the end of each of its connections.
    pub(crate) fn new(say: Say) -> (Self, mpsc::UnboundedReceiver<()>) {
        let (gone, ends) = mpsc::unbounded_channel();
        (Self { say, asked: Arc::default(), connections: Arc::default(), gone }, ends)
    }

    /// On TCP; the address is `http://…`.
    pub(crate) async fn start(say: Say) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (agent, _) = Self::new(say);
        tokio::spawn(agent.clone().accept(listener));
        (agent, address)
    }

    pub(crate) async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(self.clone().serve(stream));
        }
    }

    pub(crate) async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let _ = self.converse(BufStream::new(stream)).await;
        let _ = self.gone.send(());
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    async fn converse(&self, mut stream: BufStream<impl AsyncRead + AsyncWrite + Unpin>) -> std::io::Result<()> {
        while let Some(asked) = read_request(&mut stream).await? {
            self.asked.lock().unwrap().push(asked);
            match &self.say {
                Say::Bytes(bytes) => stream.write_all(bytes).await?,
                Say::Last(bytes) => {
                    stream.write_all(bytes).await?;
                    return stream.shutdown().await;
                }
                Say::Nothing => {
                    // Until the client leaves.
                    stream.read_u8().await?;
                    pending::<()>().await;
                }
                Say::Endless(status) => {
                    let head = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n");
                    stream.write_all(head.as_bytes()).await?;
                    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
                    loop {
                        stream.write_all(&chunk).await?;
                    }
                }
            }
            stream.flush().await?;
        }
        Ok(())
    }
}

async fn read_request(stream: &mut BufStream<impl AsyncRead + AsyncWrite + Unpin>) -> std::io::Result<Option<Asked>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: Vec<_> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let line = lines[0].trim_end_matches(" HTTP/1.1").to_owned();
    Ok(Some(Asked { line, headers, body: String::from_utf8_lossy(&body).into_owned() }))
}
