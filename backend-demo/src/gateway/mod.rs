//! A gateway FOR TESTS: the part of etcd's v3 JSON gateway that our client uses, in memory, with the faults that a real etcd
//! does not show on demand. Its answers are those of etcd 3.4, byte for byte in shape: 64-bit numbers are strings, and what is
//! zero or empty is left out.
//!
//! HTTP is spoken by hand, because the faults are in the bytes.

mod serve;
mod store;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use self::store::Store;

/// What it does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayFault {
    /// Nothing: no answer, and no message of a watch.
    Hang,
    /// It says, after a moment, that the request has timed out, as a member does that is cut off from its leader. Watches are
    /// silent.
    NoLeader,
    /// Status 200, and a body that is no JSON.
    Garbage,
    /// Status 200, and an empty object: not what an empty range looks like.
    EmptyObject,
    /// Status 502, and a page of a proxy.
    Proxy,
    /// An answer that stops in the middle, and the connection ends.
    Cut,
    /// A byte of the answer, now and then.
    Drip,
    /// A body without an end.
    Huge,
    /// Every request is refused: the user may not.
    Forbidden,
}

/// A running gateway. It ends when it is dropped.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    /// Something has changed: watches look, and those who hang.
    changed: watch::Sender<u64>,
}

impl Gateway {
    /// On a free port of the loopback.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start() -> std::io::Result<Self> {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// At a given address, such as that of one that was dropped.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn at(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { store: Mutex::new(Store::new()), changed: watch::Sender::new(0) });
        let task = tokio::spawn(serve::accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, task })
    }

    /// `http://…`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets a key.
    pub fn put(&self, key: &str, value: &str) {
        self.change(|store| store.put(key.as_bytes(), value.as_bytes(), 0));
    }

    /// Takes a key away.
    pub fn delete(&self, key: &str) {
        self.change(|store| store.delete(&[key.as_bytes().to_vec()]));
    }

    /// From now on, until another one or `None`.
    pub fn inject(&self, fault: Option<GatewayFault>) {
        self.change(|store| store.fault = fault);
    }

    /// Its data are lost: no keys, and the first revision.
    pub fn lose_data(&self) {
        self.change(Store::lose);
    }

    /// Another cluster answers at this address, with the same keys and a higher revision.
    pub fn become_another(&self) {
        self.change(|store| store.cluster += 1);
    }

    /// Revisions before the newest one are compacted: a watch that begins with one of them is refused.
    pub fn compact(&self) {
        self.change(|store| store.compacted = store.revision);
    }

    /// Ends every connection.
    pub fn cut(&self) {
        self.change(|store| store.cuts += 1);
    }

    /// From now on a token of this user is needed.
    pub fn require_user(&self, name: &str, password: &str) {
        self.change(|store| store.user = Some((name.to_owned(), password.to_owned())));
    }

    /// The tokens that were given are not taken any more.
    pub fn expire_tokens(&self) {
        self.change(|store| store.token += 1);
    }

    /// How often a path was asked, such as `/v3/kv/range`.
    pub fn asked(&self, path: &str) -> usize {
        self.lock().asked.iter().filter(|asked| *asked == path).count()
    }

    /// How often all keys of a prefix were asked for, and not just whether it answers.
    pub fn full_ranges(&self) -> usize {
        self.lock().full_ranges
    }

    /// The most connections that there were at once.
    pub fn most_connections(&self) -> usize {
        self.lock().most_connections
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<String> {
        let store = self.lock();
        store.keys.get(key.as_bytes()).map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
    }

    /// Ends every lease now, as after a long silence of those who hold them.
    pub fn expire_leases(&self) {
        self.change(|store| store.expire(Duration::MAX));
    }

    fn change(&self, change: impl FnOnce(&mut Store)) {
        self.shared.change(change);
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.shared.lock()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let done = change(&mut self.lock());
        self.changed.send_modify(|times| *times += 1);
        done
    }
}
