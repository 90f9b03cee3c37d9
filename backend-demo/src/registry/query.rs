//! The parameters of a request, and queries that block until something changes.
//!
//! As in <https://developer.hashicorp.com/consul/api-docs/features/blocking>: `index` is the client's index, `wait` the longest wait,
//! plus up to a sixteenth, so that many clients do not return at once.

use std::{str::FromStr, time::Duration};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::time::Instant;

use super::{shared::SharedRecords, state::Records};
use crate::duration;

const DEFAULT_WAIT: Duration = Duration::from_secs(300);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A refusal with the agent's status and text.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl Refusal {
    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// `?a=1&b`, in order, with repetitions.
pub(super) type Parameters = axum::extract::Query<Vec<(String, String)>>;

/// The first value of a parameter.
pub(super) fn value<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The common parameters of a read.
#[derive(Debug)]
pub(super) struct Query {
    index: u64,
    wait: Duration,
    consistency: &'static str,
}

impl Query {
    pub(super) fn parse(parameters: &[(String, String)]) -> Result<Self, Refusal> {
        let index = match value(parameters, "index").filter(|text| !text.is_empty()) {
            None => 0,
            Some(text) => u64::from_str(text).map_err(|_| Refusal::bad_request("Invalid index"))?,
        };
        let wait = match value(parameters, "wait").filter(|text| !text.is_empty()) {
            None => DEFAULT_WAIT,
            Some(text) => duration::parse(text).ok_or_else(|| Refusal::bad_request("Invalid wait time"))?,
        };
        let stale = value(parameters, "stale").is_some();
        let consistent = value(parameters, "consistent").is_some();
        if stale && consistent {
            return Err(Refusal::bad_request("Cannot specify ?stale with ?consistent, conflicting semantics."));
        }
        if let Some(other) = value(parameters, "dc").filter(|dc| !matches!(*dc, "" | super::agent::DATACENTER)) {
            tracing::debug!(datacenter = other, "asked for a datacenter that is not there");
            return Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter".to_owned()));
        }
        let consistency = match (stale, consistent) {
            (true, _) => "stale",
            (_, true) => "consistent",
            _ => "leader",
        };
        Ok(Self { index, wait: if wait.is_zero() { DEFAULT_WAIT } else { wait.min(LONGEST_WAIT) }, consistency })
    }

    /// Reads at once if the client has no index or an old one; otherwise after the next change of the record, or after `wait`. Cancel
    /// safe.
    pub(super) async fn read<T>(&self, shared: &SharedRecords, look: impl Fn(&Records) -> (u64, T)) -> (u64, T) {
        let mut changes = shared.changes();
        let epoch = shared.read(|state| state.epoch);
        let jitter = self.wait.mul_f64(fastrand::f64() / 16.0);
        let deadline = Instant::now() + self.wait + jitter;
        let mut counted = None;
        loop {
            changes.borrow_and_update();
            let (rewritten, (index, found)) = shared.read(|state| (state.epoch != epoch, look(state)));
            if self.index == 0 || index > self.index || rewritten || Instant::now() >= deadline {
                return (index, found);
            }
            counted.get_or_insert_with(|| shared.wait());
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// The headers of a reply to this query.
    pub(super) fn headers(&self, index: u64) -> [(&'static str, String); 4] {
        [
            ("X-Consul-Index", index.to_string()),
            ("X-Consul-Knownleader", "true".to_owned()),
            ("X-Consul-Lastcontact", "0".to_owned()),
            ("X-Consul-Effective-Consistency", self.consistency.to_owned()),
        ]
    }

    /// The headers for a health query. The streaming backend, which is the default since Consul 1.10, serves a blocking one and always
    /// reports that it knows no leader.
    pub(super) fn health_headers(&self, index: u64) -> [(&'static str, String); 4] {
        let mut headers = self.headers(index);
        if self.index > 0 {
            headers[1].1 = "false".to_owned();
        }
        headers
    }
}

/// JSON with the agent's content type.
pub(super) fn json(value: &Value) -> ([(&'static str, &'static str); 1], String) {
    ([("Content-Type", "application/json")], value.to_string())
}
