//! The `agent` kind: a backend says in a line of HAProxy's words what it wants of its balancer.
//! Called by `attempt`. As there, what an answer does not mention stays as it was, and only the agent takes back what it said.

use crate::config::AgentCheck;
use crate::health::{Advice, Wish, escaped};

use super::attempt::{Miss, Trace};
use super::wire::Wire;

/// A line with a description.
const READ_LIMIT: usize = 4096;

/// What an agent has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Opinion {
    heard: bool,
    down: bool,
    administrative: Wish,
    weight: Option<u8>,
    max_sessions: Option<u32>,
}

impl Opinion {
    /// What follows from it; `None` = it has never answered.
    pub(super) fn advice(&self) -> Option<Advice> {
        let wish = match self.administrative {
            Wish::Maintenance => Wish::Maintenance,
            _ if self.down => Wish::Down,
            wish => wish,
        };
        self.heard.then_some(Advice { weight: self.weight, wish, max_sessions: self.max_sessions })
    }

    /// Takes a line; `false` = nothing in it is known, and nothing changes.
    fn take(&mut self, line: &str) -> bool {
        let words = line.split('#').next().unwrap_or_default();
        let mut known = false;
        for word in words.split([' ', '\t', ',']) {
            known |= self.word(&word.to_ascii_lowercase());
        }
        self.heard |= known;
        known
    }

    /// Takes a word, if it is one. The last of several that mean the same thing counts.
    fn word(&mut self, word: &str) -> bool {
        match word {
            "up" => self.down = false,
            "down" | "fail" | "failed" | "stopped" => self.down = true,
            "ready" => self.administrative = Wish::Ready,
            "drain" => self.administrative = Wish::Drain,
            "maint" => self.administrative = Wish::Maintenance,
            _ => {
                if let Some(percent) = word.strip_suffix('%').and_then(|number| number.parse().ok()) {
                    self.weight = Some(percent);
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

/// Asks, and judges what the agent has said by now: a pass unless it says that the backend is down.
pub(super) async fn exchange(
    stream: &mut Wire,
    check: &AgentCheck,
    opinion: &mut Opinion,
    trace: &mut Trace,
) -> Result<String, Miss> {
    trace.asked = "opinion".to_owned();
    if !check.send.is_empty() {
        stream.send(&check.send, trace).await?;
    }
    // The line ends with its end or with the connection.
    while !trace.came.contains(&b'\n') {
        match stream.receive(READ_LIMIT, trace).await {
            Ok(()) => {}
            Err(Miss::Failed(_)) if !trace.came.is_empty() && trace.came.len() < READ_LIMIT => break,
            Err(miss) => return Err(miss),
        }
    }
    let line = trace.came.split(|byte| matches!(byte, b'\r' | b'\n' | 0)).next().unwrap_or_default();
    let got = escaped(line);
    if !opinion.take(&String::from_utf8_lossy(line)) {
        trace.wanted = "words such as up, down, drain, 75%".to_owned();
        return Err(Miss::Failed(got));
    }
    if opinion.down { Err(Miss::Failed(got)) } else { Ok(got) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (&["75%"], Some(Advice { weight: Some(75), ..ready })),
            (&["0%,50%"], Some(Advice { weight: Some(50), ..ready })),
            (&["drain\t30%, maxconn:20 # too busy"], {
                Some(Advice { weight: Some(30), wish: Wish::Drain, max_sessions: Some(20) })
            }),
            (&["maint"], Some(Advice { wish: Wish::Maintenance, ..ready })),
            (&["stopped#gone fishing"], Some(Advice { wish: Wish::Down, ..ready })),
            (&["drain down"], Some(Advice { wish: Wish::Down, ..ready })),
            (&["up nonsense 20%"], Some(Advice { weight: Some(20), ..ready })),
        ] {
            assert_eq!(advice(lines), wanted, "{lines:?}");
        }
    }

    #[test]
    fn what_is_not_mentioned_stays() {
        let ready = Advice::default();
        assert_eq!(advice(&["drain 30%", "up"]).unwrap().wish, Wish::Drain, "only `ready` ends it");
        assert_eq!(advice(&["drain 30%", "ready"]), Some(Advice { weight: Some(30), ..ready }));
        assert_eq!(advice(&["down", "ready 50%"]).unwrap().wish, Wish::Down, "only `up` ends it");
        assert_eq!(advice(&["down", "up"]), Some(ready));
        assert_eq!(advice(&["maxconn:5", "maxconn:0"]), Some(ready));
        assert_eq!(advice(&["drain", "what?"]).unwrap().wish, Wish::Drain);
    }
}
