//! The demo on one terminal: a registry (in this process, or an etcd), the balancer in this process, and three members as
//! processes.
//!
//! It starts them, prints commands to try, and ends everything in an order that loses no request: first the balancer drains, then the
//! members deregister, then the registry stops.

mod balancer;
mod children;
mod etcd_server;
mod registry_url;

use std::{fmt::Write as _, io, net::SocketAddr, path::PathBuf};

use anyhow::Context;
use backend_demo::{note, registry::Registry};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{
    balancer::{DemoBalancer, await_ready, start_balancer},
    children::Children,
    etcd_server::EtcdServer,
    registry_url::RegistryUrl,
};
use crate::print;

const MEMBERS: [&str; 3] = ["web-1", "web-2", "web-3"];

/// Options of `up`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// A real Consul agent, such as http://127.0.0.1:8500, instead of the development registry
    #[arg(long, value_name = "URL")]
    consul: Option<String>,
    /// Directory for the databases of the members; without it they are deleted at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// `etcd` starts an etcd, which has to be installed; an address is where the development registry listens (if the port is
    /// in use, it takes a free one)
    #[arg(long, value_name = "etcd|ADDR", default_value = "127.0.0.1:8500", value_parser = parse_registry)]
    #[arg(conflicts_with = "consul")]
    registry: WantedRegistry,
}

/// Which registry the demo starts.
#[derive(Clone, Debug)]
enum WantedRegistry {
    Development(SocketAddr),
    Etcd,
}

fn parse_registry(text: &str) -> Result<WantedRegistry, String> {
    match text {
        "etcd" => Ok(WantedRegistry::Etcd),
        text => text.parse().map(WantedRegistry::Development).map_err(|_| "wants `etcd` or an address".to_owned()),
    }
}

/// A registry of the demo's own.
enum OwnRegistry {
    Development(Registry),
    Etcd(EtcdServer),
}

/// Runs the demo until SIGINT or SIGTERM; a second signal ends it at once. Everything that was started is ended in any case.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    let mut cluster = Demo::new(options).await?;
    let started = tokio::select! {
        started = cluster.start() => started.map(Some),
        () = signals.next() => Ok(None),
    };
    let (balancer, outcome) = match started {
        Ok(None) => (None, Ok(())),
        Ok(Some(mut started)) => tokio::select! {
            () = signals.next() => (Some(started), Ok(())),
            () = started.reloader.run(&started.balancer) => (Some(started), Ok(())),
            died = started.balancer.failure() => (None, Err(died).context("the balancer has ended")),
        },
        Err(error) => (None, Err(error)),
    };
    if outcome.is_ok() {
        note(format_args!("ending; a second signal ends at once"));
    }
    tokio::select! {
        () = cluster.end(balancer) => {}
        () = signals.next() => {}
    }
    outcome
}

struct Demo {
    children: Children,
    /// `None` with a real agent.
    own: Option<OwnRegistry>,
    registry: RegistryUrl,
    data: PathBuf,
    /// Deleted when dropped; `None` with `--data`.
    _scratch: Option<tempfile::TempDir>,
}

impl Demo {
    /// Starts the registry, but no members.
    async fn new(options: Options) -> anyhow::Result<Self> {
        let (data, scratch) = match options.data {
            Some(data) => (data, None),
            None => {
                let scratch = tempfile::Builder::new().prefix("evenkeel-demo-").tempdir()?;
                (scratch.path().to_owned(), Some(scratch))
            }
        };
        std::fs::create_dir_all(&data).with_context(|| format!("can't create {}", data.display()))?;
        let (own, registry) = match (options.consul, options.registry) {
            (Some(agent), _) => (None, RegistryUrl::Consul(agent)),
            (None, WantedRegistry::Development(wanted)) => {
                let registry = start_registry(wanted).await?;
                let url = RegistryUrl::Consul(registry.url());
                (Some(OwnRegistry::Development(registry)), url)
            }
            (None, WantedRegistry::Etcd) => {
                let etcd = EtcdServer::start(&data).await?;
                let url = RegistryUrl::Etcd(etcd.url());
                (Some(OwnRegistry::Etcd(etcd)), url)
            }
        };
        Ok(Self { children: Children::new(), own, registry, data, _scratch: scratch })
    }

    /// Starts the members, then the balancer in front of them. Prints the commands when they work.
    async fn start(&mut self) -> anyhow::Result<DemoBalancer> {
        for id in MEMBERS {
            self.children.start(id, &self.registry, &self.data).await?;
        }
        self.children.await_registered(&self.registry).await?;
        let started = start_balancer(&self.registry, self.own.is_some()).await?;
        await_ready(started.balancer.admin()).await;
        print(&self.invitation(&started.balancer));
        Ok(started)
    }

    fn invitation(&self, balancer: &evenkeel::Balancer) -> String {
        let (url, option) = (self.registry.url(), self.registry.option());
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a string does not fail.
            let _written = writeln!(text, "{name:<9} {value}");
        };
        let kind = match &self.own {
            Some(OwnRegistry::Development(_)) => "  (for development only)".to_owned(),
            Some(OwnRegistry::Etcd(etcd)) => format!("  etcd, pid {}", etcd.pid()),
            None => String::new(),
        };
        line("registry", &format!("{url}{kind}"));
        for child in self.children.started() {
            line(&child.id, &format!("{}  pid {}", child.address, child.pid));
        }
        let listeners = balancer.listeners();
        for (name, address) in &listeners {
            line("front", &format!("{address}  listener {name}"));
        }
        if let Some(admin) = balancer.admin() {
            line("admin", &format!("http://{admin}/  (open it in a browser; /metrics is for Prometheus)"));
        }
        line("data", &self.data.display().to_string());
        let program = std::env::args().next().unwrap_or_else(|| "backend-demo".to_owned());
        let front = listeners.first().map_or_else(|| "ADDR".to_owned(), |(_, address)| address.to_string());
        let admin = balancer.admin().map_or_else(|| "ADMIN".to_owned(), |admin| admin.to_string());
        let pid = self.children.started().first().map(|child| child.pid).unwrap_or_default();
        let (stop, go_on) = match &self.own {
            Some(OwnRegistry::Development(_)) => {
                (format!("curl -X PUT {url}/fault/hang"), format!("curl -X DELETE {url}/fault"))
            }
            Some(OwnRegistry::Etcd(etcd)) => {
                (format!("kill -STOP {}", etcd.pid()), format!("kill -CONT {}", etcd.pid()))
            }
            None => (String::new(), String::new()),
        };
        let breakage = match stop.is_empty() {
            true => String::new(),
            false => format!("  5. break the registry      {stop}; mend it: {go_on}\n"),
        };
        let _written = write!(
            text,
            "
Try, in another terminal:
  1. see the answers         {program} client {front} --count 300
  2. kill one, ask again     kill -9 {pid}; {program} client {front} --count 300; curl -s http://{admin}/api/v1/pools
  3. add one, ask again      {program} serve --name web {option} {url}
  4. operate it              cargo run -q --profile demo -- status; … backends; … drain web-1; … top
{breakage}Ctrl-C ends everything that was started here.
"
        );
        text
    }

    async fn end(self, started: Option<DemoBalancer>) {
        if let Some(DemoBalancer { balancer, log: _log, .. }) = started {
            balancer.shutdown().await;
        }
        self.children.end().await;
        match self.own {
            Some(OwnRegistry::Development(registry)) => registry.stop().await,
            Some(OwnRegistry::Etcd(etcd)) => etcd.stop().await,
            None => {}
        }
    }
}

async fn start_registry(wanted: SocketAddr) -> anyhow::Result<Registry> {
    match Registry::start(wanted).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            note(format_args!("{wanted} is taken, perhaps by a Consul agent (--consul uses it); taking a free port"));
            let free = SocketAddr::new(wanted.ip(), 0);
            Registry::start(free).await.with_context(|| format!("can't listen on {free}"))
        }
        started => started.with_context(|| format!("can't listen on {wanted}")),
    }
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
