//! Starts the balancer in this process, and reloads its configuration.

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

use backend_demo::note;

use super::registry_url::{self, RegistryUrl};

/// Limit for discovery and the first probes on a busy machine.
const READY: Duration = Duration::from_secs(15);

const FILE: &str = "lb.toml";

/// The example configuration, for use without a file.
const EXAMPLE: &str = include_str!("../../../lb.toml");

/// A running balancer, its log, and its reloads.
pub(super) struct DemoBalancer {
    pub(super) balancer: Balancer,
    /// Drop writes the rest of the log.
    pub(super) log: Logging,
    pub(super) reloader: ConfigReloader,
}

/// Applies `lb.toml` when it changes and at `evenkeel reload`.
pub(super) struct ConfigReloader {
    registry: RegistryUrl,
    own_registry: bool,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
    watch: FileWatch,
    is_watched: bool,
}

/// Starts the balancer with `./lb.toml` or the example, and with this registry. Sessions are not logged, because their lines
/// would hide the lines about members.
pub(super) async fn start_balancer(registry: &RegistryUrl, own_registry: bool) -> anyhow::Result<DemoBalancer> {
    let file = Path::new(FILE);
    let (text, origin) = match file.exists() {
        true => (config::read(file)?, FILE),
        false => (EXAMPLE.to_owned(), "lb.toml (the example)"),
    };
    let config = configuration(&text, origin, registry, own_registry)?;
    let log = start_logging(&config.log)?;
    let is_watched = config.reload.watch;
    // One request at a time: `evenkeel reload` waits for the answer.
    let (ask, asked) = mpsc::channel(1);
    let watch = FileWatch::new(file, &text).context("the file can't be watched")?;
    let options =
        Options { log_level: Some(log.level()), reload: Some(ask), sockets: usual_sockets(), ..Options::default() };
    let balancer = Balancer::start_in(config, options).await.context("can't start the balancer")?;
    Ok(DemoBalancer {
        balancer,
        log,
        reloader: ConfigReloader { registry: registry.clone(), own_registry, asked, watch, is_watched },
    })
}

fn configuration(text: &str, origin: &str, registry: &RegistryUrl, own_registry: bool) -> Result<Config, ConfigError> {
    let mut config = registry_url::parse(registry, text, origin, own_registry)?;
    config.log.sessions.outcome = config::Logged::None;
    Ok(config)
}

impl ConfigReloader {
    /// Reads the file when it changes (unless it sets `reload.watch = false`) and when a reload is requested. Never returns.
    pub(super) async fn run(&mut self, balancer: &Balancer) {
        loop {
            self.watch.turn(self.is_watched);
            let (text, asked) = tokio::select! {
                Some(done) = self.asked.recv() => (self.watch.read().await, Some(done)),
                text = self.watch.changed() => (text, None),
            };
            self.apply(balancer, text).await;
            if let Some(done) = asked {
                // The command may have ended.
                let _told = done.send(());
            }
        }
    }

    /// The result is in the log, and in the answer to `evenkeel reload`.
    async fn apply(&mut self, balancer: &Balancer, text: Result<String, ConfigError>) {
        match text.and_then(|text| configuration(&text, FILE, &self.registry, self.own_registry)) {
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

/// Waits until `/ready` answers 200, so that the printed commands work. Gives up after [`READY`].
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
    note(format_args!("the balancer is not ready yet; http://{admin}/ready says what it waits for"));
}

async fn ready(admin: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    Ok(answer.get(8..13) == Some(b" 200 "))
}
