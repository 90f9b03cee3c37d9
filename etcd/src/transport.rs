//! One endpoint: a question and its answer, bounded in time and size.

use std::future::Future;
use std::time::Duration;

use registry_client::reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use registry_client::reqwest::{Client, Response};
use registry_client::{Address, Tls, beginning, http_client, no_answer, shown, whole};
use serde::Deserialize;

use crate::Error;

/// Some 300,000 keys; more is no service but a fault.
const BODY_LIMIT: usize = 64 << 20;
/// From the first byte of an answer to the last one.
const BODY_TIME: Duration = Duration::from_secs(10);

pub(crate) struct Endpoint {
    http: Client,
    base: String,
}

/// A question: a path and JSON.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) path: &'a str,
    pub(crate) body: &'a [u8],
    /// It is not answered by a member that has no leader, and the answer ends when the member loses it.
    pub(crate) wants_leader: bool,
}

impl Endpoint {
    pub(crate) fn new(address: &str, tls: &Tls) -> Result<Self, Error> {
        let address = Address::parse("etcd", address).map_err(Error::of)?;
        let http = http_client(&address, tls).map_err(Error::of)?;
        Ok(Self { http, base: address.base })
    }

    /// The whole answer. It has to begin within `patience`.
    pub(crate) async fn ask(
        &self,
        question: Question<'_>,
        token: Option<&HeaderValue>,
        patience: Duration,
    ) -> Result<Vec<u8>, Error> {
        let mut response = self.open(question, token, patience).await?;
        within(BODY_TIME, async { whole(&mut response, BODY_LIMIT).await.map_err(Error::of) }).await
    }

    /// The answer from its body on, if its status is 200: the gateway has no other for success.
    pub(crate) async fn open(
        &self,
        question: Question<'_>,
        token: Option<&HeaderValue>,
        patience: Duration,
    ) -> Result<Response, Error> {
        let Question { path, body, wants_leader } = question;
        let mut request = self.http.post(format!("{}{path}", self.base)).header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        if wants_leader {
            // The gateway hands it on to gRPC as `hasleader`.
            request = request.header("Grpc-Metadata-hasleader", "true");
        }
        let request = request.body(body.to_vec());
        within(patience, async {
            let mut response = request.send().await.map_err(|error| Error::of(no_answer(error)))?;
            let status = response.status().as_u16();
            if status == 200 { Ok(response) } else { Err(refusal(status, &beginning(&mut response).await)) }
        })
        .await
    }
}

/// What `future` gives, or that it took longer.
pub(crate) async fn within<T>(after: Duration, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(after, future).await.unwrap_or(Err(Error::Timeout { after }))
}

fn refusal(status: u16, body: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Refusal {
        code: u16,
        message: String,
    }
    match serde_json::from_slice(body) {
        Ok(Refusal { code, message }) => {
            Error::Refused { status, code: Some(code), message: shown(message.as_bytes()) }
        }
        // It is not etcd that says so.
        Err(_) => Error::Refused { status, code: None, message: format!("status {status}: {}", shown(body)) },
    }
}
