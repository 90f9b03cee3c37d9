//! A cluster member: answers whoever sends something, stores what it answered, and says in Consul that it is there.
//!
//! `Server` is the whole of it, for tests in process; `run` puts signals and a terminal around it.

mod member;
mod registration;
mod request;
mod session;
mod store;

use std::{io::Write, net::SocketAddr, path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::Context;
use consul::Settings;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{member::Member, registration::Registration, store::Store};
pub use self::{
    member::Misbehaviour,
    store::{Request, Row, Stored},
};

/// Between leaving Consul and closing the port: who balances needs a moment to hear of it.
const FAREWELL: Duration = Duration::from_millis(200);
/// For the sessions that still run at the end.
const LAST_SESSIONS: Duration = Duration::from_secs(5);
/// For taking who is in the backlog when the port closes.
const BACKLOG_REST: Duration = Duration::from_millis(200);
/// Clients that the kernel keeps while we are busy; it takes no more than `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Who a member is.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The service that it is a member of
    #[arg(long, default_value = "web")]
    pub name: String,
    /// Its id in Consul, in its answers and in the database [default: NAME-PORT]
    #[arg(long)]
    pub id: Option<String>,
    /// The Consul agent to register with, such as http://127.0.0.1:8500; without it the member registers nowhere
    #[arg(long, value_name = "URL")]
    pub consul: Option<String>,
    /// The token to show to the agent
    #[arg(long, value_name = "TOKEN", env = "CONSUL_HTTP_TOKEN", hide_env_values = true)]
    pub consul_token: Option<String>,
    /// Where to store requests (SQLite); without it nothing is stored
    #[arg(long, value_name = "FILE")]
    pub database: Option<PathBuf>,
    /// How long Consul believes that it lives without hearing of it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_ttl)]
    pub ttl: Duration,
    /// How it fails.
    #[command(flatten)]
    pub misbehaviour: Misbehaviour,
    /// End when standard input ends: how a member notices that whoever started it is gone.
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

impl Options {
    /// A member on a free port of the loopback that registers and stores nowhere and behaves.
    pub fn new(name: &str, id: &str) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            name: name.to_owned(),
            id: Some(id.to_owned()),
            consul: None,
            consul_token: None,
            database: None,
            ttl: Duration::from_secs(10),
            misbehaviour: Misbehaviour::default(),
            exit_with_stdin: false,
        }
    }
}

/// A running member.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    id: String,
    member: Arc<Member>,
    writer: Option<thread::JoinHandle<()>>,
    tasks: TaskTracker,
    /// Leave Consul.
    leave: CancellationToken,
    registered: TaskTracker,
    /// Stop accepting, let go who has sent nothing.
    close: CancellationToken,
    /// Cut what still runs.
    cut: CancellationToken,
}

impl Server {
    /// Listens and serves; it registers itself as soon as the agent answers.
    ///
    /// # Errors
    /// When the address can't be bound, the database can't be opened, or the agent's URL is none.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let listener = bind(options.listen).with_context(|| format!("can't listen on {}", options.listen))?;
        let address = listener.local_addr()?;
        let id = options.id.unwrap_or_else(|| format!("{}-{}", options.name, address.port()));
        let (store, writer) = match &options.database {
            None => (None, None),
            Some(path) => {
                let (store, writer) = Store::open(path, &id)?;
                (Some(store), Some(writer))
            }
        };
        let server = Self {
            address,
            member: Arc::new(Member::new(&id, store, options.misbehaviour)),
            id,
            writer,
            tasks: TaskTracker::new(),
            leave: CancellationToken::new(),
            registered: TaskTracker::new(),
            close: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        if let Some(agent) = &options.consul {
            let agent =
                Settings { token: options.consul_token.filter(|token| !token.is_empty()), ..agent_settings(agent) };
            let registration = Registration::new(&agent, &options.name, &server.id, address, options.ttl)
                .with_context(|| format!("can't use the Consul agent {}", agent.address))?;
            server.registered.spawn(registration.keep(server.leave.clone()));
        }
        let (member, tasks) = (server.member.clone(), server.tasks.clone());
        let (close, cut) = (server.close.clone(), server.cut.clone());
        server.tasks.spawn(accept(listener, member, tasks, close, cut));
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who it is.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Deregisters, stops accepting, lets sessions finish shortly, and returns when everything is stored.
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
        // Its queue ends with the last member that can fill it.
        drop(self.member);
        if let Some(writer) = self.writer {
            let _ended = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = crate::duration::parse_argument(text)?;
    // An agent counts in milliseconds, and refuses 0.
    if ttl < Duration::from_millis(1) { Err("wants 1ms or more".to_owned()) } else { Ok(ttl) }
}

/// How to reach an agent by its URL, which without a scheme is http, as in `CONSUL_HTTP_ADDR`.
pub fn agent_settings(agent: &str) -> Settings {
    if agent.contains("://") { Settings::new(agent) } else { Settings::new(format!("http://{agent}")) }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(
    listener: TcpListener,
    member: Arc<Member>,
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
                // Out of descriptors, most likely: without a pause this loop would spin until one is free.
                Err(error) => {
                    crate::note(format_args!("can't accept: {error}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = member.refuses() => return,
            () = close.cancelled() => break,
        }
    }
    // Who is in the backlog already would be reset by closing the socket. Bounded, because others may keep coming.
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
/// As [`Server::start`].
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let orphaned = CancellationToken::new();
    if options.exit_with_stdin {
        let orphaned = orphaned.clone();
        thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            // Nobody writes there; it ends when the last holder of the other end does.
            let _ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            orphaned.cancel();
        })?;
    }
    let server = Server::start(options).await?;
    // Nobody has to read it.
    let _written = writeln!(std::io::stdout(), "listening on {} as {}", server.address(), server.id());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = orphaned.cancelled() => {}
    }
    server.stop().await;
    Ok(())
}
