//! PURE. What operators said of a pool and its backends, by whom and for how long. The keeper of a pool obeys it; it
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

/// What an operator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What is wanted of whom.
    pub what: What,
    /// Who said so, for people.
    pub by: Arc<str>,
    /// Why, in the operator's words.
    pub note: Option<Arc<str>>,
    /// When.
    pub at: SystemTime,
    /// For how long.
    pub lasting: Lasting,
}

/// What is wanted of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Of every backend of the pool that has no order of its own, newcomers included.
    Pool(Operator),
    /// Of one backend.
    Backend(Arc<str>, Operator),
    /// Its share; `None` = what discovery says.
    Weight(Arc<str>, Option<u16>),
    /// Of its active check: whether it rests, and what it found last holds.
    Pause(Arc<str>, bool),
    /// That discovery is obeyed at once: nothing of the pool is held against it any more. Done once, so nothing is kept.
    Release,
}

/// For how long an order holds, unless it is taken back before.
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

/// One thing that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<T> {
    /// What is wanted.
    pub value: T,
    /// Who said so.
    pub by: Arc<str>,
    /// Why.
    pub note: Option<Arc<str>>,
    /// Since when.
    pub at: SystemTime,
    /// For how long.
    pub lasting: Lasting,
}

/// What holds for one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Before the pool's.
    pub operator: Option<Order<Operator>>,
    /// Before the registry's.
    pub weight: Option<Order<u16>>,
    /// Its active check rests.
    pub pause: Option<Order<()>>,
    /// When the identity left; `None` = it is there.
    gone_at: Option<SystemTime>,
}

/// What holds for a pool and its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pool: Option<Order<Operator>>,
    backends: BTreeMap<Arc<str>, Orders>,
    /// Kept, because the keeper asks with every report of a probe.
    next_end: Option<Instant>,
}

impl Overrides {
    /// Takes a command.
    pub fn obey(&mut self, command: Command) {
        let Command { what, by, note, at, lasting } = command;
        match what {
            What::Pool(value) => {
                self.pool = (value != Operator::Ready).then_some(Order { value, by, note, at, lasting });
                self.forget_exceptions();
            }
            What::Backend(id, value) => {
                // Ready is what holds without an order; said aloud it is an exception to the pool's.
                let needed = value != Operator::Ready || self.pool.is_some();
                self.of(id).operator = needed.then_some(Order { value, by, note, at, lasting });
            }
            What::Release => {}
            What::Weight(id, value) => {
                self.of(id).weight = value.map(|value| Order { value, by, note, at, lasting });
            }
            What::Pause(id, pause) => {
                self.of(id).pause = pause.then_some(Order { value: (), by, note, at, lasting });
            }
        }
        self.tidy();
    }

    /// The operator's fact about a backend.
    pub fn fact(&self, id: &str) -> Operator {
        self.order(id).map_or(Operator::Ready, |order| order.value)
    }

    /// Where that comes from: its own order, or else the pool's.
    pub fn order(&self, id: &str) -> Option<&Order<Operator>> {
        self.backends.get(id).and_then(|orders| orders.operator.as_ref()).or(self.pool.as_ref())
    }

    /// The share that an operator gave a backend.
    pub fn weight(&self, id: &str) -> Option<&Order<u16>> {
        self.backends.get(id).and_then(|orders| orders.weight.as_ref())
    }

    /// Why its active check rests; `None` = it does not.
    pub fn pause(&self, id: &str) -> Option<&Order<()>> {
        self.backends.get(id).and_then(|orders| orders.pause.as_ref())
    }

    /// The order for the whole pool.
    pub fn pool(&self) -> Option<&Order<Operator>> {
        self.pool.as_ref()
    }

    /// Backends with an order of their own about whether they serve.
    pub fn exceptions(&self) -> impl Iterator<Item = (&Arc<str>, &Order<Operator>)> {
        self.backends.iter().filter_map(|(id, orders)| Some((id, orders.operator.as_ref()?)))
    }

    /// Why a backend has the operator's fact that it has, for people.
    pub fn explained(&self, id: &str) -> String {
        let own = self.backends.get(id).and_then(|orders| orders.operator.as_ref());
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
        let over = |lasting: Lasting| lasting.ends().is_some_and(|ends| ends <= now);
        let mut ended = Vec::new();
        if let Some(order) = self.pool.take_if(|order| over(order.lasting)) {
            ended.push((None, format!("{} {order}", order.value.name())));
            self.forget_exceptions();
        }
        for (id, orders) in &mut self.backends {
            if let Some(order) = orders.operator.take_if(|order| over(order.lasting)) {
                ended.push((Some(Arc::clone(id)), format!("{} {order}", order.value.name())));
            }
            if let Some(order) = orders.weight.take_if(|order| over(order.lasting)) {
                ended.push((Some(Arc::clone(id)), format!("weight {} {order}", order.value)));
            }
            if let Some(order) = orders.pause.take_if(|order| over(order.lasting)) {
                ended.push((Some(Arc::clone(id)), format!("probes paused {order}")));
            }
        }
        self.tidy();
        ended
    }

    /// An identity is there, or not any more. Returns whether that is news.
    pub fn presence(&mut self, id: &str, is_there: bool, at: SystemTime) -> bool {
        let Some(orders) = self.backends.get_mut(id) else { return false };
        if orders.gone_at.is_none() == is_there {
            return false;
        }
        orders.gone_at = (!is_there).then_some(at);
        let long_gone = |orders: &Orders| {
            orders.gone_at.is_some_and(|gone| at.duration_since(gone).is_ok_and(|time| time > REMEMBERED))
        };
        self.backends.retain(|_, orders| !long_gone(orders));
        true
    }

    /// Whether nothing holds.
    pub fn is_empty(&self) -> bool {
        self.pool.is_none() && self.backends.is_empty()
    }

    fn of(&mut self, id: Arc<str>) -> &mut Orders {
        self.backends.entry(id).or_default()
    }

    /// "Ready" of a backend means: although the pool is not. A new word on the pool, or none, ends that.
    fn forget_exceptions(&mut self) {
        for orders in self.backends.values_mut() {
            orders.operator.take_if(|order| order.value == Operator::Ready);
        }
    }

    fn first_end(&self) -> Option<Instant> {
        let of_backends = self.backends.values().flat_map(|orders| {
            let (operator, weight, pause) = (orders.operator.as_ref(), orders.weight.as_ref(), orders.pause.as_ref());
            [
                operator.and_then(|order| order.lasting.ends()),
                weight.and_then(|order| order.lasting.ends()),
                pause.and_then(|order| order.lasting.ends()),
            ]
        });
        let of_pool = self.pool.as_ref().and_then(|order| order.lasting.ends());
        of_backends.flatten().chain(of_pool).min()
    }

    fn tidy(&mut self) {
        self.backends
            .retain(|_, orders| orders.operator.is_some() || orders.weight.is_some() || orders.pause.is_some());
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

/// "by root since 2026-11-21T14:50:00Z, until …: why".
impl<T> fmt::Display for Order<T> {
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

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(value) | Self::Backend(_, value) => f.write_str(value.name()),
            Self::Weight(_, Some(weight)) => write!(f, "weight {weight}"),
            Self::Weight(_, None) => f.write_str("weight as discovery says"),
            Self::Pause(_, true) => f.write_str("probes paused"),
            Self::Pause(_, false) => f.write_str("probes go on"),
            Self::Release => f.write_str("released: what discovery says holds"),
        }
    }
}
