//! The one place that knows how the balancer's library is started.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use evenkeel::{
    Balancer, Surroundings,
    cli::{Logging, start_logging},
    config,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::say;

/// Long enough for discovery and the first probes on a busy machine.
const READY: Duration = Duration::from_secs(15);

/// The example that comes with the balancer, for when there is no `lb.toml` here.
const EXAMPLE: &str = include_str!("../../../lb.toml");

/// A running balancer and its log.
pub(super) struct Started {
    pub(super) balancer: Balancer,
    pub(super) log: Logging,
}

/// Starts the balancer with `./lb.toml` (or the example), asking the agent at this URL. It logs to stderr as ever, but
/// for the sessions: one line each would hide what happens to the members.
pub(super) async fn start_balancer(agent: &str, is_own: bool) -> anyhow::Result<Started> {
    let written = Path::new("lb.toml");
    let (text, origin) = match written.try_exists().context("can't read lb.toml")? {
        true => (std::fs::read_to_string(written).context("can't read lb.toml")?, "lb.toml"),
        false => (EXAMPLE.to_owned(), "lb.toml (the example)"),
    };
    let environment = |name: &str| match name {
        "CONSUL_HTTP_ADDR" => Some(agent.to_owned()),
        // Tokens and certificates of a real agent are nothing for the development registry.
        other if is_own && other.starts_with("CONSUL_") => None,
        other => std::env::var(other).ok(),
    };
    let mut config = config::parse(&text, origin, &environment)?;
    config.log.sessions = false;
    let log = start_logging(&config.log)?;
    let surroundings = Surroundings { log_level: Some(log.level()), ..Surroundings::default() };
    let balancer = Balancer::start_in(config, surroundings).await.context("can't start the balancer")?;
    Ok(Started { balancer, log })
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
