//! Which of a name's addresses a backend has. It keeps one while that works. When that is in doubt the others are probed
//! too, and it moves to the first that passes; where there is no probe, it moves to the next one at once. An address that it
//! has left is probed as long as sessions are there: they go by what becomes of that address.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use super::member::Member;
use super::members::Members;
use super::{ProbeHandle, Probed, Probing};
use crate::config::OutlierMode;
use crate::health::{Failing, FlapDamping, ObservationCounts, Outlier, ProbeReport, ProbeState};
use crate::standing::Passive;

/// How long the first address of a new name is tried alone, as RFC 8305 has it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Something speaks against the address in use.
#[derive(Default)]
pub(super) struct Doubt {
    /// It is known to fail. Else only the others are looked at.
    fails: bool,
    /// What sessions met there; `None` = it is the check's word.
    failing: Option<Failing>,
}

/// Another address of the name than the one in use.
pub(super) struct Other {
    address: SocketAddr,
    /// `None` = its probe has not finished yet.
    report: Option<ProbeReport>,
    /// Ends the probe when dropped.
    probe: Box<dyn Probing>,
}

/// Addresses that were left because sessions failed there. Until a session goes well the backend does not return, so that
/// sessions that fail at all of them count against it.
#[derive(Default)]
pub(super) struct Left {
    addresses: Vec<SocketAddr>,
    /// Sessions that had gone well when the last one was left, by what was failing.
    before: Option<(Failing, u64)>,
}

impl Other {
    fn state(&self) -> Option<ProbeState> {
        self.report.as_ref().map(|report| report.state)
    }

    fn works(&self) -> bool {
        self.state() == Some(ProbeState::Up)
    }
}

impl Left {
    fn add(&mut self, address: SocketAddr, failing: Failing, tally: &ObservationCounts) {
        self.addresses.push(address);
        self.before = Some((failing, tally.disproofs(failing)));
    }

    /// Forgets all of them if a session has gone well since.
    fn look_at(&mut self, tally: &ObservationCounts) {
        if self.before.is_some_and(|(failing, before)| tally.disproofs(failing) > before) {
            *self = Self::default();
        }
    }
}

impl Member {
    /// The next one of its name at which sessions have not failed.
    fn next_address(&self) -> Option<SocketAddr> {
        let (in_use, all) = (self.endpoint.address, &self.endpoint.candidates);
        let at = all.iter().position(|address| *address == in_use)?;
        let others = all[at + 1..].iter().chain(&all[..at]);
        others.copied().find(|address| !self.left.addresses.contains(address))
    }

    fn all_heard(&self) -> bool {
        self.others.iter().all(|other| other.report.is_some())
    }

    /// Others than the one in use that the check finds down.
    pub(super) fn dead_addresses(&self) -> Arc<[SocketAddr]> {
        let is_down = |other: &&Other| other.state() == Some(ProbeState::Down);
        self.others.iter().filter(is_down).map(|other| other.address).collect()
    }

    /// Ends probes of other addresses that nothing hangs on.
    pub(super) fn let_others_rest(&mut self) {
        let (doubted, backend, endpoint) = (self.doubt.is_some(), &self.backend, &self.endpoint);
        let is_another = |at: SocketAddr| at != endpoint.address && endpoint.candidates.contains(&at);
        self.others.retain(|other| is_another(other.address) && (doubted || backend.sessions_at(other.address) > 0));
    }

    /// They are probed by another check from now on; what the old one has found out holds until the new one says otherwise.
    pub(super) fn watch_others(&mut self, watch: &ProbeHandle, is_checked: bool) {
        if !is_checked {
            self.others.clear();
        }
        for other in &mut self.others {
            other.probe = watch(&self.endpoint.id, other.address);
        }
    }
}

impl Members {
    /// A probe of an address that is not in use has finished.
    pub(super) fn other_reported(&mut self, now: Instant, probed: Probed) {
        let Some(member) = self.members.get_mut(&probed.id) else { return };
        let Some(other) = member.others.iter_mut().find(|other| other.address == probed.address) else { return };
        let before = other.state();
        other.report = Some(probed.report);
        let (changed, works) = (other.state() != before, other.works());
        let is_unproven = member.facts.probe == Some(ProbeState::Unproven);
        let fails = member.doubt.as_ref().is_some_and(|doubt| doubt.fails);
        let may_move = member.doubt.is_some() && !member.left.addresses.contains(&probed.address);
        if works && may_move && (fails || is_unproven) {
            self.move_to(now, &probed.id, probed.address);
        } else if is_unproven && fails && member.all_heard() {
            // None of them works: what the probe of the one in use has said counts.
            let Some(report) = member.backend.last_report() else { return };
            member.take_state(&self.pool.settings().check, &report);
            self.settle(now, &probed.id);
        } else {
            let probed_too = member.others.len();
            member.let_others_rest();
            if changed || member.others.len() < probed_too {
                self.settle(now, &probed.id);
            }
            return;
        }
        self.weigh(now);
    }

    /// A probe of the address in use has finished. Returns whether its report leaves the state as it is: the backend has
    /// moved, or other addresses are to be heard first.
    pub(super) fn weigh_addresses(&mut self, now: Instant, probed: &Probed) -> bool {
        let Some(member) = self.members.get_mut(&probed.id) else { return false };
        if member.endpoint.candidates.is_empty() {
            return false;
        }
        let (report, check) = (&probed.report, Arc::clone(&self.pool.settings().check));
        if report.result.passed {
            let covers_failure = |doubt: &Doubt| {
                member.all_heard() || doubt.failing.is_none_or(|failing| member.is_disproved_by(&check, failing))
            };
            if report.state == ProbeState::Up && member.doubt.as_ref().is_some_and(covers_failure) {
                member.doubt = None;
                member.let_others_rest();
            }
            return false;
        }
        let fails = member.state_by(&check, report) != Some(ProbeState::Up);
        if fails {
            // All of them may be tried again.
            member.left = Left::default();
        }
        self.look_around(&probed.id, fails, None);
        if self.move_to_one_that_works(now, &probed.id) {
            return true;
        }
        let Some(member) = self.members.get(&probed.id) else { return false };
        let is_unproven = member.facts.probe == Some(ProbeState::Unproven);
        is_unproven && member.doubt.is_some() && !member.all_heard()
    }

    /// Sessions failed at the address in use. Returns whether the backend has moved.
    pub(super) fn leave_address(&mut self, now: Instant, id: &Arc<str>, failing: Failing) -> bool {
        let Some(member) = self.members.get_mut(id) else { return false };
        if member.endpoint.candidates.is_empty() {
            return false;
        }
        member.left.look_at(&member.backend.tally());
        let may_be_ejected = self.pool.settings().resilience.outliers.mode == OutlierMode::Eject;
        if member.next_address().is_none() && !(may_be_ejected && member.facts.passive == Passive::Ok) {
            member.left = Left::default();
        }
        let Some(next) = member.next_address() else {
            (self.look_up)(id);
            return false;
        };
        if member.facts.probe.is_some() {
            self.look_around(id, true, Some(failing));
            return self.move_to_one_that_works(now, id);
        }
        (self.look_up)(id);
        member.doubt = Some(Doubt { failing: Some(failing), ..Doubt::default() });
        self.move_to(now, id, next);
        true
    }

    /// It is decided what the sessions that failed at all its addresses come to: all may be tried again.
    pub(super) fn return_to_addresses(&mut self, id: &Arc<str>) {
        if let Some(member) = self.members.get_mut(id) {
            member.left = Left::default();
        }
    }

    /// The source may have named other addresses than before.
    pub(super) fn addresses_changed(&mut self, now: Instant, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.let_others_rest();
        if member.doubt.is_some() {
            self.look_around(id, false, None);
        } else if member.facts.probe == Some(ProbeState::Unproven) && member.endpoint.candidates.len() > 1 {
            self.deadlines.push(Reverse((now + HEAD_START, Arc::clone(id))));
        }
    }

    /// Probes the other addresses, too, where the first one does not answer.
    pub(super) fn look_around_unproven(&mut self, id: &Arc<str>) {
        let Some(member) = self.members.get(id) else { return };
        let is_unproven = member.facts.probe == Some(ProbeState::Unproven) && member.probe.is_some();
        if is_unproven && member.doubt.is_none() && member.endpoint.candidates.len() > 1 {
            self.look_around(id, false, None);
        }
    }

    /// Probes the other addresses, and asks for the newest ones.
    fn look_around(&mut self, id: &Arc<str>, fails: bool, failing: Option<Failing>) {
        let Some(member) = self.members.get_mut(id) else { return };
        let (in_use, candidates) = (member.endpoint.address, Arc::clone(&member.endpoint.candidates));
        let doubt = member.doubt.get_or_insert_default();
        if fails {
            (doubt.fails, doubt.failing) = (true, failing);
        }
        member.let_others_rest();
        for &address in candidates.iter().filter(|address| **address != in_use) {
            if !member.left.addresses.contains(&address) && !member.others.iter().any(|other| other.address == address)
            {
                member.others.push(Other { address, report: None, probe: (self.watch)(id, address) });
            }
        }
        (self.look_up)(id);
    }

    /// If the address in use is known to fail.
    fn move_to_one_that_works(&mut self, now: Instant, id: &Arc<str>) -> bool {
        let member = self.members.get(id).filter(|member| member.doubt.as_ref().is_some_and(|doubt| doubt.fails));
        let works =
            |other: &&Other| other.works() && member.is_some_and(|m| !m.left.addresses.contains(&other.address));
        let Some(address) = member.and_then(|member| Some(member.others.iter().find(works)?.address)) else {
            return false;
        };
        self.move_to(now, id, address);
        true
    }

    fn move_to(&mut self, now: Instant, id: &Arc<str>, address: SocketAddr) {
        let Some(member) = self.members.get_mut(id) else { return };
        let Some(doubt) = member.doubt.take() else { return };
        let from = std::mem::replace(&mut member.endpoint.address, address);
        if let Some(failing) = doubt.failing {
            member.left.add(from, failing, &member.backend.tally());
        }
        let (mut others, left) = (std::mem::take(&mut member.others), member.probe.take());
        let proven = others.iter().position(|other| other.address == address).map(|at| others.swap_remove(at));
        if let Some(probe) = left.filter(|_| member.facts.probe.is_some()) {
            others.push(Other { address: from, report: member.backend.last_report(), probe });
        }
        if let Some(Other { report: Some(report), probe, .. }) = proven {
            self.ejected -= usize::from(member.outlier.ejection().is_some());
            member.go_on_at(probe, report);
        } else {
            // Where nothing is probed, only a trial session can tell: an ejection goes on.
            let outlier = std::mem::replace(&mut member.outlier, Outlier::new());
            member.begin_again(&self.pool, &self.watch, address);
            member.outlier = if outlier.ejection().is_some() { outlier } else { Outlier::new() };
        }
        member.others = others;
        member.let_others_rest();
        member.damping = FlapDamping::new();
        if member.up_since.take().is_some() {
            self.oldest = None;
        }
        info!(pool = %self.pool.name, backend = %id, %from, %address, "goes on at another address of its name");
        self.settle(now, id);
    }
}
