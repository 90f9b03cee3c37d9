//! Asks for the addresses of a name, with a limit on the time and on how many questions are open.
//! The one place that knows how names are resolved; tests hand in another answer.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::deadline::within;

/// A question to the system's resolver holds a thread until it is answered, even if its answer is no longer wanted. A
/// resolver that hangs must not take all of tokio's threads for blocking work.
const OPEN: usize = 16;

type Question = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Cheap to clone; clones share the bound.
#[derive(Clone)]
pub(super) struct Resolver {
    ask: Arc<dyn Fn(String) -> Question + Send + Sync>,
    open: Arc<Semaphore>,
    pub(super) times: ResolverTimes,
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResolverTimes {
    /// For one look-up. The system's resolver gives up after some 10 s per server; what takes longer is asked again.
    pub(super) limit: Duration,
    /// After the first failure in a row.
    pub(super) retry_first: Duration,
    /// After many.
    pub(super) retry_last: Duration,
    /// Between look-ups of a name whose address fails, after the first few.
    pub(super) hurry: Duration,
}

impl Default for ResolverTimes {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(5),
            retry_first: Duration::from_secs(1),
            retry_last: Duration::from_secs(15),
            hurry: Duration::from_secs(5),
        }
    }
}

impl Resolver {
    /// What `getaddrinfo` says, in its order.
    pub(super) fn system() -> Self {
        let ask = |name: String| async move {
            // The port is not looked at.
            let addresses = tokio::net::lookup_host((name, 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        };
        Self::new(ask, ResolverTimes::default())
    }

    pub(super) fn new<F, A>(ask: F, times: ResolverTimes) -> Self
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        Self { ask: Arc::new(move |name| Box::pin(ask(name))), open: Arc::new(Semaphore::new(OPEN)), times }
    }

    /// At least one address that an instance can have, or why there is none. Cancel safe; the system's resolver still finishes
    /// its question.
    pub(super) async fn look_up(&self, name: String) -> Result<Vec<IpAddr>, String> {
        let answer = async {
            let permit = Arc::clone(&self.open).acquire_owned().await.map_err(io::Error::other)?;
            let question = (self.ask)(name);
            // In a task of its own, so that the permit is held as long as the thread is.
            let asked = tokio::spawn(async move {
                let _permit = permit;
                question.await
            });
            asked.await.map_err(io::Error::other)?
        };
        match within(self.times.limit, answer).await {
            Err(_) => Err(format!("no answer within {:?}", self.times.limit)),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(addresses)) if addresses.is_empty() => Err("no address".to_owned()),
            Ok(Ok(mut addresses)) => {
                // Some servers answer so for a name that they block. Linux would connect to this machine.
                let first = addresses[0];
                addresses.retain(|address| !address.is_unspecified() && !address.is_multicast());
                if addresses.is_empty() { Err(format!("{first} is no instance's address")) } else { Ok(addresses) }
            }
        }
    }
}
