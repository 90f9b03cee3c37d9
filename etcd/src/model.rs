//! What etcd says, as it says it in JSON: keys and values in base64, 64-bit numbers as strings, and what is zero or empty left out.

use registry_client::base64;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use crate::Error;

/// Who answered, and how far the cluster was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Header {
    /// Of the cluster; never 0 in an answer. A cluster that is made anew of the same addresses has the same.
    #[serde(default, deserialize_with = "number")]
    pub cluster_id: u64,
    /// How many changes the store has seen; it goes back only where a store is lost or restored.
    #[serde(default, deserialize_with = "number")]
    pub revision: i64,
}

/// A key and its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct KeyValue {
    /// Any bytes.
    #[serde(deserialize_with = "bytes")]
    pub key: Vec<u8>,
    /// Any bytes; often none.
    #[serde(default, deserialize_with = "bytes")]
    pub value: Vec<u8>,
    /// The revision of its last change.
    #[serde(default, deserialize_with = "number")]
    pub mod_revision: i64,
}

/// All keys with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The revision that they are as of.
    pub header: Header,
    /// In the order of the keys.
    pub pairs: Vec<KeyValue>,
}

/// What has happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has this value.
    Put(KeyValue),
    /// It is gone.
    Delete {
        /// Which.
        key: Vec<u8>,
    },
}

/// A message of a watch: everything up to a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// How far the member is. There may be more to come up to there.
    pub header: Header,
    /// Everything up to here has been told; a watch that goes on begins with the next one.
    pub until: i64,
    /// In the order in which they happened; none in a message that only says how far the member is.
    pub events: Vec<Event>,
}

/// What of a body is JSON of that shape.
pub(crate) fn decoded<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| Error::Decode { what, source })
}

#[derive(Deserialize)]
pub(crate) struct RangeAnswer {
    pub(crate) header: Header,
    #[serde(default)]
    pub(crate) kvs: Vec<KeyValue>,
    #[serde(default)]
    pub(crate) more: bool,
}

#[derive(Deserialize)]
pub(crate) struct LeaseAnswer {
    #[serde(rename = "ID", default, deserialize_with = "number")]
    pub(crate) id: i64,
    /// 0 = there is no such lease.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub(crate) ttl: i64,
}

#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    pub(crate) token: String,
}

/// A message of a stream.
#[derive(Deserialize)]
pub(crate) struct Streamed<T> {
    pub(crate) result: Option<T>,
    pub(crate) error: Option<StreamError>,
}

/// Of grpc-gateway 1 (until etcd 3.5) or 2.
#[derive(Deserialize)]
pub(crate) struct StreamError {
    #[serde(alias = "grpc_code")]
    pub(crate) code: Option<u16>,
    #[serde(default)]
    pub(crate) message: String,
}

#[derive(Deserialize)]
pub(crate) struct WatchAnswer {
    pub(crate) header: Header,
    #[serde(default)]
    pub(crate) canceled: bool,
    #[serde(default, deserialize_with = "number")]
    pub(crate) compact_revision: i64,
    #[serde(default)]
    pub(crate) cancel_reason: String,
    #[serde(default)]
    events: Vec<WireEvent>,
}

#[derive(Deserialize)]
struct WireEvent {
    #[serde(rename = "type", default)]
    kind: EventKind,
    kv: KeyValue,
}

#[derive(Default, Deserialize)]
enum EventKind {
    #[default]
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "DELETE")]
    Delete,
}

impl WatchAnswer {
    pub(crate) fn changes(self) -> Changes {
        let event = |event: WireEvent| match event.kind {
            EventKind::Put => Event::Put(event.kv),
            EventKind::Delete => Event::Delete { key: event.kv.key },
        };
        // What happened long ago is told in pieces, each with the header of now. Without events it says how far all is told.
        let until = self.events.last().map_or(self.header.revision, |event| event.kv.mod_revision);
        Changes { header: self.header, until, events: self.events.into_iter().map(event).collect() }
    }
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    base64::decode(&text).ok_or_else(|| D::Error::custom("not base64"))
}

/// A number that may be written as a string.
fn number<'de, D: Deserializer<'de>, N: std::str::FromStr + Deserialize<'de>>(from: D) -> Result<N, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written<N> {
        Number(N),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::Number(number) => Ok(number),
        Written::Text(text) => text.parse().map_err(|_| D::Error::custom("not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_zero_or_empty() {
        let body = br#"{"header":{"cluster_id":"12101053776118486841","revision":"3"},"kvs":[{"key":"L3MvYQ==","mod_revision":"3"}],"count":"1"}"#;
        let range: RangeAnswer = decoded("a range", body).unwrap();
        assert_eq!(range.header, Header { cluster_id: 12_101_053_776_118_486_841, revision: 3 });
        assert_eq!(range.kvs, [KeyValue { key: b"/s/a".to_vec(), value: Vec::new(), mod_revision: 3 }]);
        let empty: RangeAnswer = decoded("a range", br#"{"header":{"cluster_id":1,"revision":2}}"#).unwrap();
        assert_eq!((empty.header.revision, empty.kvs.len(), empty.more), (2, 0, false));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for body in [
            "",
            "{}",
            "null",
            "[]",
            r#"{"kvs":[]}"#,
            r#"{"header":{"revision":"x"}}"#,
            r#"{"header":{},"kvs":[{"key":"?"}]}"#,
        ] {
            assert_eq!(
                decoded::<RangeAnswer>("a range", body.as_bytes()).err().map(|e| e.kind()),
                Some("decode"),
                "{body}"
            );
        }
    }

    /// etcd sends what a watch has missed in pieces of 1000 revisions, each with the revision of now in its header.
    #[test]
    fn a_message_tells_up_to_its_last_event() {
        let message = |events: &str| {
            let body = format!(r#"{{"result":{{"header":{{"cluster_id":"1","revision":"5000"}},"events":{events}}}}}"#);
            let Streamed { result, .. } = decoded::<Streamed<WatchAnswer>>("a watch", body.as_bytes()).unwrap();
            result.unwrap().changes()
        };
        let some = message(
            r#"[{"kv":{"key":"YQ==","mod_revision":"7"}},{"type":"DELETE","kv":{"key":"YQ==","mod_revision":"9"}}]"#,
        );
        assert_eq!((some.until, some.events.len(), some.header.revision), (9, 2, 5000));
        assert_eq!(some.events[1], Event::Delete { key: b"a".to_vec() });
        assert_eq!(message("[]").until, 5000);
    }

    #[test]
    fn errors_of_both_gateways_are_read() {
        for body in [
            r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#,
            r#"{"error":{"code":14,"message":"etcdserver: no leader","details":[]}}"#,
        ] {
            let message: Streamed<WatchAnswer> = decoded("a watch", body.as_bytes()).unwrap();
            let error = message.error.unwrap();
            assert_eq!((error.code, error.message.as_str()), (Some(14), "etcdserver: no leader"));
        }
    }
}
