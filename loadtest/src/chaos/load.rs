//! The clients of a cell: new connections at a fixed rate, whatever becomes of those before them, and some that stay.
//!
//! An open loop on one thread, which has to be in the namespace of the system under test. Times count from when a connection
//! was meant to start, so a load generator that is late shows as latency and never as less load.

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

use super::count::{Break, End, Record};
use super::wire::{LENGTH, Request};
use crate::alarm::Alarm;
use crate::fault::{Fault, Reason};
use crate::pacing::{Next, Pacing};

/// Between two messages of a long-lived connection, and before one that broke is opened again.
const PAUSE: Duration = Duration::from_millis(100);

/// Numbers of long-lived connections begin here, beyond those of any number of new ones.
const LONG_LIVED: u64 = 1 << 32;

/// What the clients do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// The system under test.
    pub(super) front: SocketAddr,
    /// New connections per second.
    pub(super) rate: f64,
    /// For so long.
    pub(super) duration: Duration,
    /// Connections that stay.
    pub(super) long_lived: u64,
    /// How long anybody waits for an answer.
    pub(super) patience: Duration,
}

/// What they saw.
#[derive(Debug, Default)]
pub(super) struct Harvest {
    /// One for each new connection.
    pub(super) records: Vec<Record>,
    /// Long-lived ones that broke.
    pub(super) breaks: Vec<Break>,
    /// Messages on long-lived ones that were answered.
    pub(super) messages: u64,
}

/// A failure that names a reason, or wrong bytes.
type Answer = Result<u8, End>;

/// Blocks until the last connection has its answer or has lost its patience. `origin` is when the first one is due.
pub(super) fn run(load: Load, origin: Instant) -> io::Result<Harvest> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let alarm = Rc::new(Alarm::new()?);
        let driver = alarm.clone();
        let driver = spawn_local(async move { driver.drive().await });
        let harvest = Rc::new(RefCell::new(Harvest::default()));
        let mut stay = JoinSet::new();
        for number in 0..load.long_lived {
            stay.spawn_local(long_lived(load, origin, LONG_LIVED + number, harvest.clone()));
        }
        let total = offered(&load);
        let pacing = Pacing { slots: 1, rate: Some(load.rate), total: Some(total), duration: None };
        let (mut turns, mut number) = (pacing.turns(0), 0);
        let mut come = JoinSet::new();
        while let Next::At(due) = turns.take(origin.elapsed()) {
            alarm.until(origin + due, 0).await?;
            let harvest = harvest.clone();
            come.spawn_local(async move {
                let record = new_connection(&load, origin, number, due).await;
                harvest.borrow_mut().records.push(record);
            });
            number += 1;
            // Those that are done are only forgotten here.
            while come.try_join_next().is_some() {}
        }
        come.join_all().await;
        stay.abort_all();
        driver.abort();
        let harvest = harvest.take();
        // A task that panicked would otherwise be a connection that nobody misses.
        if harvest.records.len() as u64 != total {
            return Err(io::Error::other("the load generator lost connections"));
        }
        Ok(harvest)
    })
}

/// How many new connections that makes.
pub(super) fn offered(load: &Load) -> u64 {
    (load.rate * load.duration.as_secs_f64()).round().max(1.0) as u64
}

/// One exchange through the system, as its own proof that it serves.
pub(super) fn once(front: SocketAddr, number: u64, patience: Duration) -> io::Result<Option<u8>> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let load = Load { front, rate: 1.0, duration: patience, long_lived: 0, patience };
    let record = runtime.block_on(new_connection(&load, Instant::now(), u64::MAX - number, Duration::ZERO));
    Ok(if let End::Answered(backend) = record.end { Some(backend) } else { None })
}

async fn new_connection(load: &Load, origin: Instant, number: u64, due: Duration) -> Record {
    let deadline = (origin + due + load.patience).into();
    let request = Request { connection: number, exchange: 0, last: true };
    let mut stream = None;
    let answer = timeout_at(deadline, async {
        let opened = stream.insert(open(load.front).await?);
        exchange(opened, request).await
    });
    let answer = answer.await.unwrap_or(Err(End::Failed("timeout")));
    let ended = origin.elapsed();
    let end = match (answer, stream) {
        (Ok(backend), Some(stream)) => surplus(stream, deadline).await.unwrap_or(End::Answered(backend)),
        (Ok(backend), None) => End::Answered(backend),
        (Err(end), _) => end,
    };
    Record { due, ended, end }
}

async fn open(front: SocketAddr) -> Result<TcpStream, End> {
    let stream = TcpStream::connect(front).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

async fn exchange(stream: &mut TcpStream, request: Request) -> Answer {
    stream.write_all(&request.encode()).await.map_err(failed)?;
    let mut reply = [0; LENGTH];
    stream.read_exact(&mut reply).await.map_err(failed)?;
    request.answered_by(&reply).map_err(|wrong| End::Wrong(format!("connection {}: {wrong}", request.connection)))
}

/// Bytes after the answer. How the connection ends once the answer is there is nobody's failure.
async fn surplus(mut stream: TcpStream, deadline: tokio::time::Instant) -> Option<End> {
    let mut more = [0; LENGTH];
    match timeout_at(deadline, stream.read(&mut more)).await {
        Ok(Ok(count @ 1..)) => Some(End::Wrong(format!("{count} bytes after the reply"))),
        _ => None,
    }
}

async fn long_lived(load: Load, origin: Instant, number: u64, harvest: Rc<RefCell<Harvest>>) {
    // Not all in the same moment.
    sleep(origin.saturating_duration_since(Instant::now()) + PAUSE.mul_f64(number as f64 % 10.0 / 10.0)).await;
    let mut connection = number << 8;
    loop {
        let mut backend = None;
        let end = stay(&load, connection, &mut backend, &harvest).await;
        let wrong = if let End::Wrong(detail) = end { Some(detail) } else { None };
        harvest.borrow_mut().breaks.push(Break { at: origin.elapsed(), backend, wrong });
        connection += 1;
        sleep(PAUSE).await;
    }
}

/// Messages on one connection until it breaks.
async fn stay(load: &Load, connection: u64, backend: &mut Option<u8>, harvest: &RefCell<Harvest>) -> End {
    let soon = || tokio::time::Instant::now() + load.patience;
    let mut stream = match timeout_at(soon(), open(load.front)).await.unwrap_or(Err(End::Failed("timeout"))) {
        Ok(stream) => stream,
        Err(end) => return end,
    };
    for number in 0.. {
        let request = Request { connection, exchange: number, last: false };
        match timeout_at(soon(), exchange(&mut stream, request)).await.unwrap_or(Err(End::Failed("timeout"))) {
            Ok(by) => *backend = Some(by),
            Err(end) => return end,
        }
        harvest.borrow_mut().messages += 1;
        sleep(PAUSE).await;
    }
    End::Failed("over")
}

fn failed(error: io::Error) -> End {
    // Read to the end of a reply that has none.
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return End::Failed(Reason::UnexpectedEof.label());
    }
    match Fault::from(error) {
        Fault::Failed { reason, .. } => End::Failed(reason.label()),
        Fault::Wrong { detail, .. } => End::Wrong(detail),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::super::wire::{self, Parsed};
    use super::*;

    /// Answers as backend 2 whatever `fate` lets it, which is told how many came before.
    fn server(fate: fn(u64) -> bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                if !fate(number as u64) {
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

    fn load(front: SocketAddr) -> Load {
        let second = Duration::from_secs(1);
        Load { front, rate: 200.0, duration: second / 2, long_lived: 0, patience: 20 * second }
    }

    #[test]
    fn every_connection_has_a_record_at_its_intended_time() {
        let harvest = run(load(server(|_| true)), Instant::now()).unwrap();
        assert_eq!(harvest.records.len(), 100);
        let mut dues: Vec<_> = harvest.records.iter().map(|record| record.due).collect();
        dues.sort();
        let wanted: Vec<_> = (0..100).map(|number| Duration::from_millis(5 * number)).collect();
        assert_eq!(dues, wanted);
        assert!(harvest.records.iter().all(|record| record.end == End::Answered(2) && record.ended >= record.due));
    }

    #[test]
    fn an_open_loop_does_not_wait_for_those_before() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody is answered before all are there.
        let server = thread::spawn(move || {
            let all: Vec<_> = (0..100).map(|_| listener.accept().unwrap().0).collect();
            for mut stream in all {
                let mut bytes = [0; LENGTH];
                stream.read_exact(&mut bytes).unwrap();
                let Parsed::Request { request, right } = wire::parse(&bytes) else { panic!("no request") };
                stream.write_all(&request.reply(2, right)).unwrap();
            }
        });
        let harvest = run(load(address), Instant::now()).unwrap();
        assert!(harvest.records.iter().all(|record| record.end == End::Answered(2)), "{:?}", harvest.records[0]);
        server.join().unwrap();
    }

    #[test]
    fn nobody_waits_longer_for_having_started_late() {
        let origin = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let load = Load { patience: Duration::from_secs(1), ..load(server(|_| true)) };
        let harvest = run(load, origin).unwrap();
        assert_eq!(harvest.records.len(), 100);
        assert!(harvest.records.iter().all(|record| record.end == End::Failed("timeout")));
    }

    #[test]
    fn a_late_start_is_latency_and_not_less_load() {
        let late = Duration::from_millis(300);
        let origin = Instant::now().checked_sub(late).unwrap();
        let harvest = run(load(server(|_| true)), origin).unwrap();
        assert_eq!(harvest.records.len(), 100);
        assert!(harvest.records.iter().any(|record| record.ended - record.due >= late));
    }

    #[test]
    fn those_that_stay_talk_on_and_come_again_when_they_break() {
        let load =
            Load { rate: 4.0, long_lived: 3, duration: Duration::from_secs(2), ..load(server(|number| number != 0)) };
        let harvest = run(load, Instant::now()).unwrap();
        // Whoever came first was closed on; all else was served.
        let lost = harvest.records.iter().filter(|record| matches!(record.end, End::Failed(_))).count();
        assert_eq!((harvest.breaks.len() + lost, harvest.records.len()), (1, 8));
        assert!(harvest.messages > 0);
        let closed = Break { at: Duration::ZERO, backend: None, wrong: None };
        assert!(harvest.breaks.iter().all(|found| Break { at: Duration::ZERO, ..found.clone() } == closed));
    }

    #[test]
    fn somebody_elses_reply_is_wrong_and_so_is_a_byte_too_many() {
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
            let load = Load { rate: 1.0, duration: Duration::from_secs(1), ..load(address) };
            let harvest = run(load, Instant::now()).unwrap();
            assert!(matches!(harvest.records[0].end, End::Wrong(_)), "{:?}", harvest.records);
        }
    }
}
