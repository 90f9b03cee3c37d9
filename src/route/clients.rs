//! PURE. What is known of the clients of a listener: their sessions now, and what is left of their rate. So many clients at
//! most; beyond that the one that was heard of least recently is forgotten, if it has no session. Every step takes the same
//! time, however many there are.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use hashbrown::HashTable;

use super::rate::{SessionBucket, SessionRate};
use crate::metrics::Refusal;

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// What one client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Sessions at once; `None` = any number.
    pub sessions: Option<u32>,
    /// New sessions; `None` = any number.
    pub rate: Option<SessionRate>,
}

/// A limit that a client has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It has as many sessions as it may have.
    Sessions,
    /// It began sessions too fast: not before this time.
    Rate(u64),
}

/// A client's place. It holds as long as the client has a session or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientSlot(u32);

/// The clients. `V` is what else is kept of each, for as long as it is known. Times are nanoseconds of a clock that the
/// caller has.
#[derive(Debug)]
pub struct Clients<V = ()> {
    /// Places in `known`.
    index: HashTable<u32>,
    hasher: RandomState,
    known: Vec<Entry<V>>,
    /// Those without sessions, in the order in which they were heard of.
    coldest: u32,
    hottest: u32,
    /// Places of clients that were forgotten, each with the next as its hotter one.
    free: u32,
    most: usize,
}

/// Small: there may be millions.
#[derive(Debug)]
struct Entry<V> {
    /// As IPv6, in two halves, which need no gap.
    address: [u64; 2],
    bucket: SessionBucket,
    sessions: u32,
    /// How often it was over a limit.
    over: [u32; 2],
    /// Its neighbours among those without sessions.
    colder: u32,
    hotter: u32,
    waiting: u16,
    value: V,
}

/// A client as a person sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientView {
    /// Its address, or the first one of its network.
    pub address: IpAddr,
    /// Its sessions now.
    pub sessions: u32,
    /// Of its sessions, those that wait to begin.
    pub waiting: u16,
    /// How often it had as many sessions as it may have.
    pub over_sessions: u32,
    /// How often it began sessions too fast.
    pub over_rate: u32,
}

impl ClientView {
    /// How often it was over a limit.
    pub fn over(&self) -> u64 {
        u64::from(self.over_sessions) + u64::from(self.over_rate)
    }
}

impl Over {
    /// Why a session is refused for it.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Sessions => Refusal::ClientConnections,
            Self::Rate(_) => Refusal::ClientRate,
        }
    }
}

impl<V: Default> Clients<V> {
    /// None. At most so many without sessions are known at once; at least 1. The hasher's keys are secret, so that clients
    /// can't choose addresses that collide.
    pub fn new(most: usize, hasher: RandomState) -> Self {
        let (index, known, most) = (HashTable::new(), Vec::new(), most.max(1));
        Self { index, hasher, known, coldest: NONE, hottest: NONE, free: NONE, most }
    }

    /// Changes how many are known at most. If they are fewer, the coldest are forgotten.
    pub fn bound(&mut self, most: usize) {
        self.most = most.max(1);
        self.forget_beyond(self.most);
    }

    /// The place of a client. The one that was heard of least recently may be forgotten for it.
    pub fn meet(&mut self, address: IpAddr) -> ClientSlot {
        let address = halves(address);
        let hash = self.hasher.hash_one(address);
        let known = &self.known;
        if let Some(place) = self.index.find(hash, |place| known[*place as usize].address == address) {
            return ClientSlot(*place);
        }
        self.forget_beyond(self.most - 1);
        let place = self.add(address);
        let (known, hasher) = (&self.known, &self.hasher);
        self.index.insert_unique(hash, place, |place| hasher.hash_one(known[*place as usize].address));
        self.warm(place);
        ClientSlot(place)
    }

    fn add(&mut self, address: [u64; 2]) -> u32 {
        if let Some(free) = self.known.get_mut(self.free as usize) {
            let place = std::mem::replace(&mut self.free, free.hotter);
            *free = Entry::new(address);
            return place;
        }
        // Entries take 48 bytes: memory ends before their numbers do.
        let place = u32::try_from(self.known.len()).unwrap_or(NONE);
        self.known.push(Entry::new(address));
        place
    }

    /// Forgets the coldest while there are more than so many, as long as there are some without sessions. Once a step, it is
    /// one that is too many, unless the bound has become lower.
    fn forget_beyond(&mut self, most: usize) {
        while self.index.len() > most && self.coldest != NONE {
            let place = self.coldest;
            self.cool_off(place);
            let entry = &mut self.known[place as usize];
            entry.hotter = self.free;
            self.free = place;
            if let Ok(found) = self.index.find_entry(self.hasher.hash_one(entry.address), |one| *one == place) {
                found.remove();
            }
        }
    }

    /// Begins a session, if that is within the limits. Else the client is over one more time. Where others of the client
    /// wait for a limit, that is reached.
    ///
    /// # Errors
    /// The limit.
    pub fn begin(&mut self, slot: ClientSlot, limits: ClientLimits, now: u64) -> Result<(), Over> {
        let begun = match self.at(slot).waiting {
            0 => self.try_begin(slot, limits, now),
            _ => Err(self.is_over(slot, limits, now).unwrap_or(Over::Sessions)),
        };
        if let Err(over) = begun {
            let count = &mut self.at_mut(slot).over[usize::from(matches!(over, Over::Rate(_)))];
            *count = count.saturating_add(1);
            self.hear_of(slot.0);
        }
        begun
    }

    /// Begins a session that has waited, if that is within the limits now.
    ///
    /// # Errors
    /// The limit.
    pub fn try_begin(&mut self, slot: ClientSlot, limits: ClientLimits, now: u64) -> Result<(), Over> {
        let entry = self.at_mut(slot);
        if limits.sessions.is_some_and(|most| entry.sessions >= most) {
            return Err(Over::Sessions);
        }
        if let Some(rate) = limits.rate {
            entry.bucket.take(rate, now).map_err(Over::Rate)?;
        }
        self.begin_anyway(slot);
        Ok(())
    }

    /// Begins a session, whatever the limits say.
    pub fn begin_anyway(&mut self, slot: ClientSlot) {
        self.hold(slot);
        self.at_mut(slot).sessions += 1;
    }

    /// Ends a session.
    pub fn end(&mut self, slot: ClientSlot) {
        self.at_mut(slot).sessions -= 1;
        self.release(slot);
    }

    /// One more session of it waits; it is not forgotten meanwhile. Returns whether it may: not more than `most` do.
    pub fn wait(&mut self, slot: ClientSlot, most: u16) -> bool {
        if self.at(slot).waiting >= most {
            return false;
        }
        self.hold(slot);
        self.at_mut(slot).waiting += 1;
        true
    }

    /// A session of it does not wait any more.
    pub fn stop_waiting(&mut self, slot: ClientSlot) {
        self.at_mut(slot).waiting -= 1;
        self.release(slot);
    }

    /// What else is kept of it.
    pub fn value(&mut self, slot: ClientSlot) -> &mut V {
        &mut self.at_mut(slot).value
    }

    /// All that are known.
    pub fn views(&self) -> impl Iterator<Item = ClientView> {
        self.index.iter().map(|place| self.known[*place as usize].view())
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn is_over(&self, slot: ClientSlot, limits: ClientLimits, now: u64) -> Option<Over> {
        let entry = self.at(slot);
        if limits.sessions.is_some_and(|most| entry.sessions >= most) {
            return Some(Over::Sessions);
        }
        let mut bucket = entry.bucket;
        bucket.take(limits.rate?, now).err().map(Over::Rate)
    }

    fn at(&self, slot: ClientSlot) -> &Entry<V> {
        &self.known[slot.0 as usize]
    }

    fn at_mut(&mut self, slot: ClientSlot) -> &mut Entry<V> {
        &mut self.known[slot.0 as usize]
    }

    /// It may not be forgotten from now on.
    fn hold(&mut self, slot: ClientSlot) {
        if self.at(slot).is_idle() {
            self.cool_off(slot.0);
        }
    }

    /// It may be forgotten again, if nothing else holds it.
    fn release(&mut self, slot: ClientSlot) {
        if self.at(slot).is_idle() {
            self.warm(slot.0);
            self.forget_beyond(self.most);
        }
    }

    fn hear_of(&mut self, place: u32) {
        if self.known[place as usize].is_idle() {
            self.cool_off(place);
            self.warm(place);
        }
    }

    /// Puts it at the hot end.
    fn warm(&mut self, place: u32) {
        let entry = &mut self.known[place as usize];
        (entry.colder, entry.hotter) = (self.hottest, NONE);
        match self.hottest {
            NONE => self.coldest = place,
            hottest => self.known[hottest as usize].hotter = place,
        }
        self.hottest = place;
    }

    /// Takes it out of the chain.
    fn cool_off(&mut self, place: u32) {
        let Entry { colder, hotter, .. } = self.known[place as usize];
        match colder {
            NONE => self.coldest = hotter,
            colder => self.known[colder as usize].hotter = hotter,
        }
        match hotter {
            NONE => self.hottest = colder,
            hotter => self.known[hotter as usize].colder = colder,
        }
    }
}

impl<V: Default> Entry<V> {
    fn new(address: [u64; 2]) -> Self {
        let (bucket, value) = (SessionBucket::default(), V::default());
        Self { address, bucket, sessions: 0, over: [0; 2], colder: NONE, hotter: NONE, waiting: 0, value }
    }
}

impl<V> Entry<V> {
    fn is_idle(&self) -> bool {
        self.sessions == 0 && self.waiting == 0
    }

    fn view(&self) -> ClientView {
        let [high, low] = self.address;
        let address = IpAddr::from((u128::from(high) << 64 | u128::from(low)).to_be_bytes()).to_canonical();
        let Self { sessions, waiting, over: [over_sessions, over_rate], .. } = *self;
        ClientView { address, sessions, waiting, over_sessions, over_rate }
    }
}

fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
