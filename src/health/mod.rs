//! PURE. State machines about one backend's health: rise and fall of probes, outliers, flap damping, slow start.
//! The keeper feeds them with results and the time. They read no clock and do no I/O, so tests and simulations replay
//! exactly.

mod damping;
mod observation;
mod outlier;
mod result;
mod rise_fall;
pub mod slow_start;

pub use damping::FlapDamping;
pub use observation::{Failing, Observation, ObservationCounts};
pub use outlier::{Ejection, EjectionEnd, Outlier, most_ejected};
pub use result::{Advice, AdvisedWeight, AgentWish, Certificate, Hearing, ProbeReport, ProbeResult, escaped, line};
pub use rise_fall::{Flip, ProbeState, RiseFall};
