//! PURE. What operators said of a pool and its backends, with their names and for how long. The keeper of a pool obeys it; it
//! outlives registry updates, address changes and, in its `file`, restarts.

pub mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::standing::Operator;

/// How long orders for an identity that left are remembered: a machine that is repaired for days comes back as it was
/// left, and names that never come back do not pile up.
pub const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3_600);

/// A time that can be written with a year of four digits: a wall clock that is before 1970, or after the year 9999, must
/// end nothing.
pub(crate) fn printable(at: SystemTime) -> SystemTime {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    at.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LAST)
}

/// What an operator says, with the name and for how long: of a pool or a backend (`Override<Wanted>`, as it is given), or of one
/// thing alone (as it holds and is kept).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override<T> {
    /// What is wanted.
    pub value: T,
    /// The user or the address, for people.
    pub by: Arc<str>,
    /// Why, in the operator's words.
    pub note: Option<Arc<str>>,
    /// Since when.
    pub at: SystemTime,
    /// For how long.
    pub lasting: Lasting,
}

/// What is wanted of a pool, or of one of its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Of every backend of the pool that has no order of its own, newcomers included.
    Pool(Operator),
    /// Of one backend.
    Backend(Arc<str>, Operator),
    /// Its share; `None` = what discovery says.
    Weight(Arc<str>, Option<u16>),
    /// Of its active check.
    Probe(Arc<str>, ProbeSwitch),
    /// That discovery is obeyed at once: nothing of the pool is held against it any more. Done once, so nothing is kept.
    Release,
}

words! {
    /// Whether an active check goes on.
    pub enum ProbeSwitch {
        /// It does.
        Running = "running",
        /// It rests, and what it found last holds.
        Paused = "paused",
    }
}

/// For how long an override holds, unless it is taken back before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// Also after a restart.
    Kept,
    /// No longer than the process.
    Restart,
    /// Until a moment, on both clocks; after a restart, too.
    Until {
        /// For people and the file.
        at: SystemTime,
        /// For deadlines.
        ends: Instant,
    },
}

/// What holds for one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendOverrides {
    /// Before the pool's.
    pub operator: Option<Override<Operator>>,
    /// Before the registry's.
    pub weight: Option<Override<u16>>,
    /// Its active check rests.
    pub probe: Option<Override<ProbeSwitch>>,
    /// When the identity left; `None` = it is there.
    gone_at: Option<SystemTime>,
}

/// What holds for a pool and its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pool: Option<Override<Operator>>,
    backends: BTreeMap<Arc<str>, BackendOverrides>,
    /// Kept, because the keeper asks with every report of a probe.
    next_end: Option<Instant>,
}

impl Overrides {
    /// Takes one.
    pub fn obey(&mut self, given: Override<Wanted>) {
        match given.value.clone() {
            Wanted::Pool(value) => {
                self.pool = (value != Operator::Ready).then(|| given.with(value));
                self.forget_exceptions();
            }
            Wanted::Backend(id, value) => {
                // Ready is what holds without an override; said aloud it is an exception to the pool's.
                let needed = value != Operator::Ready || self.pool.is_some();
                self.of(id).operator = needed.then(|| given.with(value));
            }
            Wanted::Weight(id, value) => self.of(id).weight = value.map(|value| given.with(value)),
            Wanted::Probe(id, value) => {
                self.of(id).probe = (value == ProbeSwitch::Paused).then(|| given.with(value));
            }
            Wanted::Release => {}
        }
        self.tidy();
    }

    /// The operator's fact about a backend.
    pub fn fact(&self, id: &str) -> Operator {
        self.order(id).map_or(Operator::Ready, |order| order.value)
    }

    /// Where that comes from: its own order, or else the pool's.
    pub fn order(&self, id: &str) -> Option<&Override<Operator>> {
        self.backends.get(id).and_then(|own| own.operator.as_ref()).or(self.pool.as_ref())
    }

    /// The share that an operator gave a backend.
    pub fn weight(&self, id: &str) -> Option<&Override<u16>> {
        self.backends.get(id).and_then(|own| own.weight.as_ref())
    }

    /// Why its active check rests; `None` = it does not.
    pub fn pause(&self, id: &str) -> Option<&Override<ProbeSwitch>> {
        self.backends.get(id).and_then(|own| own.probe.as_ref())
    }

    /// The order for the whole pool.
    pub fn pool(&self) -> Option<&Override<Operator>> {
        self.pool.as_ref()
    }

    /// Backends with an order of their own about whether they serve.
    pub fn exceptions(&self) -> impl Iterator<Item = (&Arc<str>, &Override<Operator>)> {
        self.backends.iter().filter_map(|(id, own)| Some((id, own.operator.as_ref()?)))
    }

    /// Why a backend has the operator's fact that it has, for people.
    pub fn explained(&self, id: &str) -> String {
        let own = self.backends.get(id).and_then(|own| own.operator.as_ref());
        match (own, &self.pool) {
            (Some(order), _) => order.to_string(),
            (None, Some(order)) => format!("the whole pool, {order}"),
            (None, None) => "no order".to_owned(),
        }
    }

    /// When the next order ends by itself.
    pub fn next_end(&self) -> Option<Instant> {
        self.next_end
    }

    /// Drops what has ended; one line for each.
    pub fn expire(&mut self, now: Instant) -> Vec<(Option<Arc<str>>, String)> {
        fn ended<T>(held: &mut Option<Override<T>>, now: Instant) -> Option<Override<T>> {
            held.take_if(|held| held.lasting.ends().is_some_and(|ends| ends <= now))
        }
        let mut lines = Vec::new();
        if let Some(over) = ended(&mut self.pool, now) {
            lines.push((None, format!("{} {over}", over.value.name())));
            self.forget_exceptions();
        }
        for (id, own) in &mut self.backends {
            let operator = ended(&mut own.operator, now).map(|over| format!("{} {over}", over.value.name()));
            let weight = ended(&mut own.weight, now).map(|over| format!("weight {} {over}", over.value));
            let probe = ended(&mut own.probe, now).map(|over| format!("probes paused {over}"));
            lines.extend([operator, weight, probe].into_iter().flatten().map(|line| (Some(Arc::clone(id)), line)));
        }
        self.tidy();
        lines
    }

    /// An identity is there, or not any more. Returns whether that is news.
    pub fn presence(&mut self, id: &str, is_there: bool, at: SystemTime) -> bool {
        let Some(own) = self.backends.get_mut(id) else { return false };
        if own.gone_at.is_none() == is_there {
            return false;
        }
        own.gone_at = (!is_there).then_some(at);
        let long_gone = |own: &BackendOverrides| {
            own.gone_at.is_some_and(|gone| at.duration_since(gone).is_ok_and(|time| time > REMEMBERED))
        };
        self.backends.retain(|_, own| !long_gone(own));
        true
    }

    /// Whether nothing holds.
    pub fn is_empty(&self) -> bool {
        self.pool.is_none() && self.backends.is_empty()
    }

    fn of(&mut self, id: Arc<str>) -> &mut BackendOverrides {
        self.backends.entry(id).or_default()
    }

    /// "Ready" of a backend means: although the pool is not. A new word on the pool, or none, ends that.
    fn forget_exceptions(&mut self) {
        for own in self.backends.values_mut() {
            own.operator.take_if(|order| order.value == Operator::Ready);
        }
    }

    fn first_end(&self) -> Option<Instant> {
        fn end<T>(held: &Option<Override<T>>) -> Option<Instant> {
            held.as_ref()?.lasting.ends()
        }
        let own = self.backends.values().flat_map(|own| [end(&own.operator), end(&own.weight), end(&own.probe)]);
        own.chain([end(&self.pool)]).flatten().min()
    }

    fn tidy(&mut self) {
        self.backends.retain(|_, own| own.operator.is_some() || own.weight.is_some() || own.probe.is_some());
        self.next_end = self.first_end();
    }
}

impl Lasting {
    /// For so long from now; `None` if that is beyond what clocks can tell.
    pub fn for_so_long(time: Duration, now: Instant, wall: SystemTime) -> Option<Self> {
        Some(Self::Until { at: wall.checked_add(time)?, ends: now.checked_add(time)? })
    }

    fn ends(self) -> Option<Instant> {
        match self {
            Self::Until { ends, .. } => Some(ends),
            Self::Kept | Self::Restart => None,
        }
    }
}

impl<T> Override<T> {
    /// Of something else, said with it.
    pub fn with<U>(self, value: U) -> Override<U> {
        let Self { by, note, at, lasting, .. } = self;
        Override { value, by, note, at, lasting }
    }
}

/// "by root since 2026-11-21T14:50:00Z, until …: why".
impl<T> fmt::Display for Override<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by {} at {}", self.by, humantime::format_rfc3339_seconds(printable(self.at)))?;
        match self.lasting {
            Lasting::Kept => {}
            Lasting::Restart => f.write_str(", until a restart")?,
            Lasting::Until { at, .. } => write!(f, ", until {}", humantime::format_rfc3339_seconds(printable(at)))?,
        }
        self.note.as_ref().map_or(Ok(()), |note| write!(f, ": {note}"))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(value) | Self::Backend(_, value) => f.write_str(value.name()),
            Self::Weight(_, Some(weight)) => write!(f, "weight {weight}"),
            Self::Weight(_, None) => f.write_str("weight as discovery says"),
            Self::Probe(_, ProbeSwitch::Paused) => f.write_str("probes paused"),
            Self::Probe(_, ProbeSwitch::Running) => f.write_str("probes go on"),
            Self::Release => f.write_str("released: what discovery says holds"),
        }
    }
}
