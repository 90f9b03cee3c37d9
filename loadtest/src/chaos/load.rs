//! The clients of a cell: new connections at a fixed rate (an open loop), and some long-lived connections.
//!
//! They run on one thread, which has to be in the namespace of the system under test. Times count from the intended start of a
//! connection, so a late load generator shows as latency and never as less load.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout_at};

use super::count::{BrokenConnection, ConnectionEnd, ConnectionRecord};
use super::wire::{LENGTH, Request};
use crate::operation_error::{FailureReason, OperationError};
use crate::pacing::{NextOperation, Pacing};
use crate::timer::PreciseTimer;

/// Between two messages of a long-lived connection, and before a broken one is opened again.
const PAUSE: Duration = Duration::from_millis(100);

/// The first number of the long-lived connections; new connections have lower numbers.
const LONG_LIVED: u64 = 1 << 32;

#[derive(Debug, Clone, Copy)]
pub(super) struct ClientLoad {
    /// Where the system under test listens.
    pub(super) front: SocketAddr,
    /// New connections per second.
    pub(super) rate: f64,
    pub(super) duration: Duration,
    pub(super) long_lived: u64,
    /// How long a client waits for an answer.
    pub(super) patience: Duration,
}

#[derive(Debug, Default)]
pub(super) struct ClientResults {
    pub(super) records: Vec<ConnectionRecord>,
    pub(super) breaks: Vec<BrokenConnection>,
    pub(super) messages: u64,
}

/// The number of the backend that answered, or how the connection ended.
type Answer = Result<u8, ConnectionEnd>;

/// Blocks until the last connection has its answer or has waited too long. `origin` is the intended start of the first one.
pub(super) fn run(load: ClientLoad, origin: Instant) -> io::Result<ClientResults> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let timer = Rc::new(PreciseTimer::new()?);
        let driver = timer.clone();
        let driver = spawn_local(async move { driver.drive().await });
        let results = Rc::new(RefCell::new(ClientResults::default()));
        let mut long_lived_tasks = JoinSet::new();
        for number in 0..load.long_lived {
            long_lived_tasks.spawn_local(long_lived(load, origin, LONG_LIVED + number, results.clone()));
        }
        let total = offered(&load);
        let pacing = Pacing { slots: 1, rate: Some(load.rate), total: Some(total), duration: None };
        let (mut schedule, mut number) = (pacing.schedule(0), 0);
        let mut tasks = JoinSet::new();
        while let NextOperation::At(due) = schedule.take(origin.elapsed()) {
            timer.until(origin + due, 0).await?;
            let results = results.clone();
            tasks.spawn_local(async move {
                let record = new_connection(&load, origin, number, due).await;
                results.borrow_mut().records.push(record);
            });
            number += 1;
            // Frees the tasks that are done.
            while tasks.try_join_next().is_some() {}
        }
        tasks.join_all().await;
        long_lived_tasks.abort_all();
        driver.abort();
        let results = results.take();
        // A task that panicked leaves no record.
        if results.records.len() as u64 != total {
            return Err(io::Error::other("the load generator lost connections"));
        }
        Ok(results)
    })
}

pub(super) fn offered(load: &ClientLoad) -> u64 {
    (load.rate * load.duration.as_secs_f64()).round().max(1.0) as u64
}

/// Makes one exchange through the system; returns the backend that answered.
pub(super) fn once(front: SocketAddr, number: u64, patience: Duration) -> io::Result<Option<u8>> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let load = ClientLoad { front, rate: 1.0, duration: patience, long_lived: 0, patience };
    let record = runtime.block_on(new_connection(&load, Instant::now(), u64::MAX - number, Duration::ZERO));
    Ok(if let ConnectionEnd::Answered(backend) = record.end { Some(backend) } else { None })
}

async fn new_connection(load: &ClientLoad, origin: Instant, number: u64, due: Duration) -> ConnectionRecord {
    let deadline = (origin + due + load.patience).into();
    let request = Request { connection: number, exchange: 0, last: true };
    let mut stream = None;
    let answer = timeout_at(deadline, async {
        let opened = stream.insert(open(load.front).await?);
        exchange(opened, request).await
    });
    let answer = answer.await.unwrap_or(Err(ConnectionEnd::Failed("timeout")));
    let ended = origin.elapsed();
    let end = match (answer, stream) {
        (Ok(backend), Some(stream)) => surplus(stream, deadline).await.unwrap_or(ConnectionEnd::Answered(backend)),
        (Ok(backend), None) => ConnectionEnd::Answered(backend),
        (Err(end), _) => end,
    };
    ConnectionRecord { due, ended, end }
}

async fn open(front: SocketAddr) -> Result<TcpStream, ConnectionEnd> {
    let stream = TcpStream::connect(front).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

async fn exchange(stream: &mut TcpStream, request: Request) -> Answer {
    stream.write_all(&request.encode()).await.map_err(failed)?;
    let mut reply = [0; LENGTH];
    stream.read_exact(&mut reply).await.map_err(failed)?;
    request
        .answered_by(&reply)
        .map_err(|wrong| ConnectionEnd::Wrong(format!("connection {}: {wrong}", request.connection)))
}

/// Bytes after the answer, if there are any. After the answer it does not matter how the connection ends.
async fn surplus(mut stream: TcpStream, deadline: tokio::time::Instant) -> Option<ConnectionEnd> {
    let mut more = [0; LENGTH];
    match timeout_at(deadline, stream.read(&mut more)).await {
        Ok(Ok(count @ 1..)) => Some(ConnectionEnd::Wrong(format!("{count} bytes after the reply"))),
        _ => None,
    }
}

async fn long_lived(load: ClientLoad, origin: Instant, number: u64, results: Rc<RefCell<ClientResults>>) {
    // Spreads the starts.
    sleep(origin.saturating_duration_since(Instant::now()) + PAUSE.mul_f64(number as f64 % 10.0 / 10.0)).await;
    let mut connection = number << 8;
    loop {
        let mut backend = None;
        let end = messages(&load, connection, &mut backend, &results).await;
        let wrong = if let ConnectionEnd::Wrong(detail) = end { Some(detail) } else { None };
        results.borrow_mut().breaks.push(BrokenConnection { at: origin.elapsed(), backend, wrong });
        connection += 1;
        sleep(PAUSE).await;
    }
}

/// Sends messages on one connection until it breaks.
async fn messages(
    load: &ClientLoad,
    connection: u64,
    backend: &mut Option<u8>,
    results: &RefCell<ClientResults>,
) -> ConnectionEnd {
    let soon = || tokio::time::Instant::now() + load.patience;
    let mut stream = match timeout_at(soon(), open(load.front)).await.unwrap_or(Err(ConnectionEnd::Failed("timeout"))) {
        Ok(stream) => stream,
        Err(end) => return end,
    };
    for number in 0.. {
        let request = Request { connection, exchange: number, last: false };
        match timeout_at(soon(), exchange(&mut stream, request)).await.unwrap_or(Err(ConnectionEnd::Failed("timeout")))
        {
            Ok(by) => *backend = Some(by),
            Err(end) => return end,
        }
        results.borrow_mut().messages += 1;
        sleep(PAUSE).await;
    }
    ConnectionEnd::Failed("over")
}

fn failed(error: io::Error) -> ConnectionEnd {
    // `read_exact` found the end of the stream.
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return ConnectionEnd::Failed(FailureReason::UnexpectedEof.name());
    }
    match OperationError::from(error) {
        OperationError::Failed { reason, .. } => ConnectionEnd::Failed(reason.name()),
        OperationError::Wrong { detail, .. } => ConnectionEnd::Wrong(detail),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::super::wire::{self, Parsed};
    use super::*;

    /// Answers as backend 2. Closes the connections for whose number `answers` returns false.
    fn server(answers: fn(u64) -> bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                if !answers(number as u64) {
                    continue;
                }
                thread::spawn(move || {
                    let mut bytes = [0; LENGTH];
                    while stream.read_exact(&mut bytes).is_ok() {
                        let Parsed::Request { request, right } = wire::parse(&bytes) else { panic!("no request") };
                        stream.write_all(&request.reply(2, right)).unwrap();
                        if request.last {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn load(front: SocketAddr) -> ClientLoad {
        let second = Duration::from_secs(1);
        ClientLoad { front, rate: 200.0, duration: second / 2, long_lived: 0, patience: 20 * second }
    }

    #[test]
    fn every_connection_has_a_record_at_its_intended_time() {
        let results = run(load(server(|_| true)), Instant::now()).unwrap();
        assert_eq!(results.records.len(), 100);
        let mut dues: Vec<_> = results.records.iter().map(|record| record.due).collect();
        dues.sort();
        let wanted: Vec<_> = (0..100).map(|number| Duration::from_millis(5 * number)).collect();
        assert_eq!(dues, wanted);
        assert!(
            results.records.iter().all(|record| record.end == ConnectionEnd::Answered(2) && record.ended >= record.due)
        );
    }

    #[test]
    fn an_open_loop_starts_connections_while_earlier_ones_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Answers no connection before all are there.
        let server = thread::spawn(move || {
            let all: Vec<_> = (0..100).map(|_| listener.accept().unwrap().0).collect();
            for mut stream in all {
                let mut bytes = [0; LENGTH];
                stream.read_exact(&mut bytes).unwrap();
                let Parsed::Request { request, right } = wire::parse(&bytes) else { panic!("no request") };
                stream.write_all(&request.reply(2, right)).unwrap();
            }
        });
        let results = run(load(address), Instant::now()).unwrap();
        assert!(
            results.records.iter().all(|record| record.end == ConnectionEnd::Answered(2)),
            "{:?}",
            results.records[0]
        );
        server.join().unwrap();
    }

    #[test]
    fn a_late_start_does_not_extend_the_wait_for_an_answer() {
        let origin = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let load = ClientLoad { patience: Duration::from_secs(1), ..load(server(|_| true)) };
        let results = run(load, origin).unwrap();
        assert_eq!(results.records.len(), 100);
        assert!(results.records.iter().all(|record| record.end == ConnectionEnd::Failed("timeout")));
    }

    #[test]
    fn a_late_start_is_latency_and_not_less_load() {
        let late = Duration::from_millis(300);
        let origin = Instant::now().checked_sub(late).unwrap();
        let results = run(load(server(|_| true)), origin).unwrap();
        assert_eq!(results.records.len(), 100);
        assert!(results.records.iter().any(|record| record.ended - record.due >= late));
    }

    #[test]
    fn long_lived_connections_are_opened_again_when_they_break() {
        let load = ClientLoad {
            rate: 4.0,
            long_lived: 3,
            duration: Duration::from_secs(2),
            ..load(server(|number| number != 0))
        };
        let results = run(load, Instant::now()).unwrap();
        // Only the first connection was closed without an answer.
        let lost = results.records.iter().filter(|record| matches!(record.end, ConnectionEnd::Failed(_))).count();
        assert_eq!((results.breaks.len() + lost, results.records.len()), (1, 8));
        assert!(results.messages > 0);
        let closed = BrokenConnection { at: Duration::ZERO, backend: None, wrong: None };
        assert!(results.breaks.iter().all(|found| BrokenConnection { at: Duration::ZERO, ..found.clone() } == closed));
    }

    #[test]
    fn the_reply_of_another_connection_is_wrong_and_so_is_an_extra_byte() {
        for surplus in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                let mut bytes = [0; LENGTH];
                stream.read_exact(&mut bytes).unwrap();
                let Parsed::Request { request, .. } = wire::parse(&bytes) else { panic!("no request") };
                let connection = request.connection + u64::from(!surplus);
                let reply = Request { connection, ..request }.reply(1, true);
                stream.write_all(&[&reply[..], if surplus { b"!" } else { b"" }].concat()).unwrap();
                // A close with unread bytes would be a reset; there are none.
            });
            let load = ClientLoad { rate: 1.0, duration: Duration::from_secs(1), ..load(address) };
            let results = run(load, Instant::now()).unwrap();
            assert!(matches!(results.records[0].end, ConnectionEnd::Wrong(_)), "{:?}", results.records);
        }
    }
}
