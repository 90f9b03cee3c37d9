//! One request and its whole answer, bounded in time and size, with the token of the moment.

use std::path::PathBuf;
use std::time::Duration;

use registry_client::reqwest::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue};
use registry_client::reqwest::{Client, Method};
use registry_client::{OneAtATime, beginning, no_answer, shown, whole};

use crate::{Error, Settings, settings};

/// Some 30,000 instances; more is no service but a fault.
const BODY_LIMIT: usize = 64 << 20;
/// A token is a UUID or a JWT.
const TOKEN_LIMIT: u64 = 64 << 10;

pub(crate) struct Transport {
    http: Client,
    base: String,
    token: Option<HeaderValue>,
    token_file: Option<PathBuf>,
    /// All pools ask at one moment after an agent's restart.
    reading: OneAtATime,
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
    /// Whether the connection is kept for the next request.
    pub(crate) keep: bool,
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
        Ok(Self { http, base, token, token_file: settings.token_file.clone(), reading: OneAtATime::default() })
    }

    /// The same connections with another token.
    pub(crate) fn with_token(&self, token: Option<&str>, token_file: Option<PathBuf>) -> Result<Self, Error> {
        let token = token.map(token_value).transpose()?;
        Ok(Self { http: self.http.clone(), base: self.base.clone(), token, token_file, reading: OneAtATime::default() })
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
        if !request.keep {
            builder = builder.header(CONNECTION, "close");
        }
        if let Some(token) = self.token().await? {
            builder = builder.header("X-Consul-Token", token);
        }
        builder = match request.body {
            None => builder,
            Some(Body::Json(body)) => builder.header(CONTENT_TYPE, "application/json").body(body),
            Some(Body::Bytes(body)) => builder.body(body),
        };
        let mut response = builder.send().await.map_err(no_answer)?;
        let body = match response.status().is_success() {
            true => whole(&mut response, BODY_LIMIT).await?,
            false => beginning(&mut response).await,
        };
        Ok(Reply { status: response.status().as_u16(), headers: std::mem::take(response.headers_mut()), body })
    }

    async fn token(&self) -> Result<Option<HeaderValue>, Error> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let file = path.clone();
        let read = move || {
            let bytes = registry_client::read(&file, TOKEN_LIMIT)?;
            String::from_utf8(bytes).map_err(std::io::Error::other)
        };
        let text = self.reading.run(read).await.map_err(|source| Error::TokenFile { path: path.clone(), source })?;
        match text.trim() {
            "" => Ok(self.token.clone()),
            token => token_value(token).map(Some),
        }
    }
}

impl Reply {
    /// This reply, if its status is 200: Consul's API has no other for success, and what says 204 or 206 is not Consul.
    pub(crate) fn ok(self) -> Result<Self, Error> {
        if self.status == 200 {
            return Ok(self);
        }
        Err(Error::Status { status: self.status, body: shown(&self.body) })
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
