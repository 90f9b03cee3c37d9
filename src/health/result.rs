//! The result of one probe attempt: made by `probe`, kept per backend, shown by the API, quoted in log lines.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::ProbeState;

/// The longest part of a received answer that is kept, in bytes.
const QUOTED_BYTES: usize = 120;

/// The longest part of a result, in characters: an answer with each byte escaped, and words around it.
const QUOTED_CHARS: usize = 600;

/// One finished probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// As in the configuration: `tcp`, `http`, `redis`.
    pub kind: &'static str,
    /// Whether it counts as a pass.
    pub passed: bool,
    /// From its start to its result.
    pub duration: Duration,
    /// When it ended, on the wall clock.
    pub at: SystemTime,
    /// What was asked: `connect 10.0.0.1:80`, `GET /health`, `step 2 of 3`.
    pub asked: String,
    /// What would have passed: `200-399`, `body with "ok"`. Empty if `asked` says it.
    pub wanted: String,
    /// What was received, escaped and bounded: `status 503`, `refused`, `timeout after 1s`.
    pub got: String,
    /// What the backend's agent check asks for (kind `agent`).
    pub advice: Option<Advice>,
    /// Whether its answer was understood; `None` = the kind is not `agent`.
    pub hearing: Option<Hearing>,
    /// The certificate of a TLS handshake.
    pub certificate: Option<Certificate>,
}

/// The end of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The end of its validity.
    pub not_after: SystemTime,
    /// Whether it is nearer than the check's `expires_within`.
    pub expires_soon: bool,
}

impl fmt::Display for Certificate {
    /// `certificate valid for 13 days`, `certificate expired 2 days ago`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: u64 = 24 * 3600;
        match self.not_after.duration_since(SystemTime::now()) {
            Ok(left) if left.as_secs() < DAY => write!(f, "certificate valid for {} hours", left.as_secs() / 3600),
            Ok(left) => write!(f, "certificate valid for {} days", left.as_secs() / DAY),
            Err(past) => write!(f, "certificate expired {} days ago", past.duration().as_secs() / DAY),
        }
    }
}

words! {
    /// The result of a question to a backend's agent check.
    #[derive(Default)]
    pub enum Hearing {
        /// Every word of its answer is known.
        #[default]
        Understood = "understood",
        /// Some or all words are not known.
        Unknown = "unknown",
        /// There was no answer.
        Unreachable = "unreachable",
    }
}

/// What a backend's agent check asks for. It holds until the next answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// `None` = the configured weight.
    pub weight: Option<AdvisedWeight>,
    /// Whether it takes new sessions.
    pub wish: AgentWish,
    /// The most sessions at once; `None` = no limit.
    pub max_sessions: Option<u32>,
}

/// A weight that an agent check asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdvisedWeight {
    /// Of the configured one.
    Percent(u8),
    /// Instead of the configured one.
    Absolute(u16),
}

impl fmt::Display for AdvisedWeight {
    /// `30%`, `50`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Absolute(weight) => write!(f, "{weight}"),
        }
    }
}

words! {
    /// Whether a backend takes new sessions, in its own opinion.
    #[derive(Default)]
    pub enum AgentWish {
        /// It serves.
        #[default]
        Ready = "ready",
        /// Nothing new; running sessions finish.
        Drain = "drain",
        /// It is being worked on.
        Maintenance = "maintenance",
        /// It does not serve, even if probes pass.
        Down = "down",
    }
}

impl fmt::Display for Advice {
    /// `ready`, `drain, weight 30%, at most 20 sessions`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wish.name())?;
        if let Some(weight) = self.weight {
            write!(f, ", weight {weight}")?;
        }
        if let Some(most) = self.max_sessions {
            write!(f, ", at most {most} sessions")?;
        }
        Ok(())
    }
}

impl fmt::Display for ProbeResult {
    /// `http GET /health: status 503, wanted 200-399`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.asked, self.got)?;
        if !self.passed && !self.wanted.is_empty() {
            write!(f, ", wanted {}", self.wanted)?;
        }
        Ok(())
    }
}

/// What a subscriber to a probe receives after each result.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// The result itself.
    pub result: Arc<ProbeResult>,
    /// The state after the result.
    pub state: ProbeState,
    /// How many results in a row were like this one, including it.
    pub streak: u32,
}

impl fmt::Display for ProbeReport {
    /// `tcp connect 10.0.0.1:80: refused (3rd failure)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.result.passed { "pass" } else { "failure" };
        write!(f, "{} ({} {word})", self.result, ordinal(self.streak))
    }
}

fn ordinal(n: u32) -> String {
    let suffix = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

/// Makes a part of a result printable and bounded: patterns may hold line ends, and error texts of libraries may quote a
/// peer.
pub fn line(text: &str) -> String {
    let more = if text.chars().nth(QUOTED_CHARS).is_some() { "…" } else { "" };
    let shown = text.chars().take(QUOTED_CHARS).map(|c| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    });
    shown.collect::<String>() + more
}

/// Makes bytes from a backend printable and bounded.
pub fn escaped(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(QUOTED_BYTES)];
    let more = if bytes.len() > QUOTED_BYTES { "…" } else { "" };
    format!("\"{}\"{more}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hearings_are_in_the_order_of_their_numbers() {
        assert!(Hearing::ALL.iter().enumerate().all(|(i, &hearing)| hearing as usize == i));
    }

    #[test]
    fn ordinals() {
        let all: Vec<_> = [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111].map(ordinal).into();
        assert_eq!(all.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 101st 111th");
    }

    #[test]
    fn a_line_is_one_line_and_no_longer_than_a_screen() {
        assert_eq!(line("expect /(?x) a\n\tb \u{1b}[31m é/"), r"expect /(?x) a\n\tb \u{1b}[31m é/");
        assert_eq!(line(&"é".repeat(QUOTED_CHARS)), "é".repeat(QUOTED_CHARS));
        assert_eq!(line(&"é".repeat(QUOTED_CHARS + 1)), "é".repeat(QUOTED_CHARS) + "…");
        let longest = escaped(&[0xff; 1000]);
        assert!(longest.chars().count() < QUOTED_CHARS, "{longest}");
    }
}
