//! PURE. Which backend a client had last: a bounded table that forgets an entry when it has not been used for its `ttl`, and
//! the coldest one when there is no room. Called by `pool`, behind its lock: everything is O(1) but [`StickyTable::list`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::config::Sticky;

const NONE: u32 = u32::MAX;

/// Clients with their slots, from the hottest to the coldest.
#[derive(Debug)]
pub struct StickyTable {
    rules: Sticky,
    /// Places in `entries`.
    places: HashMap<IpAddr, u32>,
    entries: Vec<Entry>,
    /// Places that are not used.
    free: Vec<u32>,
    /// The ends of the chain.
    hottest: u32,
    coldest: u32,
    /// By slot: how often its entries were dropped, all at once. What is older is as good as gone.
    drops: Vec<u32>,
    /// Entries that were forgotten before their time for want of room.
    forgotten: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    client: IpAddr,
    slot: u32,
    /// Of its slot when it was made.
    drop: u32,
    used: Instant,
    hotter: u32,
    colder: u32,
}

impl StickyTable {
    /// An empty one.
    pub fn new(rules: Sticky) -> Self {
        Self {
            rules,
            places: HashMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            hottest: NONE,
            coldest: NONE,
            drops: Vec::new(),
            forgotten: 0,
        }
    }

    /// Other rules. Entries stay, unless clients are told apart in another way, or there is less room.
    pub fn change(&mut self, rules: Sticky) {
        let before = std::mem::replace(&mut self.rules, rules);
        if before.prefix != rules.prefix {
            self.clear();
        }
        while self.places.len() > rules.max {
            self.forget_coldest();
        }
    }

    /// The slot of a client.
    pub fn slot_of(&mut self, client: IpAddr, now: Instant) -> Option<usize> {
        self.expire(now);
        let place = *self.places.get(&client)?;
        let entry = self.entries[place as usize];
        self.is_good(&entry, now).then_some(entry.slot as usize)
    }

    /// The client has a session on that slot from now on.
    pub fn put(&mut self, client: IpAddr, slot: usize, now: Instant) {
        self.expire(now);
        let place = match self.places.get(&client) {
            Some(place) => *place,
            None => self.new_place(client, now),
        };
        self.unchain(place);
        let drop = self.drop_of(slot);
        let entry = &mut self.entries[place as usize];
        (entry.slot, entry.drop, entry.used) = (slot as u32, drop, now);
        self.chain(place);
    }

    /// The backend of a slot is gone: so are its entries.
    pub fn drop_slot(&mut self, slot: usize) {
        if self.drops.len() <= slot {
            self.drops.resize(slot + 1, 0);
        }
        self.drops[slot] = self.drops[slot].wrapping_add(1);
    }

    /// Forgets one client. Returns whether it was known.
    pub fn remove(&mut self, client: IpAddr, now: Instant) -> bool {
        let was_known = self.slot_of(client, now).is_some();
        if let Some(place) = self.places.get(&client).copied() {
            self.forget(place);
        }
        was_known
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.places.clear();
        self.entries.clear();
        self.free.clear();
        (self.hottest, self.coldest) = (NONE, NONE);
    }

    /// Clients with their slot and the time since they were used, the hottest first: at most so many, after those that are
    /// passed over. Looks at every entry.
    pub fn list(&self, now: Instant, most: usize) -> Vec<(IpAddr, usize, Duration)> {
        let all = std::iter::successors(self.entry(self.hottest), |entry| self.entry(entry.colder));
        let good = all.filter(|entry| self.is_good(entry, now));
        let shown = |entry: &Entry| (entry.client, entry.slot as usize, now.saturating_duration_since(entry.used));
        good.take(most).map(shown).collect()
    }

    /// Entries, with those of backends that are gone, until their time is over or there is no room.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Entries that were forgotten before their time for want of room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// How clients are told apart, for how long, and how many.
    pub fn rules(&self) -> Sticky {
        self.rules
    }

    fn is_good(&self, entry: &Entry, now: Instant) -> bool {
        entry.drop == self.drop_of(entry.slot as usize) && now.saturating_duration_since(entry.used) < self.rules.ttl
    }

    fn drop_of(&self, slot: usize) -> u32 {
        self.drops.get(slot).copied().unwrap_or(0)
    }

    fn entry(&self, place: u32) -> Option<&Entry> {
        self.entries.get(place as usize)
    }

    /// The two coldest, if their time is over: as each use adds one at most, none stays for long.
    fn expire(&mut self, now: Instant) {
        for _ in 0..2 {
            match self.entry(self.coldest) {
                Some(entry) if !self.is_good(entry, now) => self.forget(self.coldest),
                _ => return,
            }
        }
    }

    fn new_place(&mut self, client: IpAddr, now: Instant) -> u32 {
        if self.places.len() >= self.rules.max {
            self.forget_coldest();
        }
        let entry = Entry { client, slot: 0, drop: 0, used: now, hotter: NONE, colder: NONE };
        let place = self.free.pop().unwrap_or(self.entries.len() as u32);
        if place as usize == self.entries.len() {
            self.entries.push(entry);
        } else {
            self.entries[place as usize] = entry;
        }
        self.places.insert(client, place);
        self.chain(place);
        place
    }

    fn forget_coldest(&mut self) {
        if let Some(entry) = self.entry(self.coldest).copied() {
            self.forgotten += u64::from(entry.drop == self.drop_of(entry.slot as usize));
            self.forget(self.coldest);
        }
    }

    fn forget(&mut self, place: u32) {
        self.unchain(place);
        self.places.remove(&self.entries[place as usize].client);
        self.free.push(place);
    }

    /// As the hottest.
    fn chain(&mut self, place: u32) {
        let before = std::mem::replace(&mut self.hottest, place);
        let entry = &mut self.entries[place as usize];
        (entry.hotter, entry.colder) = (NONE, before);
        match self.entries.get_mut(before as usize) {
            Some(colder) => colder.hotter = place,
            None => self.coldest = place,
        }
    }

    fn unchain(&mut self, place: u32) {
        let Entry { hotter, colder, .. } = self.entries[place as usize];
        match self.entries.get_mut(hotter as usize) {
            Some(entry) => entry.colder = colder,
            None => self.hottest = colder,
        }
        match self.entries.get_mut(colder as usize) {
            Some(entry) => entry.hotter = hotter,
            None => self.coldest = hotter,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Prefix, StickyBy};

    const TTL: Duration = Duration::from_secs(100);

    fn rules(max: usize) -> Sticky {
        Sticky { by: StickyBy::ClientAddress, prefix: Prefix::WHOLE, ttl: TTL, max }
    }

    fn client(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn an_entry_lasts_for_its_time_after_the_last_use() {
        let (mut table, start) = (StickyTable::new(rules(9)), Instant::now());
        table.put(client(1), 7, start);
        assert_eq!(table.slot_of(client(1), start + TTL / 2), Some(7));
        table.put(client(1), 7, start + TTL / 2);
        assert_eq!(table.slot_of(client(1), start + TTL), Some(7));
        assert_eq!((table.slot_of(client(1), start + TTL * 3 / 2), table.len()), (None, 0));
    }

    #[test]
    fn the_coldest_is_forgotten_for_want_of_room() {
        let (mut table, start) = (StickyTable::new(rules(3)), Instant::now());
        (1..=3).for_each(|number| table.put(client(number), 0, start));
        table.put(client(1), 5, start);
        table.put(client(4), 0, start);
        let hottest_first: Vec<_> = table.list(start, 9).into_iter().map(|(client, ..)| client).collect();
        assert_eq!(hottest_first, [client(4), client(1), client(3)]);
        assert_eq!((table.len(), table.forgotten(), table.slot_of(client(2), start)), (3, 1, None));
        table.change(rules(1));
        assert_eq!((table.len(), table.slot_of(client(4), start)), (1, Some(0)));
    }

    #[test]
    fn entries_of_a_backend_that_is_gone_go_with_it() {
        let (mut table, start) = (StickyTable::new(rules(9)), Instant::now());
        (1..=4).for_each(|number| table.put(client(number), number as usize % 2, start));
        table.drop_slot(1);
        assert_eq!(table.list(start, 9).len(), 2);
        assert_eq!((table.slot_of(client(1), start), table.slot_of(client(2), start)), (None, Some(0)));
        // The slot belongs to another backend now.
        table.put(client(9), 1, start);
        assert_eq!((table.slot_of(client(3), start), table.slot_of(client(9), start)), (None, Some(1)));
    }

    #[test]
    fn it_behaves_like_a_map_that_is_searched() {
        let mut random = fastrand::Rng::with_seed(3);
        for max in [1, 5, 40] {
            let (mut table, mut now) = (StickyTable::new(rules(max)), Instant::now());
            // By client: slot and last use, numbered.
            let mut model: BTreeMap<IpAddr, (usize, Instant, u64)> = BTreeMap::new();
            for number in 0..20_000 {
                now += TTL.mul_f64(random.f64() / 40.0);
                let (client, slot) = (client(random.u32(..60)), random.usize(..6));
                model.retain(|_, (_, used, _)| now.saturating_duration_since(*used) < TTL);
                match random.u8(..20) {
                    0 => {
                        table.drop_slot(slot);
                        model.retain(|_, (its, ..)| *its != slot);
                    }
                    1 => assert_eq!(table.remove(client, now), model.remove(&client).is_some()),
                    2..10 => assert_eq!(table.slot_of(client, now), model.get(&client).map(|(slot, ..)| *slot)),
                    _ => {
                        table.put(client, slot, now);
                        model.insert(client, (slot, now, number));
                    }
                }
                assert!(table.len() <= max);
                // What is gone may take room until it is the coldest, so fewer may be left, never others.
                for (client, slot, _) in table.list(now, max) {
                    assert_eq!(model.get(&client).map(|(slot, ..)| *slot), Some(slot));
                }
                let left: Vec<IpAddr> = table.list(now, max).into_iter().map(|(client, ..)| client).collect();
                let mut hottest: Vec<_> = model.iter().map(|(client, (.., number))| (*number, *client)).collect();
                hottest.sort_unstable_by(|a, b| b.cmp(a));
                assert!(hottest.iter().map(|(_, client)| *client).take(left.len()).eq(left.iter().copied()));
                model.retain(|client, _| left.contains(client));
            }
        }
    }
}
