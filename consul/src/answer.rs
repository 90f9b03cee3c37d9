//! An answer: the value and what Consul's headers say of it.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use registry_client::reqwest::header::HeaderMap;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Error;

/// More than any service has. What looks like more is garbage, and must not be kept entry by entry: some 60 MB of `1,1,1…`
/// would become gigabytes.
const MOST_ENTRIES: usize = 100_000;

/// Of what can't be used, that many say what is wrong with it: a list of nothing else would be many times as long.
const MOST_REJECTED: usize = 100;

/// Of an identity that is shown, in bytes.
const LONGEST_ID: usize = 512;

/// What was asked for, and what the headers say of it. A header that is absent or makes no sense is `None`.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// Entries of a list that are not as Consul documents them, the first 100 of them; the others are in `value`.
    pub rejected: Vec<RejectedEntry>,
    /// How many there are of these in all.
    pub rejected_count: usize,
    /// `X-Consul-Index`, for [`HealthQuery::index`](crate::HealthQuery::index).
    pub index: Option<u64>,
    /// `X-Consul-Knownleader`. With the streaming backend (the default since 1.10) healthy answers say `false`.
    pub known_leader: Option<bool>,
    /// `X-Consul-Lastcontact`: how long ago the server that answered had heard from the leader.
    pub last_contact: Option<Duration>,
    /// `Age`: of the answer in the agent's cache; only for cached queries.
    pub age: Option<Duration>,
    /// `X-Cache` = `HIT`: the answer is from the agent's cache; only for cached queries.
    pub cache_hit: Option<bool>,
    /// `X-Consul-Effective-Consistency`: which reads were given, such as `leader`, `stale` or `consistent`.
    pub effective_consistency: Option<String>,
    /// `X-Consul-Results-Filtered-By-ACLs`: the token may not see all that there is. Old agents do not say so, and none
    /// says it to a request without a token.
    pub filtered: bool,
}

/// An entry of a list that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedEntry {
    /// `node/service_id` where the entry has them, in at most 512 bytes, else `entry N`, counted from 0.
    pub id: String,
    /// What is wrong with it, in at most 512 bytes.
    pub why: String,
}

impl<T> Answer<T> {
    pub(crate) fn new(value: T, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            value,
            rejected: Vec::new(),
            rejected_count: 0,
            index: text("x-consul-index").and_then(|text| text.parse().ok()),
            known_leader: text("x-consul-knownleader").and_then(|text| text.parse().ok()),
            last_contact: text("x-consul-lastcontact").and_then(|text| text.parse().ok()).map(Duration::from_millis),
            age: text("age").and_then(|text| text.parse().ok()).map(Duration::from_secs),
            cache_hit: text("x-cache").map(|text| text.eq_ignore_ascii_case("hit")),
            effective_consistency: text("x-consul-effective-consistency").map(str::to_owned),
            filtered: text("x-consul-results-filtered-by-acls").is_some_and(|text| text.eq_ignore_ascii_case("true")),
        }
    }
}

impl<T> Answer<Vec<T>> {
    pub(crate) fn of_list(list: List<T>, headers: &HeaderMap) -> Self {
        let List { good, rejected, rejected_count } = list;
        Self { rejected, rejected_count, ..Self::new(good, headers) }
    }
}

/// The entries of a list.
#[derive(Debug)]
pub(crate) struct List<T> {
    good: Vec<T>,
    /// The first of those that are not good.
    rejected: Vec<RejectedEntry>,
    rejected_count: usize,
}

/// A list, entry by entry: those that are a `T`, and those that are not.
///
/// # Errors
/// [`Error::Decode`] if it is no JSON list, or one of more than 100,000 entries. `null` is none either: Consul writes an empty one as `[]`, and what looks
/// like "no instances" without being it would empty a pool.
pub(crate) fn list<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<List<T>, Error> {
    let decode = |source| Error::Decode { what, source };
    let mut json = serde_json::Deserializer::from_slice(body);
    let list = json.deserialize_any(Entries(PhantomData)).map_err(decode)?;
    json.end().map_err(decode)?;
    Ok(list)
}

/// One entry at a time as the text that it is, so that what is wrong in one of them does not end the list.
struct Entries<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for Entries<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut list = List { good: Vec::new(), rejected: Vec::new(), rejected_count: 0 };
        while let Some(entry) = entries.next_element::<&RawValue>()? {
            let place = list.good.len() + list.rejected_count;
            if place == MOST_ENTRIES {
                return Err(A::Error::custom(format_args!("more than {MOST_ENTRIES} entries")));
            }
            match serde_json::from_str(entry.get()) {
                Ok(value) => list.good.push(value),
                Err(error) => {
                    list.rejected_count += 1;
                    if list.rejected.len() < MOST_REJECTED {
                        list.rejected.push(RejectedEntry { id: identity(entry, place), why: reason(&error) });
                    }
                }
            }
        }
        Ok(list)
    }
}

/// Without the line and the column, which are those of the entry and would be taken for those of the answer.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let mut why = text.rsplit_once(" at line ").map_or(text.as_str(), |(why, _)| why).to_owned();
    // It quotes what it was given.
    why.truncate(why.floor_char_boundary(512));
    why
}

fn identity(entry: &RawValue, place: usize) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Named {
        node: NodeName,
        service: ServiceId,
    }
    #[derive(Deserialize)]
    struct NodeName {
        #[serde(rename = "Node")]
        name: String,
    }
    #[derive(Deserialize)]
    struct ServiceId {
        #[serde(rename = "ID")]
        id: String,
    }

    match serde_json::from_str(entry.get()) {
        Ok(Named { node, service }) => {
            let mut id = format!("{}/{}", node.name, service.id);
            id.truncate(id.floor_char_boundary(LONGEST_ID));
            id
        }
        Err(_) => format!("entry {place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServiceEntry;

    #[test]
    fn a_bad_entry_is_told_apart() {
        let body = br#"[{"Node":{"Node":"n"},"Service":{"ID":"a","Port":1}},
                        {"Node":{"Node":"n"},"Service":{"ID":"b","Port":70000}}, 7,
                        {"Node":{"Node":"n"},"Service":{"ID":"c"}}]"#;
        let List { good, rejected, .. } = list::<ServiceEntry>("instances", body).unwrap();
        assert_eq!(good.iter().map(|entry| entry.service.id.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(rejected[0].id, "n/b");
        assert_eq!(rejected[0].why, "invalid value: integer `70000`, expected u16");
        assert_eq!(rejected[1].id, "entry 2");
    }

    #[test]
    fn only_a_list_is_one() {
        assert!(list::<ServiceEntry>("instances", b"[]").unwrap().good.is_empty());
        for body in ["", "null", "{}", "[", "[]x", "\"\"", "<html>", "[{]"] {
            let error = list::<ServiceEntry>("instances", body.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), "decode", "{body:?}");
        }
    }

    #[test]
    fn a_list_that_nobody_can_have_is_garbage() {
        let many = |count: usize| format!("[{}1]", "1,".repeat(count - 1));
        let list_of_ones = list::<ServiceEntry>("instances", many(MOST_ENTRIES).as_bytes()).unwrap();
        assert_eq!(list_of_ones.rejected_count, MOST_ENTRIES);
        assert_eq!(list_of_ones.rejected.len(), MOST_REJECTED, "the rest is counted, not kept");
        let error = list::<ServiceEntry>("instances", many(MOST_ENTRIES + 1).as_bytes()).unwrap_err();
        assert_eq!(error.kind(), "decode");
    }

    #[test]
    fn headers_that_make_no_sense_are_none() {
        let mut headers = HeaderMap::new();
        headers.insert("x-consul-index", "-5".parse().unwrap());
        headers.insert("x-consul-knownleader", "false".parse().unwrap());
        headers.insert("x-consul-lastcontact", "1500".parse().unwrap());
        headers.insert("age", "soon".parse().unwrap());
        let answer = Answer::new((), &headers);
        assert_eq!(answer.index, None);
        assert_eq!(answer.known_leader, Some(false));
        assert_eq!(answer.last_contact, Some(Duration::from_millis(1500)));
        assert_eq!(answer.age, None);
        assert!(!answer.filtered);
    }

    #[test]
    fn only_true_says_that_acls_filter() {
        for (text, filtered) in [("true", true), ("True", true), ("false", false), ("", false), ("1", false)] {
            let mut headers = HeaderMap::new();
            headers.insert("x-consul-results-filtered-by-acls", text.parse().unwrap());
            assert_eq!(Answer::new((), &headers).filtered, filtered, "{text:?}");
        }
    }
}
