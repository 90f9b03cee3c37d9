//! Tables over all members of a tier, those that can't be picked included: in which order a client meets them. A table
//! depends on the ids, weights and places in the list alone, so that two balancers with the same members agree on every
//! client. A backend that can't serve is passed over in the order of the table: its clients are spread over the others and
//! come back to it.
//!
//! A table takes milliseconds to build, so `pool` builds it outside of its lock.

use std::hash::Hasher;

use fnv::FnvHasher;

/// Entries of a maglev table for each member; the fewer there are, the more clients of other members move when one leaves.
const ENTRIES_A_MEMBER: usize = 100;

/// Primes, because the steps of the members through the table have to reach all of it.
const SIZES: [usize; 5] = [65_537, 262_147, 655_373, 1_048_583, 8_388_617];

/// Points of a ring for each member of mean weight; the more there are, the more even are the shares.
const POINTS_A_MEMBER: f64 = 160.0;

/// A member of a table.
#[derive(Clone, Debug)]
pub struct TableMember<'a> {
    /// Its number in the pool.
    pub slot: usize,
    /// Its identity, which decides its places.
    pub id: &'a str,
    /// Its place in the written list.
    pub position: u32,
    /// Greater than 0.
    pub weight: u16,
}

/// Which construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Maglev (Eisenbud and others, NSDI 2016): even shares; a few clients of other members move when one leaves.
    Maglev,
    /// A ring of points (Karger and others, 1997): only the clients of a member that leaves move; shares are less even.
    Ring,
    /// No hashing: in the order of the written list, then by id; the same for every client.
    List,
}

/// The order of the backends for every client.
#[derive(Debug, Default)]
pub struct MemberTable {
    /// Hashes at which an entry begins; empty = all entries are as long.
    points: Vec<u64>,
    /// Slots.
    entries: Vec<u32>,
}

impl MemberTable {
    /// Builds a table. Members of weight 0 are not to be in it.
    pub fn build(kind: TableKind, mut members: Vec<TableMember<'_>>) -> Self {
        // The same for all balancers, in whatever order they have heard of the members.
        members.sort_unstable_by_key(|member| member.id);
        if members.is_empty() {
            return Self { points: Vec::new(), entries: Vec::new() };
        }
        match kind {
            TableKind::List => {
                members.sort_by_key(|member| member.position);
                Self { points: Vec::new(), entries: members.iter().map(|member| member.slot as u32).collect() }
            }
            TableKind::Maglev => Self { points: Vec::new(), entries: maglev(&members) },
            TableKind::Ring => {
                let mut all = ring(&members);
                all.sort_unstable();
                let (points, entries) =
                    all.into_iter().map(|(point, member)| (point, members[member].slot as u32)).unzip();
                Self { points, entries }
            }
        }
    }

    /// The slots in their order for a client of this hash; a slot may come more than once.
    pub fn order(&self, hash: u64) -> impl Iterator<Item = usize> {
        let count = self.entries.len();
        let first = match (count, self.points.is_empty()) {
            (0, _) => 0,
            (_, true) => ((u128::from(hash) * count as u128) >> 64) as usize,
            (_, false) => self.points.partition_point(|point| *point < hash) % count,
        };
        self.entries[first..].iter().chain(&self.entries[..first]).map(|slot| *slot as usize)
    }
}

/// Each member takes entries in turn, as often as its weight says, each time the next free one of its own order.
fn maglev(members: &[TableMember<'_>]) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let size =
        SIZES.into_iter().find(|size| *size >= members.len() * ENTRIES_A_MEMBER).unwrap_or(SIZES[SIZES.len() - 1]);
    let most = members.iter().map(|member| member.weight).max().map_or(1.0, f64::from);
    let mut walks: Vec<(usize, usize, f64)> = members
        .iter()
        .map(|member| {
            let (offset, step) = (hash_of(member.id.as_bytes(), 1), hash_of(member.id.as_bytes(), 2));
            (offset as usize % size, step as usize % (size - 1) + 1, 0.0)
        })
        .collect();
    let mut entries = vec![FREE; size];
    let mut filled = 0;
    loop {
        for (member, (place, step, credit)) in members.iter().zip(&mut walks) {
            *credit += f64::from(member.weight) / most;
            if *credit < 1.0 {
                continue;
            }
            *credit -= 1.0;
            while entries[*place] != FREE {
                *place = (*place + *step) % size;
            }
            entries[*place] = member.slot as u32;
            filled += 1;
            if filled == size {
                return entries;
            }
        }
    }
}

/// Points with the number of their member; a member has them in proportion to its weight, and at least one.
fn ring(members: &[TableMember<'_>]) -> Vec<(u64, usize)> {
    let mean = members.iter().map(|member| f64::from(member.weight)).sum::<f64>() / members.len() as f64;
    let points = |(number, member): (usize, &TableMember<'_>)| {
        let count = (POINTS_A_MEMBER * f64::from(member.weight) / mean).round().max(1.0) as u64;
        let id = member.id.as_bytes().to_vec();
        (0..count).map(move |point| (hash_of(&id, 3 + point), number)).collect::<Vec<_>>()
    };
    members.iter().enumerate().flat_map(points).collect()
}

/// FNV-1a over the bytes, then a step that lets every bit of it count for every bit of the result (splitmix64's last one):
/// ids and addresses of neighbours differ in few bits. The same on every machine and in every version.
pub fn hash_of(bytes: &[u8], seed: u64) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(&seed.to_le_bytes());
    hasher.write(bytes);
    let mut hash = hasher.finish();
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS: u64 = 100_000;

    fn members<'a>(ids: &'a [String], weights: &[u16]) -> Vec<TableMember<'a>> {
        let weights = weights.iter().cycle();
        ids.iter()
            .zip(weights)
            .enumerate()
            .map(|(slot, (id, &weight))| TableMember { slot, id, position: 0, weight })
            .collect()
    }

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("node-{n}/web-{n}")).collect()
    }

    fn client(number: u64) -> u64 {
        hash_of(&number.to_be_bytes(), 0)
    }

    fn firsts(table: &MemberTable) -> Vec<usize> {
        (0..CLIENTS).map(|number| table.order(client(number)).next().unwrap()).collect()
    }

    #[test]
    fn balancers_that_heard_of_the_members_in_another_order_agree() {
        let ids = ids(50);
        for kind in [TableKind::Maglev, TableKind::Ring] {
            let here = MemberTable::build(kind, members(&ids, &[1, 3]));
            let mut other = members(&ids, &[1, 3]);
            fastrand::Rng::with_seed(7).shuffle(&mut other);
            assert_eq!(firsts(&here), firsts(&MemberTable::build(kind, other)), "{kind:?}");
        }
    }

    /// These values may never change: balancers of two versions serve the same clients during an upgrade.
    #[test]
    fn the_hash_is_the_same_for_ever() {
        assert_eq!(hash_of(b"", 0), FIXED[0]);
        assert_eq!(hash_of(b"node-1/web-1", 1), FIXED[1]);
        assert_eq!(hash_of(&[10, 0, 0, 1], 0), FIXED[2]);
    }

    const FIXED: [u64; 3] = [9_313_164_154_874_788_883, 10_518_247_877_074_064_440, 15_297_873_098_484_991_757];

    #[test]
    fn shares_follow_weights() {
        let ids = ids(40);
        for kind in [TableKind::Maglev, TableKind::Ring] {
            for weights in [vec![1], vec![1, 2, 7], vec![65_535, 1_000]] {
                let all = members(&ids, &weights);
                let total: f64 = all.iter().map(|member| f64::from(member.weight)).sum();
                let within = |member: &TableMember<'_>| {
                    if kind == TableKind::Maglev {
                        0.05
                    } else {
                        // As even as the number of its points allows.
                        4.0 / (160.0 * 40.0 * f64::from(member.weight) / total).sqrt()
                    }
                };
                let mut counts = vec![0_u32; ids.len()];
                firsts(&MemberTable::build(kind, all.clone())).into_iter().for_each(|slot| counts[slot] += 1);
                for (member, count) in all.iter().zip(counts) {
                    let wanted = CLIENTS as f64 * f64::from(member.weight) / total;
                    // Three deviations of a count beside what the construction allows.
                    let allowed = wanted * within(member) + 3.0 * wanted.sqrt() + 3.0;
                    assert!(
                        (f64::from(count) - wanted).abs() <= allowed,
                        "{kind:?} {member:?}: {count}, not {wanted:.0}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_member_that_leaves_moves_its_own_clients_and_few_others() {
        for count in [10, 100, 1_000] {
            let ids = ids(count);
            for kind in [TableKind::Maglev, TableKind::Ring] {
                let all = members(&ids, &[1]);
                let before = firsts(&MemberTable::build(kind, all.clone()));
                let left: Vec<_> = all.into_iter().filter(|member| member.slot != 3).collect();
                let after = firsts(&MemberTable::build(kind, left));
                let others = before.iter().filter(|slot| **slot != 3).count() as f64;
                let moved =
                    before.iter().zip(&after).filter(|(before, after)| **before != 3 && before != after).count();
                let percent = 100.0 * moved as f64 / others;
                eprintln!("{kind:?}, {count} members: {percent:.2} % of the others' clients move");
                let most = if kind == TableKind::Ring { 0.0 } else { 2.0 };
                assert!(percent <= most, "{kind:?}, {count} members: {percent:.2} %");
            }
        }
    }

    /// A member that is passed over loses its clients to all others, not to one neighbour.
    #[test]
    fn clients_of_a_backend_that_is_down_are_spread() {
        let ids = ids(20);
        for kind in [TableKind::Maglev, TableKind::Ring] {
            let table = MemberTable::build(kind, members(&ids, &[1]));
            let mut counts = vec![0_u32; ids.len()];
            for number in 0..CLIENTS {
                let mut order = table.order(client(number));
                if order.next() == Some(3) {
                    counts[order.find(|slot| *slot != 3).unwrap()] += 1;
                }
            }
            let all: u32 = counts.iter().sum();
            assert!(counts.iter().all(|count| *count < all / 4), "{kind:?}: {counts:?}");
        }
    }

    #[test]
    fn every_member_is_in_the_order_of_every_client() {
        let ids = ids(30);
        for kind in [TableKind::Maglev, TableKind::Ring] {
            let table = MemberTable::build(kind, members(&ids, &[1, 500, 20]));
            let met: std::collections::BTreeSet<usize> = table.order(client(9)).collect();
            assert_eq!(met.len(), 30, "{kind:?}");
            assert_eq!(MemberTable::build(kind, Vec::new()).order(1).next(), None);
        }
    }
}
