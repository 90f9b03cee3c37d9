//! `consul = { service = "…" }`: one blocking query at a time, for ever. Consul's rules for it are in
//! <https://developer.hashicorp.com/consul/api-docs/features/blocking>; what else was learnt from agents is DESIGN.md 9.

mod filter;
mod index;
mod judge;

use std::time::Duration;

use ::consul::{Consistency, HealthQuery};

use self::index::Index;
use super::agents::Agent;
use super::feed::{Feed, Heard};
use super::instance::Instance;
use super::pace::{Backoff, Bucket};
use super::turns::Taker;
use super::update_sender::Closed;
use crate::config::{self, ConsulSource, Warning};

/// Answers with news that are followed by the next question at once. A pause is a time in which a restart of the agent goes
/// unseen, and the next question then waits for an index that does not come.
const NEWS_BURST: u32 = 50;

/// Between questions when there is more news than that: what changes meanwhile is in the next answer, too.
const NEWS_PAUSE: Duration = Duration::from_millis(20);

/// The times of a follower; tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// Asked of the agent.
    pub(super) wait: Duration,
    /// For an answer, beyond the wait.
    pub(super) margin: Duration,
    /// After the first error in a row.
    pub(super) retry_first: Duration,
    /// After many.
    pub(super) retry_last: Duration,
    /// Queries at once whose answers bring nothing new, however fast the agent answers. News are asked for without delay.
    pub(super) burst: u32,
    /// Between queries after that.
    pub(super) interval: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(300),
            margin: Duration::from_secs(10),
            retry_first: Duration::from_millis(250),
            retry_last: Duration::from_secs(10),
            burst: 10,
            interval: Duration::from_secs(1),
        }
    }
}

/// Service, datacenter, filter.
pub(super) type Subject = (String, Option<String>, Option<String>);

/// Follows a service in Consul's catalog.
pub(super) struct Catalog {
    agent: Agent,
    taker: Taker,
    /// What the last answer came to.
    last: Vec<Instance>,
    /// Which one that is, for people.
    address: String,
    service: String,
    query: HealthQuery,
    warning: Warning,
    tuning: Tuning,
}

impl Catalog {
    pub(super) fn new(agent: Agent, source: &ConsulSource, tuning: Tuning) -> Self {
        let query = HealthQuery {
            datacenter: source.datacenter.clone(),
            filter: filter::expression(&source.tags, source.filter.as_deref()),
            wait: Some(tuning.wait),
            consistency: match source.consistency {
                config::Consistency::Default => Consistency::Default,
                config::Consistency::Stale => Consistency::Stale,
                config::Consistency::Consistent => Consistency::Consistent,
            },
            ..HealthQuery::default()
        };
        let (address, service) = (source.agent.address.clone(), source.service.clone());
        let taker = agent.join();
        Self { agent, taker, last: Vec::new(), address, service, query, warning: source.warning, tuning }
    }

    /// What is asked for, whichever agent is asked by whom.
    pub(super) fn subject(&self) -> Subject {
        (self.service.clone(), self.query.datacenter.clone(), self.query.filter.clone())
    }

    /// Until nobody listens.
    pub(super) async fn follow(mut self, feed: &mut Feed) -> Result<(), Closed> {
        let tuning = self.tuning;
        let mut index = Index::default();
        let mut bucket = Bucket::new(tuning.burst, tuning.interval);
        let mut backoff = Backoff::new(tuning.retry_first, tuning.retry_last);
        let mut random = fastrand::Rng::new();
        let (mut news, mut hurry) = (false, Bucket::new(NEWS_BURST, NEWS_PAUSE));
        loop {
            let pause = if news { &mut hurry } else { &mut bucket }.take(tokio::time::Instant::now());
            feed.until(tokio::time::sleep(pause)).await?;
            self.query.index = index.to_ask();
            let (kind, text) = match self.ask(feed, &mut index).await? {
                Ok(is_news) => {
                    backoff.reset();
                    news = is_news;
                    continue;
                }
                Err(failure) => failure,
            };
            news = false;
            index.failed();
            feed.failed(kind, format!("{}: {text}", self.address)).await?;
            feed.until(tokio::time::sleep(backoff.next(&mut random))).await?;
        }
    }

    /// One query, and its answer into the feed: whether that is another one than the last; else the kind and the text of
    /// what went wrong.
    async fn ask(
        &mut self,
        feed: &mut Feed,
        index: &mut Index,
    ) -> Result<Result<bool, (&'static str, String)>, Closed> {
        let place = feed.until(self.taker.place()).await?;
        let client = self.agent.client();
        let wait = self.taker.wait(self.tuning.wait);
        let (query, is_long) = (HealthQuery { wait: Some(wait), ..self.query.clone() }, wait == self.tuning.wait);
        let question = async {
            tokio::select! {
                answer = client.health_service(&self.service, &query) => Some(answer),
                // Who waits at the agent for long learns nothing by it that it does not learn at its next turn.
                () = self.taker.displaced(), if is_long && query.index.is_some() => None,
            }
        };
        let answer = feed.until(question).await?;
        drop(place);
        let answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Ok(Err((error.kind(), self.told(&error)))),
            None => return Ok(Ok(true)),
        };
        // `known_leader` is not looked at: with streaming, healthy answers say that there is none.
        let (instances, mut refused) = judge::all(&answer.value, &answer.rejected, self.warning);
        refused.add_unknown(answer.rejected_count - answer.rejected.len());
        if let (true, Some(first)) = (instances.is_empty(), refused.first()) {
            // One bad instance is skipped; a list of nothing else is not the same as an empty one.
            let text =
                format!("none of {} instances can be used, such as {}: {}", refused.count(), first.id, first.why);
            return Ok(Err(("invalid", text)));
        }
        let is_news = self.last != instances;
        if is_news {
            self.last.clone_from(&instances);
        }
        let heard = Heard::Answer { restarted: index.answered(answer.index), filtered: answer.filtered };
        feed.put(instances, refused, heard).await?;
        Ok(Ok(is_news))
    }

    /// An error, and what in the configuration it is about.
    fn told(&self, error: &::consul::Error) -> String {
        let text = one_line(error);
        match (error.kind(), &self.query.filter) {
            ("bad_filter", Some(filter)) => format!("the filter {filter:?} is refused: {text}"),
            ("rate_limited", _) => format!("the agent refuses more connections or questions from here: {text}"),
            _ => text,
        }
    }
}

/// An error and its causes; bounded, because what could not be decoded may be quoted in it.
fn one_line(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 500;

    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}
