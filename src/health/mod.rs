//! PURE. State machines fed with results and told the time: rise and fall of active probes, outliers, flap damping, slow
//! start, and what they eat.

mod damping;
mod evidence;
mod outlier;
mod result;
mod rise_fall;
pub mod slow_start;

pub use damping::Damping;
pub use evidence::{Evidence, Failing, Tally};
pub use outlier::{Ejection, Outlier, Release, most_ejected};
pub use result::{Advice, AdvisedWeight, Certificate, Hearing, ProbeResult, Report, Wish, escaped, line};
pub use rise_fall::{Flip, ProbeState, RiseFall};
