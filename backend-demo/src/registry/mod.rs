//! An embedded development registry: the part of Consul's HTTP API that we use, in memory, one agent, no security.
//!
//! It has its own thread and runtime. So a stop closes every socket, whatever its clients wait for, and a busy or paused runtime of a
//! test can't slow it.

mod agent;
mod definition;
mod fault;
mod filter;
mod listen;
mod query;
mod read;
mod shared;
mod state;
mod tokens;
mod wire;

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    thread,
    time::Duration,
};

use axum::{Router, middleware};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use self::shared::SharedRecords;
pub use self::{definition::Definition, fault::Fault, state::Status};

/// A running registry; drop stops it.
///
/// All methods take effect before they return, also while a fault is injected: faults affect only HTTP requests.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    shared: Arc<SharedRecords>,
    /// Unbounded, because a send must not wait; each call sends one message.
    commands: mpsc::UnboundedSender<ServerCommand>,
}

#[derive(Debug)]
enum ServerCommand {
    Stop(oneshot::Sender<()>),
    /// Close every connection. The listening socket stays, and new connections wait in its backlog.
    Reconnect {
        records: RecordsAfter,
        done: oneshot::Sender<()>,
    },
}

/// What happens to the records when all connections are closed.
#[derive(Clone, Copy, Debug)]
enum RecordsAfter {
    Keep,
    Restart,
    Forget,
}

impl Registry {
    /// Listens and serves until it is stopped. Port 0 takes a free port.
    ///
    /// # Errors
    /// When the address can't be bound or no thread can be started.
    pub async fn start(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?.into_std()?;
        let address = listener.local_addr()?;
        let shared = Arc::new(SharedRecords::new());
        let (commands, inbox) = mpsc::unbounded_channel();
        let serving = shared.clone();
        thread::Builder::new().name("registry".to_owned()).spawn(move || {
            if let Err(error) = run(listener, &serving, inbox) {
                tracing::error!(%error, "the registry ended");
            }
        })?;
        Ok(Self { address, shared, commands })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address for Consul's clients: `http://ADDRESS`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes the listening socket and all connections, also those of waiting clients. Then the port is free.
    pub async fn stop(&self) {
        self.command(ServerCommand::Stop).await;
    }

    /// Restarts like an agent without a data directory: closes all connections, deletes everything, starts the indexes again. The
    /// port stays bound.
    pub async fn restart_empty(&self) {
        self.command(|done| ServerCommand::Reconnect { records: RecordsAfter::Forget, done }).await;
    }

    /// Restarts like an agent with a data directory: closes all connections and starts the indexes again. Every check of a service
    /// is critical without output until a status is set or its application reports.
    pub async fn restart(&self) {
        self.command(|done| ServerCommand::Reconnect { records: RecordsAfter::Restart, done }).await;
    }

    /// Closes all connections and keeps all records.
    pub async fn drop_connections(&self) {
        self.command(|done| ServerCommand::Reconnect { records: RecordsAfter::Keep, done }).await;
    }

    async fn command(&self, command: impl FnOnce(oneshot::Sender<()>) -> ServerCommand) {
        let (done, wait) = oneshot::channel();
        // Both fail only if the registry has ended already.
        if self.commands.send(command(done)).is_ok() {
            let _ended = wait.await;
        }
    }

    /// From now on every request gets this fault, also the waiting ones; `None` ends it.
    pub fn inject(&self, fault: Option<Fault>) {
        self.shared.inject(fault);
    }

    /// Sets the index back to `to`, as restoring an old snapshot does. Waiting queries are answered at once.
    pub fn rewind_index(&self, to: u64) {
        self.shared.change(|state, _| state.rewind(to));
    }

    /// The index of the last change.
    pub fn index(&self) -> u64 {
        self.shared.read(|state| state.index())
    }

    /// Answers the queries that wait for this service with an unchanged set and a new index, as real agents do.
    pub fn wake(&self, service: &str) {
        self.shared.change(|state, _| state.touch(service));
    }

    /// Number of queries that wait for a change.
    pub fn waiting(&self) -> usize {
        self.shared.waiting()
    }

    /// Number of requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests()
    }

    /// Sets the limit of connections from one address; 200 at first, as with an agent.
    pub fn limit_connections(&self, most: usize) {
        self.shared.limit_connections(most);
    }

    /// The number of connections of the address that has the most.
    pub fn connections(&self) -> usize {
        self.shared.connections.most()
    }

    /// Registers an instance without checks, so it passes.
    pub fn register(&self, definition: Definition) {
        self.shared.change(|state, now| state.register(definition, Vec::new(), false, now));
    }

    /// As [`Registry::add`], with a TTL check that passes at first.
    pub fn add_with_ttl(&self, service: &str, id: &str, address: SocketAddr, ttl: Duration) {
        let definition = Definition::new(service, id, &address.ip().to_string(), address.port());
        let check = definition::TtlCheck {
            id: format!("service:{id}"),
            name: format!("Service '{service}' check"),
            notes: String::new(),
            ttl,
            status: Status::Passing,
            deregister_after: None,
        };
        self.shared.change(|state, now| state.register(definition, vec![check], false, now));
    }

    /// Registers an instance of `service` at `address`, without checks.
    pub fn add(&self, service: &str, id: &str, address: SocketAddr) {
        self.register(Definition::new(service, id, &address.ip().to_string(), address.port()));
    }

    /// Hides these instances from readers, as under a narrower ACL policy; no ids hide all. With `announced`, answers say that ACLs
    /// filter them, as newer agents do. [`Registry::unhide`] ends it.
    pub fn hide(&self, ids: &[&str], announced: bool) {
        let ids = (!ids.is_empty()).then(|| ids.iter().map(ToString::to_string).collect());
        self.shared.change(|state, _| state.set_hidden(Some(state::HiddenInstances { ids, announced })));
    }

    /// Readers see every instance again.
    pub fn unhide(&self) {
        self.shared.change(|state, _| state.set_hidden(None));
    }

    /// Removes an instance and its checks. Returns false if there is none with this id.
    pub fn deregister(&self, id: &str) -> bool {
        self.shared.change(|state, _| state.deregister(id))
    }

    /// Starts or ends the maintenance of an instance. Returns false if there is none with this id.
    pub fn maintenance(&self, id: &str, enable: bool) -> bool {
        self.shared.change(|state, _| !id.is_empty() && state.maintenance(id, enable.then_some("")))
    }

    /// Starts or ends the maintenance of the only node.
    pub fn node_maintenance(&self, enable: bool) {
        self.shared.change(|state, _| state.maintenance("", enable.then_some("")));
    }

    /// Sets the status of an instance's checks for good; an instance without checks gets one. Returns false if there is no instance
    /// with this id.
    pub fn set_status(&self, id: &str, status: Status) -> bool {
        self.shared.change(|state, now| state.pin_status(id, status, now))
    }

    /// The worst status of an instance's checks and the node's; `None` if it is not registered.
    pub fn status(&self, id: &str) -> Option<Status> {
        self.shared.read(|state| state.status(id))
    }

    /// The ids of the registered instances of a service, sorted.
    pub fn instances(&self, service: &str) -> Vec<String> {
        self.shared.read(|state| state.instances(service).map(|one| one.definition.id.clone()).collect())
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: impl Into<Vec<u8>>) {
        self.shared.change(|state, _| state.put(key, value.into()));
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) {
        self.shared.change(|state, _| state.delete(key));
    }
}

/// The main function of the thread. Each life of the agent has its own runtime.
fn run(
    listener: StdListener,
    shared: &Arc<SharedRecords>,
    mut inbox: mpsc::UnboundedReceiver<ServerCommand>,
) -> io::Result<()> {
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let command = runtime.block_on(serve(listener.try_clone()?, shared.clone(), &mut inbox))?;
        // This ends all connections, because they are tasks of the runtime.
        drop(runtime);
        match command {
            Some(ServerCommand::Reconnect { records, done }) => {
                // After the connections are closed: an agent that stops does not first report that everything is gone.
                match records {
                    RecordsAfter::Keep => {}
                    RecordsAfter::Restart => shared.change(state::Records::restart),
                    RecordsAfter::Forget => shared.clear(),
                }
                done.send(()).unwrap_or_default();
            }
            Some(ServerCommand::Stop(done)) => {
                drop(listener);
                done.send(()).unwrap_or_default();
                return Ok(());
            }
            None => return Ok(()),
        }
    }
}

/// Serves until a command comes. `None` if the [`Registry`] was dropped.
async fn serve(
    listener: StdListener,
    shared: Arc<SharedRecords>,
    inbox: &mut mpsc::UnboundedReceiver<ServerCommand>,
) -> io::Result<Option<ServerCommand>> {
    let listener = listen::LimitedListener { listener: TcpListener::from_std(listener)?, shared: shared.clone() };
    let routes = Router::new().merge(agent::routes()).merge(read::routes());
    let routes = routes.layer(middleware::from_fn_with_state(shared.clone(), fault::apply)).merge(fault::routes());
    tokio::select! {
        command = inbox.recv() => Ok(command),
        ended = axum::serve(listener, routes.with_state(shared.clone())) => ended.map(|()| None),
        () = shared.keep_time() => Ok(None),
    }
}
