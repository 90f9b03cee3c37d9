//! PURE. What `top` shows: rates and quantiles from counters that were seen one after the other, in an order, filtered.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::admin::{BackendBody, PoolsBody, TimesBody};
use crate::cli::api::BackendName;
use crate::cli::table::ago;

/// Points of a sparkline.
pub(super) const POINTS: usize = 20;

/// Looks over which quantiles are taken: enough connects at a slow pace, soon over a past storm.
const WINDOW: usize = 30;

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyAction {
    Nothing,
    Quit,
    Order(BackendName, &'static str),
}

words! {
    pub(super) enum RowSort {
        Name = "name",
        Sessions = "sessions",
        Connects = "connects",
        Slowest = "p99",
        Standing = "standing",
    }
}

/// What keys mean now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyMode {
    Look,
    Filter,
    /// Shows what keys and columns are.
    Help,
    /// Waits for a yes.
    Sure(BackendName, &'static str),
}

pub(super) struct TopView {
    pub(super) ink: bool,
    pub(super) mode: KeyMode,
    pub(super) sort: RowSort,
    pub(super) reversed: bool,
    pub(super) filter: String,
    /// What became of an order; stays until the next key.
    pub(super) says: String,
    /// Why what is shown is old.
    pub(super) trouble: String,
    /// What is wrong with the whole process.
    pub(super) troubles: Vec<String>,
    pub(super) pools: Vec<TopRow>,
    /// In the order in which they are shown.
    pub(super) backends: Vec<TopRow>,
    pub(super) selected: usize,
    tracks: BTreeMap<String, Track>,
    all: Vec<TopRow>,
}

/// A pool or a backend at one moment.
#[derive(Clone, Debug)]
pub(super) struct TopRow {
    pub(super) pool: String,
    /// Empty = the pool.
    pub(super) id: String,
    pub(super) address: String,
    /// Empty = none.
    pub(super) zone: String,
    pub(super) standing: String,
    pub(super) since: String,
    pub(super) weight: u16,
    pub(super) up: usize,
    pub(super) of: usize,
    pub(super) sessions: usize,
    pub(super) connects: f64,
    pub(super) failures: f64,
    pub(super) to_backend: f64,
    pub(super) to_client: f64,
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) history: Vec<f64>,
}

/// What was seen of one of them.
#[derive(Default)]
struct Track {
    last: Option<(Instant, [u64; 4])>,
    rates: [f64; 4],
    history: VecDeque<f64>,
    times: VecDeque<TimesBody>,
    seen: bool,
}

impl TopView {
    pub(super) fn new(filter: String, ink: bool) -> Self {
        Self {
            ink,
            mode: KeyMode::Look,
            sort: RowSort::Name,
            reversed: false,
            filter,
            says: String::new(),
            trouble: String::new(),
            troubles: Vec::new(),
            pools: Vec::new(),
            backends: Vec::new(),
            selected: 0,
            tracks: BTreeMap::new(),
            all: Vec::new(),
        }
    }

    /// A new look at everything.
    pub(super) fn take(&mut self, pools: PoolsBody, now: Instant) {
        self.trouble.clear();
        let selected = self.chosen();
        (self.pools, self.all) = (Vec::new(), Vec::new());
        for pool in pools.pools {
            let mut sums = [0; 4];
            for backend in &pool.backends {
                let counters = counters(backend);
                sums.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += counter);
                let key = format!("{}/{}", pool.name, backend.id);
                let track = self.tracks.entry(key).or_default();
                track.take(now, counters, backend.times.clone());
                self.all.push(line_of(&pool.name, backend, track));
            }
            let members = pool.backends.iter().filter(|backend| backend.standing != "removed").count();
            let up = pool.backends.iter().filter(|backend| backend.standing == "up").count();
            let track = self.tracks.entry(pool.name.clone()).or_default();
            track.take(now, sums, pool.times);
            let standing = match (pool.all_down, pool.fail_open) {
                _ if pool.served_by.is_some() => "on fallback".to_owned(),
                (_, true) => "fail open".to_owned(),
                (true, _) => "all down".to_owned(),
                _ if pool.queued > 0 => format!("{} queued", pool.queued),
                _ if up < members => "degraded".to_owned(),
                _ => "ok".to_owned(),
            };
            self.pools.push(TopRow {
                pool: pool.name,
                id: String::new(),
                address: String::new(),
                zone: String::new(),
                standing,
                since: String::new(),
                weight: 0,
                up,
                of: members,
                sessions: pool.sessions,
                ..track.line()
            });
        }
        self.tracks.retain(|_, track| std::mem::take(&mut track.seen));
        self.arrange();
        let found = selected
            .and_then(|named| self.backends.iter().position(|line| line.pool == named.pool && line.id == named.id));
        self.selected = found.unwrap_or(self.selected).min(self.backends.len().saturating_sub(1));
    }

    pub(super) fn letter(&mut self, c: char) -> KeyAction {
        self.says.clear();
        match (&self.mode, c) {
            (KeyMode::Filter, c) => {
                self.filter.push(c);
                self.arrange();
            }
            (KeyMode::Sure(named, word), 'y' | 'Y') => {
                let asked = KeyAction::Order(named.clone(), word);
                self.mode = KeyMode::Look;
                return asked;
            }
            (KeyMode::Sure(..) | KeyMode::Help, _) => self.mode = KeyMode::Look,
            (KeyMode::Look, '?' | 'h') => self.mode = KeyMode::Help,
            (KeyMode::Look, 'q') => return KeyAction::Quit,
            (KeyMode::Look, '/') => self.mode = KeyMode::Filter,
            (KeyMode::Look, 's') => {
                self.sort = self.sort.next();
                self.arrange();
            }
            (KeyMode::Look, 'r') => {
                self.reversed = !self.reversed;
                self.arrange();
            }
            (KeyMode::Look, 'j') => return self.step(1),
            (KeyMode::Look, 'k') => return self.step(-1),
            (KeyMode::Look, 'd') => self.ask("drain"),
            (KeyMode::Look, 'e') => self.ask("ready"),
            (KeyMode::Look, 'x') => self.ask("disabled"),
            (KeyMode::Look, _) => {}
        }
        KeyAction::Nothing
    }

    pub(super) fn enter(&mut self) -> KeyAction {
        self.says.clear();
        self.mode = KeyMode::Look;
        KeyAction::Nothing
    }

    pub(super) fn escape(&mut self) -> KeyAction {
        if self.mode == KeyMode::Filter || self.mode == KeyMode::Look {
            self.filter.clear();
            self.arrange();
        }
        self.enter()
    }

    pub(super) fn backspace(&mut self) -> KeyAction {
        if self.mode == KeyMode::Filter {
            self.filter.pop();
            self.arrange();
        }
        KeyAction::Nothing
    }

    pub(super) fn step(&mut self, by: isize) -> KeyAction {
        // A question about one backend is not answered by choosing another: that is no yes, so it is a no.
        if matches!(self.mode, KeyMode::Sure(..) | KeyMode::Help) {
            return self.enter();
        }
        self.says.clear();
        let last = self.backends.len().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
        KeyAction::Nothing
    }

    fn chosen(&self) -> Option<BackendName> {
        let line = self.backends.get(self.selected)?;
        Some(BackendName { pool: line.pool.clone(), id: line.id.clone() })
    }

    fn ask(&mut self, word: &'static str) {
        if let Some(named) = self.chosen() {
            self.mode = KeyMode::Sure(named, word);
        }
    }

    fn arrange(&mut self) {
        let wanted = self.filter.to_lowercase();
        let fits = |line: &&TopRow| {
            [&line.pool, &line.id, &line.standing, &line.address, &line.zone]
                .iter()
                .any(|text| text.to_lowercase().contains(&wanted))
        };
        let mut shown: Vec<TopRow> = self.all.iter().filter(fits).cloned().collect();
        // By name first: equals stay in that order.
        shown.sort_by(|a, b| (&a.pool, &a.id).cmp(&(&b.pool, &b.id)));
        match self.sort {
            RowSort::Name => {}
            RowSort::Sessions => shown.sort_by_key(|line| std::cmp::Reverse(line.sessions)),
            RowSort::Connects => shown.sort_by(|a, b| b.connects.total_cmp(&a.connects)),
            RowSort::Slowest => {
                shown.sort_by(|a, b| b.p99.unwrap_or_default().total_cmp(&a.p99.unwrap_or_default()));
            }
            RowSort::Standing => shown.sort_by_key(|line| (line.standing == "up", line.standing.clone())),
        }
        if self.reversed {
            shown.reverse();
        }
        self.backends = shown;
        self.selected = self.selected.min(self.backends.len().saturating_sub(1));
    }
}

impl RowSort {
    fn next(self) -> Self {
        match self {
            Self::Name => Self::Sessions,
            Self::Sessions => Self::Connects,
            Self::Connects => Self::Slowest,
            Self::Slowest => Self::Standing,
            Self::Standing => Self::Name,
        }
    }
}

impl Track {
    fn take(&mut self, now: Instant, counters: [u64; 4], times: Option<TimesBody>) {
        self.seen = true;
        if let Some((before, last)) = self.last {
            let passed = now.duration_since(before).as_secs_f64().max(0.001);
            for (rate, (new, old)) in self.rates.iter_mut().zip(counters.into_iter().zip(last)) {
                // A restarted balancer counts from nothing.
                *rate = new.saturating_sub(old) as f64 / passed;
            }
            self.history.push_back(self.rates[0]);
            if self.history.len() > POINTS {
                self.history.pop_front();
            }
        }
        self.last = Some((now, counters));
        if let Some(times) = times {
            self.times.push_back(times);
            if self.times.len() > WINDOW {
                self.times.pop_front();
            }
        }
    }

    /// What is measured, in a line that has nothing else yet.
    fn line(&self) -> TopRow {
        let [connects, failures, to_backend, to_client] = self.rates;
        let window = self.times.front().zip(self.times.back());
        let quantile = |q| window.and_then(|(old, new)| quantile(old, new, q));
        TopRow {
            pool: String::new(),
            id: String::new(),
            address: String::new(),
            zone: String::new(),
            standing: String::new(),
            since: String::new(),
            weight: 0,
            up: 0,
            of: 0,
            sessions: 0,
            connects,
            failures,
            to_backend,
            to_client,
            p50: quantile(0.5),
            p99: quantile(0.99),
            history: self.history.iter().copied().collect(),
        }
    }
}

fn counters(backend: &BackendBody) -> [u64; 4] {
    [backend.connects, backend.connect_failures, backend.bytes_to_backend, backend.bytes_to_client]
}

fn line_of(pool: &str, backend: &BackendBody, track: &Track) -> TopRow {
    TopRow {
        pool: pool.to_owned(),
        id: backend.id.clone(),
        address: backend.address.clone(),
        zone: backend.zone.clone().unwrap_or_default(),
        standing: backend.standing.to_string(),
        since: ago(&backend.since),
        weight: backend.weight,
        sessions: backend.sessions as usize,
        ..track.line()
    }
}

/// Of what came between two looks, in seconds; infinite above the last bound, as Prometheus' `histogram_quantile` is
/// not. `None` = nothing came.
pub(super) fn quantile(old: &TimesBody, new: &TimesBody, q: f64) -> Option<f64> {
    let before = |index: usize| old.connect_buckets.get(index).map_or(0, |bucket| bucket.1);
    let all = new.connect_count.checked_sub(old.connect_count).filter(|&all| all > 0)?;
    let rank = q * all as f64;
    let (mut low, mut below) = (0.0, 0.0);
    for (index, &(bound, count)) in new.connect_buckets.iter().enumerate() {
        let count = count.saturating_sub(before(index)) as f64;
        if count >= rank {
            let share = if count > below { (rank - below) / (count - below) } else { 1.0 };
            return Some(low + (bound - low) * share);
        }
        (low, below) = (bound, count);
    }
    Some(f64::INFINITY)
}
