//! An embedded development registry: the part of Consul's HTTP API that we use, in memory, one agent, no security.
//!
//! `up` and the tests own one. It runs on a thread and a runtime of its own, so that stopping it closes every socket
//! for certain, whatever its clients are waiting for, and so that a busy or paused runtime of a test can't slow it.

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

use self::shared::Shared;
pub use self::{definition::Definition, fault::Fault, state::Status};

/// A running registry. Put it into an `Arc` to share it; dropping it stops it.
///
/// All methods but [`Registry::stop`] and the restarts take effect before they return, also while a
/// fault is injected: faults are for those who ask over HTTP.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Unbounded, because a send must not wait: one message a call, taken at once.
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    Stop(oneshot::Sender<()>),
    /// Close every connection; the listening socket stays, whoever connects meanwhile waits in its backlog.
    Reconnect {
        then: Then,
        done: oneshot::Sender<()>,
    },
}

/// What becomes of what is known when all connections are closed.
#[derive(Clone, Copy, Debug)]
enum Then {
    Keep,
    Restart,
    Forget,
}

impl Registry {
    /// Listens and serves until it is stopped. Port 0 takes a free one.
    ///
    /// # Errors
    /// When the address can't be bound or no thread can be started.
    pub async fn start(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?.into_std()?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new());
        let (orders, inbox) = mpsc::unbounded_channel();
        let serving = shared.clone();
        thread::Builder::new().name("registry".to_owned()).spawn(move || {
            if let Err(error) = run(listener, &serving, inbox) {
                tracing::error!(%error, "the registry ended");
            }
        })?;
        Ok(Self { address, shared, orders })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as Consul's clients want it: `http://ADDRESS`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes the listening socket and all connections, also those of clients that are waiting. The port is free when
    /// this returns.
    pub async fn stop(&self) {
        self.order(Order::Stop).await;
    }

    /// What a restart of an agent without a data directory does: all connections are closed, everything is forgotten,
    /// indexes start again. The port stays bound.
    pub async fn restart_empty(&self) {
        self.order(|done| Order::Reconnect { then: Then::Forget, done }).await;
    }

    /// What a restart of an agent with a data directory does: all connections are closed, indexes start again, and every
    /// check of a service is critical without output until it has run (here: until a status is set), or until its
    /// application reports.
    pub async fn restart(&self) {
        self.order(|done| Order::Reconnect { then: Then::Restart, done }).await;
    }

    /// Closes all connections and forgets nothing.
    pub async fn drop_connections(&self) {
        self.order(|done| Order::Reconnect { then: Then::Keep, done }).await;
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, wait) = oneshot::channel();
        // Both fail only when it has ended already, and then there is nothing left to do.
        if self.orders.send(order(done)).is_ok() {
            let _ended = wait.await;
        }
    }

    /// From now on every request meets this fault, also those that are waiting for a change; `None` ends it.
    pub fn inject(&self, fault: Option<Fault>) {
        self.shared.inject(fault);
    }

    /// Sets the index back to `to`, as restoring an old snapshot does. Who waits is answered at once.
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

    /// How many queries wait for a change now.
    pub fn waiting(&self) -> usize {
        self.shared.waiting()
    }

    /// How many requests came so far, whatever became of them.
    pub fn requests(&self) -> u64 {
        self.shared.requests()
    }

    /// Takes no more connections from one address; 200 at first, as an agent does.
    pub fn limit_connections(&self, most: usize) {
        self.shared.limit_connections(most);
    }

    /// How many connections there are now from the address that has the most.
    pub fn connections(&self) -> usize {
        self.shared.connections.most()
    }

    /// Registers an instance without checks, which therefore passes.
    pub fn register(&self, definition: Definition) {
        self.shared.change(|state, now| state.register(definition, Vec::new(), false, now));
    }

    /// As [`Registry::add`], with a TTL check of this TTL that passes at first.
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

    /// From now on readers see none of these instances, as under a policy that was narrowed; none = all are hidden. `told`:
    /// answers say that ACLs filter them, as newer agents do. [`Registry::unhide`] ends it.
    pub fn hide(&self, ids: &[&str], told: bool) {
        let ids = (!ids.is_empty()).then(|| ids.iter().map(ToString::to_string).collect());
        self.shared.change(|state, _| state.veil(Some(state::Veil { ids, told })));
    }

    /// Readers see every instance again.
    pub fn unhide(&self) {
        self.shared.change(|state, _| state.veil(None));
    }

    /// Takes an instance and its checks out. False: there is none with this id.
    pub fn deregister(&self, id: &str) -> bool {
        self.shared.change(|state, _| state.deregister(id))
    }

    /// Puts an instance into maintenance or takes it out. False: there is none with this id.
    pub fn maintenance(&self, id: &str, enable: bool) -> bool {
        self.shared.change(|state, _| !id.is_empty() && state.maintenance(id, enable.then_some("")))
    }

    /// Puts the one node that there is into maintenance or takes it out.
    pub fn node_maintenance(&self, enable: bool) {
        self.shared.change(|state, _| state.maintenance("", enable.then_some("")));
    }

    /// Sets what an instance's own check says; an instance that has none gets one, which never expires by itself.
    /// False: there is no instance with this id.
    pub fn set_status(&self, id: &str, status: Status) -> bool {
        self.shared.change(|state, now| state.pin_status(id, status, now))
    }

    /// The worst of an instance's checks, the node's included; `None` when it is not registered.
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

/// The life of the thread: one runtime for each life of the agent.
fn run(listener: StdListener, shared: &Arc<Shared>, mut inbox: mpsc::UnboundedReceiver<Order>) -> io::Result<()> {
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let order = runtime.block_on(serve(listener.try_clone()?, shared.clone(), &mut inbox))?;
        // Connections are tasks: they end here, and their sockets with them.
        drop(runtime);
        match order {
            Some(Order::Reconnect { then, done }) => {
                // Only now that nobody is connected: an agent that goes down does not first say that all is gone.
                match then {
                    Then::Keep => {}
                    Then::Restart => shared.change(state::State::restart),
                    Then::Forget => shared.clear(),
                }
                done.send(()).unwrap_or_default();
            }
            Some(Order::Stop(done)) => {
                drop(listener);
                done.send(()).unwrap_or_default();
                return Ok(());
            }
            None => return Ok(()),
        }
    }
}

/// Serves until an order comes; none comes any more when the [`Registry`] was dropped.
async fn serve(
    listener: StdListener,
    shared: Arc<Shared>,
    inbox: &mut mpsc::UnboundedReceiver<Order>,
) -> io::Result<Option<Order>> {
    let listener = listen::Limited { listener: TcpListener::from_std(listener)?, shared: shared.clone() };
    let routes = Router::new().merge(agent::routes()).merge(read::routes());
    let routes = routes.layer(middleware::from_fn_with_state(shared.clone(), fault::apply)).merge(fault::routes());
    tokio::select! {
        order = inbox.recv() => Ok(order),
        ended = axum::serve(listener, routes.with_state(shared.clone())) => ended.map(|()| None),
        () = shared.keep_time() => Ok(None),
    }
}
