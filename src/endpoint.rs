//! PURE. What discovery says exists: whole sets of endpoints, never differences.
//! Written by `discovery`, read by `keeper`; the keeper finds the differences.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

/// One instance that a source knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity: Consul `node/service_id`, or a static backend's id. Unique in a set; the label in
    /// metrics, logs and commands.
    pub id: Arc<str>,
    /// Where it listens, resolved.
    pub address: SocketAddr,
    /// Where its host is a name: all the addresses of that, in the order in which they are tried, `address` among them.
    /// Empty where an address is written.
    pub candidates: Arc<[SocketAddr]>,
    /// Its share; 0 = nothing new. Already the one that goes with `registry`.
    pub weight: u16,
    /// Its tier: 0 is used first.
    pub priority: u8,
    /// Sessions at once that it takes at most; `None` = as the pool says.
    pub max_sessions: Option<u32>,
    /// What the registry thinks of it.
    pub registry: Registry,
    /// Why the registry thinks so, for people: the name and output of the check that decided. Bounded by the source.
    pub note: Option<Arc<str>>,
}

impl Endpoint {
    /// With `address` in use, if that is one of its candidates.
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
        /// Nothing against it. What a source without statuses (static) says of everything.
        Passing = "passing",
        /// A check warns and the pool serves such instances.
        Warning = "warning",
        /// No check has anything against it, but one has not run yet, as after an agent's restart: the registry does not know.
        Unknown = "unknown",
        /// A check is critical, or warns where the pool leaves such instances out.
        Critical = "critical",
        /// Taken out by an operator of the registry: nothing new, running sessions stay.
        Maintenance = "maintenance",
        /// No longer in the set.
        Absent = "absent",
    }
}

/// The whole set as a source sees it now. Sent only for an answer that can be obeyed: an error is no update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Everything that exists; order has no meaning.
    pub endpoints: Vec<Endpoint>,
    /// How far it is to be believed where it takes something away.
    pub trust: Trust,
}

/// How far a set is to be believed where it takes something away. What the source says of itself; what follows from it
/// is the keeper's to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A person wrote it, or asked for another source: it is obeyed at once, whatever it says.
    Written,
    /// Nothing is wrong with the source.
    Calm,
    /// The first set after something went wrong.
    Doubted(Mistrust),
    /// The source fails; this is the last set again.
    Failing,
}

words! {
    /// Why the registry's word is not believed at once where it takes something away.
    pub enum Mistrust {
        /// It had failed to answer.
        Trouble = "trouble",
        /// It counts from a lower index: it was restarted, or an older state was restored.
        Restart = "restart",
        /// Its answers have become filtered by ACLs.
        Filtered = "filtered",
        /// It took everything away in one answer, while all of it works. Never said by a source: the keeper finds it.
        Shrink = "shrink",
    }
}

impl Mistrust {
    /// Since when, for people: "critical since …".
    pub fn since(self) -> &'static str {
        match self {
            Self::Trouble => "the registry's trouble",
            Self::Restart => "the registry's restart",
            Self::Filtered => "the registry's answers became filtered by ACLs",
            Self::Shrink => "one answer that took every instance away",
        }
    }
}

/// An instance that a source named but that can't be used; the rest of the set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// As much of an identity as it has.
    pub id: String,
    /// What is wrong with it, with the value.
    pub why: String,
}

/// The instances of a set that can't be used: the first of them, as a slice, and the count of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    first: Vec<Rejected>,
    count: usize,
}

impl Rejections {
    /// As many are kept; the rest is counted.
    pub const MOST: usize = 100;

    /// One more; made only if it is kept.
    pub fn push(&mut self, rejected: impl FnOnce() -> Rejected) {
        self.count += 1;
        if self.first.len() < Self::MOST {
            self.first.push(rejected());
        }
    }

    /// That many more of which nothing but the number is known.
    pub fn add_unknown(&mut self, count: usize) {
        self.count += count;
    }

    /// Those too.
    pub fn append(&mut self, more: &Self) {
        self.count += more.count;
        let space = Self::MOST - self.first.len();
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
