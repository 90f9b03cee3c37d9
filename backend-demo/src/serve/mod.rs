//! A cluster member: answers requests, stores them, and registers itself in Consul or etcd.
//!
//! Tests use `MemberServer` in their own process; `run` adds signals and output.

mod member;
mod registration;
mod request;
mod session;
mod store;

use std::{io::Write, net::SocketAddr, path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::{Context, bail};
use consul::Settings;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    member::FailureOptions,
    store::{Request, RequestDatabase, StoredRequest},
};
use self::{
    member::MemberState,
    registration::{ConsulMembership, EtcdMembership, Membership, Registration},
    store::Store,
};

/// Between leaving the registry and closing the port, so that balancers can notice it.
const FAREWELL: Duration = Duration::from_millis(200);
/// Limit for the sessions that run at the end.
const LAST_SESSIONS: Duration = Duration::from_secs(5);
/// Limit for accepting the connections in the backlog when the port closes.
const BACKLOG_REST: Duration = Duration::from_millis(200);
/// Length of the accept queue; the kernel limits it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Options of `serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where to listen; port 0 takes a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The name of the service
    #[arg(long, default_value = "web")]
    pub name: String,
    /// The member's id in the registry, in its answers and in the database [default: NAME-PORT]
    #[arg(long)]
    pub id: Option<String>,
    /// The Consul agent to register with, such as http://127.0.0.1:8500; without it the member does not register
    #[arg(long, value_name = "URL")]
    pub consul: Option<String>,
    /// The token for the agent
    #[arg(long, value_name = "TOKEN", env = "CONSUL_HTTP_TOKEN", hide_env_values = true)]
    pub consul_token: Option<String>,
    /// The etcd to register with, such as http://127.0.0.1:2379; several endpoints are separated by commas
    #[arg(long, value_name = "URL", conflicts_with = "consul")]
    pub etcd: Option<String>,
    /// What the member's key begins with; its id follows [default: /services/NAME/]
    #[arg(long, value_name = "PREFIX", requires = "etcd")]
    pub etcd_prefix: Option<String>,
    /// The user for etcd, as NAME:PASSWORD
    #[arg(long, value_name = "USER", env = "ETCDCTL_USER", hide_env_values = true)]
    pub etcd_user: Option<String>,
    /// The SQLite database for the requests; without it nothing is stored
    #[arg(long, value_name = "FILE")]
    pub database: Option<PathBuf>,
    /// After this time without an update Consul marks the member critical, and etcd forgets it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_ttl)]
    pub ttl: Duration,
    /// How the member fails.
    #[command(flatten)]
    pub failures: FailureOptions,
    /// End when standard input ends, which happens when the parent process ends.
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

impl Options {
    /// A member on a free loopback port that registers nowhere, stores nothing and never fails.
    pub fn new(name: &str, id: &str) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            name: name.to_owned(),
            id: Some(id.to_owned()),
            consul: None,
            consul_token: None,
            etcd: None,
            etcd_prefix: None,
            etcd_user: None,
            database: None,
            ttl: Duration::from_secs(10),
            failures: FailureOptions::default(),
            exit_with_stdin: false,
        }
    }
}

/// A running member.
#[derive(Debug)]
pub struct MemberServer {
    address: SocketAddr,
    id: String,
    member: Arc<MemberState>,
    writer: Option<thread::JoinHandle<()>>,
    tasks: TaskTracker,
    /// Ends the registration.
    leave: CancellationToken,
    registered: TaskTracker,
    /// Stops accepting, and ends connections that have sent nothing.
    close: CancellationToken,
    /// Ends the sessions that still run.
    cut: CancellationToken,
}

impl MemberServer {
    /// Listens and serves. Registers itself as soon as the agent answers.
    ///
    /// # Errors
    /// When the address can't be bound, the database can't be opened, or the agent's URL is invalid.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let listener = bind(options.listen).with_context(|| format!("can't listen on {}", options.listen))?;
        let address = listener.local_addr()?;
        let id = options.id.clone().unwrap_or_else(|| format!("{}-{}", options.name, address.port()));
        let (store, writer) = match &options.database {
            None => (None, None),
            Some(path) => {
                let (store, writer) = Store::open(path, &id)?;
                (Some(store), Some(writer))
            }
        };
        let server = Self {
            address,
            member: Arc::new(MemberState::new(&id, store, options.failures.clone())),
            id,
            writer,
            tasks: TaskTracker::new(),
            leave: CancellationToken::new(),
            registered: TaskTracker::new(),
            close: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        if let Some(registration) = membership(&options, &server.id, address)? {
            server.registered.spawn(registration.keep(server.leave.clone()));
        }
        let (member, tasks) = (server.member.clone(), server.tasks.clone());
        let (close, cut) = (server.close.clone(), server.cut.clone());
        server.tasks.spawn(accept(listener, member, tasks, close, cut));
        Ok(server)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The member's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Deregisters, stops accepting, waits a short time for sessions, and returns when everything is stored.
    pub async fn stop(self) {
        self.member.leave();
        self.leave.cancel();
        self.registered.close();
        let was_registered = !self.registered.is_empty();
        self.registered.wait().await;
        if was_registered {
            tokio::time::sleep(FAREWELL).await;
        }
        self.close.cancel();
        self.tasks.close();
        if timeout(LAST_SESSIONS, self.tasks.wait()).await.is_err() {
            self.cut.cancel();
            self.tasks.wait().await;
        }
        // This drops the last sender of the store's queue, which ends the writer.
        drop(self.member);
        if let Some(writer) = self.writer {
            let _ended = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

/// In the registry that the options name, if they name one.
fn membership(options: &Options, id: &str, address: SocketAddr) -> anyhow::Result<Option<Registration>> {
    let Options { name, ttl, .. } = options;
    let (registry, membership) = match (&options.consul, &options.etcd) {
        (Some(agent), _) => {
            let token = options.consul_token.clone().filter(|token| !token.is_empty());
            let agent = Settings { token, ..agent_settings(agent) };
            let membership = ConsulMembership::new(&agent, name, id, address, *ttl)
                .with_context(|| format!("can't use the Consul agent {}", agent.address))?;
            (agent.address, Membership::Consul(membership))
        }
        (None, Some(endpoints)) => {
            if address.ip().is_unspecified() {
                bail!("etcd has to be told an address: give one by --listen, not {}", address.ip());
            }
            let prefix = options.etcd_prefix.clone().unwrap_or_else(|| format!("/services/{name}/"));
            let cluster = cluster_settings(endpoints, options.etcd_user.as_deref());
            let membership = EtcdMembership::new(&cluster, &prefix, id, address, *ttl)
                .with_context(|| format!("can't use etcd at {endpoints}"))?;
            (cluster.endpoints.join(", "), Membership::Etcd(membership))
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(Registration::new(id, &registry, *ttl, membership)))
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = crate::duration::parse_argument(text)?;
    // An agent counts in milliseconds and refuses 0.
    if ttl < Duration::from_millis(1) { Err("wants 1ms or more".to_owned()) } else { Ok(ttl) }
}

/// The settings for an agent's URL. Without a scheme it is http, as in `CONSUL_HTTP_ADDR`.
pub fn agent_settings(agent: &str) -> Settings {
    if agent.contains("://") { Settings::new(agent) } else { Settings::new(format!("http://{agent}")) }
}

/// The settings for etcd's endpoints, and a user as `NAME:PASSWORD`. Without a scheme they are http, as in `ETCDCTL_ENDPOINTS`.
pub fn cluster_settings(endpoints: &str, user: Option<&str>) -> etcd::Settings {
    let url = |at: &str| if at.contains("://") { at.to_owned() } else { format!("http://{at}") };
    let (user, password) = match user.and_then(|user| user.split_once(':')) {
        Some((user, password)) => (Some(user.to_owned()), Some(password.to_owned())),
        None => (None, None),
    };
    etcd::Settings {
        endpoints: endpoints.split(',').map(|at| url(at.trim())).collect(),
        user,
        password,
        ..etcd::Settings::default()
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(
    listener: TcpListener,
    member: Arc<MemberState>,
    tasks: TaskTracker,
    close: CancellationToken,
    cut: CancellationToken,
) {
    let start = |stream, peer| {
        let (member, close, cut) = (member.clone(), close.clone(), cut.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = session::serve(stream, peer, &member, close.cancelled()) => {}
                () = cut.cancelled() => {}
            }
        });
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => start(stream, peer),
                // Probably no descriptor is free. Without a pause this loop would spin.
                Err(error) => {
                    crate::note(format_args!("can't accept: {error}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = member.refuses() => return,
            () = close.cancelled() => break,
        }
    }
    // Closing the socket would reset the connections in the backlog. Bounded, because new ones may keep coming.
    let rest = async {
        while let Ok(Ok((stream, peer))) = timeout(Duration::from_millis(10), listener.accept()).await {
            start(stream, peer);
        }
    };
    let _ended = timeout(BACKLOG_REST, rest).await;
}

/// Runs a member until SIGTERM or SIGINT (or the end of standard input, where that was asked for).
///
/// # Errors
/// As [`MemberServer::start`].
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let orphaned = CancellationToken::new();
    if options.exit_with_stdin {
        let orphaned = orphaned.clone();
        thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            // There is no input; it ends when the last holder of the other end closes it.
            let _ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            orphaned.cancel();
        })?;
    }
    let server = MemberServer::start(options).await?;
    // A closed stdout is no error.
    let _written = writeln!(std::io::stdout(), "listening on {} as {}", server.address(), server.id());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = orphaned.cancelled() => {}
    }
    server.stop().await;
    Ok(())
}
