//! The calls. Each asks one endpoint after the other, beginning with the one that was good last, until one answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use registry_client::base64;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use crate::login::Login;
use crate::model::{LeaseAnswer, Range, RangeAnswer, Streamed, decoded};
use crate::transport::{Endpoint, Question, within};
use crate::watch::Watch;
use crate::{Error, Settings};

/// For the beginning of an answer, from one endpoint. A member without a leader waits longer than that.
const PATIENCE: Duration = Duration::from_secs(3);
/// More than any service has.
const MOST_KEYS: usize = 100_000;

/// One cluster. Clones are cheap and share its connections and its token.
///
/// **Cancel safety**: every future here may be dropped at any time; the request is then aborted and its connection closed.
/// Whether a request that writes was obeyed is then unknown.
///
/// **Errors**: every call returns an [`Error`] as described there: that of the last endpoint, if none answers. No call panics
/// on what an endpoint sends.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    endpoints: Vec<Endpoint>,
    /// The one to ask. `Relaxed`: nothing else follows from it.
    at: AtomicUsize,
    login: Option<Login>,
    patience: Duration,
}

impl Client {
    /// Reads the files for https. Connects to nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for endpoints and files that can't work, or if there is no endpoint.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        Self::with_patience(settings, PATIENCE)
    }

    /// With another time for the beginning of an answer than 3 s.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_patience(settings: &Settings, patience: Duration) -> Result<Self, Error> {
        let endpoints: Result<Vec<_>, _> =
            settings.endpoints.iter().map(|address| Endpoint::new(address, &settings.tls)).collect();
        let endpoints = endpoints?;
        if endpoints.is_empty() {
            return Err(Error::Config { what: "no endpoint".to_owned(), source: None });
        }
        let login = Login::new(settings);
        Ok(Self(Arc::new(Inner { endpoints, at: AtomicUsize::new(0), login, patience })))
    }

    /// Which endpoint is asked now, counted from 0.
    pub fn endpoint(&self) -> usize {
        self.0.at.load(Relaxed)
    }

    /// Asks the next one from now on, if that one is asked now.
    pub fn leave(&self, endpoint: usize) {
        let next = (endpoint + 1) % self.0.endpoints.len();
        // Another question may have moved on already.
        let _ = self.0.at.compare_exchange(endpoint, next, Relaxed, Relaxed);
    }

    /// All keys with this prefix, as of one revision, as the cluster's majority has them.
    pub async fn range(&self, prefix: &[u8]) -> Result<Range, Error> {
        let (key, end) = bounds(prefix);
        let body = json!({ "key": key, "range_end": end, "limit": MOST_KEYS });
        let RangeAnswer { header, kvs, more } = self.ask("/v3/kv/range", &body, "a range").await?;
        if more {
            return Err(Error::TooLarge { limit: "100,000 keys" });
        }
        if header.cluster_id == 0 || header.revision == 0 {
            return Err(Error::Refused { status: 200, code: None, message: "an answer without a revision".to_owned() });
        }
        Ok(Range { header, pairs: kvs })
    }

    /// What happens to the keys with this prefix from a revision on, from the endpoint that is asked now and from no other.
    pub async fn watch(&self, prefix: &[u8], from: i64) -> Result<Watch, Error> {
        let (key, end) = bounds(prefix);
        let create =
            json!({ "key": key, "range_end": end, "start_revision": from.to_string(), "progress_notify": true });
        let body = json!({ "create_request": create }).to_string();
        let question = Question { path: "/v3/watch", body: body.as_bytes(), wants_leader: true };
        let at = self.endpoint();
        match self.open(at, question, false).await {
            Err(error) if error.wants_login() && self.0.login.is_some() => self.open(at, question, true).await,
            opened => opened,
        }
    }

    /// Whether the endpoint that is asked now answers within `patience` and knows its leader: it has to agree on a read with the
    /// others. That the user may not read this is fine.
    pub async fn check(&self, patience: Duration) -> Result<(), Error> {
        let body = json!({ "key": base64::encode(b"\0"), "count_only": true }).to_string();
        let question = Question { path: "/v3/kv/range", body: body.as_bytes(), wants_leader: false };
        match within(patience, self.ask_at(self.endpoint(), question, patience)).await {
            // Also what is no answer of etcd is none.
            Ok(body) => decoded::<RangeAnswer>("a range", &body).map(drop),
            Err(error) if error.kind() == "forbidden" => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A lease of that many seconds; its id.
    pub async fn grant(&self, seconds: i64) -> Result<i64, Error> {
        let answer: LeaseAnswer = self.ask("/v3/lease/grant", &json!({ "TTL": seconds }), "a lease").await?;
        Ok(answer.id)
    }

    /// Begins the time of a lease again. One that is not there (any more) is [`Error::is_not_found`].
    pub async fn keep_alive(&self, lease: i64) -> Result<(), Error> {
        let body = json!({ "ID": lease.to_string() });
        let answer: Streamed<LeaseAnswer> = self.ask("/v3/lease/keepalive", &body, "a kept lease").await?;
        match (answer.result, answer.error) {
            (_, Some(error)) => Err(Error::ended(error.code, &error.message)),
            (Some(LeaseAnswer { ttl: 1.., .. }), None) => Ok(()),
            _ => Err(Error::Refused { status: 200, code: Some(5), message: "requested lease not found".to_owned() }),
        }
    }

    /// Ends a lease, and the keys that hang on it.
    pub async fn revoke(&self, lease: i64) -> Result<(), Error> {
        self.write("/v3/lease/revoke", &json!({ "ID": lease.to_string() })).await
    }

    /// Sets a key; it lives as long as its lease, if it has one.
    pub async fn put(&self, key: &[u8], value: &[u8], lease: Option<i64>) -> Result<(), Error> {
        let lease = lease.unwrap_or_default().to_string();
        let body = json!({ "key": base64::encode(key), "value": base64::encode(value), "lease": lease });
        self.write("/v3/kv/put", &body).await
    }

    /// Takes a key away. That there is none is no error.
    pub async fn delete(&self, key: &[u8]) -> Result<(), Error> {
        self.write("/v3/kv/deleterange", &json!({ "key": base64::encode(key) })).await
    }

    /// Of the answer nothing but that it is one matters.
    async fn write(&self, path: &str, body: &Value) -> Result<(), Error> {
        self.ask::<IgnoredAny>(path, body, "an answer").await.map(drop)
    }

    /// One that is no answer of etcd is none, and the next endpoint is asked.
    async fn ask<T: DeserializeOwned>(&self, path: &str, body: &Value, what: &'static str) -> Result<T, Error> {
        let body = body.to_string();
        let question = Question { path, body: body.as_bytes(), wants_leader: false };
        let mut turns = self.0.endpoints.len();
        loop {
            let at = self.endpoint();
            turns -= 1;
            let answer = self.ask_at(at, question, self.0.patience).await;
            match answer.and_then(|body| decoded(what, &body)) {
                Err(error) if error.is_of_endpoint() => {
                    self.leave(at);
                    if turns == 0 {
                        return Err(error);
                    }
                }
                answered => return answered,
            }
        }
    }

    /// With a new token, if the one that there is does not do any more.
    async fn ask_at(&self, at: usize, question: Question<'_>, patience: Duration) -> Result<Vec<u8>, Error> {
        let endpoint = &self.0.endpoints[at];
        let Some(login) = &self.0.login else { return endpoint.ask(question, None, patience).await };
        let pass = login.pass(endpoint, None, patience).await?;
        match endpoint.ask(question, pass.token.as_ref(), patience).await {
            Err(error) if error.wants_login() => {
                let pass = login.pass(endpoint, Some(&pass), patience).await?;
                endpoint.ask(question, pass.token.as_ref(), patience).await
            }
            answered => answered,
        }
    }

    async fn open(&self, at: usize, question: Question<'_>, renew: bool) -> Result<Watch, Error> {
        let Inner { endpoints, login, patience, .. } = &*self.0;
        let (endpoint, patience) = (&endpoints[at], *patience);
        let token = match login {
            None => None,
            Some(login) => {
                let pass = login.pass(endpoint, None, patience).await?;
                let pass = if renew { login.pass(endpoint, Some(&pass), patience).await? } else { pass };
                pass.token
            }
        };
        let response = endpoint.open(question, token.as_ref(), patience).await?;
        Watch::begin(response, patience).await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// The first key with a prefix, and the first one behind them all.
fn bounds(prefix: &[u8]) -> (String, String) {
    let mut end = prefix.to_vec();
    while end.last() == Some(&0xff) {
        end.pop();
    }
    match end.last_mut() {
        Some(last) => *last += 1,
        // All keys from the first one on.
        None => end.push(0),
    }
    let first = if prefix.is_empty() { &[0][..] } else { prefix };
    (base64::encode(first), base64::encode(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        let bounds = |prefix: &[u8]| {
            let (first, end) = bounds(prefix);
            (base64::decode(&first).unwrap(), base64::decode(&end).unwrap())
        };
        assert_eq!(bounds(b"/s/"), (b"/s/".to_vec(), b"/s0".to_vec()));
        assert_eq!(bounds(b"a\xff\xff"), (b"a\xff\xff".to_vec(), b"b".to_vec()));
        assert_eq!(bounds(b""), (vec![0], vec![0]));
        assert_eq!(bounds(b"\xff"), (vec![0xff], vec![0]));
    }
}
