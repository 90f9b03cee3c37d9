//! The `agent` kind: a backend answers with one line in HAProxy's words that asks for a weight, a limit or no sessions.
//! Called by `attempt`.
//! As in HAProxy, what an answer does not mention stays as it was, so the opinion outlives the attempt.

use crate::config::AgentCheck;
use crate::health::{Advice, AdvisedWeight, AgentWish, Hearing, escaped};

use super::attempt::{Miss, Trace};
use super::wire::{Wire, receive, send};

/// Room for the words and a description after `#`.
const LINE_LIMIT: usize = 4096;

/// What an agent has asked for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Opinion {
    heard: bool,
    down: bool,
    administrative: AgentWish,
    weight: Option<AdvisedWeight>,
    max_sessions: Option<u32>,
}

impl Opinion {
    /// The advice that follows from it; `None` = the agent has never answered.
    pub(super) fn advice(&self) -> Option<Advice> {
        let wish = match self.administrative {
            AgentWish::Maintenance => AgentWish::Maintenance,
            _ if self.down => AgentWish::Down,
            wish => wish,
        };
        self.heard.then_some(Advice { weight: self.weight, wish, max_sessions: self.max_sessions })
    }

    /// Takes a line. `None` = no word in it is known, and nothing changes.
    fn take(&mut self, line: &str) -> Option<Hearing> {
        let words = line.split('#').next().unwrap_or_default();
        let (mut known, mut all) = (false, true);
        for word in words.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
            let is_known = self.word(&word.to_ascii_lowercase());
            known |= is_known;
            all &= is_known;
        }
        self.heard |= known;
        known.then_some(if all { Hearing::Understood } else { Hearing::Unknown })
    }

    /// Takes a word, and returns whether it is known. If several have the same meaning, the last one counts.
    fn word(&mut self, word: &str) -> bool {
        match word {
            "up" => self.down = false,
            "down" | "fail" | "failed" | "stopped" => self.down = true,
            "ready" => self.administrative = AgentWish::Ready,
            "drain" => self.administrative = AgentWish::Drain,
            "maint" => self.administrative = AgentWish::Maintenance,
            _ => {
                if let Some(weight) = weight(word) {
                    self.weight = Some(weight);
                } else if let Some(most) = word.strip_prefix("maxconn:").and_then(|number| number.parse().ok()) {
                    self.max_sessions = Some(most).filter(|most| *most > 0);
                } else {
                    return false;
                }
            }
        }
        true
    }
}

/// `weight:50`, `weight:50%`, and `50%`, which is an older spelling of the latter.
fn weight(word: &str) -> Option<AdvisedWeight> {
    let (text, is_spelt_out) = word.strip_prefix("weight:").map_or((word, false), |text| (text, true));
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().map(AdvisedWeight::Percent),
        None => text.parse().ok().filter(|_| is_spelt_out).map(AdvisedWeight::Absolute),
    }
}

/// Asks, and judges by everything that the agent has said so far: a pass, unless it said that the backend is down.
pub(super) async fn exchange(
    stream: &mut Wire,
    check: &AgentCheck,
    opinion: &mut Opinion,
    trace: &mut Trace,
) -> Result<String, Miss> {
    trace.asked = "opinion".to_owned();
    if !check.send.is_empty() {
        send(stream, &check.send, trace).await?;
    }
    // The end of the connection ends the line, too.
    while !trace.came.contains(&b'\n') {
        match receive(stream, LINE_LIMIT, trace).await {
            Ok(()) => {}
            Err(Miss::Failed(_)) if !trace.came.is_empty() && trace.came.len() < LINE_LIMIT => break,
            Err(miss) => return Err(miss),
        }
    }
    let line = trace.came.split(|byte| matches!(byte, b'\r' | b'\n' | 0)).next().unwrap_or_default();
    let got = escaped(line);
    let hearing = opinion.take(&String::from_utf8_lossy(line));
    trace.hearing = Some(hearing.unwrap_or(Hearing::Unknown));
    if hearing.is_none() {
        trace.wanted = "words such as up, down, drain, weight:50".to_owned();
        return Err(Miss::Failed(got));
    }
    if opinion.down { Err(Miss::Failed(got)) } else { Ok(got) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AdvisedWeight::{Absolute, Percent};

    fn advice(lines: &[&str]) -> Option<Advice> {
        let mut opinion = Opinion::default();
        for line in lines {
            opinion.take(line);
        }
        opinion.advice()
    }

    #[test]
    fn words_are_understood_as_haproxy_does() {
        let ready = Advice::default();
        for (lines, wanted) in [
            (&[][..], None),
            (&["whatever"], None),
            (&["# up"], None),
            (&[""], None),
            (&["75"], None),
            (&["-5%"], None),
            (&["300%"], None),
            (&["up"], Some(ready)),
            (&["UP"], Some(ready)),
            (&["75%"], Some(Advice { weight: Some(Percent(75)), ..ready })),
            (&["0%,50%"], Some(Advice { weight: Some(Percent(50)), ..ready })),
            (&["drain\t30%, maxconn:20 # too busy"], {
                Some(Advice { weight: Some(Percent(30)), wish: AgentWish::Drain, max_sessions: Some(20) })
            }),
            (&["weight:50"], Some(Advice { weight: Some(Absolute(50)), ..ready })),
            (&["Weight:50%"], Some(Advice { weight: Some(Percent(50)), ..ready })),
            (&["weight:50%", "weight:0"], Some(Advice { weight: Some(Absolute(0)), ..ready })),
            (&["weight:65535"], Some(Advice { weight: Some(Absolute(65_535)), ..ready })),
            (&["weight:65536"], None),
            (&["weight:"], None),
            (&["weight: 5"], None),
            (&["weight:-5"], None),
            (&["weight:256%"], None),
            (&["maint"], Some(Advice { wish: AgentWish::Maintenance, ..ready })),
            (&["stopped#gone fishing"], Some(Advice { wish: AgentWish::Down, ..ready })),
            (&["drain down"], Some(Advice { wish: AgentWish::Down, ..ready })),
            (&["up nonsense 20%"], Some(Advice { weight: Some(Percent(20)), ..ready })),
        ] {
            assert_eq!(advice(lines), wanted, "{lines:?}");
        }
    }

    #[test]
    fn a_word_that_is_not_known_is_told_from_none() {
        for (line, hearing) in [
            ("up, 75%\tweight:5", Some(Hearing::Understood)),
            ("up # whatever", Some(Hearing::Understood)),
            ("up whatever", Some(Hearing::Unknown)),
            ("whatever", None),
            ("", None),
        ] {
            assert_eq!(Opinion::default().take(line), hearing, "{line:?}");
        }
    }

    #[test]
    fn what_is_not_mentioned_stays() {
        let ready = Advice::default();
        assert_eq!(advice(&["drain 30%", "up"]).unwrap().wish, AgentWish::Drain, "only `ready` ends it");
        assert_eq!(advice(&["drain 30%", "ready"]), Some(Advice { weight: Some(Percent(30)), ..ready }));
        assert_eq!(advice(&["down", "ready 50%"]).unwrap().wish, AgentWish::Down, "only `up` ends it");
        assert_eq!(advice(&["down", "up"]), Some(ready));
        assert_eq!(advice(&["maxconn:5", "maxconn:0"]), Some(ready));
        assert_eq!(advice(&["drain", "what?"]).unwrap().wish, AgentWish::Drain);
    }
}
