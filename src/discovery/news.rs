//! What has come of a question that is asked for ever, for every pool that wants to know. It is published in a watch, which
//! keeps only the newest: so failures and restarts are counted, and a follower that was slow learns by the counts what it
//! missed.

use std::sync::Arc;

use tokio::sync::watch;

use super::error::AskError;
use super::feed::{Feed, Heard};
use super::instance::Instance;
use super::update_sender::Closed;
use crate::endpoint::Rejections;

/// What has come so far; `A` is an answer.
pub(super) struct News<A> {
    /// The newest one.
    pub(super) answer: Option<Arc<A>>,
    answers: u64,
    /// Of these, how often the registry had gone back to an older state.
    restarts: u64,
    failures: u64,
    /// The newest one.
    failure: Option<AskError>,
    /// It is the last word.
    is_failing: bool,
    /// How often it was seen that the newest answer still holds.
    confirmed: u64,
}

/// What an answer means for one pool.
pub(super) struct Set {
    pub(super) instances: Vec<Instance>,
    pub(super) refused: Rejections,
    /// ACLs keep something of it from us.
    pub(super) filtered: bool,
}

impl<A> News<A> {
    pub(super) fn answered(&mut self, answer: A, restarted: bool) {
        self.answer = Some(Arc::new(answer));
        self.answers += 1;
        self.restarts += u64::from(restarted);
        self.is_failing = false;
    }

    /// How many there were.
    pub(super) fn answers(&self) -> u64 {
        self.answers
    }

    pub(super) fn failed(&mut self, failure: AskError) {
        self.failures += 1;
        self.failure = Some(failure);
        self.is_failing = true;
    }

    pub(super) fn confirm(&mut self) {
        self.confirmed += 1;
    }
}

impl<A> Clone for News<A> {
    fn clone(&self) -> Self {
        Self { answer: self.answer.clone(), failure: self.failure.clone(), ..*self }
    }
}

impl<A> Default for News<A> {
    fn default() -> Self {
        Self { answer: None, answers: 0, restarts: 0, failures: 0, failure: None, is_failing: false, confirmed: 0 }
    }
}

/// Hands on what comes, until the receiver of the feed is gone.
pub(super) async fn follow<A>(
    mut news: watch::Receiver<News<A>>,
    feed: &mut Feed,
    set: impl Fn(&A) -> Set,
) -> Result<(), Closed> {
    let now = news.borrow().clone();
    // Of what other pools met before, only what is wrong now matters here.
    let (mut answers, mut restarts, mut confirmed) = (0, now.restarts, now.confirmed);
    let mut failures = now.failures - u64::from(now.is_failing);
    loop {
        let now = news.borrow_and_update().clone();
        let failure = now.failure.filter(|_| now.failures != failures);
        let answer = now.answer.filter(|_| now.answers != answers);
        let restarted = now.restarts != restarts;
        let is_confirmed = now.confirmed != confirmed && answer.is_none();
        (answers, restarts, failures, confirmed) = (now.answers, now.restarts, now.failures, now.confirmed);
        let (over, lasts) = if now.is_failing { (None, failure) } else { (failure, None) };
        if let Some(failure) = over {
            feed.failed(failure).await?;
        }
        if let Some(answer) = answer {
            let Set { instances, refused, filtered } = set(&answer);
            feed.put(instances, refused, Heard::Answer { restarted, filtered }).await?;
        }
        if let Some(failure) = lasts {
            feed.failed(failure).await?;
        }
        if is_confirmed {
            feed.confirm();
        }
        if feed.until(news.changed()).await?.is_err() {
            return Ok(());
        }
    }
}
