//! The one place that knows how the balancer's library is started.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use evenkeel::{
    Balancer, Options,
    admin::usual_sockets,
    cli::{FileWatch, Logging, start_logging},
    config::{self, Config, ConfigError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::say;

/// Long enough for discovery and the first probes on a busy machine.
const READY: Duration = Duration::from_secs(15);

const FILE: &str = "lb.toml";

/// The example that comes with the balancer, for when there is no file here.
const EXAMPLE: &str = include_str!("../../../lb.toml");

/// A running balancer, its log, and what has its file read again.
pub(super) struct Started {
    pub(super) balancer: Balancer,
    /// Written out when dropped.
    pub(super) log: Logging,
    pub(super) reloads: Reloads,
}

/// Applies `lb.toml` when it changes and at `evenkeel reload`, as a balancer without the demo does.
pub(super) struct Reloads {
    agent: String,
    is_own: bool,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
    watch: FileWatch,
    is_watched: bool,
}

/// Starts the balancer with `./lb.toml` (or the example), asking the agent at this URL. It logs to stderr as ever, but
/// for the sessions: one line each would hide what happens to the members.
pub(super) async fn start_balancer(agent: &str, is_own: bool) -> anyhow::Result<Started> {
    let file = Path::new(FILE);
    let (text, origin) = match file.exists() {
        true => (config::read(file)?, FILE),
        false => (EXAMPLE.to_owned(), "lb.toml (the example)"),
    };
    let config = configuration(&text, origin, agent, is_own)?;
    let log = start_logging(&config.log)?;
    let is_watched = config.reload.watch;
    // Whoever asks waits for the answer.
    let (ask, asked) = mpsc::channel(1);
    let watch = FileWatch::new(file, &text).context("the file can't be watched")?;
    let options =
        Options { log_level: Some(log.level()), reload: Some(ask), sockets: usual_sockets(), ..Options::default() };
    let balancer = Balancer::start_in(config, options).await.context("can't start the balancer")?;
    Ok(Started { balancer, log, reloads: Reloads { agent: agent.to_owned(), is_own, asked, watch, is_watched } })
}

fn configuration(text: &str, origin: &str, agent: &str, is_own: bool) -> Result<Config, ConfigError> {
    let environment = |name: &str| match name {
        "CONSUL_HTTP_ADDR" => Some(agent.to_owned()),
        // Tokens and certificates of a real agent are nothing for the development registry.
        other if is_own && other.starts_with("CONSUL_") => None,
        other => std::env::var(other).ok(),
    };
    let mut config = config::parse(text, origin, &environment)?;
    config.log.sessions.outcome = config::Logged::None;
    Ok(config)
}

impl Reloads {
    /// Reads the file whenever it changes (unless it says itself that it is not watched) or somebody asks for it. Never
    /// ends.
    pub(super) async fn obey(&mut self, balancer: &Balancer) {
        loop {
            self.watch.turn(self.is_watched);
            let (text, asked) = tokio::select! {
                Some(done) = self.asked.recv() => (self.watch.read().await, Some(done)),
                text = self.watch.changed() => (text, None),
            };
            self.apply(balancer, text).await;
            if let Some(done) = asked {
                // Whoever asked may have left.
                let _told = done.send(());
            }
        }
    }

    /// How it went is in the log, and in the answer to whoever asked.
    async fn apply(&mut self, balancer: &Balancer, text: Result<String, ConfigError>) {
        match text.and_then(|text| configuration(&text, FILE, &self.agent, self.is_own)) {
            Ok(config) => {
                let is_watched = config.reload.watch;
                if balancer.reload(config).await.is_ok() {
                    self.is_watched = is_watched;
                }
            }
            Err(error) => drop(balancer.refuse(error)),
        }
    }
}

/// Waits until `/ready` says yes, so that the first thing that somebody tries works. Gives up after a while.
pub(super) async fn await_ready(admin: Option<SocketAddr>) {
    let Some(admin) = admin else { return };
    let deadline = Instant::now() + READY;
    while Instant::now() < deadline {
        let asked = timeout(Duration::from_secs(1), ready(admin)).await;
        if matches!(asked, Ok(Ok(true))) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    say(format_args!("the balancer is not ready yet; http://{admin}/ready says what it waits for"));
}

async fn ready(admin: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    Ok(answer.get(8..13) == Some(b" 200 "))
}
