//! One backend: its identity, and everything that is kept about it while the identity lasts.
//! Made by the pool. The keeper writes the view and the reports, sessions write the counters, and all read.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::by_address::SessionsByAddress;
use super::record::BackendRecord;
use super::stats::{AgentAnswers, Bytes, EarlyEnds, EndedCounts, Failures, SessionTimes, Sources};
use super::{History, Preconnects};
use crate::health::{Advice, ObservationCounts, ProbeReport};
use crate::standing::{Facts, Standing};

/// A backend, as sessions, the keeper and readers share it.
#[derive(Debug)]
pub struct Backend {
    /// Its identity.
    pub id: Arc<str>,
    /// Its number in the pool's picker while it is a member.
    pub(super) slot: usize,
    view: ArcSwap<BackendView>,
    last_report: Mutex<Option<ProbeReport>>,
    last_answer: Mutex<Option<ProbeReport>>,
    pub(super) record: BackendRecord,
    pub(super) by_address: SessionsByAddress,
    /// Its last changes of standing.
    pub history: History,
    /// Counters of its sessions, probes and trials.
    pub stats: BackendStats,
}

/// All that is known about a backend at one moment.
#[derive(Clone, Debug)]
pub struct BackendView {
    /// The address that new sessions dial.
    pub address: SocketAddr,
    /// If its host is a name: all addresses of the name. Empty if it is an address.
    pub candidates: Arc<[SocketAddr]>,
    /// Those of `candidates`, other than `address`, that its check finds down; sessions may still be there.
    pub dead: Arc<[SocketAddr]>,
    /// Its weight: the registry's, or an operator's.
    pub weight: u16,
    /// Its share of its tier's sessions, relative to the others: the weight after advice and slow start, times
    /// [`SHARE_OF_WEIGHT`].
    pub share: u32,
    /// The part of its share that slow start gives it, in percent.
    pub ramp: u32,
    /// Its tier.
    pub priority: u8,
    /// Where it is; `None` = nothing says so.
    pub zone: Option<Arc<str>>,
    /// Its place in the written list.
    pub position: u32,
    /// The most sessions at once; `None` = no limit.
    pub max_sessions: Option<u32>,
    /// The facts, one for each source.
    pub facts: Facts,
    /// The standing that follows from them.
    pub standing: Standing,
    /// Why the standing changed, in words.
    pub reason: Arc<str>,
    /// Whether the reason is a probe result: [`Backend::reason`] has the newest.
    pub by_probe: bool,
    /// A text before the probe result, such as that its weight is 0.
    pub remarks: Option<Arc<str>>,
    /// When the standing changed.
    pub since: SystemTime,
    /// What its agent check asked for last.
    pub advice: Option<Advice>,
    /// When its ejection ends at the latest, and the number of ejections in a row.
    pub ejected: Option<(SystemTime, u32)>,
    /// When it gets sessions again, if it stays up until then.
    pub damped_until: Option<SystemTime>,
    /// When a held backend is given up; `None` = not while the registry fails.
    pub held_until: Option<SystemTime>,
}

/// The whole share of a backend with weight 1: percent of advice times percent of slow start, so that rounding loses no part
/// of a weight.
pub const SHARE_OF_WEIGHT: u32 = 10_000;

/// Counters that belong to the identity. Relaxed: they are statistics.
#[derive(Debug)]
pub struct BackendStats {
    /// Ended sessions, by listener and outcome.
    pub ended: EndedCounts,
    /// Relayed bytes.
    pub bytes: Bytes,
    /// Connects begun.
    pub connects: AtomicU64,
    /// Connects that failed.
    pub failures: Failures,
    /// Sessions by the local address from which they dial.
    pub sources: Sources,
    /// Sessions that it failed before its first byte.
    pub early_ends: EarlyEnds,
    /// Ejections, failed trials included.
    pub ejections: AtomicU64,
    /// Trials that succeeded.
    pub trials_passed: AtomicU64,
    /// Trials that failed.
    pub trials_failed: AtomicU64,
    /// Connections opened before a session needs them.
    pub preconnects: Preconnects,
    /// Histograms.
    pub times: SessionTimes,
    /// Probes that passed.
    pub probes_passed: AtomicU64,
    /// Probes that failed.
    pub probes_failed: AtomicU64,
    /// Answers of its agent check, by `Hearing`.
    pub agent_answers: AgentAnswers,
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
            by_address: SessionsByAddress::default(),
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
                agent_answers: AgentAnswers::default(),
                changes: AtomicU64::new(0),
            },
        }
    }

    /// Its present view.
    pub fn view(&self) -> Arc<BackendView> {
        self.view.load_full()
    }

    /// Whether new sessions dial that address.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        self.view.load().address == address
    }

    /// The standing of an address, which may be a former one of the backend.
    pub fn standing_at(&self, address: SocketAddr) -> Standing {
        let view = self.view.load();
        if view.address == address {
            view.standing
        } else if view.candidates.contains(&address) {
            view.facts.elsewhere(view.dead.contains(&address)).standing()
        } else {
            // The source has replaced that address.
            Standing::Removed
        }
    }

    /// If its host is a name: sessions by the address that they dialled, without addresses that have none.
    pub fn sessions_by_address(&self) -> Vec<(SocketAddr, u32)> {
        self.by_address.read()
    }

    /// Sessions at one address, if its host is a name.
    pub fn sessions_at(&self, address: SocketAddr) -> u32 {
        self.by_address.read().into_iter().find(|(at, _)| *at == address).map_or(0, |(_, sessions)| sessions)
    }

    /// Whether its host is a name.
    pub(super) fn has_name(&self) -> bool {
        !self.view.load().candidates.is_empty()
    }

    pub(super) fn show(&self, view: BackendView) {
        self.view.store(Arc::new(view));
    }

    /// Whether it is up and has a share.
    pub fn wants_sessions(&self) -> bool {
        let view = self.view.load();
        view.standing == Standing::Up && view.share > 0
    }

    /// The report of the last probe.
    pub fn last_report(&self) -> Option<ProbeReport> {
        self.last_report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The report of its last agent check.
    pub fn last_answer(&self) -> Option<ProbeReport> {
        self.last_answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For the keeper: keeps and counts a report of its agent check. `None` forgets the last one, because the address
    /// changed.
    pub fn keep_answer(&self, answer: Option<ProbeReport>) {
        if let Some(hearing) = answer.as_ref().and_then(|answer| answer.result.hearing) {
            self.stats.agent_answers.count(hearing);
        }
        *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Why it has its standing. If a probe decides, the newest result.
    pub fn reason(&self) -> Arc<str> {
        let view = self.view.load();
        match self.last_report().filter(|_| view.by_probe) {
            Some(report) => format!("{}{report}", view.remarks.as_deref().unwrap_or_default()).into(),
            None => Arc::clone(&view.reason),
        }
    }

    /// For the keeper: keeps and counts a probe's report. `None` forgets the last one, because the address changed.
    pub fn keep_report(&self, report: Option<ProbeReport>) {
        if let Some(report) = &report {
            let cell = if report.result.passed { &self.stats.probes_passed } else { &self.stats.probes_failed };
            cell.fetch_add(1, Relaxed);
        }
        *self.last_report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// The counts of what sessions observed.
    pub fn tally(&self) -> ObservationCounts {
        self.record.tally()
    }

    /// Sessions that failed in a row by the backend's fault.
    pub fn failures_in_a_row(&self) -> u32 {
        self.tally().in_a_row()
    }

    /// For the keeper: resets the failures in a row.
    pub fn forgive(&self) {
        self.record.forgive();
    }
}
