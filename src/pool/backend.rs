//! One instance that serves: its identity and everything that is kept about it for as long as that lasts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::places::Places;
use super::record::{BackendRecord, EarlyEnds};
use super::stats::{Bytes, EndedCounts, Failures, SessionTimes, Sources};
use super::{History, Preconnects};
use crate::health::{Advice, Hearing, ObservationCounts, ProbeReport};
use crate::standing::{Facts, Standing};

/// See the module. The keeper writes the view and the report, sessions write the counters, everybody reads.
#[derive(Debug)]
pub struct Backend {
    /// Its identity.
    pub id: Arc<str>,
    /// Its number in the pool's balancer for as long as it is a member.
    pub(super) slot: usize,
    view: ArcSwap<BackendView>,
    last_report: Mutex<Option<ProbeReport>>,
    last_answer: Mutex<Option<ProbeReport>>,
    pub(super) record: BackendRecord,
    pub(super) places: Places,
    /// Its last changes.
    pub history: History,
    /// What is counted about its sessions.
    pub stats: BackendStats,
}

/// What is known about a backend at one moment.
#[derive(Clone, Debug)]
pub struct BackendView {
    /// Where new sessions go.
    pub address: SocketAddr,
    /// Where its host is a name: all the addresses of that. Empty where an address is written.
    pub candidates: Arc<[SocketAddr]>,
    /// Of these, others than the one in use that its check finds down, and where sessions may be.
    pub dead: Arc<[SocketAddr]>,
    /// Its weight in the registry, or an operator's instead.
    pub weight: u16,
    /// What it gets of its tier's sessions in relation to the others: the weight after advice and slow start, times
    /// [`SHARE_OF_WEIGHT`].
    pub share: u32,
    /// Its tier.
    pub priority: u8,
    /// Sessions at once; `None` = no limit.
    pub max_sessions: Option<u32>,
    /// By who said them.
    pub facts: Facts,
    /// What they come to.
    pub standing: Standing,
    /// Why it became this one, for people.
    pub reason: Arc<str>,
    /// The reason is what a probe found: [`Backend::reason`] has the newest.
    pub by_probe: bool,
    /// What else of the reason stands before that, such as that its weight is 0.
    pub remarks: Option<Arc<str>>,
    /// When the standing became this one.
    pub since: SystemTime,
    /// What its agent asked for last.
    pub advice: Option<Advice>,
    /// When its ejection ends by itself, and which in a row it is.
    pub ejected: Option<(SystemTime, u32)>,
    /// When it counts as up, if it stays up until then.
    pub damped_until: Option<SystemTime>,
    /// When the registry, which says otherwise, is believed again, if it is held; `None` = not while the registry fails.
    pub held_until: Option<SystemTime>,
}

/// The share of a backend of weight 1 that gets all of it: percent of advice times percent of slow start, so that no part
/// of a weight is lost to rounding.
pub const SHARE_OF_WEIGHT: u32 = 10_000;

/// Counters that belong to the identity.
#[derive(Debug)]
pub struct BackendStats {
    /// Ended sessions.
    pub ended: EndedCounts,
    /// Relayed bytes.
    pub bytes: Bytes,
    /// Connects begun.
    pub connects: AtomicU64,
    /// Connects that failed.
    pub failures: Failures,
    /// Sessions by the local address that they dial from.
    pub sources: Sources,
    /// Sessions that it failed before its first byte.
    pub early_ends: EarlyEnds,
    /// Ejections, failed trials included.
    pub ejections: AtomicU64,
    /// Trials that went well.
    pub trials_passed: AtomicU64,
    /// Trials that failed.
    pub trials_failed: AtomicU64,
    /// Connections opened ahead of time.
    pub preconnects: Preconnects,
    /// Histograms.
    pub times: SessionTimes,
    /// Probes that passed.
    pub probes_passed: AtomicU64,
    /// Probes that failed.
    pub probes_failed: AtomicU64,
    /// Questions to its agent, by [`Hearing`].
    pub agent_answers: [AtomicU64; Hearing::ALL.len()],
    /// Changes of standing.
    pub changes: AtomicU64,
}

impl Backend {
    pub(super) fn new(id: Arc<str>, slot: usize, workers: usize, view: BackendView) -> Self {
        Self {
            id,
            slot,
            view: ArcSwap::from_pointee(view),
            last_report: Mutex::new(None),
            last_answer: Mutex::new(None),
            record: BackendRecord::default(),
            places: Places::default(),
            history: History::default(),
            stats: BackendStats {
                ended: EndedCounts::default(),
                bytes: Bytes::new(workers),
                connects: AtomicU64::new(0),
                failures: Failures::default(),
                sources: Sources::default(),
                early_ends: EarlyEnds::default(),
                ejections: AtomicU64::new(0),
                trials_passed: AtomicU64::new(0),
                trials_failed: AtomicU64::new(0),
                preconnects: Preconnects::default(),
                times: SessionTimes::default(),
                probes_passed: AtomicU64::new(0),
                probes_failed: AtomicU64::new(0),
                agent_answers: Default::default(),
                changes: AtomicU64::new(0),
            },
        }
    }

    /// As it is now.
    pub fn view(&self) -> Arc<BackendView> {
        self.view.load_full()
    }

    /// Whether new sessions go there.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        self.view.load().address == address
    }

    /// What its standing is for sessions at that address, where it may have been before.
    pub fn standing_at(&self, address: SocketAddr) -> Standing {
        let view = self.view.load();
        if view.address == address {
            view.standing
        } else if view.candidates.contains(&address) {
            view.facts.elsewhere(view.dead.contains(&address)).standing()
        } else {
            // Its source names another address instead.
            Standing::Removed
        }
    }

    /// Where its host is a name: sessions by the address that they were sent to; none that has none.
    pub fn sessions_by_address(&self) -> Vec<(SocketAddr, u32)> {
        self.places.read()
    }

    /// The same of one address.
    pub fn sessions_at(&self, address: SocketAddr) -> u32 {
        self.places.read().into_iter().find(|(at, _)| *at == address).map_or(0, |(_, sessions)| sessions)
    }

    /// Whether its host is a name, which may have other addresses.
    pub(super) fn has_name(&self) -> bool {
        !self.view.load().candidates.is_empty()
    }

    pub(super) fn show(&self, view: BackendView) {
        self.view.store(Arc::new(view));
    }

    /// Whether sessions may come to it in the ordinary way.
    pub fn wants_sessions(&self) -> bool {
        let view = self.view.load();
        view.standing == Standing::Up && view.share > 0
    }

    /// The last probe's report.
    pub fn last_report(&self) -> Option<ProbeReport> {
        self.last_report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What became of the last question to its agent.
    pub fn last_answer(&self) -> Option<ProbeReport> {
        self.last_answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For the keeper: keeps and counts an answer of its agent; `None` forgets the last one (the address changed).
    pub fn keep_answer(&self, answer: Option<ProbeReport>) {
        if let Some(hearing) = answer.as_ref().and_then(|answer| answer.result.hearing) {
            self.stats.agent_answers[hearing as usize].fetch_add(1, Relaxed);
        }
        *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Why its standing is what it is now: where a probe decides, what the last one found.
    pub fn reason(&self) -> Arc<str> {
        let view = self.view.load();
        match self.last_report().filter(|_| view.by_probe) {
            Some(report) => format!("{}{report}", view.remarks.as_deref().unwrap_or_default()).into(),
            None => Arc::clone(&view.reason),
        }
    }

    /// For the keeper: keeps and counts a report; `None` forgets the last one (the address changed).
    pub fn keep_report(&self, report: Option<ProbeReport>) {
        if let Some(report) = &report {
            let cell = if report.result.passed { &self.stats.probes_passed } else { &self.stats.probes_failed };
            cell.fetch_add(1, Relaxed);
        }
        *self.last_report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// What sessions have met there so far.
    pub fn tally(&self) -> ObservationCounts {
        self.record.tally()
    }

    /// Sessions that failed in a row by the backend's fault.
    pub fn failures_in_a_row(&self) -> u32 {
        self.tally().in_a_row()
    }

    /// For the keeper: a new chance, nothing has failed in a row.
    pub fn forgive(&self) {
        self.record.forgive();
    }
}
