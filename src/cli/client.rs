//! Talks to a running balancer: over its socket or TCP, one connection a request. The commands' door to hyper.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::Failure;
use crate::config::{self, AccessToken};

/// For a connect: it is near, or it is not there.
const CONNECT: Duration = Duration::from_secs(5);

/// For a whole answer: longer than the balancer itself takes before it gives up.
const ANSWER: Duration = Duration::from_secs(15);

/// Where a balancer is, and what it wants to hear.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// In the order in which they are tried.
    ways: Vec<Way>,
    token: Option<String>,
    /// What told us where, for errors.
    told_by: String,
}

#[derive(Clone, Debug)]
enum Way {
    Socket(PathBuf),
    /// `host:port`
    Tcp(String),
}

impl Client {
    /// As `--admin` says, or else the configuration file.
    pub(super) fn new(admin: Option<&str>, config: &Path) -> Result<Self, Failure> {
        let token = std::env::var("EVENKEEL_TOKEN").ok().filter(|token| !token.is_empty());
        if let Some(text) = admin.filter(|text| !text.is_empty()) {
            return Ok(Self { ways: vec![way(text)?], token, told_by: "--admin or $EVENKEEL_ADMIN".to_owned() });
        }
        let told_by = config.display().to_string();
        let admin = match config::load(config) {
            Ok(config) => config.admin,
            Err(error) => {
                let Failure::Config(text) = Failure::from(error) else { return Err(Failure::Config(told_by)) };
                return Err(Failure::Config(format!(
                    "{text}\n--admin URL or $EVENKEEL_ADMIN says where the balancer is, too"
                )));
            }
        };
        let mut ways: Vec<Way> = admin.socket.into_iter().map(Way::Socket).collect();
        if let Some(mut bind) = admin.bind.filter(|bind| bind.port() != 0) {
            if bind.ip().is_unspecified() {
                bind.set_ip(if bind.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
            }
            ways.push(Way::Tcp(bind.to_string()));
        }
        if ways.is_empty() {
            let error =
                format!("{told_by} has neither admin.socket nor an admin.bind with a port of its own; say --admin URL");
            return Err(Failure::Config(error));
        }
        let written = token.or_else(|| token_of(admin.admin_token.or(admin.read_token)?));
        Ok(Self { ways, token: written, told_by })
    }

    /// What is there.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, path, String::new()).await
    }

    /// The same, as what it is.
    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        known(self.get(path).await?)
    }

    /// Changes something.
    pub(super) async fn change(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(method, path, body.to_string()).await
    }

    /// An answer that goes on.
    pub(super) async fn follow(&self, path: &str) -> Result<Incoming, Failure> {
        let response = self.send(Method::GET, path, String::new()).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(refused(response.status().as_u16(), &whole(response.into_body()).await?))
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> Result<Value, Failure> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let bytes = whole(response.into_body()).await?;
            if !status.is_success() {
                return Err(refused(status.as_u16(), &bytes));
            }
            serde_json::from_slice(&bytes).map_err(|_| strange())
        };
        timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(runtime("the balancer does not answer")))
    }

    async fn send(&self, method: Method, path: &str, body: String) -> Result<Response<Incoming>, Failure> {
        let mut tried = String::new();
        for way in &self.ways {
            let connected =
                timeout(CONNECT, way.connect()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match connected {
                Ok(stream) => return self.talk(stream, way, method, path, body).await,
                Err(error) => {
                    let nor = if tried.is_empty() { "" } else { ", nor at " };
                    tried += &format!("{nor}{way}: {error}");
                }
            }
        }
        let error =
            format!("the balancer can't be reached at {tried} ({} says where it is); does it run?", self.told_by);
        Err(runtime(&error))
    }

    async fn talk(
        &self,
        stream: Box<dyn Stream>,
        way: &Way,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Response<Incoming>, Failure> {
        let broken =
            |error: hyper::Error| Failure::Runtime(anyhow::Error::from(error).context("the balancer's answer"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the request, or with what is asked of its answer.
        tokio::spawn(connection);
        let host = match way {
            Way::Socket(_) => "localhost",
            Way::Tcp(authority) => authority,
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| Failure::Runtime(error.into()))?;
        sender.send_request(request).await.map_err(broken)
    }
}

/// What an answer is, if it is what it should be.
pub(super) fn known<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|_| strange())
}

/// A part of a path.
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn way(text: &str) -> Result<Way, Failure> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
    if let Some(path) = path.or_else(|| text.contains('/').then_some(text).filter(|text| !text.contains("://"))) {
        return Ok(Way::Socket(PathBuf::from(path)));
    }
    let wrong = |why: &str| {
        let error =
            format!("--admin \"{}\": {why}; write http://127.0.0.1:9900, or the path of a socket", text.escape_debug());
        Failure::Config(error)
    };
    let authority = match text.split_once("://") {
        Some(("http", rest)) => rest.trim_end_matches('/'),
        Some(_) => return Err(wrong("only http is spoken")),
        None => text,
    };
    if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
        return Err(wrong("that is no address"));
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(Way::Tcp(if has_port { authority.to_owned() } else { format!("{authority}:9900") }))
}

/// Who may not read its file asks without.
fn token_of(token: AccessToken) -> Option<String> {
    match token {
        AccessToken::Written(secret) => Some(secret.0),
        AccessToken::File(path) => std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned()),
    }
}

async fn whole(body: Incoming) -> Result<Bytes, Failure> {
    let collected = body.collect().await;
    Ok(collected
        .map_err(|error| Failure::Runtime(anyhow::Error::from(error).context("the balancer's answer")))?
        .to_bytes())
}

/// In the balancer's own words.
fn refused(status: u16, bytes: &[u8]) -> Failure {
    let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let said = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (error, hint) = (said("error"), said("hint"));
    if error.is_empty() {
        return runtime(&format!(
            "the answer is status {status} without a reason; is this the balancer's admin address?"
        ));
    }
    let hint = if hint.is_empty() { hint } else { format!("; {hint}") };
    let text = format!("{error}{hint}");
    match status {
        400 => Failure::Config(text),
        404 => Failure::Unknown(text),
        _ => runtime(&text),
    }
}

fn strange() -> Failure {
    runtime("the balancer's answer is not understood; is this its admin address, and of this version?")
}

fn runtime(text: &str) -> Failure {
    Failure::Runtime(anyhow::anyhow!("{text}"))
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Way {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Socket(path) => Box::new(UnixStream::connect(path).await?),
            Self::Tcp(authority) => Box::new(TcpStream::connect(authority).await?),
        })
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_somebody_else_is_no_answer_of_ours() {
        assert!(matches!(refused(404, b"404 page not found"), Failure::Runtime(_)));
        assert!(matches!(refused(404, br#"{"error":"there is no pool `a`"}"#), Failure::Unknown(_)));
        assert!(matches!(refused(400, br#"{"error":"`for`: no time"}"#), Failure::Config(_)));
        assert!(matches!(refused(409, br#"{"error":"there is no file"}"#), Failure::Runtime(_)));
    }

    #[test]
    fn where_a_balancer_is() {
        for (text, wanted) in [
            ("http://127.0.0.1:9900", "http://127.0.0.1:9900"),
            ("http://lb:1/", "http://lb:1"),
            ("lb", "http://lb:9900"),
            ("[::1]:7", "http://[::1]:7"),
            ("/run/a.sock", "/run/a.sock"),
            ("unix:///run/a.sock", "/run/a.sock"),
            ("./a", "./a"),
        ] {
            let way = way(text).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(way.to_string(), wanted);
        }
        for text in ["https://a", "", "http://", "http://a/b", "http://u@a"] {
            assert!(way(text).is_err(), "{text}");
        }
    }
}
