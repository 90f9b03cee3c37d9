//! Talks to a running balancer: over its socket or TCP, one connection a request. The commands' door to hyper.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::CommandError;
use super::addresses::{AdminAddress, AdminAddresses, ByteStream, at_socket};
use crate::clean;

/// For a whole answer: longer than the balancer itself takes before it gives up.
const ANSWER: Duration = Duration::from_secs(15);

/// A balancer, and what it wants to hear.
#[derive(Clone, Debug)]
pub(super) struct AdminClient {
    addresses: AdminAddresses,
}

impl AdminClient {
    /// As `--admin` says, or else the configuration file, or else where a balancer usually is.
    pub(super) fn new(admin: Option<&str>, config: &Path) -> Result<Self, CommandError> {
        Ok(Self { addresses: AdminAddresses::new(admin, config)? })
    }

    /// What is there.
    pub(super) async fn get(&self, path: &str) -> Result<Value, CommandError> {
        self.ask(Method::GET, path, String::new()).await
    }

    /// The same, as what it is; texts are exact, so that a name that is sent back is the same.
    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, CommandError> {
        exact(self.get(path).await?)
    }

    /// Changes something.
    pub(super) async fn change(&self, method: Method, path: &str, body: &Value) -> Result<Value, CommandError> {
        self.ask(method, path, body.to_string()).await
    }

    /// An answer that goes on.
    pub(super) async fn follow(&self, path: &str) -> Result<Incoming, CommandError> {
        let response = self.send(Method::GET, path, String::new()).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(refused(response.status().as_u16(), &whole(response.into_body()).await?))
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> Result<Value, CommandError> {
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

    async fn send(&self, method: Method, path: &str, body: String) -> Result<Response<Incoming>, CommandError> {
        let (mut stream, mut way) = self.addresses.connect().await?;
        // Over TCP nothing is changed without a token, but the balancer says where its socket is.
        if method != Method::GET && self.addresses.may_look_further(&way) {
            let status = self.talk(stream, &way, Method::GET, "/api/v1/status", String::new()).await?;
            let status: Value = serde_json::from_slice(&whole(status.into_body()).await?).unwrap_or_default();
            (stream, way) = match status.get("admin_socket").and_then(Value::as_str).map(PathBuf::from) {
                Some(socket) => match at_socket(&socket).await {
                    Ok(stream) => (stream, AdminAddress::Socket(socket)),
                    Err(error) => {
                        let error =
                            format!("the balancer's socket is {}: {error}", clean::line(&socket.display().to_string()));
                        return Err(runtime(&error));
                    }
                },
                None => self.addresses.connect().await?,
            };
        }
        self.talk(stream, &way, method, path, body).await
    }

    async fn talk(
        &self,
        stream: Box<dyn ByteStream>,
        way: &AdminAddress,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Response<Incoming>, CommandError> {
        let broken =
            |error: hyper::Error| CommandError::Runtime(anyhow::Error::from(error).context("the balancer's answer"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the request, or with what is asked of its answer.
        tokio::spawn(connection);
        // A socket needs no token: its mode says which users may.
        let (host, token) = match way {
            AdminAddress::Socket(_) => ("localhost", None),
            AdminAddress::Tcp(authority) => (authority.as_str(), self.addresses.token.as_ref()),
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| CommandError::Runtime(error.into()))?;
        sender.send_request(request).await.map_err(broken)
    }
}

/// What an answer is, if it is what it should be; its texts as they may be shown.
pub(super) fn known<T: DeserializeOwned>(value: Value) -> Result<T, CommandError> {
    exact(cleaned(value))
}

fn exact<T: DeserializeOwned>(value: Value) -> Result<T, CommandError> {
    serde_json::from_value(value).map_err(|_| strange())
}

fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => clean::line(&text).into(),
        Value::Array(list) => list.into_iter().map(cleaned).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, cleaned(value))).collect(),
        value => value,
    }
}

/// A part of a path.
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn whole(body: Incoming) -> Result<Bytes, CommandError> {
    let collected = body.collect().await;
    Ok(collected
        .map_err(|error| CommandError::Runtime(anyhow::Error::from(error).context("the balancer's answer")))?
        .to_bytes())
}

/// In the balancer's own words.
fn refused(status: u16, bytes: &[u8]) -> CommandError {
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
        400 => CommandError::Config(text),
        404 => CommandError::Unknown(text),
        _ => runtime(&text),
    }
}

fn strange() -> CommandError {
    runtime("the balancer's answer is not understood; is this its admin address, and of this version?")
}

fn runtime(text: &str) -> CommandError {
    CommandError::Runtime(anyhow::anyhow!("{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_somebody_else_is_no_answer_of_ours() {
        assert!(matches!(refused(404, b"404 page not found"), CommandError::Runtime(_)));
        assert!(matches!(refused(404, br#"{"error":"there is no pool `a`"}"#), CommandError::Unknown(_)));
        assert!(matches!(refused(400, br#"{"error":"`for`: no time"}"#), CommandError::Config(_)));
        assert!(matches!(refused(409, br#"{"error":"there is no file"}"#), CommandError::Runtime(_)));
    }
}
