//! PURE. What discovery says exists: whole sets of endpoints, never differences.
//! Written by `discovery`; the keeper finds the differences.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

/// One instance that a source knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity: Consul `node/service_id`, or a static backend's id. Unique in a set; the label in metrics, logs and
    /// commands.
    pub id: Arc<str>,
    /// The address on which it listens, resolved.
    pub address: SocketAddr,
    /// If its host is a name: all addresses of the name, in the order in which they are tried, `address` among them. Empty
    /// if the host is an address.
    pub candidates: Arc<[SocketAddr]>,
    /// Its weight; 0 = nothing new. Already the one for the status `registry`.
    pub weight: u16,
    /// Its tier: 0 is used first.
    pub priority: u8,
    /// Where it is; `None` = the source does not say.
    pub zone: Option<Arc<str>>,
    /// Its place in the list that a person wrote. A registry's are all 0: they are in the order of their ids.
    pub position: u32,
    /// The most sessions at once; `None` = the pool's limit.
    pub max_sessions: Option<u32>,
    /// The registry's status.
    pub registry: Registry,
    /// The reason of that status: name and output of the check that decided. Bounded by the source.
    pub note: Option<Arc<str>>,
}

impl Endpoint {
    /// Uses `address`, if that is one of its candidates.
    pub fn kept_at(mut self, address: SocketAddr) -> Self {
        if self.candidates.contains(&address) {
            self.address = address;
        }
        self
    }
}

words! {
    /// The registry's fact about a backend.
    pub enum Registry {
        /// Nothing is wrong with it. A source without statuses (static) says this of everything.
        Passing = "passing",
        /// A check warns, and the pool uses such instances.
        Warning = "warning",
        /// No check fails, but one has not run yet, as after an agent's restart: the registry does not know.
        Unknown = "unknown",
        /// A check is critical, or warns and the pool leaves such instances out.
        Critical = "critical",
        /// An operator of the registry took it out: nothing new, running sessions stay.
        Maintenance = "maintenance",
        /// No longer in the set.
        Absent = "absent",
    }
}

/// The whole set that a source has now. Sent only for an answer that can be used: an error is no update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Every endpoint; the order has no meaning.
    pub endpoints: Vec<Endpoint>,
    /// How far the set is believed where it removes something.
    pub trust: Trust,
}

/// How far a set is believed where it removes something. The source says it of itself; the keeper decides what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A person wrote the set, or changed the source: it takes effect at once.
    Written,
    /// Nothing is wrong with the source.
    Calm,
    /// The first set after a problem.
    Doubted(Mistrust),
    /// The source fails; this is the last set again.
    Failing,
}

words! {
    /// Why a removal by the registry does not take effect at once.
    pub enum Mistrust {
        /// The registry had failed to answer.
        Trouble = "trouble",
        /// Its index went back: it was restarted, or an older state was restored.
        Restart = "restart",
        /// Its answers became filtered by ACLs.
        Filtered = "filtered",
        /// One answer removed everything, while all of it works. The keeper finds this; no source says it.
        Shrink = "shrink",
    }
}

impl Mistrust {
    /// Completes "critical since …".
    pub fn since(self) -> &'static str {
        match self {
            Self::Trouble => "the registry's trouble",
            Self::Restart => "the registry's restart",
            Self::Filtered => "the registry's answers became filtered by ACLs",
            Self::Shrink => "one answer that took every instance away",
        }
    }
}

/// An instance that can't be used; the rest of the set can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its identity, as far as it is known.
    pub id: String,
    /// What is wrong, with the value.
    pub why: String,
}

/// The instances of a set that can't be used: the first of them as a slice, and the count of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    first: Vec<Rejected>,
    count: usize,
}

impl Rejections {
    /// How many are kept; the rest is only counted.
    pub const KEPT_LIMIT: usize = 100;

    /// Adds one. `rejected` is only called if it is kept.
    pub fn push(&mut self, rejected: impl FnOnce() -> Rejected) {
        self.count += 1;
        if self.first.len() < Self::KEPT_LIMIT {
            self.first.push(rejected());
        }
    }

    /// Adds `count` of which nothing else is known.
    pub fn add_unknown(&mut self, count: usize) {
        self.count += count;
    }

    /// Adds all of `more`.
    pub fn append(&mut self, more: &Self) {
        self.count += more.count;
        let space = Self::KEPT_LIMIT - self.first.len();
        self.first.extend(more.first.iter().take(space).cloned());
    }

    /// How many there are in all.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl Deref for Rejections {
    type Target = [Rejected];

    fn deref(&self) -> &[Rejected] {
        &self.first
    }
}

impl FromIterator<Rejected> for Rejections {
    fn from_iter<I: IntoIterator<Item = Rejected>>(all: I) -> Self {
        let mut rejections = Self::default();
        for rejected in all {
            rejections.push(|| rejected);
        }
        rejections
    }
}
