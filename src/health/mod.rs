//! PURE. State machines fed with results and told the time: rise and fall of active probes, outliers, flap damping, slow
//! start, and what they eat.

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
