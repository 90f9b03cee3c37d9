//! A binary heap whose entries can be found, moved and removed by slot: the least key in O(1), any change in O(log n).
//! Used by the policies.
//! The standard library's heap would need stale entries for that.

const NOWHERE: usize = usize::MAX;

#[derive(Debug)]
pub(super) struct Heap<K> {
    order: Vec<(K, usize)>,
    /// Slot → index in `order`.
    place: Vec<usize>,
}

impl<K: Ord + Copy> Heap<K> {
    pub(super) fn new() -> Self {
        Self { order: Vec::new(), place: Vec::new() }
    }

    pub(super) fn least(&self) -> Option<(K, usize)> {
        self.order.first().copied()
    }

    /// The entry with the least key among those whose slot is not in `tried`.
    pub(super) fn least_except(&mut self, tried: &[usize]) -> Option<(K, usize)> {
        let mut passed_over = Vec::new();
        let found = loop {
            let least = self.least();
            match least.filter(|(_, slot)| tried.contains(slot)) {
                Some((key, slot)) => {
                    self.remove(slot);
                    passed_over.push((key, slot));
                }
                None => break least,
            }
        };
        for (key, slot) in passed_over {
            self.put(slot, key);
        }
        found
    }

    /// In no order.
    pub(super) fn slots(&self) -> Vec<usize> {
        self.order.iter().map(|(_, slot)| *slot).collect()
    }

    pub(super) fn contains(&self, slot: usize) -> bool {
        self.place.get(slot).is_some_and(|&at| at != NOWHERE)
    }

    /// Inserts the slot, or gives it another key.
    pub(super) fn put(&mut self, slot: usize, key: K) {
        if self.place.len() <= slot {
            self.place.resize(slot + 1, NOWHERE);
        }
        let mut at = self.place[slot];
        if at == NOWHERE {
            at = self.order.len();
            self.order.push((key, slot));
            self.place[slot] = at;
        } else {
            self.order[at].0 = key;
        }
        let at = self.rise(at);
        self.sink(at);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        if !self.contains(slot) {
            return;
        }
        let at = std::mem::replace(&mut self.place[slot], NOWHERE);
        self.order.swap_remove(at);
        if at < self.order.len() {
            self.place[self.order[at].1] = at;
            let at = self.rise(at);
            self.sink(at);
        }
    }

    fn rise(&mut self, mut at: usize) -> usize {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.order[parent].0 <= self.order[at].0 {
                break;
            }
            self.swap(at, parent);
            at = parent;
        }
        at
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let Some(child) = (2 * at + 1..=2 * at + 2)
                .filter(|&child| child < self.order.len())
                .min_by_key(|&child| self.order[child].0)
            else {
                return;
            };
            if self.order[at].0 <= self.order[child].0 {
                return;
            }
            self.swap(at, child);
            at = child;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.order.swap(a, b);
        self.place[self.order[a].1] = a;
        self.place[self.order[b].1] = b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_sorted_map_under_random_changes() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut heap = Heap::new();
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..20_000 {
            let slot = random.usize(..50);
            if random.u8(..3) == 0 {
                heap.remove(slot);
                model.remove(&slot);
            } else {
                let key = (random.u32(..1_000), slot);
                heap.put(slot, key);
                model.insert(slot, key);
            }
            assert_eq!(heap.least().map(|(key, _)| key), model.values().min().copied());
            assert_eq!(heap.contains(slot), model.contains_key(&slot));
        }
    }
}
