//! A shortage of descriptors, and that none is lost.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Crowd;
use super::told::status;
use crate::support::{Backend, Program, exchange, get, soon, until};

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

/// One descriptor for the next client and none for its backend: that is told like one that fails at accept, no backend is
/// blamed for it, and all is well when there are some again.
#[tokio::test]
async fn no_descriptors_left_for_backends() {
    let backend = Backend::echo().await;
    let program = program(&backend);
    let (front, admin) = (program.front("front").await, program.admin().await);
    exchange(front, b"warm").await.unwrap();
    let mut watching = TcpStream::connect(admin).await.unwrap();
    assert!(scrape(&mut watching).await.contains("evenkeel_build_info"));
    let pid = Pid::from_raw(program.pid());
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let lowered = Rlimit { current: Some(first_free_descriptor(&program) + 1), maximum };
    let before = prlimit(pid, Resource::Nofile, lowered).unwrap();
    let says = "pool `back` can't dial its backends, open files or memory are used up";
    for _ in 0..3 {
        assert_eq!(exchange(front, b"?").await.unwrap_or_default(), b"");
    }
    program.until_says(&format!("limit reached: {says}")).await;
    assert!(scrape(&mut watching).await.contains("evenkeel_backend_connect_failures_total{pool=\"back\""));

    prlimit(pid, Resource::Nofile, before).unwrap();
    assert_eq!(exchange(front, b"!").await.unwrap(), b"!");
    until("the limit is over", || async {
        program.log().iter().any(|line| line.contains("it is over after") && line.contains(says)).then_some(())
    })
    .await;
    // Two lines for all of them, and none that blames the backend.
    assert_eq!(program.log().iter().filter(|line| line.contains(says)).count(), 2, "{:#?}", program.log());
    assert!(!program.log().iter().any(|line| line.contains("ejected")), "{:#?}", program.log());
    let status = status(&program).await;
    let line = status.lines().find(|line| line.contains(says)).expect(&status);
    assert!(line.starts_with("limit reached from ") && line.contains(", over now: "), "{line}");
    let listed = get(admin, "/api/v1/status").await.unwrap().1;
    assert!(listed.contains("\"kind\":\"dial_descriptors\",\"name\":\"back\""), "{listed}");
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
