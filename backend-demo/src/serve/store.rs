//! The requests of one member in SQLite: one thread writes, and answers wait for its commit.
//!
//! Group commit without a timer: each transaction takes whatever queued up while the one before was committed, so a
//! lone request waits for nobody and a storm shares commits. `synchronous=NORMAL` with a write-ahead log: a commit is
//! then a write and no fsync, which survives the end of the process at any point (what the demo does to its members
//! with `kill -9`) and keeps the wait far below 5 ms on any disk; only a loss of power could undo answered requests,
//! and for that a demo is not worth an fsync for each answer.

use std::{
    net::SocketAddr,
    path::Path,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::{mpsc, oneshot};

/// How many requests one transaction takes at most: a few ms of inserting, so that nobody waits longer.
const BATCH: usize = 512;
/// Requests that wait for the writer; whoever finds it full waits for a place, which holds back reading from clients.
const QUEUE: usize = 4096;
/// How much of a request is kept.
const KEPT: usize = 1024;

/// One request as it is stored.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it was complete.
    pub at: SystemTime,
    /// Who sent it: behind a balancer, the balancer.
    pub peer: SocketAddr,
    /// Its length.
    pub bytes: u64,
    /// Its beginning, at most 1 KiB.
    pub head: Vec<u8>,
}

impl Request {
    pub(super) fn new(peer: SocketAddr, bytes: u64, head: &[u8]) -> Self {
        Self { at: SystemTime::now(), peer, bytes, head: head[..head.len().min(KEPT)].to_vec() }
    }
}

/// The way to the writer. Clones share it; it ends when the last one is gone and everything is written.
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

    /// Returns when the request is committed. False: it is not stored, and must not be answered.
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
            // A client that is gone by now has its request stored all the same.
            Ok(()) => batch.drain(..).for_each(|(_, committed)| committed.send(()).unwrap_or_default()),
            // Dropping the other ends tells the sessions.
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

/// A stored request, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// When, in UTC.
    pub at: String,
    /// Who sent it.
    pub peer: String,
    /// Its length.
    pub bytes: u64,
    /// Who answered.
    pub id: String,
    /// Its beginning.
    pub request: Vec<u8>,
}

/// What a member stored, also while it runs.
#[derive(Debug)]
pub struct Stored(Connection);

impl Stored {
    /// Opens an existing database.
    ///
    /// # Errors
    /// When there is none or it can't be read.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        // Not read-only: a reader of a write-ahead log takes part in its locks, and recovers it after a kill -9.
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .with_context(|| format!("can't open the database {}", path.display()))?;
        connection.busy_timeout(Duration::from_secs(5))?;
        Ok(Self(connection))
    }

    /// How many requests each id answered.
    ///
    /// # Errors
    /// When the file is no database of a member.
    pub fn totals(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let mut query = self.0.prepare("SELECT id, count(*) FROM requests GROUP BY id ORDER BY id")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, unsigned(row, 1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The last requests, the oldest of them first.
    ///
    /// # Errors
    /// When the file is no database of a member.
    pub fn last(&self, limit: u32) -> anyhow::Result<Vec<Row>> {
        let mut query = self.0.prepare(
            "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', at_ms / 1000.0, 'unixepoch'), peer, bytes, id, request
             FROM (SELECT * FROM requests ORDER BY number DESC LIMIT ?1) ORDER BY number",
        )?;
        let rows = query.query_map([limit], |row| {
            let (at, peer, bytes, id, request) =
                (row.get(0)?, row.get(1)?, unsigned(row, 2)?, row.get(3)?, row.get(4)?);
            Ok(Row { at, peer, bytes, id, request })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// SQLite knows signed integers only; none of ours is negative.
fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default())
}
