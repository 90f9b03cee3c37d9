//! The state behind a pool's lock: slots, what the picker knows of them, trials, and the counts that follow.
//! Called by the pool only.

mod places;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::lease::{Claim, Trial};
use super::queue::{Queue, Served};
use super::tables::{InTable, TableMembers};
use super::{Backend, BackendView, NoneLeft, PickContext};
use crate::balance::{
    self, Affinity, LastResort, LoadedBackend, PICK_TIERS, Picker, Prospect, StickyTable, TierHealth, Timed, Worth,
    first_alone, loads,
};
use crate::config::{self, Spill};
use crate::health::{Failing, slow_start};
use crate::metrics::Direction;
use crate::standing::Standing;

/// The slots, their counts and the queue.
#[derive(Debug)]
pub(super) struct PoolState {
    pub(super) picker: Picker,
    slots: Vec<Option<MemberSlot>>,
    free: Vec<usize>,
    pub(super) sessions: usize,
    /// While a session waits, no backend is eligible: what frees a place serves the queue first.
    pub(super) queue: Queue,
    /// Which backend clients had last; `None` = the pool is not sticky.
    pub(super) sticky: Option<StickyTable>,
    counts: MemberCounts,
    tiers: [TierHealth; PICK_TIERS],
    /// Priorities from this one on are relieved: all new sessions go to those before it. `None` = no priority is.
    relieved_from: Option<u8>,
    /// The balancer's own zone.
    zone: Option<Arc<str>>,
    /// By tier: backends that sessions may try while the pool is open.
    any: [usize; PICK_TIERS],
    rules: Rules,
    pub(super) panicking: bool,
    /// Whether last resorts may be picked.
    open: bool,
    /// How often what the policies' tables follow from has changed.
    table_changes: u64,
    /// Slots with an offered trial.
    trials: Vec<usize>,
    /// Trials begun, which numbers them.
    begun: u64,
    /// Bytes of forgotten backends, also of those that readers still see.
    pub(super) retired: [u64; Direction::ALL.len()],
}

/// The settings that decide which backends may be picked.
#[derive(Clone, Copy, Debug)]
struct Rules {
    overprovisioning: u32,
    picks: balance::PickRules,
    last_resort: LastResort,
    /// Whether there is a queue.
    waits: bool,
}

impl Rules {
    fn of(settings: &config::Pool, seed: u64) -> Self {
        let resilience = &settings.resilience;
        let (balance, hashing) = (settings.balance, settings.hashing);
        Self {
            overprovisioning: resilience.overprovisioning,
            picks: balance::PickRules { balance, hashing, spill: resilience.spill, seed },
            last_resort: LastResort::of(settings),
            waits: settings.queue.is_some(),
        }
    }
}

#[derive(Debug)]
struct MemberSlot {
    backend: Arc<Backend>,
    address: SocketAddr,
    share: u32,
    weight: u16,
    position: u32,
    priority: u8,
    zone: Option<Arc<str>>,
    /// In its slow start.
    grows: bool,
    /// What follows from priority and zone.
    tier: u8,
    cap: Option<u32>,
    standing: Standing,
    trial: TrialState,
    failing: Failing,
}

impl MemberSlot {
    /// What it is in the tables: as written, whatever its probes say, so that balancers agree. `None` = it is in none.
    fn in_table(&self) -> Option<InTable> {
        let is_in = self.standing != Standing::Removed && self.weight > 0;
        let (weight, position) = (self.weight, self.position);
        is_in.then(|| InTable { weight, position, tier: usize::from(self.tier).min(PICK_TIERS - 1) })
    }
}

/// The state of an ejected backend's trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialState {
    /// There is none.
    None,
    /// It waits for a session.
    Offered,
    /// A session runs it; the number is the trial's.
    Running(u64),
}

/// How many members a pool has, by what they can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    /// Backends that are not removed.
    pub members: usize,
    /// Up, with a share.
    pub up: usize,
    /// Without a probe result.
    pub unproven: usize,
    /// With a share and a probe result, and not taken out.
    pub proven: usize,
    /// With a share, and kept out only by an ejection or by damping.
    pub spare: usize,
    /// Those that may get a new session now.
    pub eligible: usize,
}

impl PoolState {
    pub(super) fn new(settings: &config::Pool, seed: u64) -> Self {
        let rules = Rules::of(settings, seed);
        let mut picker = Picker::new(rules.picks);
        picker.set_loads([0; PICK_TIERS]);
        Self {
            picker,
            slots: Vec::new(),
            free: Vec::new(),
            sessions: 0,
            queue: Queue::default(),
            sticky: settings.sticky.map(StickyTable::new),
            counts: MemberCounts::default(),
            tiers: [TierHealth::default(); PICK_TIERS],
            relieved_from: None,
            zone: None,
            any: [0; PICK_TIERS],
            rules,
            panicking: false,
            open: false,
            table_changes: 0,
            trials: Vec::new(),
            begun: 0,
            retired: Default::default(),
        }
    }

    /// Applies other settings.
    pub(super) fn change(&mut self, settings: &config::Pool) {
        self.rules = Rules::of(settings, self.rules.picks.seed);
        self.picker.switch(self.rules.picks);
        self.sticky = match (self.sticky.take(), settings.sticky) {
            (Some(mut table), Some(rules)) => {
                table.change(rules);
                Some(table)
            }
            (_, rules) => rules.map(StickyTable::new),
        };
        self.spread();
    }

    pub(super) fn counts(&self) -> MemberCounts {
        MemberCounts { eligible: self.picker.eligible(self.rules.waits), ..self.counts }
    }

    pub(super) fn loaded(&self) -> Vec<(Arc<Backend>, LoadedBackend)> {
        let serves = |(_, slot): &(usize, &MemberSlot)| slot.standing == Standing::Up && slot.share > 0;
        let slots = self.slots.iter().enumerate().filter_map(|(number, slot)| Some((number, slot.as_ref()?)));
        let load = |(number, slot): (usize, &MemberSlot)| (Arc::clone(&slot.backend), self.picker.load(number));
        slots.filter(serves).map(load).collect()
    }

    /// Whether nothing is up and sessions may try the rest, also backends without a probe result.
    pub(super) fn fails_open(&self) -> bool {
        self.rules.last_resort.fails_open(self.counts.up, self.any.iter().sum())
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn sessions_of(&self, backend: &Backend) -> u32 {
        if self.knows(backend) { self.picker.sessions(backend.slot) } else { 0 }
    }

    pub(super) fn pick(&mut self, context: &PickContext<'_>) -> Result<Claim, NoneLeft> {
        if context.tried.is_empty()
            && let Some((slot, trial)) = self.take_trial()
        {
            return self.claimed(slot, Some(trial));
        }
        let (tried, dialling) = (self.slots_of(context.tried), self.slots_of(context.dialling));
        let PickContext { affinity, waits, .. } = *context;
        let context = balance::PickContext { affinity, tried: &tried, dialling: &dialling, waits };
        let slot = self.pick_slot(&context).ok_or(NoneLeft)?;
        self.claimed(slot, None)
    }

    /// Whether [`Self::pick`] would return a backend; trials are not counted.
    pub(super) fn has_left(&self, context: &PickContext<'_>) -> bool {
        let (tried, dialling) = (self.slots_of(context.tried), self.slots_of(context.dialling));
        let PickContext { affinity, waits, .. } = *context;
        self.picker.has_left(&balance::PickContext { affinity, tried: &tried, dialling: &dialling, waits })
    }

    /// The backends of which a new session gets one; trials are not counted.
    pub(super) fn foreseen(&mut self, affinity: Option<Affinity>) -> Vec<Arc<Backend>> {
        let slots = self.picker.foreseen(affinity).into_iter();
        slots.filter_map(|slot| self.slots.get(slot)?.as_ref().map(|member| Arc::clone(&member.backend))).collect()
    }

    /// What there is for the session; trials are not counted.
    pub(super) fn prospect(&self, context: &PickContext<'_>) -> Prospect {
        let (tried, dialling) = (self.slots_of(context.tried), self.slots_of(context.dialling));
        let PickContext { affinity, waits, .. } = *context;
        match self.picker.prospect(&balance::PickContext { affinity, tried: &tried, dialling: &dialling, waits }) {
            Prospect::Serves if self.counts.up == 0 => Prospect::LastResort,
            prospect => prospect,
        }
    }

    /// The identity of a slot's backend.
    pub(super) fn id_of(&self, slot: usize) -> Option<Arc<str>> {
        Some(Arc::clone(&self.slots.get(slot)?.as_ref()?.backend.id))
    }

    /// Without those that are forgotten, or another pool's.
    fn slots_of(&self, backends: &[Arc<Backend>]) -> Vec<usize> {
        backends.iter().filter(|backend| self.knows(backend)).map(|backend| backend.slot).collect()
    }

    /// Serves the queue with what may be picked now.
    pub(super) fn serve(&mut self) -> Vec<Served> {
        if self.queue.len() == 0 {
            return Vec::new();
        }
        let mut queue = std::mem::take(&mut self.queue);
        let served =
            queue.serve(|affinity| self.pick(&PickContext { affinity, waits: true, ..PickContext::FIRST }).ok());
        self.queue = queue;
        served
    }

    pub(super) fn timed(&mut self, backend: &Backend, what: Timed, took: Duration, now: Instant) {
        if self.knows(backend) {
            self.picker.timed(backend.slot, what, took, now);
        }
    }

    /// Whether the end of a session would free a place.
    pub(super) fn is_full(&self) -> bool {
        self.picker.full() > 0
    }

    fn claimed(&mut self, slot: usize, trial: Option<Trial>) -> Result<Claim, NoneLeft> {
        // The picker knows only slots that are taken.
        let Some(MemberSlot { backend, address, .. }) = &self.slots[slot] else { return Err(NoneLeft) };
        self.sessions += 1;
        Ok(Claim { backend: Arc::clone(backend), address: *address, trial })
    }

    /// Takes an offered trial, and counts a session on its slot.
    fn take_trial(&mut self) -> Option<(usize, Trial)> {
        let picker = &mut self.picker;
        // A backend at its cap, or of a tier that is not in use, keeps its offer.
        let place = self.trials.iter().position(|&slot| picker.is_in_use(slot) && picker.claim(slot))?;
        let number = self.trials.remove(place);
        let slot = self.slots[number].as_mut()?;
        self.begun += 1;
        slot.trial = TrialState::Running(self.begun);
        Some((number, Trial { number: self.begun, failing: slot.failing, over: AtomicBool::new(false) }))
    }

    pub(super) fn give_back(&mut self, backend: &Backend, undecided_trial: Option<u64>) {
        self.picker.release(backend.slot);
        self.sessions -= 1;
        if let Some(number) = undecided_trial
            && self.end_trial(backend, number)
            && let Some(slot) = &mut self.slots[backend.slot]
        {
            slot.trial = TrialState::Offered;
            self.trials.push(backend.slot);
        }
    }

    pub(super) fn offer_trial(&mut self, backend: &Backend, failing: Failing) {
        if !self.knows(backend) {
            return;
        }
        let Some(slot) = &mut self.slots[backend.slot] else { return };
        if slot.standing == Standing::Ejected && slot.trial == TrialState::None {
            (slot.trial, slot.failing) = (TrialState::Offered, failing);
            self.trials.push(backend.slot);
        }
    }

    pub(super) fn end_trial(&mut self, backend: &Backend, number: u64) -> bool {
        if !self.knows(backend) {
            return false;
        }
        let Some(slot) = &mut self.slots[backend.slot] else { return false };
        let is_it = slot.trial == TrialState::Running(number);
        if is_it {
            slot.trial = TrialState::None;
        }
        is_it
    }

    pub(super) fn trial_of(&self, backend: &Backend) -> TrialState {
        if !self.knows(backend) {
            return TrialState::None;
        }
        self.slots[backend.slot].as_ref().map_or(TrialState::None, |slot| slot.trial)
    }

    pub(super) fn add(&mut self, view: BackendView, make: impl FnOnce(usize, BackendView) -> Backend) -> Arc<Backend> {
        let number = self.free.pop().unwrap_or(self.slots.len());
        if number == self.slots.len() {
            self.slots.push(None);
        }
        let slot = MemberSlot {
            address: view.address,
            share: view.share,
            weight: view.weight,
            position: view.position,
            priority: view.priority,
            grows: view.ramp < slow_start::FULL,
            tier: self.tier_of(view.priority, view.zone.as_ref()),
            zone: view.zone.clone(),
            cap: view.max_sessions,
            standing: view.standing,
            trial: TrialState::None,
            failing: Failing::Connect,
            backend: Arc::new(make(number, view)),
        };
        let backend = Arc::clone(&slot.backend);
        self.count(&slot, true);
        self.table_changes += 1;
        self.slots[number] = Some(slot);
        self.apply(number);
        self.spread();
        backend
    }

    /// Returns whether that changed which backends sessions may try.
    pub(super) fn place(&mut self, backend: &Backend, view: &BackendView) -> bool {
        if !self.knows(backend) {
            return false;
        }
        let number = backend.slot;
        let before_all = (self.open, self.relieved_from);
        let Some(mut slot) = self.slots[number].take() else { return false };
        self.count(&slot, false);
        let before = slot.in_table();
        (slot.address, slot.standing, slot.share) = (view.address, view.standing, view.share);
        (slot.weight, slot.cap) = (view.weight, view.max_sessions);
        (slot.priority, slot.zone) = (view.priority, view.zone.clone());
        slot.tier = self.tier_of(slot.priority, slot.zone.as_ref());
        slot.position = view.position;
        slot.grows = view.ramp < slow_start::FULL;
        self.table_changes += u64::from(slot.in_table() != before);
        if slot.standing == Standing::Removed
            && let Some(table) = &mut self.sticky
        {
            table.drop_slot(number);
        }
        if slot.standing != Standing::Ejected {
            slot.trial = TrialState::None;
            self.trials.retain(|&offered| offered != number);
        }
        self.count(&slot, true);
        self.slots[number] = Some(slot);
        self.apply(number);
        self.spread();
        (self.open, self.relieved_from) != before_all
    }

    pub(super) fn forget(&mut self, backend: &Backend) -> bool {
        if !self.knows(backend) {
            return true;
        }
        if self.picker.sessions(backend.slot) > 0 {
            return false;
        }
        if let Some(slot) = self.slots[backend.slot].take() {
            self.count(&slot, false);
            self.table_changes += u64::from(slot.in_table().is_some());
            self.trials.retain(|&offered| offered != backend.slot);
            self.picker.clear(backend.slot);
            if let Some(table) = &mut self.sticky {
                table.drop_slot(backend.slot);
            }
            self.free.push(backend.slot);
            self.spread();
        }
        for direction in Direction::ALL {
            self.retired[direction as usize] += backend.stats.bytes.read(direction);
        }
        true
    }

    /// What is to be in the tables; `None` = they are as they should be, or the policy needs none.
    pub(super) fn wanted_tables(&self) -> Option<TableMembers> {
        let version = (self.picker.wanted_tables(self.table_changes)?, self.table_changes);
        let members =
            self.slots.iter().flatten().filter_map(|slot| Some((Arc::clone(&slot.backend), slot.in_table()?)));
        Some(TableMembers { version, members: members.collect() })
    }

    /// Whether it is a member: a forgotten one's slot may belong to another, and so may one's of another pool.
    fn knows(&self, backend: &Backend) -> bool {
        let slot = self.slots.get(backend.slot).and_then(Option::as_ref);
        slot.is_some_and(|slot| std::ptr::eq(&*slot.backend, backend))
    }

    pub(super) fn set_panicking(&mut self, panicking: bool) {
        self.panicking = panicking;
        self.spread();
    }

    /// Tells the picker about a slot.
    fn apply(&mut self, number: usize) {
        let Some(slot) = &self.slots[number] else { return };
        let eligible = slot.standing == Standing::Up || (self.open && slot.standing.is_last_resort());
        self.picker.set(number, Worth { share: slot.share, tier: slot.tier, cap: slot.cap, eligible });
    }

    /// Tells the picker what follows from all slots together.
    fn spread(&mut self) {
        let open = self.panicking || self.fails_open();
        if open != self.open {
            self.open = open;
            for slot in 0..self.slots.len() {
                self.apply(slot);
            }
        }
        // If last resorts are used, the first tier that has any carries every session.
        let all = self.any.map(|any| TierHealth { backends: any, working: any });
        let tiers = if open { &all } else { &self.tiers };
        let loads = match self.rules.picks.spill {
            Spill::NONE if self.counts.up > 0 => first_alone(&self.tiers),
            Spill::NONE => first_alone(tiers),
            _ => loads(tiers, self.rules.overprovisioning),
        };
        self.picker.set_loads(loads);
        self.relieved_from = self.relieved_by(&loads);
        self.picker.set_binding(self.tiers.map(|tier| tier.working > 0));
    }

    /// Adds a slot to the counts, or removes it.
    fn count(&mut self, slot: &MemberSlot, enters: bool) {
        let add = |count: &mut usize, is: bool| {
            if enters {
                *count += usize::from(is);
            } else {
                *count -= usize::from(is);
            }
        };
        let serves = slot.share > 0;
        let up = slot.standing == Standing::Up && serves;
        let any = serves && (up || slot.standing.is_last_resort());
        let proven = any && slot.standing != Standing::Unproven;
        add(&mut self.counts.members, slot.standing != Standing::Removed);
        add(&mut self.counts.up, up);
        add(&mut self.counts.unproven, slot.standing == Standing::Unproven);
        add(&mut self.counts.proven, proven);
        add(&mut self.counts.spare, serves && matches!(slot.standing, Standing::Ejected | Standing::Damped));
        let number = usize::from(slot.tier).min(PICK_TIERS - 1);
        add(&mut self.any[number], any);
        let tier = &mut self.tiers[number];
        add(&mut tier.backends, proven);
        add(&mut tier.working, up);
    }
}
