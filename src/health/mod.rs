//! PURE. State machines fed with results and told the time: rise and fall of active probes, and the result they eat.

mod result;
mod rise_fall;

pub use result::{Advice, Certificate, ProbeResult, Report, Wish, escaped};
pub use rise_fall::{Flip, ProbeState, RiseFall};
