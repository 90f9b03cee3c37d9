//! The requests of one member in SQLite. One thread writes, and an answer waits for its commit.
//!
//! Each transaction takes all requests that arrived during the one before. So a single request does not wait, and many requests
//! share a commit. With `synchronous=NORMAL` and a write-ahead log a commit is a write without fsync: it survives `kill -9`, and only
//! a loss of power could undo it.

use std::{
    net::SocketAddr,
    path::Path,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::{mpsc, oneshot};

/// The most requests in one transaction, so that inserting takes only a few ms.
const BATCH: usize = 512;
/// The most requests that wait for the writer. If the queue is full, sessions wait, and that slows down their clients.
const QUEUE: usize = 4096;
/// The most bytes that are stored of a request.
const KEPT: usize = 1024;

/// A request that is to be stored.
#[derive(Clone, Debug)]
pub struct Request {
    /// The time when it was complete.
    pub at: SystemTime,
    /// The address of the sender: behind a balancer, the balancer's.
    pub peer: SocketAddr,
    /// The length.
    pub bytes: u64,
    /// The first bytes, at most 1 KiB.
    pub head: Vec<u8>,
}

impl Request {
    pub(super) fn new(peer: SocketAddr, bytes: u64, head: &[u8]) -> Self {
        Self { at: SystemTime::now(), peer, bytes, head: head[..head.len().min(KEPT)].to_vec() }
    }
}

/// Sends requests to the writer. The writer ends when the last clone is dropped and everything is written.
#[derive(Clone, Debug)]
pub(super) struct Store {
    queue: mpsc::Sender<(Request, oneshot::Sender<()>)>,
}

impl Store {
    /// Opens or creates the file and starts the writer, which stores for the member `id`.
    pub(super) fn open(path: &Path, id: &str) -> anyhow::Result<(Self, JoinHandle<()>)> {
        let connection = Connection::open(path).and_then(prepare);
        let connection = connection.with_context(|| format!("can't open the database {}", path.display()))?;
        let (queue, inbox) = mpsc::channel(QUEUE);
        let id = id.to_owned();
        let writer = thread::Builder::new().name("store".to_owned()).spawn(move || write(connection, inbox, &id))?;
        Ok((Self { queue }, writer))
    }

    /// Returns when the request is committed. If this returns false, it is not stored and must not be answered.
    pub(super) async fn record(&self, request: Request) -> bool {
        let (committed, wait) = oneshot::channel();
        self.queue.send((request, committed)).await.is_ok() && wait.await.is_ok()
    }
}

fn prepare(connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS requests (
            number INTEGER PRIMARY KEY,
            at_ms INTEGER NOT NULL,
            peer TEXT NOT NULL,
            bytes INTEGER NOT NULL,
            id TEXT NOT NULL,
            request BLOB NOT NULL
        )",
    )?;
    Ok(connection)
}

fn write(mut connection: Connection, mut inbox: mpsc::Receiver<(Request, oneshot::Sender<()>)>, id: &str) {
    let mut batch = Vec::with_capacity(BATCH);
    while inbox.blocking_recv_many(&mut batch, BATCH) > 0 {
        match commit(&mut connection, &batch, id) {
            // The session may have ended; its request is stored anyway.
            Ok(()) => batch.drain(..).for_each(|(_, committed)| committed.send(()).unwrap_or_default()),
            // Dropping the senders notifies the sessions.
            Err(error) => {
                crate::note(format_args!("{id}: {} requests can't be stored and get no answer: {error}", batch.len()));
                batch.clear();
            }
        }
    }
}

fn commit(connection: &mut Connection, batch: &[(Request, oneshot::Sender<()>)], id: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction
            .prepare_cached("INSERT INTO requests (at_ms, peer, bytes, id, request) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for (request, _) in batch {
            let at = request.at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let at_ms = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
            let bytes = i64::try_from(request.bytes).unwrap_or(i64::MAX);
            insert.execute(params![at_ms, request.peer.to_string(), bytes, id, request.head])?;
        }
    }
    transaction.commit()
}

/// A stored request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    /// The time, in UTC.
    pub at: String,
    /// The address of the sender.
    pub peer: String,
    /// The length.
    pub bytes: u64,
    /// The member that answered.
    pub id: String,
    /// The first bytes.
    pub request: Vec<u8>,
}

/// The database of a member, which may be running.
#[derive(Debug)]
pub struct RequestDatabase(Connection);

impl RequestDatabase {
    /// Opens an existing database.
    ///
    /// # Errors
    /// When it does not exist or can't be read.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        // Not read-only: a reader of a write-ahead log takes part in its locks, and recovers it after a kill -9.
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .with_context(|| format!("can't open the database {}", path.display()))?;
        connection.busy_timeout(Duration::from_secs(5))?;
        Ok(Self(connection))
    }

    /// The number of requests for each id.
    ///
    /// # Errors
    /// When the file is not the database of a member.
    pub fn totals(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let mut query = self.0.prepare("SELECT id, count(*) FROM requests GROUP BY id ORDER BY id")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, unsigned(row, 1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The last `limit` requests, oldest first.
    ///
    /// # Errors
    /// When the file is not the database of a member.
    pub fn last(&self, limit: u32) -> anyhow::Result<Vec<StoredRequest>> {
        let mut query = self.0.prepare(
            "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', at_ms / 1000.0, 'unixepoch'), peer, bytes, id, request
             FROM (SELECT * FROM requests ORDER BY number DESC LIMIT ?1) ORDER BY number",
        )?;
        let rows = query.query_map([limit], |row| {
            let (at, peer, bytes, id, request) =
                (row.get(0)?, row.get(1)?, unsigned(row, 2)?, row.get(3)?, row.get(4)?);
            Ok(StoredRequest { at, peer, bytes, id, request })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// SQLite has signed integers only; ours are never negative.
fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default())
}
