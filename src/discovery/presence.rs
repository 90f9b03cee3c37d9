//! Whether a registry answers, and whether its servers have a leader. One cheap question for all queries of it: it shows
//! that an agent hangs, which a blocking query can't, and that it is back. What is asked is the registry's to say.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::error::AskError;

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

/// What the answer to the question says.
#[derive(Clone, Debug)]
pub(super) enum Sign {
    /// It is there.
    Well {
        /// Which of its endpoints answers, counted from 0.
        endpoint: usize,
    },
    /// It is there, and says that there is no leader.
    Leaderless,
    /// It does not answer.
    Absent(AskError),
}

/// What is known of a registry. Nothing is wrong until something is seen.
#[derive(Clone, Debug, Default)]
pub(super) struct AgentState {
    /// Why it does not answer.
    pub(super) absent: Option<AskError>,
    /// It said twice in a row that there is no leader: an election is over sooner.
    pub(super) leaderless: bool,
    /// It said so once.
    suspect: bool,
    /// The one that answered last.
    endpoint: usize,
    /// How often it was there.
    pub(super) answers: u64,
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

    /// Asks from now on, on the current runtime, until this is dropped. `look` asks once, for no longer than it is told.
    pub(super) fn begin<F, A>(&self, look: F, times: PresenceTimes)
    where
        F: Fn(Duration) -> A + Send + 'static,
        A: Future<Output = Sign> + Send + 'static,
    {
        self.task.get_or_init(|| {
            let (seen, hurry) = (self.seen.clone(), Arc::clone(&self.hurry));
            AbortOnDropHandle::new(tokio::spawn(ask(look, times, seen, hurry)))
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

async fn ask<F, A>(look: F, times: PresenceTimes, seen: watch::Sender<AgentState>, hurry: Arc<Notify>)
where
    F: Fn(Duration) -> A,
    A: Future<Output = Sign>,
{
    loop {
        let limit = if seen.borrow().is_calm() { times.limit } else { times.quick_limit };
        let sign = look(limit).await;
        seen.send_if_modified(|seen| seen.hear(sign));
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
    fn hear(&mut self, sign: Sign) -> bool {
        let before = (self.absent.is_some(), self.leaderless, self.endpoint);
        let says_none = matches!(sign, Sign::Leaderless);
        self.leaderless = says_none && self.suspect;
        self.suspect = says_none;
        if let Sign::Well { endpoint } = sign {
            self.endpoint = endpoint;
            self.answers += 1;
        }
        self.absent = if let Sign::Absent(why) = sign { Some(why) } else { None };
        before != (self.absent.is_some(), self.leaderless, self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silence() -> Sign {
        Sign::Absent(AskError { kind: "timeout", text: "no answer".into() })
    }

    const WELL: Sign = Sign::Well { endpoint: 0 };

    #[test]
    fn what_does_not_answer_is_absent_until_it_does() {
        let mut seen = AgentState::default();
        assert!(!seen.hear(WELL));
        assert!(seen.is_calm());
        assert!(seen.hear(silence()));
        assert_eq!(seen.absent.as_ref().unwrap().kind, "timeout");
        assert!(!seen.hear(silence()), "it still is");
        assert!(seen.hear(WELL));
        assert!(seen.is_calm());
        assert!(seen.hear(Sign::Well { endpoint: 1 }), "another one answers");
        assert!(seen.is_calm());
        assert_eq!(seen.answers, 3);
    }

    #[test]
    fn no_leader_is_believed_at_the_second_time() {
        let none = || Sign::Leaderless;
        let mut seen = AgentState::default();
        assert!(!seen.hear(none()));
        assert!(!seen.is_calm() && !seen.leaderless);
        assert!(!seen.hear(WELL));
        assert!(seen.is_calm());
        assert!(!seen.hear(none()));
        assert!(seen.hear(none()));
        assert!(seen.leaderless && seen.absent.is_none());
        assert!(seen.hear(silence()));
        assert!(!seen.leaderless && seen.absent.is_some());
        assert!(seen.hear(WELL));
        assert!(seen.is_calm());
    }
}
