//! Limits are exact, and who is over one waits; no shortage of descriptors ends anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use evenkeel::metrics::Outcome;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Backend, Program, Rig, exchange, get, soon, until};

/// Clients that have connected, and how many of them have been served (echoed) so far.
struct Crowd {
    served: Arc<AtomicUsize>,
    /// Each leaves when told.
    leave: tokio::sync::mpsc::UnboundedSender<()>,
    tasks: JoinSet<()>,
}

impl Crowd {
    fn new(front: std::net::SocketAddr, size: usize) -> Self {
        let served = Arc::new(AtomicUsize::new(0));
        let (leave, left) = tokio::sync::mpsc::unbounded_channel();
        let left = Arc::new(tokio::sync::Mutex::new(left));
        let mut tasks = JoinSet::new();
        for _ in 0..size {
            let (served, left) = (Arc::clone(&served), Arc::clone(&left));
            tasks.spawn(async move {
                let mut stream = TcpStream::connect(front).await.unwrap();
                stream.write_all(b"x").await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
                served.fetch_add(1, SeqCst);
                left.lock().await.recv().await.unwrap();
            });
        }
        Self { served, leave, tasks }
    }

    fn served(&self) -> usize {
        self.served.load(SeqCst)
    }

    async fn until_served(&self, count: usize) {
        until(&format!("{count} served"), || async { (self.served() >= count).then_some(()) }).await;
        assert_eq!(self.served(), count);
    }
}

fn two_listeners(top: &str, one: &str, backend: &Backend) -> String {
    format!(
        "workers = 2\n{top}\n[listeners.one]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n{one}\n\
         [listeners.two]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\nbackends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\n",
        backend.address()
    )
}

/// `max_connections` sessions, not one more; each that ends lets exactly one in; the others wait in the backlog.
#[tokio::test]
async fn a_listener_limit_is_exact() {
    let backend = Backend::echo().await;
    let rig = Rig::start(&two_listeners("", "max_connections = 5", &backend)).await;
    let at_limit = "evenkeel_listener_at_limit{listener=\"one\"}";
    let mut crowd = Crowd::new(rig.front(), 5);
    crowd.until_served(5).await;
    assert_eq!(rig.metric(at_limit).await, 0.0, "the limit is reached, but nobody waits");
    let front = rig.front();
    let more = Crowd::new(front, 10);
    rig.until_metric(at_limit, 1.0).await;
    assert_eq!((more.served(), rig.balancer().state().set().listeners[0].sessions()), (0, 5));
    for n in 1..=5 {
        crowd.leave.send(()).unwrap();
        more.until_served(n).await;
        assert_eq!(rig.metric("evenkeel_listener_sessions{listener=\"one\"}").await, 5.0);
        assert_eq!(rig.metric("evenkeel_listener_accepted_total{listener=\"one\"}").await, 5.0 + n as f64);
    }
    // The other listener has no limit of its own.
    assert_eq!(exchange(rig.balancer().listeners()[1].1, b"y").await.unwrap(), b"y");
    let mut more = more;
    for n in 6..=10 {
        more.leave.send(()).unwrap();
        more.until_served(n).await;
    }
    for _ in 0..5 {
        more.leave.send(()).unwrap();
    }
    rig.until_metric(at_limit, 0.0).await;
    soon("all to leave", async {
        while let Some(result) = crowd.tasks.join_next().await {
            result.unwrap();
        }
        while let Some(result) = more.tasks.join_next().await {
            result.unwrap();
        }
    })
    .await;
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 15);
    rig.stop().await;
}

/// Under a storm of short sessions the limit is never exceeded, and everybody is served.
#[tokio::test]
async fn a_limit_holds_in_a_storm() {
    let backend = Backend::echo().await;
    let rig = Rig::start(&two_listeners("max_connections = 6", "max_connections = 4", &backend)).await;
    let mut tasks = JoinSet::new();
    for (_, front) in rig.balancer().listeners() {
        for _ in 0..20 {
            tasks.spawn(async move {
                for n in 0..10_u8 {
                    assert_eq!(exchange(front, &[n]).await.unwrap(), [n]);
                }
            });
        }
    }
    let state = Arc::clone(rig.balancer().state());
    for _ in 0..10 {
        let text = rig.metrics().await;
        let sum = |name: &str| -> f64 {
            let name = format!("evenkeel_listener_{name}{{listener=\"one\"");
            let lines = text.lines().filter(|line| line.starts_with(&name));
            lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
        };
        assert_eq!(sum("accepted_total"), sum("ended_total") + sum("sessions"), "in the middle of it");
    }
    let watching = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let watch = Arc::clone(&watching);
    let watcher = std::thread::spawn(move || {
        let mut most = (0, 0);
        while watch.load(SeqCst) {
            most = (most.0.max(state.set().listeners[0].sessions()), most.1.max(state.sessions()));
            std::thread::sleep(Duration::from_micros(50));
        }
        most
    });
    soon("the storm", async {
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    })
    .await;
    watching.store(false, SeqCst);
    let (one, both) = watcher.join().unwrap();
    // The two listeners are read one after the other: only each one's own is exact from here.
    assert!(one <= 4, "{one}");
    assert!(both <= 6 + 4, "{both}");
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 200);
    rig.stop().await;
}

/// One limit for the process: what the one listener takes, the other lacks.
#[tokio::test]
async fn the_global_limit_is_shared() {
    let backend = Backend::echo().await;
    let rig = Rig::start(&two_listeners("max_connections = 6", "", &backend)).await;
    let fronts: Vec<_> = rig.balancer().listeners().into_iter().map(|(_, address)| address).collect();
    let first = Crowd::new(fronts[0], 4);
    first.until_served(4).await;
    let second = Crowd::new(fronts[1], 8);
    second.until_served(2).await;
    rig.until_metric("evenkeel_listener_at_limit{listener=\"two\"}", 1.0).await;
    assert_eq!(rig.metric("evenkeel_listener_at_limit{listener=\"one\"}").await, 0.0);
    assert_eq!((second.served(), rig.balancer().state().sessions()), (2, 6));
    for n in 3..=6 {
        first.leave.send(()).unwrap();
        second.until_served(n).await;
        assert_eq!(rig.balancer().state().sessions(), 6);
    }
    drop((first, second));
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// A loop through another proxy: it takes what its listener may have, and the other listener goes on.
#[tokio::test]
async fn a_listener_that_is_full_does_not_starve_the_other() {
    let good = Backend::echo().await;
    let (tell, told) = tokio::sync::watch::channel(None);
    let proxy = Backend::serving(move |mut stream| {
        let told: Option<std::net::SocketAddr> = *told.borrow();
        async move {
            let Some(front) = told else { return };
            let Ok(mut back) = TcpStream::connect(front).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut back).await;
        }
    })
    .await;
    let rig = Rig::start(&format!(
        "max_connections = 40\n[listeners.loop]\nbind = \"127.0.0.1:0\"\npool = \"loop\"\n\
         [listeners.other]\nbind = \"127.0.0.1:0\"\npool = \"good\"\n\
         [pools.loop]\nbackends = [\"{}\"]\ncheck.kind = \"none\"\n\
         [pools.good]\nbackends = [\"{}\"]\ncheck.kind = \"none\"\n",
        proxy.address(),
        good.address()
    ))
    .await;
    tell.send_replace(Some(rig.front()));
    let client = TcpStream::connect(rig.front()).await.unwrap();
    rig.until_metric("evenkeel_listener_at_limit{listener=\"loop\"}", 1.0).await;
    assert_eq!(
        rig.metric("evenkeel_listener_sessions{listener=\"loop\"}").await,
        35.0,
        "all but the part of the other"
    );
    let crowd = Crowd::new(rig.balancer().listeners()[1].1, 5);
    crowd.until_served(5).await;
    // A listener that leaves gives up its part, and one that stays alone has no use for one.
    drop((client, proxy, crowd));
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// One limit for all addresses of a listener, and one word for whether somebody waits at any of them.
#[tokio::test]
async fn a_limit_over_several_addresses() {
    let backend = Backend::echo().await;
    let text = format!(
        "[listeners.front]\nbind = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\npool = \"back\"\nmax_connections = 1\n\
         [pools.back]\nbackends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\n",
        backend.address()
    );
    let rig = Rig::start(&text).await;
    let at_limit = "evenkeel_listener_at_limit{listener=\"front\"}";
    let fronts: Vec<_> = rig.balancer().listeners().into_iter().map(|(_, address)| address).collect();
    let first = Crowd::new(fronts[0], 1);
    first.until_served(1).await;
    let (one, two) = (Crowd::new(fronts[0], 1), Crowd::new(fronts[1], 1));
    rig.until_metric(at_limit, 1.0).await;
    first.leave.send(()).unwrap();
    until("one of them", || async { (one.served() + two.served() == 1).then_some(()) }).await;
    // The other one waits on.
    rig.until_metric(at_limit, 1.0).await;
    let (lucky, other) = if one.served() == 1 { (one, two) } else { (two, one) };
    lucky.leave.send(()).unwrap();
    other.until_served(1).await;
    rig.until_metric(at_limit, 0.0).await;
    drop(other);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// A client that gives up in the backlog costs nothing but a look.
#[tokio::test]
async fn clients_that_leave_the_backlog_take_no_slot() {
    let backend = Backend::echo().await;
    let rig = Rig::start(&two_listeners("", "max_connections = 1", &backend)).await;
    let crowd = Crowd::new(rig.front(), 1);
    crowd.until_served(1).await;
    for _ in 0..10 {
        crate::support::reset(TcpStream::connect(rig.front()).await.unwrap());
    }
    crowd.leave.send(()).unwrap();
    assert_eq!(exchange(rig.front(), b"next").await.unwrap(), b"next");
    rig.until_no_sessions().await;
    assert_eq!(rig.metric("evenkeel_listener_at_limit{listener=\"one\"}").await, 0.0);
    rig.stop().await;
}

/// `backend_max_sessions` is one number for all workers: of a crowd that comes at once so many are served, not one more,
/// and who leaves makes room for exactly one.
#[tokio::test]
async fn a_backends_cap_is_exact_over_workers() {
    let (a, b) = (Backend::echo().await, Backend::echo().await);
    let rig = Rig::start(&format!(
        "workers = 4\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nbackends = [\"{}\", \"{}\"]\n\
         backend_max_sessions = 3\ncheck = {{ kind = \"none\" }}\n",
        a.address(),
        b.address()
    ))
    .await;
    for round in 0..20 {
        let mut tasks = JoinSet::new();
        for _ in 0..40 {
            let front = rig.front();
            tasks.spawn(async move {
                let mut stream = TcpStream::connect(front).await.unwrap();
                // Refused: closed, which may come before the byte is sent.
                let served = stream.write_all(b"x").await.is_ok() && stream.read_u8().await.is_ok();
                served.then_some(stream)
            });
        }
        let mut living: Vec<_> = soon("the crowd", tasks.join_all()).await.into_iter().flatten().collect();
        assert_eq!(living.len(), 6, "round {round}");
        for backend in [&a, &b] {
            assert_eq!(rig.backend(&backend.address().to_string()).await.unwrap()["sessions"], 3, "round {round}");
        }
        assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"", "no room");
        drop(living.pop());
        let pool = Arc::clone(&rig.balancer().state().set().pools[0]);
        until("one has left", || async { (pool.sessions() == 5).then_some(()) }).await;
        assert_eq!(exchange(rig.front(), b"x").await.unwrap(), b"x", "room for one");
        drop(living);
        rig.until_no_sessions().await;
    }
    assert_eq!(rig.ended(Outcome::NoBackend), 20 * 35);
    rig.stop().await;
}

/// What the API says of limits: kind, name, and whether it lasts.
async fn limits(rig: &Rig) -> Vec<(String, String, bool)> {
    let status: serde_json::Value = serde_json::from_str(&get(rig.admin(), "/api/v1/status").await.unwrap().1).unwrap();
    let text = |limit: &serde_json::Value, key: &str| limit[key].as_str().unwrap().to_owned();
    let limits = status["limits"].as_array().unwrap().iter();
    limits.map(|limit| (text(limit, "kind"), text(limit, "name"), limit["until"].is_null())).collect()
}

/// The next event about a limit: which, whether it is reached, and what it says.
async fn next_limit(
    events: &mut tokio::sync::broadcast::Receiver<Arc<evenkeel::pool::Event>>,
) -> (&'static str, bool, String) {
    soon("an event about a limit", async {
        loop {
            if let evenkeel::pool::Happened::Limit { limit, reached, says } = &events.recv().await.unwrap().what {
                return (*limit, *reached, says.clone());
            }
        }
    })
    .await
}

/// Each kind of limit: an event and a place in the status when it begins, and when it ends.
#[tokio::test]
async fn the_log_tells_when_a_limit_is_reached_and_when_that_ends() {
    let backend = Backend::echo().await;
    let queue = "backend_max_sessions = 1\nqueue = { max_length = 9, timeout = \"20s\" }\n";
    for (kind, name, top, one, pool) in [
        ("listener", "one", "", "max_connections = 1", ""),
        ("process", "one", "max_connections = 1", "", ""),
        ("pool", "back", "", "", "backend_max_sessions = 1\n"),
        ("pool", "back", "", "", queue),
    ] {
        let rig = Rig::start(&(two_listeners(top, one, &backend) + pool)).await;
        let mut events = rig.balancer().state().events.follow();
        let first = Crowd::new(rig.front(), 1);
        first.until_served(1).await;
        assert_eq!(limits(&rig).await, [], "{kind} is reached, but nobody had to wait");
        let second = TcpStream::connect(rig.front()).await.unwrap();
        let (limit, reached, says) = next_limit(&mut events).await;
        assert_eq!((limit, reached), (kind, true), "{says}");
        assert_eq!(limits(&rig).await, [(kind.to_owned(), name.to_owned(), true)]);
        drop((first, second));
        let (limit, reached, over) = next_limit(&mut events).await;
        assert_eq!((limit, reached), (kind, false), "{over}");
        assert!(over.ends_with(&says), "{over}");
        assert_eq!(limits(&rig).await, [(kind.to_owned(), name.to_owned(), false)]);
        rig.stop().await;
    }
}

fn open_files(program: &Program) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count()
}

/// A limit of this leaves none, although more are open.
fn first_free_descriptor(program: &Program) -> u64 {
    (0..).find(|n| !std::path::Path::new(&format!("/proc/{}/fd/{n}", program.pid())).is_symlink()).unwrap()
}

/// User and system time so far, in clock ticks.
fn cpu(program: &Program) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.pid())).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

async fn metric(admin: std::net::SocketAddr, series: &str) -> f64 {
    let text = get(admin, "/metrics").await.unwrap().1;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn program(backend: &Backend) -> Program {
    let config = format!(
        "workers = 2\n[admin]\nbind = \"127.0.0.1:0\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\nbackends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\n",
        backend.address()
    );
    Program::start(&config, &[])
}

/// No descriptor for the next client: accept(2) fails for as long as that lasts, without spinning, what lives goes on, and
/// the clients that waited are served afterwards.
#[tokio::test]
async fn no_descriptors_left() {
    let backend = Backend::echo().await;
    let program = program(&backend);
    let (front, admin) = (program.front("front").await, program.admin().await);
    let mut living = TcpStream::connect(front).await.unwrap();
    living.write_all(b"1").await.unwrap();
    assert_eq!(soon("an echo", living.read_u8()).await.unwrap(), b'1');

    // A connection to the admin side that stays open: with none left, no new one would get through.
    let mut watching = TcpStream::connect(admin).await.unwrap();
    assert!(scrape(&mut watching).await.contains("evenkeel_build_info"));
    let pid = Pid::from_raw(program.pid());
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let lowered = Rlimit { current: Some(first_free_descriptor(&program)), maximum };
    let before = prlimit(pid, Resource::Nofile, lowered).unwrap();

    let crowd = Crowd::new(front, 20);
    let errors = "evenkeel_listener_accept_errors_total{listener=\"front\",reason=\"no_resources\"} ";
    let count = async |watching: &mut TcpStream| -> u64 {
        let text = scrape(watching).await;
        text.lines().find_map(|line| line.strip_prefix(errors)).unwrap().parse().unwrap()
    };
    let watching = tokio::sync::Mutex::new(watching);
    until("failed accepts", || async { (count(&mut *watching.lock().await).await >= 2).then_some(()) }).await;
    let (errors_before, cpu_before) = (count(&mut *watching.lock().await).await, cpu(&program));
    for n in 0..20 {
        living.write_all(&[n]).await.unwrap();
        assert_eq!(soon("an echo", living.read_u8()).await.unwrap(), n, "what lives goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A second at least: 10 errors a second are meant, and a hundredth of a CPU is generous.
    let (errors, cpu) = (count(&mut *watching.lock().await).await - errors_before, cpu(&program) - cpu_before);
    assert!((1..200).contains(&errors), "{errors}");
    assert!(cpu < 60, "{cpu} ticks: it spins");
    assert_eq!(crowd.served(), 0);
    let says = "listener `front` can't accept, open files or memory are used up";
    program.until_says(&format!("limit reached: {says}")).await;

    prlimit(pid, Resource::Nofile, before).unwrap();
    crowd.until_served(20).await;
    drop((crowd, living, watching));
    until("no sessions", || async {
        (metric(admin, "evenkeel_listener_sessions{listener=\"front\"}").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(metric(admin, "evenkeel_listener_accepted_total{listener=\"front\"}").await, 21.0);
    program.until_says("limit reached: it is over after").await;
    assert_eq!(program.log().iter().filter(|line| line.contains(says)).count(), 2, "{:#?}", program.log());
}

/// On a connection that is kept.
async fn scrape(stream: &mut TcpStream) -> String {
    const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    soon("a scrape", async {
        let mut answer = Vec::new();
        stream.write_all(REQUEST).await.unwrap();
        loop {
            stream.read_buf(&mut answer).await.unwrap();
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() < length.unwrap() {
                continue;
            }
            if !head.starts_with("HTTP/1.1 429") {
                return body.to_owned();
            }
            // Asked too often; a moment later it answers again.
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer.clear();
            stream.write_all(REQUEST).await.unwrap();
        }
    })
    .await
}

/// After a storm of sessions with every kind of end, nothing is left: no session, no descriptor.
#[tokio::test]
async fn nothing_is_left_after_a_storm() {
    let backend = Backend::echo().await;
    let program = program(&backend);
    let (front, admin) = (program.front("front").await, program.admin().await);
    exchange(front, b"warm").await.unwrap();
    let mut counts = Vec::new();
    for _ in 0..2 {
        let mut tasks = JoinSet::new();
        for n in 0..150_u32 {
            tasks.spawn(async move {
                let mut stream = TcpStream::connect(front).await.unwrap();
                let _ = stream.write_all(&vec![7; (n * 997) as usize]).await;
                match n % 4 {
                    0 => crate::support::reset(stream),
                    1 => drop(stream),
                    2 => {
                        let _ = stream.read(&mut [0; 10]).await;
                        crate::support::reset(stream);
                    }
                    _ => {
                        let (mut reads, mut writes) = stream.into_split();
                        writes.shutdown().await.unwrap();
                        let _ = reads.read_to_end(&mut Vec::new()).await;
                    }
                }
            });
        }
        soon("the storm", tasks.join_all()).await;
        until("no sessions", || async {
            (metric(admin, "evenkeel_listener_sessions{listener=\"front\"}").await == 0.0).then_some(())
        })
        .await;
        until("pipes that nobody uses are closed", || async {
            (metric(admin, "evenkeel_relay_pipes").await == 0.0).then_some(())
        })
        .await;
        // Keep-alive connections to the admin side come and go: the least is what counts.
        let mut least = usize::MAX;
        for _ in 0..10 {
            least = least.min(open_files(&program));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        counts.push(least);
    }
    assert_eq!(counts[0], counts[1], "open files after each storm");
    let text = get(admin, "/metrics").await.unwrap().1;
    let ended: f64 = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("evenkeel_listener_ended_total{listener=\"front\",outcome=")?.split(' ').nth(1)
        })
        .map(|value| value.parse::<f64>().unwrap())
        .sum();
    assert_eq!(ended, 301.0);
    assert_eq!(metric(admin, "evenkeel_listener_accepted_total{listener=\"front\"}").await, 301.0);
    for gauge in [
        "evenkeel_pool_sessions{pool=\"back\"}",
        "evenkeel_worker_sessions{worker=\"0\"}",
        "evenkeel_worker_sessions{worker=\"1\"}",
    ] {
        assert_eq!(metric(admin, gauge).await, 0.0, "{gauge}");
    }
}
