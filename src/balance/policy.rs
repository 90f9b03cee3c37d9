//! The policies, one row each. A policy orders the slots of one tier that may be picked now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::first::First;
use super::hashed::Hashed;
use super::least_connections::LeastConnections;
use super::least_time::LeastTime;
use super::random::{PowerOfTwo, Random};
use super::round_robin::RoundRobin;
use super::table::{MemberTable, TableKind};
use super::{PickContext, PickRules};
use crate::config::Balance;

/// What a policy does. What is not said of a policy has no effect on it.
pub(super) trait PickOrder {
    /// A slot may be picked from now on, or its weight is another one. `weight` > 0.
    fn enter(&mut self, slot: usize, weight: u32, sessions: u32);

    /// A slot may not be picked any more. No effect if it could not.
    fn leave(&mut self, slot: usize);

    /// The slot that a session gets, not one of `context.tried`; `None` = there is no other.
    fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize>;

    /// How it chooses, and what it makes of a slot: for people.
    fn says(&self, slot: usize) -> String;

    /// The number of sessions changed on a slot that may be picked.
    fn recount(&mut self, _slot: usize, _weight: u32, _sessions: u32) {}

    /// A slot is forgotten: its number may be used for another backend.
    fn forget(&mut self, _slot: usize) {}

    /// Which table over all members it needs.
    fn wants_table(&self) -> Option<TableKind> {
        None
    }

    /// The table that it needs.
    fn set_table(&mut self, _table: Arc<MemberTable>) {}

    /// Other rules of the same policy.
    fn set_rules(&mut self, _rules: &PickRules) {}

    /// Whether it is to be told how long backends take.
    fn wants_times(&self) -> bool {
        false
    }

    /// How long a slot took for something.
    fn timed(&mut self, _slot: usize, _what: Timed, _took: Duration, _now: Instant) {}
}

/// What takes a backend time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// To accept a connection.
    Connect,
    /// To send its first byte, after the first byte to it; if it speaks first, after the connect.
    FirstByte,
}

/// Each row: the word's variant, its state, and how it begins.
macro_rules! policies {
    ($($balance:ident($state:ty) = $begin:expr;)+) => {
        #[derive(Debug)]
        pub(super) enum Policy { $($balance($state),)+ }

        impl Policy {
            /// For the tier of this number.
            pub(super) fn new(rules: &PickRules, tier: usize) -> Self {
                // Tiers do not draw alike.
                let rules = PickRules { seed: rules.seed.wrapping_add(tier as u64), ..*rules };
                match rules.balance {
                    $(Balance::$balance => {
                        let begin: fn(&PickRules) -> $state = $begin;
                        Self::$balance(begin(&rules))
                    })+
                }
            }

            pub(super) fn order(&self) -> &dyn PickOrder {
                match self { $(Self::$balance(policy) => policy,)+ }
            }

            pub(super) fn order_mut(&mut self) -> &mut dyn PickOrder {
                match self { $(Self::$balance(policy) => policy,)+ }
            }
        }
    };
}

policies! {
    RoundRobin(RoundRobin) = |_| RoundRobin::new();
    LeastConnections(LeastConnections) = |_| LeastConnections::new();
    LeastTime(LeastTime) = |_| LeastTime::new();
    Random(Random) = |rules| Random::new(rules.seed);
    PowerOfTwo(PowerOfTwo) = |rules| PowerOfTwo::new(rules.seed);
    First(First) = |_| First::new();
    Maglev(Hashed) = |rules| Hashed::new(TableKind::Maglev, rules.hashing.factor);
    RingHash(Hashed) = |rules| Hashed::new(TableKind::Ring, rules.hashing.factor);
}
