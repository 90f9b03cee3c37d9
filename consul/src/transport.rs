//! One request and its whole answer, bounded in time and size, with the token of the moment.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::error::Cause;
use crate::{Error, Settings, settings};

/// Some 30,000 instances; more is no service but a fault.
const BODY_LIMIT: usize = 64 << 20;
/// Of the body of an error status: Consul says it in one line.
const SHOWN: usize = 512;
/// A token is a UUID or a JWT.
const TOKEN_LIMIT: u64 = 64 << 10;

pub(crate) struct Transport {
    http: reqwest::Client,
    base: String,
    token: Option<HeaderValue>,
    token_file: Option<PathBuf>,
}

/// What is asked.
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Escaped.
    pub(crate) path: String,
    /// Escaped.
    pub(crate) query: Vec<String>,
    pub(crate) body: Option<Body>,
    /// For all of it, from reading the token to the last byte.
    pub(crate) deadline: Duration,
}

pub(crate) enum Body {
    Json(Vec<u8>),
    Bytes(Vec<u8>),
}

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Transport {
    pub(crate) fn new(settings: &Settings) -> Result<Self, Error> {
        let (http, base) = settings::http_client(settings)?;
        let token = settings.token.as_deref().map(token_value).transpose()?;
        Ok(Self { http, base, token, token_file: settings.token_file.clone() })
    }

    /// Dropping the future closes the connection that the request is on, which ends the wait at the agent too.
    pub(crate) async fn send(&self, request: Request) -> Result<Reply, Error> {
        let deadline = request.deadline;
        match tokio::time::timeout(deadline, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { after: deadline }),
        }
    }

    async fn exchange(&self, request: Request) -> Result<Reply, Error> {
        let mut url = format!("{}{}", self.base, request.path);
        if !request.query.is_empty() {
            url.push('?');
            url.push_str(&request.query.join("&"));
        }
        let mut builder = self.http.request(request.method, url);
        if let Some(token) = self.token().await? {
            builder = builder.header("X-Consul-Token", token);
        }
        builder = match request.body {
            None => builder,
            Some(Body::Json(body)) => builder.header(CONTENT_TYPE, "application/json").body(body),
            Some(Body::Bytes(body)) => builder.body(body),
        };
        let mut response = builder.send().await.map_err(no_answer)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
            if body.len() + chunk.len() > BODY_LIMIT {
                return Err(Error::TooLarge { limit: BODY_LIMIT });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status: response.status().as_u16(), headers: std::mem::take(response.headers_mut()), body })
    }

    async fn token(&self) -> Result<Option<HeaderValue>, Error> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let file = path.clone();
        // On a thread for blocking: the file may be on a network.
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            std::fs::File::open(file)?.take(TOKEN_LIMIT).read_to_string(&mut text)?;
            Ok(text)
        });
        let text = read
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(|source| Error::TokenFile { path: path.clone(), source })?;
        match text.trim() {
            "" => Ok(self.token.clone()),
            token => token_value(token).map(Some),
        }
    }
}

impl Reply {
    /// This reply, if its status is 2xx.
    pub(crate) fn ok(self) -> Result<Self, Error> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let shown = self.body.trim_ascii();
        let body = shown[..shown.len().min(SHOWN)].escape_ascii().to_string();
        Err(Error::Status { status: self.status, body })
    }
}

fn token_value(token: &str) -> Result<HeaderValue, Error> {
    // The cause is left out: nothing that has seen the token is shown.
    let mut value = HeaderValue::from_str(token.trim()).map_err(|_| Error::Config {
        what: "the token has characters that no header can hold".to_owned(),
        source: None,
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The URL is taken out of the errors: the caller knows what was asked.
fn no_answer(error: reqwest::Error) -> Error {
    let error = error.without_url();
    if error.is_builder() {
        return Error::Config { what: "not a request".to_owned(), source: Some(error.into()) };
    }
    if error.is_connect() {
        return Error::Connect(below(error));
    }
    Error::Broken(below(error))
}

/// reqwest's own words ("error sending request") say less than the variant does: its cause says more, if there is one.
fn below(error: reqwest::Error) -> Cause {
    match std::error::Error::source(&error) {
        // The cause can't be moved out of the error, so that its texts are.
        Some(cause) => chain(cause).into(),
        None => error.into(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // hyper's errors often say what their cause says.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
