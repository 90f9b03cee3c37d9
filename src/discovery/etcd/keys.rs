//! PURE. The keys below a prefix as of a revision, and the backends that they are.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ::etcd::{Changes, Event, Header, KeyValue, Range};

use super::value;
use crate::discovery::instance::Instance;
use crate::endpoint::{Rejected, Rejections};

/// What the cluster said last.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    prefix: Vec<u8>,
    /// What each key comes to; it is read once for each value.
    known: BTreeMap<Vec<u8>, Result<Vec<Instance>, String>>,
    /// Which cluster it was, and the revision up to which all is known; also when errors came since.
    header: Header,
    /// Whether all changes since then are going to be heard.
    is_current: bool,
}

/// What the keys come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) instances: Vec<Instance>,
    pub(super) refused: Rejections,
}

impl KnownKeys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.as_bytes().to_vec(), ..Self::default() }
    }

    /// What to watch from; `None` = all keys have to be read first.
    pub(super) fn next_revision(&self) -> Option<i64> {
        self.is_current.then_some(self.header.revision + 1)
    }

    /// Changes may have been missed: all keys have to be read.
    pub(super) fn forget(&mut self) {
        self.is_current = false;
    }

    /// These are all. Returns whether the cluster has gone back, or is another one: it was restored, or has lost its data.
    pub(super) fn replace(&mut self, Range { header, pairs }: Range) -> bool {
        let went_back = self.header.cluster_id != 0
            && (header.cluster_id != self.header.cluster_id || header.revision < self.header.revision);
        self.known.clear();
        pairs.into_iter().for_each(|pair| self.put(pair));
        (self.header, self.is_current) = (header, true);
        went_back
    }

    /// Whether a watch that begins at such a state misses nothing: the member is as far as we are, and of the same cluster.
    pub(super) fn fits(&self, member: Header) -> bool {
        member.cluster_id == self.header.cluster_id && member.revision >= self.header.revision
    }

    /// This has happened since. Returns whether it was anything.
    pub(super) fn apply(&mut self, Changes { until, events, .. }: Changes) -> bool {
        let any = !events.is_empty();
        for event in events {
            match event {
                Event::Put(pair) => self.put(pair),
                Event::Delete { key } => drop(self.known.remove(&key)),
            }
        }
        self.header.revision = self.header.revision.max(until);
        any
    }

    fn put(&mut self, KeyValue { key, value, .. }: KeyValue) {
        let read = value::read(key.strip_prefix(&*self.prefix).unwrap_or(&key), &value);
        self.known.insert(key, read);
    }

    pub(super) fn listed(&self) -> Listed {
        let mut listed = Listed { instances: Vec::with_capacity(self.known.len()), refused: Rejections::default() };
        let mut ids = HashSet::with_capacity(self.known.len());
        for (key, read) in &self.known {
            let name = || value::shown(key.strip_prefix(&*self.prefix).unwrap_or(key));
            let mut refuse = |why: &str| listed.refused.push(|| Rejected { id: name(), why: why.to_owned() });
            match read {
                Err(why) => refuse(why),
                Ok(all) => {
                    for instance in all {
                        if ids.insert(Arc::clone(&instance.id)) {
                            listed.instances.push(instance.clone());
                        } else {
                            refuse(&format!("another key before it has the id {}", instance.id));
                        }
                    }
                }
            }
        }
        listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> KeyValue {
        KeyValue { key: key.as_bytes().to_vec(), value: value.as_bytes().to_vec(), mod_revision: 1 }
    }

    fn range(cluster_id: u64, revision: i64, pairs: &[KeyValue]) -> Range {
        Range { header: Header { cluster_id, revision }, pairs: pairs.to_vec() }
    }

    fn ids(keys: &KnownKeys) -> Vec<String> {
        keys.listed().instances.iter().map(|instance| instance.id.to_string()).collect()
    }

    #[test]
    fn keys_come_and_go() {
        let mut keys = KnownKeys::new("/s/");
        assert_eq!(keys.next_revision(), None);
        assert!(!keys.replace(range(1, 5, &[pair("/s/a", "10.0.0.1:80"), pair("/s/b", "10.0.0.2:80")])));
        assert_eq!((ids(&keys), keys.next_revision()), (vec!["a".to_owned(), "b".to_owned()], Some(6)));
        // More is to come up to 20.
        let header = Header { cluster_id: 1, revision: 20 };
        let events = vec![
            Event::Put(pair("/s/c", "10.0.0.3:80")),
            Event::Delete { key: b"/s/a".to_vec() },
            Event::Delete { key: b"/s/gone".to_vec() },
        ];
        assert!(keys.apply(Changes { header, until: 8, events }));
        assert_eq!((ids(&keys), keys.next_revision()), (vec!["b".to_owned(), "c".to_owned()], Some(9)));
        // How far it is, and nothing else.
        assert!(!keys.apply(Changes { header, until: 20, events: Vec::new() }));
        assert_eq!(keys.next_revision(), Some(21));
        keys.forget();
        assert_eq!(keys.next_revision(), None);
        assert_eq!(ids(&keys).len(), 2, "what is known stays");
    }

    #[test]
    fn a_cluster_that_went_back_or_is_another_one_is_noticed() {
        for (cluster_id, revision, went_back) in [(1, 100, false), (1, 101, false), (1, 99, true), (2, 500, true)] {
            let mut keys = KnownKeys::new("/s/");
            keys.replace(range(1, 100, &[]));
            // Also behind errors.
            keys.forget();
            let header = Header { cluster_id, revision };
            assert_eq!(keys.fits(header), !went_back, "{header:?}");
            assert_eq!(keys.replace(range(cluster_id, revision, &[])), went_back, "{header:?}");
            assert!(!keys.replace(range(cluster_id, revision, &[])), "once");
        }
    }

    #[test]
    fn a_bad_value_and_a_second_id_are_left_out_and_said() {
        let mut keys = KnownKeys::new("/s/");
        let node = r#"{"nodes":[{"id":"n","address":"10.0.0.1:80"}]}"#;
        keys.replace(range(1, 1, &[pair("/s/a", "?"), pair("/s/b", node), pair("/s/c", node)]));
        assert_eq!(ids(&keys), ["n"]);
        let Listed { refused, .. } = keys.listed();
        assert_eq!((refused.count(), refused[0].id.as_str(), refused[1].id.as_str()), (2, "a", "c"));
        let events = vec![Event::Put(pair("/s/a", "10.0.0.2:80"))];
        keys.apply(Changes { until: 2, events, ..Changes::default() });
        assert_eq!((ids(&keys), keys.listed().refused.count()), (vec!["a".to_owned(), "n".to_owned()], 1));
    }
}
