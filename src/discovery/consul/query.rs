//! One question to an agent, asked for ever, for every pool that wants the answer to it.
//!
//! Every answer is published, also at an unchanged index: a change of ACLs changes the list and no index.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::consul::{Client, Error, HealthQuery};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::index::Index;
use super::judge;
use super::reach::AgentReach;
use crate::config::{ConsulAgent, Secret, Warning};
use crate::deadline::within;
use crate::discovery::Tuning;
use crate::discovery::error::AskError;
use crate::discovery::instance::Instance;
use crate::discovery::news::News;
use crate::discovery::pace::{Backoff, Bucket};
use crate::discovery::registries::Registry;
use crate::discovery::turns::{Place, Taker};
use crate::endpoint::Rejections;

/// Answers with news that are followed by the next question at once.
const NEWS_BURST: u32 = 50;

/// Between questions when there is more news than that: what changes meanwhile is in the next answer, too.
const NEWS_PAUSE: Duration = Duration::from_millis(20);

/// Asked of the agent after a pause in which no question waited there. If it was restarted meanwhile, its index may be below
/// the one that is asked for, and it then holds back the answer for all of this.
const WAIT_AFTER_PAUSE: Duration = Duration::from_secs(5);

/// For the answer that shows whether an agent that seems to be absent is, and for a place to ask that. Short, so that a
/// pool is known to fail 15 s after the agent hangs.
const PROOF: Duration = Duration::from_secs(2);

/// Questions after an agent's return are spread over this.
const RETURN: Duration = Duration::from_millis(300);

/// What is asked, and with which token. Equal questions are asked once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::discovery) struct Question {
    pub(super) settings: Arc<ConsulAgent>,
    pub(super) service: String,
    /// Without index and wait.
    pub(super) query: HealthQuery,
    /// It has no answer while the servers have no leader.
    pub(super) needs_leader: bool,
}

/// Ends with its last follower, and takes its question back.
pub(in crate::discovery) struct Query {
    news: watch::Receiver<News<Answered>>,
    /// Until it is begun.
    asker: Mutex<Option<Asker>>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What an answer comes to, for both ways to see warnings.
pub(super) struct Answered {
    serve: Vec<Instance>,
    out: Vec<Instance>,
    pub(super) refused: Rejections,
    pub(super) filtered: bool,
}

impl Answered {
    pub(super) fn instances(&self, warning: Warning) -> &[Instance] {
        match warning {
            Warning::Serve => &self.serve,
            Warning::Out => &self.out,
        }
    }
}

impl Query {
    pub(in crate::discovery) fn new(agent: &Arc<Registry<AgentReach>>, question: Question, tuning: Tuning) -> Self {
        let (sender, news) = watch::channel(News::default());
        let asker = Asker { agent: Arc::clone(agent), question, tuning, news: sender };
        Self { news, asker: Mutex::new(Some(asker)), task: Mutex::default() }
    }

    /// Asks from now on, on the current runtime. Returns what comes of it.
    pub(super) fn begin(&self) -> watch::Receiver<News<Answered>> {
        if let Some(asker) = self.asker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let task = AbortOnDropHandle::new(tokio::spawn(asker.run()));
            *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
        self.news.clone()
    }
}

struct Asker {
    agent: Arc<Registry<AgentReach>>,
    question: Question,
    tuning: Tuning,
    news: watch::Sender<News<Answered>>,
}

/// What became of a question that has not failed.
enum Asked {
    Answer {
        is_news: bool,
    },
    /// Other queries wait for the place.
    Displaced,
    /// The agent went absent, came back or lost its leader: its index may be another one.
    Overtaken,
}

impl Asker {
    async fn run(self) {
        let tuning = self.tuning;
        let taker = self.agent.begin();
        let mut index = Index::default();
        let (mut bucket, mut hurry) = (Bucket::new(tuning.burst, tuning.interval), Bucket::new(NEWS_BURST, NEWS_PAUSE));
        let (mut backoff, mut random) = (Backoff::new(tuning.retry_first, tuning.retry_last), fastrand::Rng::new());
        let mut is_news = false;
        loop {
            let pause = if is_news { &mut hurry } else { &mut bucket }.take(tokio::time::Instant::now());
            sleep(pause).await;
            let wait = if pause.is_zero() { tuning.wait } else { tuning.wait.min(WAIT_AFTER_PAUSE) };
            if self.lacks_leader() {
                let kind = "no_leader";
                self.failed(AskError { kind, text: "the servers of the agent have no leader".into() });
                index.failed();
                self.agent.presence.until(|seen| !seen.leaderless).await;
                sleep(RETURN.mul_f64(fastrand::f64())).await;
                continue;
            }
            let failure = match self.ask(&taker, &mut index, wait).await {
                Ok(Asked::Answer { is_news: news }) => {
                    backoff.reset();
                    is_news = news;
                    continue;
                }
                Ok(Asked::Displaced) => {
                    is_news = true;
                    continue;
                }
                Ok(Asked::Overtaken) => {
                    index.failed();
                    is_news = true;
                    continue;
                }
                Err(failure) => failure,
            };
            is_news = false;
            index.failed();
            self.failed(failure);
            self.agent.presence.hurry();
            tokio::select! {
                () = sleep(backoff.next(&mut random)) => {}
                () = self.returned() => {}
            }
        }
    }

    fn lacks_leader(&self) -> bool {
        self.question.needs_leader && self.agent.presence.now().leaderless
    }

    /// Returns when the agent has been absent and is back, a moment later than that.
    async fn returned(&self) {
        self.agent.presence.until(|seen| seen.absent.is_some()).await;
        self.agent.presence.until(|seen| seen.absent.is_none()).await;
        sleep(RETURN.mul_f64(fastrand::f64())).await;
    }

    async fn ask(&self, taker: &Taker, index: &mut Index, wait: Duration) -> Result<Asked, AskError> {
        let place = self.place(taker).await?;
        let seen = self.agent.presence.now();
        let (was_absent, needs_leader) = (seen.absent.is_some(), self.question.needs_leader);
        let wait = taker.wait(wait);
        let query = HealthQuery { index: index.to_ask(), wait: Some(wait), ..self.question.query.clone() };
        let is_long = wait == self.tuning.wait && query.index.is_some();
        let limit = match was_absent && query.index.is_none() {
            true => PROOF.min(self.tuning.margin),
            false => query.held_back() + self.tuning.margin,
        };
        let client = self.client().map_err(|error| self.told(&error))?;
        let answer = tokio::select! {
            biased;
            answer = within(limit, client.health_service(&self.question.service, &query)) => answer,
            // A long wait learns nothing that the next turn does not learn.
            () = taker.displaced(), if is_long => return Ok(Asked::Displaced),
            _ = self.agent.presence.until(|seen| seen.absent.is_some() != was_absent || (needs_leader && seen.leaderless)) => {
                drop(place);
                if was_absent {
                    sleep(RETURN.mul_f64(fastrand::f64())).await;
                }
                return Ok(Asked::Overtaken);
            }
        };
        drop(place);
        let answer = answer.unwrap_or(Err(Error::Timeout { after: limit })).map_err(|error| self.told(&error))?;
        // `known_leader` is not looked at: with streaming, healthy answers say that there is none.
        let judged = |warning| judge::all(&answer.value, &answer.rejected, warning);
        let ((serve, mut refused), (out, _)) = (judged(Warning::Serve), judged(Warning::Out));
        refused.add_unknown(answer.rejected_count - answer.rejected.len());
        if let (true, Some(first)) = (serve.is_empty(), refused.first()) {
            // One bad instance is skipped; a list of nothing else is not the same as an empty one.
            let text =
                format!("none of {} instances can be used, such as {}: {}", refused.count(), first.id, first.why);
            return Err(AskError { kind: "invalid", text: text.into() });
        }
        let is_news = self.news.borrow().answer.as_ref().is_none_or(|last| last.serve != serve);
        let restarted = index.answered(answer.index);
        let answered = Answered { serve, out, refused, filtered: answer.filtered };
        self.news.send_modify(|news| news.answered(answered, restarted));
        Ok(Asked::Answer { is_news })
    }

    /// With the token of the question.
    fn client(&self) -> Result<Client, Error> {
        let settings = &self.question.settings;
        let token = settings.token.as_ref().map(|Secret(token)| token.as_str());
        self.agent.client().with_token(token, settings.token_file.clone())
    }

    /// A place to ask. While the agent is absent, places are given back slowly; then this query fails as those that have one.
    async fn place(&self, taker: &Taker) -> Result<Place, AskError> {
        let presence = &self.agent.presence;
        let absent = async {
            loop {
                let seen = presence.until(|seen| seen.absent.is_some()).await;
                let back = within(PROOF, presence.until(|seen| seen.absent.is_none())).await;
                if let (Err(_), Some(absent)) = (back, seen.absent) {
                    return absent;
                }
            }
        };
        tokio::select! {
            biased;
            place = taker.place() => Ok(place),
            absent = absent => Err(absent),
        }
    }

    fn failed(&self, failure: AskError) {
        let text = format!("{}: {}", self.agent.address, failure.text);
        self.news.send_modify(|news| news.failed(AskError { kind: failure.kind, text: text.into() }));
    }

    /// The error, with the part of the configuration that it is about.
    fn told(&self, error: &Error) -> AskError {
        let AskError { kind, text } = AskError::of(error.kind(), error);
        let text = match (kind, &self.question.query.filter) {
            ("bad_filter", Some(filter)) => format!("the filter {filter:?} is refused: {text}").into(),
            ("rate_limited", _) => format!("the agent refuses more connections or questions from here: {text}").into(),
            _ => text,
        };
        AskError { kind, text }
    }
}
