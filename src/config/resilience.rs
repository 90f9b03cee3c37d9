//! What follows from how backends behave, besides the active check: outliers, damping, tiers, slow start and caps.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::faults::Complaint;
use super::table::{Table, longer_than_zero};

/// Tiers that a pool may have: a priority is below this.
pub const TIERS: usize = 16;

/// The keys of a pool that say what follows from how its backends behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resilience {
    /// Passive detection.
    pub outliers: Outliers,
    /// What flapping costs.
    pub damping: Damping,
    /// When discovery is not believed at once.
    pub guard: GuardRules,
    /// How long the share of a new or recovered backend grows; zero = not at all.
    pub slow_start: Duration,
    /// When one session may go on to the next tier.
    pub spill: Spill,
    /// Whether the file has that key: where it has not, `check` warns.
    #[serde(skip)]
    pub spill_is_written: bool,
    /// In hundredths: a tier whose share of working backends times this is 1 or more takes everything.
    pub overprovisioning: u32,
    /// Percent of working backends below which all are used; 0 = never.
    pub panic_threshold: u8,
    /// Sessions at once per backend, unless it has a number of its own.
    pub backend_max_sessions: Option<u32>,
}

/// `[pools.NAME.outliers]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Outliers {
    /// What is done about them.
    pub mode: OutlierMode,
    /// Failures in a row.
    pub consecutive: u32,
    /// Of the sessions in the window, in percent; 0 = not looked at.
    pub percentage: u8,
    /// Sessions in the window below which no percentage is drawn.
    pub minimum_volume: u32,
    /// How far back the percentage looks.
    pub window: Duration,
    /// How long the first ejection lasts; the n-th in a row lasts n times that.
    pub ejection: Duration,
    /// However often.
    pub max_ejection: Duration,
    /// Percent of the pool's backends that may be ejected at once.
    pub max_ejected: u8,
    /// When an ejected backend gets its first single session as a trial, if that may cost the client its session.
    pub trial: Duration,
    /// Whether sessions count that reached the backend and got no byte.
    pub early_ends: bool,
}

words! {
    /// `outliers.mode`
    pub enum OutlierMode {
        /// They get no sessions for a while.
        Eject = "eject",
        /// They are counted and logged.
        Observe = "observe",
        /// Sessions are not looked at.
        Off = "off",
    }
}

/// `[pools.NAME.damping]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Damping {
    /// A backend that fails again within this time after it came up has flapped; each such time without it forgets one.
    pub window: Duration,
    /// How long it has to stay up after its first flap before it counts; doubles with each. Zero = off.
    pub stay_up: Duration,
    /// However often.
    pub max_stay_up: Duration,
}

/// `[pools.NAME.guard]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GuardRules {
    /// How long a backend that works stays although discovery takes it away, after trouble of the source or with all
    /// others. Zero = discovery is obeyed at once.
    pub hold: Duration,
}

words! {
    enum SpillWord {
        Failed = "failed",
        Full = "full",
        Slow = "slow",
    }
}

/// `spill`: what lets a session go on to the next tier, although that tier gets no share of the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spill {
    /// Every candidate of the tier failed this session.
    pub failed: bool,
    /// All of the tier are at their cap; with a `queue` the session waits first.
    pub full: bool,
    /// A candidate of the tier does not answer: a hedge may go to the next tier.
    pub slow: bool,
}

impl Resilience {
    /// `fall` is that of the pool's check.
    pub(super) fn read(pool: &Table<'_>, fall: u32) -> Self {
        let spill = pool.all_different("spill", super::table::word);
        Self {
            outliers: Outliers::read(&pool.table("outliers"), fall),
            damping: Damping::read(&pool.table("damping")),
            guard: GuardRules { hold: pool.table("guard").time_or_zero("hold").unwrap_or(Duration::from_secs(60)) },
            slow_start: pool.time_or_zero("slow_start").unwrap_or(Duration::ZERO),
            spill: spill.as_deref().map_or(Spill::DEFAULT, Spill::of),
            spill_is_written: spill.is_some(),
            overprovisioning: overprovisioning(pool).unwrap_or(140),
            panic_threshold: pool.number("panic_threshold", 0..=100).unwrap_or(0),
            backend_max_sessions: pool.number("backend_max_sessions", 1..=i64::from(u32::MAX)),
        }
    }
}

impl Outliers {
    fn read(table: &Table<'_>, fall: u32) -> Self {
        let ejection = table.time("ejection").unwrap_or(Duration::from_secs(10));
        Self {
            mode: table.word("mode").unwrap_or(OutlierMode::Eject),
            consecutive: table.number("consecutive", 1..=1000).unwrap_or(fall),
            percentage: table.number("percentage", 0..=100).unwrap_or(50),
            minimum_volume: table.number("minimum_volume", 1..=1_000_000).unwrap_or(20),
            window: table.time("window").unwrap_or(Duration::from_secs(10)),
            ejection,
            max_ejection: at_least(table, "max_ejection", ("ejection", ejection), Duration::from_secs(300)),
            // Two of three.
            max_ejected: table.number("max_ejected", 1..=100).unwrap_or(67),
            trial: table.time("trial").unwrap_or(Duration::from_secs(2)),
            early_ends: table.switch("early_ends").unwrap_or(true),
        }
    }
}

impl Damping {
    fn read(table: &Table<'_>) -> Self {
        let stay_up = table.time_or_zero("stay_up").unwrap_or(Duration::from_millis(500));
        Self {
            window: table.time("window").unwrap_or(Duration::from_secs(30)),
            stay_up,
            max_stay_up: at_least(table, "max_stay_up", ("stay_up", stay_up), Duration::from_secs(60)),
        }
    }
}

impl Spill {
    /// `spill = []`: a tier is used only while no backend of the tiers before it is up.
    pub const NONE: Self = Self { failed: false, full: false, slow: false };

    /// Where the file says nothing.
    pub const DEFAULT: Self = Self { failed: true, full: true, slow: false };

    fn of(words: &[SpillWord]) -> Self {
        let has = |word| words.contains(&word);
        Self { failed: has(SpillWord::Failed), full: has(SpillWord::Full), slow: has(SpillWord::Slow) }
    }
}

impl Serialize for Spill {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let words = SpillWord::ALL.into_iter().zip([self.failed, self.full, self.slow]);
        serializer.collect_seq(words.filter_map(|(word, is_in)| is_in.then_some(word)))
    }
}

/// The upper limit of a time, which is no shorter than the time itself.
fn at_least(table: &Table<'_>, key: &'static str, (name, time): (&str, Duration), default: Duration) -> Duration {
    let limit = table.time_with(key, |limit| {
        longer_than_zero(limit)?;
        let complaint = || Complaint::new(format!("it is shorter than `{name}`"), "make it at least as long");
        if limit < time { Err(complaint()) } else { Ok(()) }
    });
    limit.unwrap_or_else(|| default.max(time))
}

/// As hundredths.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn overprovisioning(pool: &Table<'_>) -> Option<u32> {
    let value = pool.value("overprovisioning")?;
    let factor = value.decimal()?;
    if (1.0..=1_000.0).contains(&factor) {
        return Some((factor * 100.0).round() as u32);
    }
    let way = if factor < 1.0 { "too small" } else { "too large" };
    value.refuse(Complaint::new(way, "write a number from 1 to 1000, such as 1.4"))
}
