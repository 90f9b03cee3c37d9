//! The parts of several pools in the sessions of one rule.

use super::ClientFacts;
use super::affinity::hash;
use crate::balance::hash_of;
use crate::config::HashBy;

/// Of the hash that splits.
const SEED: u64 = 0x0073_706c_6974;

/// Pools by their place, each with the sum of the shares up to it.
#[derive(Clone, Debug)]
pub(super) struct Split {
    up_to: Vec<(usize, u32)>,
    pub(super) hash: Option<HashBy>,
}

impl Split {
    pub(super) fn new(shares: Vec<(usize, u32)>, hash: Option<HashBy>) -> Self {
        let mut sum = 0;
        let up_to = shares.into_iter().map(|(pool, share)| {
            sum += share;
            (pool, sum)
        });
        Self { up_to: up_to.collect(), hash }
    }

    /// The pool of this client's session.
    pub(super) fn pick(&self, client: &ClientFacts<'_>) -> usize {
        let sum = self.up_to.last().map_or(0, |(_, sum)| *sum);
        let lot = self.hash.map_or(client.lot, |by| hash_for_split(by, client));
        // Of 2^64 equal steps, the one in which the lot is.
        let point = ((u128::from(lot) * u128::from(sum)) >> 64) as u32;
        let place = self.up_to.partition_point(|(_, up_to)| *up_to <= point);
        // There is one above every point, unless all shares are 0, which no configuration has.
        self.up_to.get(place).or_else(|| self.up_to.first()).map_or(0, |(pool, _)| *pool)
    }
}

/// The same for the same client in every process. It is another one than the hash that picks a backend: else the clients of
/// one pool would lie together in the hash table of its backends.
fn hash_for_split(by: HashBy, client: &ClientFacts<'_>) -> u64 {
    hash_of(&hash(by, client).to_be_bytes(), SEED)
}
