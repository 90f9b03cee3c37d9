//! Followers from outside: what they ask, what they send, and what they say of themselves.

mod agent;
mod consul;
mod dns;
mod etcd;
mod faults;
mod files;
mod fixed;
mod http;
mod names;
mod presence;
mod shared;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::resolver::{Resolver, ResolverTimes};
use super::{Discovery, OwnAddress, OwnAddresses, PresenceTimes, Tuning};
use crate::config::{Consistency, ConsulAgent, ConsulSource, Resolve, Source, Warning};
use crate::endpoint::{Mistrust, Trust, Update};
use crate::pool::{SourceStatus, SourceView};

/// For every wait: long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what must not happen.
const A_WHILE: Duration = Duration::from_millis(100);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("no {what} within {PATIENCE:?}"),
    }
}

/// Quick to try again, and in no test at the rate limit unless it says so.
fn quick() -> Tuning {
    Tuning {
        retry_first: Duration::from_millis(1),
        retry_last: Duration::from_millis(10),
        burst: 1000,
        ..Tuning::default()
    }
}

fn no_fronts() -> OwnAddresses {
    fronts_at(&[]).1
}

/// We listen there, as long as the sender is not told otherwise.
fn fronts_at(addresses: &[&str]) -> (watch::Sender<Arc<[OwnAddress]>>, OwnAddresses) {
    watch::channel(fronts(addresses))
}

fn fronts(addresses: &[&str]) -> Arc<[OwnAddress]> {
    let front = |at: &&str| OwnAddress { listener: "web".into(), address: at.parse().unwrap(), takes_ipv4: false };
    addresses.iter().map(front).collect()
}

fn nameless() -> Resolver {
    resolver(|name| panic!("looked up {name}"))
}

fn resolver(answer: impl Fn(&str) -> Option<io::Result<Vec<IpAddr>>> + Send + Sync + 'static) -> Resolver {
    let answer = Arc::new(answer);
    let ask = move |name: String| {
        let answer = Arc::clone(&answer);
        async move {
            match answer(&name) {
                Some(result) => result,
                None => std::future::pending().await,
            }
        }
    };
    let times = ResolverTimes {
        limit: PATIENCE,
        retry_first: Duration::from_millis(1),
        retry_last: Duration::from_millis(5),
        hurry: Duration::from_secs(60),
    };
    Resolver::new(ask, times)
}

fn agent_at(address: &str) -> ConsulAgent {
    ConsulAgent { address: address.to_owned(), token: None, token_file: None, ca_file: None, max_connections: 128 }
}

fn service_at(address: &str) -> ConsulSource {
    ConsulSource {
        agent: Arc::new(agent_at(address)),
        service: "web".to_owned(),
        datacenter: None,
        tags: Vec::new(),
        filter: None,
        warning: Warning::Serve,
        consistency: Consistency::Default,
    }
}

/// A follower that runs; dropped, it ends.
struct Running {
    status: Arc<SourceStatus>,
    updates: mpsc::Receiver<Update>,
    failing: mpsc::Sender<Arc<str>>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(discovery: &mut Discovery, source: &Source) -> Self {
        Self::start_with(discovery, source, Duration::from_millis(5))
    }

    fn start_with(discovery: &mut Discovery, source: &Source, refresh: Duration) -> Self {
        let status = Arc::new(SourceStatus::default());
        let (sender, updates) = mpsc::channel(1);
        let (failing, heard) = mpsc::channel(64);
        let follower = discovery.source("pool", source, Resolve { refresh }).unwrap();
        let task = tokio::spawn(follower.run(Arc::clone(&status), sender, mpsc::unbounded_channel().1, heard));
        Self { status, updates, failing, task }
    }

    /// The next set, as sorted `id address weight`.
    async fn set(&mut self) -> Vec<String> {
        shown(&self.update().await)
    }

    async fn update(&mut self) -> Update {
        soon("update", self.updates.recv()).await.expect("the follower ended")
    }

    /// The status, once it is as wanted.
    async fn status(&self, wanted: impl Fn(&SourceView) -> bool) -> SourceView {
        soon("such status", async {
            loop {
                let view = self.status.view();
                if wanted(&view) {
                    return view;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn shown(update: &Update) -> Vec<String> {
    let mut set: Vec<_> =
        update.endpoints.iter().map(|e| format!("{} {} {} {}", e.id, e.address, e.weight, e.registry.name())).collect();
    set.sort();
    set
}
