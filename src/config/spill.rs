//! `spill`: when one session may go on to the next tier.

use serde::{Serialize, Serializer};

use super::faults::{Complaint, Reading, shown};
use super::nearest::suggest;
use super::values::Strings;

/// In the order of the fields.
const WORDS: [&str; 3] = ["failed", "full", "slow"];

/// What lets a session go on to the next tier, although that tier gets no share of the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spill {
    /// Every candidate of the tier failed this session.
    pub failed: bool,
    /// All of the tier are at their cap; with a `queue` the session waits first.
    pub full: bool,
    /// A candidate of the tier does not answer: a hedge may go to the next tier.
    pub slow: bool,
}

impl Spill {
    /// `spill = []`: a tier is used only while no backend of the tiers before it is up.
    pub const NONE: Self = Self { failed: false, full: false, slow: false };

    /// Where the file says nothing.
    pub const DEFAULT: Self = Self { failed: true, full: true, slow: false };

    fn words(self) -> impl Iterator<Item = &'static str> {
        WORDS.into_iter().zip([self.failed, self.full, self.slow]).filter_map(|(word, is_in)| is_in.then_some(word))
    }
}

impl Serialize for Spill {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.words())
    }
}

pub(super) fn spill(written: Option<&Strings>, reading: &mut Reading<'_>) -> Spill {
    let Some(written) = written else { return Spill::DEFAULT };
    let mut spill = Spill::NONE;
    for item in &written.items {
        let place = |text: &str| {
            let known = WORDS.iter().position(|word| *word == text);
            known.ok_or_else(|| Complaint::new("there is no such value", suggest(text, "value", WORDS)))
        };
        let Some(place) = reading.parsed_item("spill", item, place) else { continue };
        let is_in = [&mut spill.failed, &mut spill.full, &mut spill.slow];
        if is_in.into_iter().nth(place).is_some_and(|is_in| std::mem::replace(is_in, true)) {
            let complaint = Complaint::new("it is written twice", "remove one of them");
            reading.refuse(item.span(), "spill", &shown(item.get_ref()), complaint);
        }
    }
    spill
}
