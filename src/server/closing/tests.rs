//! The pace under a virtual clock, and when all sessions are looked at.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::batch::{BatchTarget, CloseBatch};
use super::pacer::{Candidate, Pacer, latest_start};
use crate::metrics::CloseCause;
use crate::pool::PickContext;
use crate::pool::tests::{pool, view};
use crate::standing::Standing;

const SECOND: Duration = Duration::from_secs(1);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn candidate(start: Instant, key: usize, idle: u64, from: u64, until: u64) -> Candidate<usize> {
    Candidate { key, idle_since: start - ms(idle), from: start + ms(from), until: start + ms(until) }
}

/// Runs it, woken when it wants to be; returns when each was closed.
fn run(pacer: &mut Pacer<usize>, start: Instant) -> Vec<(Duration, usize)> {
    let mut closed = Vec::new();
    while let Some(at) = pacer.next() {
        closed.extend(pacer.due(at).into_iter().map(|key| (at - start, key)));
    }
    closed
}

#[test]
fn without_a_rate_all_go_at_once() {
    let start = Instant::now();
    let mut pacer = Pacer::new(1);
    pacer.replace(start, None, (0..1_000).map(|n| candidate(start, n, n as u64, 0, 60_000)).collect());
    let closed = run(&mut pacer, start);
    assert_eq!(closed, (0..1_000).rev().map(|n| (Duration::ZERO, n)).collect::<Vec<_>>());
}

#[test]
fn what_is_left_at_the_deadline_goes_at_once() {
    let start = Instant::now();
    let mut pacer = Pacer::new(1);
    pacer.replace(start, Some(10), (0..1_000).map(|n| candidate(start, n, n as u64, 0, 5_000)).collect());
    let closed = run(&mut pacer, start);
    let (paced, late) = closed.split_at(closed.partition_point(|(at, _)| *at < 5 * SECOND));
    assert!((40..=60).contains(&paced.len()), "{}", paced.len());
    assert!(late.iter().all(|(at, _)| *at == 5 * SECOND));
    // In one order throughout: idle longest first.
    assert!(closed.iter().map(|(_, key)| *key).eq((0..1_000).rev()));
}

/// Called off, and taken up again: what was not closed meanwhile is not made up for.
#[test]
fn who_is_dropped_is_not_closed() {
    let start = Instant::now();
    let mut pacer = Pacer::new(1);
    let all = || (0..100).map(|n| candidate(start, n, n as u64, 0, 600_000)).collect();
    pacer.replace(start, Some(10), all());
    pacer.retain(|key| key % 2 == 0);
    assert_eq!(pacer.len(), 50);
    assert!(run(&mut pacer, start).iter().all(|(_, key)| key % 2 == 0));
    let later = start + 60 * SECOND;
    pacer.replace(later, Some(10), all());
    pacer.retain(|_| false);
    assert_eq!((pacer.len(), pacer.next()), (0, None));
    pacer.replace(later, Some(10), all());
    assert!(pacer.due(later + SECOND).len() <= 2 + 1);
}

#[test]
fn a_stop_begins_as_late_as_it_can() {
    let now = Instant::now();
    let (earliest, until) = (now + 15 * SECOND, now + 30 * SECOND);
    assert_eq!(latest_start(0, Some(100), earliest, until), until);
    assert_eq!(latest_start(1_000, Some(100), earliest, until), now + 20 * SECOND);
    assert_eq!(latest_start(100_000, Some(100), earliest, until), earliest);
    assert_eq!(latest_start(usize::MAX, Some(1), earliest, until), earliest);
    assert_eq!(latest_start(1_000, None, earliest, until), until);
}

proptest! {
    /// Looks at random times; sessions come, go and move bytes in between. Everything is closed in its time, in order, and
    /// never faster than the rate allows.
    #[test]
    fn paced(
        seed: u64,
        rate in 1_u32..200,
        sessions in prop::collection::vec((0_u64..10_000, 0_u64..3_000, 0_u64..20_000), 0..300),
        looks in prop::collection::vec(1_u64..1_500, 0..20),
    ) {
        let start = Instant::now();
        let mut pacer = Pacer::new(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut alive: Vec<_> = sessions
            .iter()
            .enumerate()
            .map(|(key, &(idle, from, after))| candidate(start, key, idle, from, from + after))
            .collect();
        let mut looks = looks.into_iter();
        let (mut now, mut next_look) = (start, Some(start));
        let mut by_rate: Vec<Instant> = Vec::new();
        loop {
            if next_look == Some(now) {
                for candidate in &mut alive {
                    if random.f64() < 0.1 {
                        candidate.idle_since = candidate.idle_since.max(now);
                    }
                }
                if !alive.is_empty() && random.f64() < 0.2 {
                    alive.swap_remove(random.usize(..alive.len()));
                }
                pacer.replace(now, Some(rate), alive.clone());
                prop_assert_eq!(pacer.len(), alive.len());
                next_look = looks.next().map(|after| now + ms(after));
            }
            let due = pacer.due(now);
            let mut last = None;
            for key in due {
                let place = alive.iter().position(|candidate| candidate.key == key);
                let closed = alive.swap_remove(place.expect("it was there at the last look"));
                prop_assert!(closed.from <= now);
                if closed.until > now {
                    by_rate.push(now);
                    // None of those that may be closed has been idle for longer.
                    let longer = |other: &&Candidate<usize>| other.from <= now && other.idle_since < closed.idle_since;
                    prop_assert!(alive.iter().find(longer).is_none());
                    last = Some(closed.idle_since);
                }
                prop_assert!(last.is_none_or(|last| last <= closed.idle_since || closed.until <= now));
            }
            prop_assert!(alive.iter().all(|candidate| candidate.until > now), "late");
            let Some(at) = pacer.next().into_iter().chain(next_look).min() else { break };
            // As a busy machine has it: sometimes late, never by much.
            now = if random.f64() < 0.1 && next_look.is_none_or(|look| look > at + ms(30)) { at + ms(30) } else { at.max(now) };
            if next_look.is_some_and(|look| look < now) {
                next_look = Some(now);
            }
        }
        prop_assert!(alive.is_empty() && pacer.len() == 0);
        // At most twice the rate (the jitter is a half to one and a half of the pause), and what may be made up for.
        for (i, first) in by_rate.iter().enumerate() {
            let within = by_rate[i..].iter().take_while(|at| **at <= *first + SECOND).count();
            prop_assert!(within <= (2.2 * f64::from(rate)) as usize + 3, "{within} in a second at {rate}");
        }
        // And on average as fast as it says, unless there is nothing to close.
        prop_assert!(by_rate.len() <= sessions.len());
    }
}

/// A batch whose sessions are known costs no look at all the others; one that may have more does.
#[test]
fn all_sessions_are_looked_at_only_for_those_that_are_not_known() {
    let (pool, now) = (pool(""), Instant::now());
    let backend = pool.add(&"a".into(), view(Standing::Up, 1));
    let batch = |whom| CloseBatch::new(whom, CloseCause::BackendDown, now, now + SECOND);
    let mut of_backend = batch(BatchTarget::At(Arc::downgrade(&backend), backend.view().address));
    assert!(!of_backend.may_have_more(&pool), "it has no sessions");
    let mut leases: Vec<_> = (0..3).map(|_| pool.pick(&PickContext::FIRST).unwrap()).collect();
    assert!(of_backend.may_have_more(&pool), "three, and none is known");
    of_backend.looked_at(now, 3, &pool);
    assert!(!of_backend.may_have_more(&pool), "all three are known");
    leases.push(pool.pick(&PickContext::FIRST).unwrap());
    assert!(of_backend.may_have_more(&pool), "one that was on its way has come");
    leases.truncate(2);
    assert!(!of_backend.may_have_more(&pool), "two have ended by themselves");
    assert!(!batch(BatchTarget::These(HashSet::new())).may_have_more(&pool), "these are named");
    assert!(batch(BatchTarget::All).may_have_more(&pool), "at a stop the backlog is still served");
}
