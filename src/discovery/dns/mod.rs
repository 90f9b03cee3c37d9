//! `dns = { … }`: a name whose answers are the instances. It is asked for again when the answer's time is over, between
//! `min_ttl` and `max_ttl`. A fault (no answer, a server that can't) is never a set, however long it lasts; the answer that
//! there is nothing is one when it has been given for `hold`.

mod ask;
mod judge;
mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::ask::{Asker, failed};
use self::judge::{Addresses, Service, Srv};
use self::message::{Answer, AnswerData, Asked, Reply, ReplyCode};
use super::Tuning;
use super::error::AskError;
use super::feed::{Feed, Heard};
use super::instance::Instance;
use super::pace::Backoff;
use super::update_sender::Closed;
use crate::config::{DnsRecords, DnsSource};
use crate::endpoint::Rejections;

/// Questions at once for the addresses of targets, of one pool.
const OPEN: usize = 16;

/// Follows a name.
pub(super) struct NameAnswers {
    source: DnsSource,
    asker: Arc<Asker>,
    tuning: Tuning,
    /// What targets were at, for those whose addresses can't be had now.
    known: Addresses,
    /// Families of which the name had addresses.
    families: BTreeSet<bool>,
}

/// A whole answer.
struct Looked {
    instances: Vec<Instance>,
    refused: Rejections,
    ttl: Duration,
}

/// Why there is no set.
enum NoSet {
    /// The answer is that there is nothing.
    Nothing(AskError),
    Failed(AskError),
}

impl NameAnswers {
    pub(super) fn new(source: &DnsSource, tuning: Tuning) -> Self {
        let asker = Arc::new(Asker::new(source));
        Self { source: source.clone(), asker, tuning, known: Addresses::new(), families: BTreeSet::new() }
    }

    /// What is asked for; of whom, and how often, does not matter.
    pub(super) fn subject(&self) -> (String, DnsRecords) {
        (self.source.name.clone(), self.source.records)
    }

    /// Until the receiver of the feed is gone.
    pub(super) async fn follow(mut self, feed: &mut Feed) -> Result<(), Closed> {
        const HEARD: Heard = Heard::Answer { restarted: false, filtered: false };
        let (mut backoff, mut random) =
            (Backoff::new(self.tuning.retry_first, self.tuning.retry_last), fastrand::Rng::new());
        // Since when the answer is that there is nothing, and whether that is believed.
        let (mut nothing, mut is_empty) = (None, false);
        loop {
            let pause = match feed.until(self.look_up()).await? {
                Ok(Looked { instances, refused, ttl }) => {
                    backoff.reset();
                    (nothing, is_empty) = (None, false);
                    feed.put(instances, refused, HEARD).await?;
                    ttl.clamp(self.source.min_ttl, self.source.max_ttl)
                }
                Err(NoSet::Failed(failure)) => {
                    feed.failed(failure).await?;
                    backoff.next(&mut random)
                }
                Err(NoSet::Nothing(failure)) => {
                    let since = *nothing.get_or_insert_with(Instant::now);
                    let left = self.source.hold.saturating_sub(since.elapsed());
                    match left {
                        Duration::ZERO => {
                            is_empty = true;
                            feed.put(Vec::new(), Rejections::default(), HEARD).await?;
                        }
                        _ => feed.failed(failure).await?,
                    }
                    let pause = backoff.next(&mut random).max(self.source.min_ttl);
                    if is_empty { pause } else { pause.min(left) }
                }
            };
            feed.until(sleep(pause)).await?;
        }
    }

    async fn look_up(&mut self) -> Result<Looked, NoSet> {
        match self.source.records {
            DnsRecords::Srv => self.look_up_service().await,
            DnsRecords::Addresses { port } => self.look_up_addresses(port).await,
        }
    }

    async fn look_up_service(&mut self) -> Result<Looked, NoSet> {
        let name = &self.source.name;
        let reply = self.asker.ask(name, Asked::Srv).await.map_err(NoSet::Failed)?;
        if reply.code == ReplyCode::NoSuchName {
            return Err(NoSet::Nothing(failed("no_such_name", format!("there is no name {name}"))));
        }
        let ttl = least_ttl(&reply.answers);
        let all = match judge::service(&reply.answers) {
            Service::None => {
                self.known.clear();
                return Ok(Looked { instances: Vec::new(), refused: Rejections::default(), ttl });
            }
            Service::At(all) if all.is_empty() => {
                return Err(NoSet::Nothing(failed("empty", format!("{name} has no SRV record"))));
            }
            Service::At(all) => all,
        };
        let is_target = |name: &str| all.iter().any(|srv| srv.target == name);
        let used = reply.additionals.iter().filter(|answer| is_target(&answer.name));
        let ttl = ttl.min(least_ttl(used));
        let given = judge::addresses(&reply.additionals, is_target);
        let (addresses, why, ttl) = self.complete(&all, given, ttl).await;
        let (instances, refused) = judge::of_service(&all, &addresses, &why);
        if let (true, Some(first)) = (instances.is_empty(), refused.first()) {
            let text = format!("none of {} answers can be used, such as {}: {}", refused.count(), first.id, first.why);
            return Err(NoSet::Failed(failed("invalid", text)));
        }
        self.known = addresses;
        Ok(Looked { instances, refused, ttl })
    }

    /// Looks up the addresses of the targets of which none came along, some at a time. Where that fails, those stay that
    /// were known.
    async fn complete(
        &self,
        all: &[Srv],
        mut addresses: Addresses,
        mut ttl: Duration,
    ) -> (Addresses, BTreeMap<String, String>, Duration) {
        let missing: BTreeSet<String> =
            all.iter().map(|srv| srv.target.clone()).filter(|target| !addresses.contains_key(target)).collect();
        let (mut why, mut missing, mut open) = (BTreeMap::new(), missing.into_iter(), JoinSet::new());
        loop {
            while open.len() < OPEN
                && let Some(target) = missing.next()
            {
                let asker = Arc::clone(&self.asker);
                open.spawn(async move { (addresses_of(&asker, &target).await, target) });
            }
            let Some(done) = open.join_next().await else { break };
            // A question does not panic, and nothing aborts it.
            let Ok((found, target)) = done else { continue };
            let (ips, failure) = match found {
                Ok((ips, its)) if !ips.is_empty() => {
                    ttl = ttl.min(its);
                    (Some(ips.into_iter().collect()), None)
                }
                Ok(_) => (None, Some(format!("{target} has no address"))),
                Err(failure) => (None, Some(failure.text.to_string())),
            };
            if let Some(failure) = failure {
                ttl = ttl.min(self.source.min_ttl.max(self.tuning.retry_last));
                why.insert(target.clone(), failure);
            }
            if let Some(ips) = ips.or_else(|| self.known.get(&target).cloned()) {
                addresses.insert(target, ips);
            }
        }
        (addresses, why, ttl)
    }

    async fn look_up_addresses(&mut self, port: u16) -> Result<Looked, NoSet> {
        let name = &self.source.name;
        let (v4, v6) = tokio::join!(self.asker.ask(name, Asked::Ipv4), self.asker.ask(name, Asked::Ipv6));
        // One family without the other is no whole answer, unless the name never had addresses of it: some servers know
        // nothing of IPv6 and do not answer.
        let (mut replies, mut failure) = (Vec::new(), None);
        for (is_v4, reply) in [(true, v4), (false, v6)] {
            match reply {
                Ok(reply) => replies.push(reply),
                Err(error) if self.families.contains(&is_v4) => return Err(NoSet::Failed(error)),
                Err(error) => failure = Some(error),
            }
        }
        let is_known = replies.iter().any(|reply| reply.code == ReplyCode::Good);
        let is_address = |answer: &Answer| matches!(answer.data, AnswerData::Address(_));
        let has_records = replies.iter().any(|reply| reply.answers.iter().any(is_address));
        let (ips, ttl) = gathered(replies);
        if let (true, Some(failure)) = (ips.is_empty(), failure) {
            return Err(NoSet::Failed(failure));
        }
        if ips.is_empty() {
            return Err(match (has_records, is_known) {
                (true, _) => NoSet::Failed(failed("invalid", format!("no address of {name} is one of an instance"))),
                (false, true) => NoSet::Nothing(failed("empty", format!("{name} has no address"))),
                (false, false) => NoSet::Nothing(failed("no_such_name", format!("there is no name {name}"))),
            });
        }
        self.families = ips.iter().map(IpAddr::is_ipv4).collect();
        Ok(Looked { instances: judge::of_name(&ips, port), refused: Rejections::default(), ttl })
    }
}

/// Those of both families, or of one of them where the other can't be had.
async fn addresses_of(asker: &Asker, name: &str) -> Result<(BTreeSet<IpAddr>, Duration), AskError> {
    let (v4, v6) = tokio::join!(asker.ask(name, Asked::Ipv4), asker.ask(name, Asked::Ipv6));
    let (v4, v6) = match (v4, v6) {
        (Err(failure), Err(_)) => return Err(failure),
        (v4, v6) => (v4.ok(), v6.ok()),
    };
    Ok(gathered([v4, v6].into_iter().flatten()))
}

/// All addresses in the answers, and for how long they hold.
fn gathered(replies: impl IntoIterator<Item = Reply>) -> (BTreeSet<IpAddr>, Duration) {
    let answers: Vec<Answer> = replies.into_iter().flat_map(|reply| reply.answers).collect();
    let ttl = least_ttl(&answers);
    (judge::addresses(&answers, |_| true).into_values().flatten().collect(), ttl)
}

fn least_ttl<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> Duration {
    let least = answers.into_iter().map(|answer| answer.ttl).min();
    least.map_or(Duration::MAX, |seconds| Duration::from_secs(seconds.into()))
}
