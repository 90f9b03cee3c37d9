//! One prefix, followed for ever, for every pool that wants to know what is below it. All keys are read, then what happens is
//! watched from that revision on; after any trouble, and now and then in calm, all keys are read again, so that a watch that
//! misses something is never the last word for long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::etcd::{Error, Watch};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::keys::{KnownKeys, Listed};
use super::reach::ClusterReach;
use crate::discovery::Tuning;
use crate::discovery::error::AskError;
use crate::discovery::news::News;
use crate::discovery::pace::{Backoff, Bucket};
use crate::discovery::registries::Registry;
use crate::discovery::turns::{Place, Taker};

/// Messages with news that are handed on at once.
const NEWS_BURST: u32 = 50;

/// Between them when there are more than that: what changes meanwhile is handed on together.
const NEWS_PAUSE: Duration = Duration::from_millis(20);

/// A watch that was open for so long and ends is no trouble: whether there is some shows when all keys are read again. One that
/// ends sooner each time would be none.
const LASTING: Duration = Duration::from_secs(1);

/// Queries after a cluster's return are spread over this.
const RETURN: Duration = Duration::from_millis(300);

/// Ends with its last follower, and its watch with it.
pub(in crate::discovery) struct Query {
    news: watch::Receiver<News<Listed>>,
    /// Until it is begun.
    asker: Mutex<Option<Asker>>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Query {
    pub(super) fn new(cluster: &Arc<Registry<ClusterReach>>, prefix: String, tuning: Tuning) -> Self {
        let (sender, news) = watch::channel(News::default());
        let keys = KnownKeys::new(&prefix);
        let hurry = Bucket::new(NEWS_BURST, NEWS_PAUSE);
        let asker = Asker { cluster: Arc::clone(cluster), prefix, tuning, keys, hurry, news: sender };
        Self { news, asker: Mutex::new(Some(asker)), task: Mutex::default() }
    }

    /// Asks from now on, on the current runtime. Returns what comes of it.
    pub(super) fn begin(&self) -> watch::Receiver<News<Listed>> {
        if let Some(asker) = self.asker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let task = AbortOnDropHandle::new(tokio::spawn(asker.run()));
            *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
        self.news.clone()
    }
}

struct Asker {
    cluster: Arc<Registry<ClusterReach>>,
    prefix: String,
    tuning: Tuning,
    keys: KnownKeys,
    hurry: Bucket,
    news: watch::Sender<News<Listed>>,
}

/// Why a watch has ended.
enum WatchEnd {
    /// It gives no more messages.
    Broken(AskError),
    /// What it told can't be used.
    Invalid(AskError),
}

impl Asker {
    async fn run(mut self) {
        let tuning = self.tuning;
        let taker = self.cluster.begin();
        let mut bucket = Bucket::new(tuning.burst, tuning.interval);
        let (mut backoff, mut random) = (Backoff::new(tuning.retry_first, tuning.retry_last), fastrand::Rng::new());
        loop {
            if self.keys.next_revision().is_none() {
                sleep(bucket.take(Instant::now())).await;
            }
            let answers = self.news.borrow().answers();
            let Err(failure) = self.turn(&taker).await else { continue };
            if self.news.borrow().answers() != answers {
                backoff.reset();
            }
            self.keys.forget();
            self.failed(failure);
            self.cluster.presence.hurry();
            tokio::select! {
                () = sleep(backoff.next(&mut random)) => {}
                () = self.returned() => {}
            }
        }
    }

    /// Returns when the cluster has been absent and is back, a moment later than that.
    async fn returned(&self) {
        self.cluster.presence.until(|seen| seen.absent.is_some()).await;
        self.cluster.presence.until(|seen| seen.absent.is_none()).await;
        sleep(RETURN.mul_f64(fastrand::f64())).await;
    }

    /// Reads all keys if need be, and watches until others want the place, or all keys have to be read again.
    async fn turn(&mut self, taker: &Taker) -> Result<(), AskError> {
        let _place = self.place(taker).await?;
        let client = self.cluster.client();
        if self.keys.next_revision().is_none() {
            let range = client.range(self.prefix.as_bytes()).await.map_err(|error| told(&error))?;
            let went_back = self.keys.replace(range);
            self.publish(went_back)?;
        }
        let from = self.keys.next_revision().unwrap_or_default();
        let endpoint = client.endpoint();
        let mut watch = match client.watch(self.prefix.as_bytes(), from).await {
            Ok(watch) if self.keys.fits(watch.header()) => watch,
            // They are read anew; that says whether the cluster has gone back.
            Ok(_) | Err(Error::Compacted { .. }) => {
                self.keys.forget();
                return Ok(());
            }
            Err(error) => return Err(told(&error)),
        };
        let cluster = Arc::clone(&self.cluster);
        let moved = cluster.presence.until(|seen| seen.absent.is_some() || client.endpoint() != endpoint);
        let began = Instant::now();
        tokio::select! {
            over = self.watch(&mut watch, taker) => match over {
                Err(WatchEnd::Broken(_)) if began.elapsed() >= LASTING => {
                    self.keys.forget();
                    Ok(())
                }
                Err(WatchEnd::Broken(failure) | WatchEnd::Invalid(failure)) => Err(failure),
                Ok(()) => Ok(()),
            },
            // It does not answer, or another endpoint has to be asked.
            seen = moved => {
                self.keys.forget();
                seen.absent.map_or(Ok(()), Err)
            }
        }
    }

    async fn watch(&mut self, watch: &mut Watch, taker: &Taker) -> Result<(), WatchEnd> {
        let wait = taker.wait(self.tuning.wait);
        let is_long = wait == self.tuning.wait;
        // Not all at one moment.
        let end = Instant::now() + if is_long { wait.mul_f64(0.75 + fastrand::f64() / 4.0) } else { wait };
        let mut seen = self.cluster.presence.now().answers;
        let mut confirm = tokio::time::interval(self.tuning.presence.calm);
        loop {
            tokio::select! {
                biased;
                changes = watch.next() => {
                    let mut any = match changes {
                        Ok(changes) => self.keys.apply(changes),
                        Err(Error::Compacted { .. }) => {
                            self.keys.forget();
                            return Ok(());
                        }
                        Err(error) => return Err(WatchEnd::Broken(told(&error))),
                    };
                    if any {
                        sleep(self.hurry.take(Instant::now())).await;
                    }
                    while let Some(changes) = watch.more() {
                        any |= self.keys.apply(changes.map_err(|error| WatchEnd::Broken(told(&error)))?);
                    }
                    if any {
                        self.publish(false).map_err(WatchEnd::Invalid)?;
                    }
                }
                () = sleep_until(end) => {
                    if is_long {
                        self.keys.forget();
                    }
                    return Ok(());
                }
                () = taker.displaced(), if is_long => return Ok(()),
                _ = confirm.tick() => {
                    // The member is there and agrees with the others: what it has not told has not happened.
                    let now = self.cluster.presence.now().answers;
                    if now != seen {
                        self.news.send_modify(News::confirm);
                    }
                    seen = now;
                }
            }
        }
    }

    /// A place to ask; not while the cluster is absent.
    async fn place(&self, taker: &Taker) -> Result<Place, AskError> {
        tokio::select! {
            biased;
            seen = self.cluster.presence.until(|seen| seen.absent.is_some()) => match seen.absent {
                Some(absent) => Err(absent),
                None => Ok(taker.place().await),
            },
            place = taker.place() => Ok(place),
        }
    }

    fn publish(&self, restarted: bool) -> Result<(), AskError> {
        let listed = self.keys.listed();
        if let (true, Some(first)) = (listed.instances.is_empty(), listed.refused.first()) {
            // One bad value is skipped; a list of nothing else is not the same as an empty one.
            let count = listed.refused.count();
            let text = format!("none of {count} keys can be used, such as {}: {}", first.id, first.why);
            return Err(AskError { kind: "invalid", text: text.into() });
        }
        self.news.send_modify(|news| news.answered(listed, restarted));
        Ok(())
    }

    fn failed(&self, failure: AskError) {
        let text = format!("{}: {}", self.cluster.address, failure.text);
        self.news.send_modify(|news| news.failed(AskError { kind: failure.kind, text: text.into() }));
    }
}

fn told(error: &Error) -> AskError {
    AskError::of(error.kind(), error)
}
