//! A balancer in process, with all its ports free ones.

use std::net::SocketAddr;

use evenkeel::config::{self, Config};
use evenkeel::server::Applied;
use evenkeel::{Balancer, ReloadError};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::line::WITHOUT_IO_URING;
use super::{forbid_io_uring, get, get_json, metric, soon, until};

pub struct Rig {
    balancer: Balancer,
}

impl Rig {
    /// Runs a configuration; its ports should be 0. The admin listener is always on port 0.
    pub async fn start(text: &str) -> Self {
        let config = Self::config(text);
        if !text.contains(WITHOUT_IO_URING) {
            return Self { balancer: Balancer::start(config).await.unwrap() };
        }
        // On a new thread, from which its workers inherit the filter; its tasks run on this runtime.
        let (runtime, (started, start)) = (Handle::current(), oneshot::channel());
        std::thread::spawn(move || {
            forbid_io_uring().unwrap();
            let _ = started.send(runtime.block_on(Balancer::start(config)));
        });
        Self { balancer: start.await.unwrap().unwrap() }
    }

    fn config(text: &str) -> Config {
        let text = format!("admin.bind = \"127.0.0.1:0\"\nlog.sessions = true\n{text}");
        match config::parse(&text, "test.toml", &|_| None) {
            Ok(config) => config,
            Err(error) => panic!("{error}\n{text}"),
        }
    }

    /// Puts another configuration in the place of the one in effect.
    pub async fn reload(&self, text: &str) -> Result<Applied, ReloadError> {
        soon("a reload", self.balancer.reload(Self::config(text))).await
    }

    /// One listener `front`, one pool `back` with these backends, probed fast by connects; `more` is added to the pool's
    /// table (keys), or goes on with other tables.
    pub async fn with_backends(backends: &[&str], more: &str) -> Self {
        let check = if more.contains("check") {
            ""
        } else {
            "check = { interval = \"100ms\", fast_interval = \"20ms\", timeout = \"500ms\" }\n"
        };
        Self::start(&format!(
            "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\n[pools.back]\nbackends = {backends:?}\n{check}{more}"
        ))
        .await
    }

    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// The first front address.
    pub fn front(&self) -> SocketAddr {
        self.balancer.listeners()[0].1
    }

    pub fn admin(&self) -> SocketAddr {
        self.balancer.admin().unwrap()
    }

    pub async fn metrics(&self) -> String {
        get(self.admin(), "/metrics").await.unwrap().1
    }

    /// The value of a series, written as in the exposition; 0 if it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        metric(self.admin(), series).await.unwrap_or_default()
    }

    /// The series `evenkeel_backend_NAME` of a backend of the pool `back`.
    pub async fn backend_metric(&self, name: &str, id: &str) -> f64 {
        self.metric(&format!("evenkeel_backend_{name}{{pool=\"back\",backend=\"{id}\"}}")).await
    }

    /// Failed connects of a backend of the pool `back`.
    pub async fn connect_failures(&self, id: &str, reason: &str) -> f64 {
        let labels = format!("{{pool=\"back\",backend=\"{id}\",reason=\"{reason}\"}}");
        self.metric(&format!("evenkeel_backend_connect_failures_total{labels}")).await
    }

    pub async fn until_metric(&self, series: &str, wanted: f64) {
        until(&format!("{series} = {wanted}"), || async { (self.metric(series).await == wanted).then_some(()) }).await;
    }

    /// `/api/v1/pools`
    pub async fn pools(&self) -> Value {
        get_json(self.admin(), "/api/v1/pools").await
    }

    /// What the API says of a backend, in whatever pool.
    pub async fn backend(&self, id: &str) -> Option<Value> {
        let answer = self.pools().await;
        let pools = answer["pools"].as_array()?;
        pools.iter().flat_map(|pool| pool["backends"].as_array().unwrap()).find(|b| b["id"] == id).cloned()
    }

    /// Waits until a backend has a standing, and returns what the API then says of it.
    pub async fn until_standing(&self, id: &str, standing: &str) -> Value {
        until(&format!("{id} {standing}"), || async {
            self.backend(id).await.filter(|backend| backend["standing"] == standing)
        })
        .await
    }

    /// Waits until no session is left and every count agrees.
    pub async fn until_no_sessions(&self) {
        until("no sessions", || async { (self.balancer.state().sessions() == 0).then_some(()) }).await;
        let state = self.balancer.state();
        until("workers without sessions", || async {
            (state.workers.sessions().iter().sum::<usize>() == 0).then_some(())
        })
        .await;
        until("rings without lanes and buffers in use", || async { (state.workers.rings() == (0, 0)).then_some(()) })
            .await;
        // A dial that was outrun goes on by itself for as long as it may.
        until("no leases", || async { state.set().pools.iter().all(|pool| pool.sessions() == 0).then_some(()) }).await;
        for listener in &state.set().listeners {
            let accepted = listener.accepted.load(std::sync::atomic::Ordering::SeqCst);
            let ended: u64 = evenkeel::metrics::Outcome::ALL.iter().map(|&outcome| listener.ended.read(outcome)).sum();
            assert_eq!(accepted, ended, "accepted = ended + active");
        }
    }

    /// Sessions of the listener that ended with an outcome.
    pub fn ended(&self, outcome: evenkeel::metrics::Outcome) -> u64 {
        self.balancer.state().set().listeners[0].ended.read(outcome)
    }

    pub async fn stop(self) {
        soon("the shutdown", self.balancer.shutdown()).await;
    }
}
