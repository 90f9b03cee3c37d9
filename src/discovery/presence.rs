//! Whether an agent answers, and whether its servers have a leader. One cheap question for all queries of this agent: it shows
//! that an agent hangs, which a blocking query can't, and that it is back.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ::consul::{Client, Error};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::error::AskError;
use crate::deadline::within;

/// The times of the question. Tests use shorter ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct PresenceTimes {
    /// Between two questions while all is well.
    pub(super) calm: Duration,
    /// While something is wrong; up to half as much again.
    pub(super) quick: Duration,
    /// For an answer while all is well.
    pub(super) limit: Duration,
    /// While something is wrong.
    pub(super) quick_limit: Duration,
}

impl Default for PresenceTimes {
    fn default() -> Self {
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        Self { calm: seconds(5), quick: millis(500), limit: seconds(3), quick_limit: seconds(2) }
    }
}

/// What is known of an agent. Nothing is wrong until something is seen.
#[derive(Clone, Debug, Default)]
pub(super) struct AgentState {
    /// Why it does not answer.
    pub(super) absent: Option<AskError>,
    /// It said twice in a row that there is no leader: an election is over sooner.
    pub(super) leaderless: bool,
    /// It said so once.
    suspect: bool,
}

pub(super) struct Presence {
    seen: watch::Sender<AgentState>,
    hurry: Arc<Notify>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

impl Presence {
    pub(super) fn new() -> Self {
        Self { seen: watch::Sender::default(), hurry: Arc::default(), task: OnceLock::new() }
    }

    /// Asks from now on, on the current runtime, until this is dropped.
    pub(super) fn begin(&self, client: &Arc<Mutex<Client>>, times: PresenceTimes) {
        self.task.get_or_init(|| {
            let (client, seen, hurry) = (Arc::clone(client), self.seen.clone(), Arc::clone(&self.hurry));
            AbortOnDropHandle::new(tokio::spawn(ask(client, times, seen, hurry)))
        });
    }

    pub(super) fn now(&self) -> AgentState {
        self.seen.borrow().clone()
    }

    /// Returns once it is like that. Cancel safe.
    pub(super) async fn until(&self, wanted: impl Fn(&AgentState) -> bool) -> AgentState {
        let mut seen = self.seen.subscribe();
        let now = seen.wait_for(|seen| wanted(seen)).await.map(|seen| seen.clone());
        match now {
            Ok(now) => now,
            // The sender is this one's own.
            Err(_) => std::future::pending().await,
        }
    }

    /// A query failed: asks soon.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }
}

async fn ask(client: Arc<Mutex<Client>>, times: PresenceTimes, seen: watch::Sender<AgentState>, hurry: Arc<Notify>) {
    loop {
        let limit = if seen.borrow().is_calm() { times.limit } else { times.quick_limit };
        let client = client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = within(limit, client.leader()).await;
        let answer = answer.unwrap_or(Err(Error::Timeout { after: limit }));
        seen.send_if_modified(|seen| seen.hear(answer));
        let quick = times.quick.mul_f64(1.0 + fastrand::f64() / 2.0);
        tokio::time::sleep(quick).await;
        if seen.borrow().is_calm() {
            tokio::select! {
                () = tokio::time::sleep(times.calm.saturating_sub(quick)) => {}
                () = hurry.notified() => {}
            }
        }
    }
}

impl AgentState {
    fn is_calm(&self) -> bool {
        self.absent.is_none() && !self.suspect
    }

    /// Returns whether that is news.
    fn hear(&mut self, answer: Result<String, Error>) -> bool {
        let before = (self.absent.is_some(), self.leaderless);
        let absent = answer.as_ref().err().filter(|error| is_absence(error));
        let says_none = match &answer {
            Ok(leader) => leader.is_empty(),
            Err(error) => error.kind() == "no_leader",
        };
        self.leaderless = says_none && self.suspect;
        self.suspect = says_none;
        self.absent = absent.map(AskError::of);
        before != (self.absent.is_some(), self.leaderless)
    }
}

/// Any other answer says nothing about the agent: it, or a proxy in front of it, may refuse just this question.
fn is_absence(error: &Error) -> bool {
    match error.status() {
        Some(status) => status == 500 && error.kind() != "no_leader",
        None => matches!(error.kind(), "connect" | "broken" | "timeout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, body: &str) -> Result<String, Error> {
        Err(Error::Status { status, body: body.to_owned() })
    }

    fn silence() -> Result<String, Error> {
        Err(Error::Timeout { after: Duration::from_secs(3) })
    }

    #[test]
    fn what_does_not_answer_is_absent_and_what_refuses_the_question_is_not() {
        let mut seen = AgentState::default();
        for refusal in [401, 403, 404, 405, 429, 502, 503, 504].map(|code| status(code, "no")) {
            assert!(!seen.hear(refusal));
            assert!(seen.is_calm());
        }
        assert!(seen.hear(silence()));
        assert_eq!(seen.absent.as_ref().unwrap().kind, "timeout");
        assert!(!seen.hear(status(500, "No known Consul servers")), "it still is");
        assert!(seen.hear(status(404, "no")));
        assert!(seen.is_calm());
    }

    #[test]
    fn no_leader_is_believed_at_the_second_time() {
        let (none, one) = (|| Ok(String::new()), || Ok("10.0.0.1:8300".to_owned()));
        let mut seen = AgentState::default();
        assert!(!seen.hear(none()));
        assert!(!seen.is_calm() && !seen.leaderless);
        assert!(!seen.hear(one()));
        assert!(seen.is_calm());
        assert!(!seen.hear(none()));
        assert!(seen.hear(status(500, "No cluster leader")));
        assert!(seen.leaderless && seen.absent.is_none());
        assert!(seen.hear(silence()));
        assert!(!seen.leaderless && seen.absent.is_some());
        assert!(seen.hear(one()));
        assert!(seen.is_calm());
    }
}
