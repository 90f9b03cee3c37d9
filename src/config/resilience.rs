//! What follows from how backends behave, besides the active check: outliers, damping, tiers, slow start and caps.

use std::time::Duration;

use serde::Serialize;

use super::faults::{Complaint, Reading, Zero};
use super::shape::{DampingShape, GuardShape, OutliersShape, PoolShape};
use super::spill::{self, Spill};
use super::values::{Decimal, Section};

const DEFAULT_WINDOW: Duration = Duration::from_secs(10);
const DEFAULT_EJECTION: Duration = Duration::from_secs(10);
const DEFAULT_MAX_EJECTION: Duration = Duration::from_secs(300);
const DEFAULT_TRIAL: Duration = Duration::from_secs(2);
/// Two of three.
const DEFAULT_MAX_EJECTED: u8 = 67;
const DEFAULT_FLAP_WINDOW: Duration = Duration::from_secs(30);
const DEFAULT_STAY_UP: Duration = Duration::from_millis(500);
const DEFAULT_MAX_STAY_UP: Duration = Duration::from_secs(60);
const DEFAULT_HOLD: Duration = Duration::from_secs(60);

/// Tiers that a pool may have: a priority is below this.
pub const TIERS: usize = 16;

/// See the module.
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
    /// Whether the file says so: whoever did not choose is warned.
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

/// `mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutlierMode {
    /// They get no sessions for a while.
    Eject,
    /// They are counted and logged.
    Observe,
    /// Nobody looks.
    Off,
}

impl OutlierMode {
    /// The word for it in the configuration and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eject => "eject",
            Self::Observe => "observe",
            Self::Off => "off",
        }
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

pub(super) fn resilience(shape: &PoolShape, fall: u32, reading: &mut Reading<'_>) -> Resilience {
    Resilience {
        outliers: outliers(shape.outliers.as_ref(), fall, reading),
        damping: damping(shape.damping.as_ref(), reading),
        guard: guard(shape.guard.as_ref(), reading),
        slow_start: reading.duration("slow_start", &shape.slow_start, Zero::Allowed).unwrap_or(Duration::ZERO),
        spill: spill::spill(shape.spill.as_ref(), reading),
        spill_is_written: shape.spill.is_some(),
        overprovisioning: overprovisioning(&shape.overprovisioning, reading),
        panic_threshold: reading.number("panic_threshold", &shape.panic_threshold, 0..=100).unwrap_or(0),
        backend_max_sessions: reading.number(
            "backend_max_sessions",
            &shape.backend_max_sessions,
            1..=i64::from(u32::MAX),
        ),
    }
}

fn outliers(section: Option<&Section<OutliersShape>>, fall: u32, reading: &mut Reading<'_>) -> Outliers {
    let default = OutliersShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    let modes = [("eject", OutlierMode::Eject), ("observe", OutlierMode::Observe), ("off", OutlierMode::Off)];
    let ejection = reading.duration("ejection", &shape.ejection, Zero::Refused).unwrap_or(DEFAULT_EJECTION);
    let max = reading.duration("max_ejection", &shape.max_ejection, Zero::Refused);
    if let (Some(max), Some(written)) = (max, &shape.max_ejection)
        && max < ejection
    {
        let complaint = Complaint::new("it is shorter than `ejection`", "make it at least as long");
        reading.refuse(written.span(), "max_ejection", &super::faults::shown(&written.get_ref().0), complaint);
    }
    Outliers {
        mode: reading.word("mode", &shape.mode, &modes, OutlierMode::Eject),
        consecutive: reading.number("consecutive", &shape.consecutive, 1..=1000).unwrap_or(fall),
        percentage: reading.number("percentage", &shape.percentage, 0..=100).unwrap_or(50),
        minimum_volume: reading.number("minimum_volume", &shape.minimum_volume, 1..=1_000_000).unwrap_or(20),
        window: reading.duration("window", &shape.window, Zero::Refused).unwrap_or(DEFAULT_WINDOW),
        ejection,
        max_ejection: max.unwrap_or(DEFAULT_MAX_EJECTION).max(ejection),
        max_ejected: reading.number("max_ejected", &shape.max_ejected, 1..=100).unwrap_or(DEFAULT_MAX_EJECTED),
        trial: reading.duration("trial", &shape.trial, Zero::Refused).unwrap_or(DEFAULT_TRIAL),
        early_ends: shape.early_ends.unwrap_or(true),
    }
}

fn damping(section: Option<&Section<DampingShape>>, reading: &mut Reading<'_>) -> Damping {
    let default = DampingShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    let stay_up = reading.duration("stay_up", &shape.stay_up, Zero::Allowed).unwrap_or(DEFAULT_STAY_UP);
    let max = reading.duration("max_stay_up", &shape.max_stay_up, Zero::Refused);
    if let (Some(max), Some(written)) = (max, &shape.max_stay_up)
        && max < stay_up
    {
        let complaint = Complaint::new("it is shorter than `stay_up`", "make it at least as long");
        reading.refuse(written.span(), "max_stay_up", &super::faults::shown(&written.get_ref().0), complaint);
    }
    Damping {
        window: reading.duration("window", &shape.window, Zero::Refused).unwrap_or(DEFAULT_FLAP_WINDOW),
        stay_up,
        max_stay_up: max.unwrap_or(DEFAULT_MAX_STAY_UP).max(stay_up),
    }
}

fn guard(section: Option<&Section<GuardShape>>, reading: &mut Reading<'_>) -> GuardRules {
    let default = GuardShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    GuardRules { hold: reading.duration("hold", &shape.hold, Zero::Allowed).unwrap_or(DEFAULT_HOLD) }
}

/// As hundredths.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn overprovisioning(value: &Decimal, reading: &mut Reading<'_>) -> u32 {
    const DEFAULT: u32 = 140;
    let Some(written) = value else { return DEFAULT };
    let factor = *written.get_ref();
    if (1.0..=1_000.0).contains(&factor) {
        return (factor * 100.0).round() as u32;
    }
    let way = if factor < 1.0 { "too small" } else { "too large" };
    let hint = "write a number from 1 to 1000, such as 1.4";
    reading.refuse(written.span(), "overprovisioning", &factor.to_string(), Complaint::new(way, hint));
    DEFAULT
}
