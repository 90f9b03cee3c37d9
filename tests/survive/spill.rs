//! No session is refused while a good backend is left: it goes on to the next tier as the pool's `spill` says.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use evenkeel::config::Balance;
use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::replay::{FAULTS, Fault, failing};
use super::{NO_HEALTH, by_result};
use crate::support::{
    Backend, Blackhole, Last, MODES, Program, Rig, exchange, free_port, last, seeds, session, soon, until,
};

/// Sessions find nothing out for the next ones: each has to find its own way.
const NO_MEMORY: &str = "check = { kind = \"none\" }\noutliers = { mode = \"off\" }\n";

fn config(primaries: &[SocketAddr], backup: SocketAddr, more: &str) -> String {
    let primaries: String = primaries.iter().map(|address| format!("\"{address}\", ")).collect();
    format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
         backends = [{primaries}{{ address = \"{backup}\", backup = true }}]\n{more}\n"
    )
}

async fn rig(primaries: &[SocketAddr], backup: &Backend, more: &str) -> Rig {
    Rig::start(&config(primaries, backup.address(), more)).await
}

async fn is_served(rig: &Rig, by: &str) {
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), by.as_bytes());
}

/// A real process, all defaults, one client at a time.
#[tokio::test]
async fn a_killed_primary_is_not_noticed() {
    let (behind, backup) = (Backend::answering("primary").await, Backend::answering("backup").await);
    let admin = "admin.bind = \"off\"\n";
    let listener = "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n";
    let one = format!("{admin}{listener}[pools.back]\nbackends = [\"{}\"]\n", behind.address());
    let mut primary = Program::start(&one, &[]);
    let address = primary.front("front").await;
    let balancer = Program::start(&format!("{admin}{}", config(&[address], backup.address(), "")), &[]);
    let front = balancer.front("front").await;
    balancer.until_says("settled").await;
    until("the primary serves", || async {
        exchange(front, b"?").await.is_ok_and(|answer| answer == b"primary").then_some(())
    })
    .await;
    primary.signal(rustix::process::Signal::KILL);
    assert!(!primary.end().await.success());
    for n in 0..12 {
        assert_eq!(exchange(front, b"?").await.unwrap(), b"backup", "client {n}");
    }
}

/// Also more of them than `connect.attempts`, all defaults.
#[tokio::test]
async fn killed_primaries_are_not_noticed() {
    for count in [2, 5] {
        let backup = Backend::answering("backup").await;
        let mut primaries = Vec::new();
        for _ in 0..count {
            primaries.push(Backend::answering("primary").await);
        }
        let addresses: Vec<_> = primaries.iter().map(Backend::address).collect();
        let rig = rig(&addresses, &backup, "").await;
        for address in addresses.iter().chain([&backup.address()]) {
            rig.until_standing(&address.to_string(), "up").await;
        }
        is_served(&rig, "primary").await;
        for primary in primaries {
            primary.stop().await;
        }
        for _ in 0..6 {
            is_served(&rig, "backup").await;
        }
        rig.until_no_sessions().await;
        assert_eq!(rig.ended(Outcome::Completed), 7, "{count}");
        rig.stop().await;
    }
}

/// Without any memory of failures, every session gets past primaries that refuse.
#[tokio::test]
async fn refusing_primaries_cost_no_session() {
    for (_, mode) in MODES {
        let (dead, backup) = ([free_port(), free_port(), free_port(), free_port()], Backend::answering("backup").await);
        for primaries in [&dead[..1], &dead[..]] {
            let rig = rig(primaries, &backup, &format!("{NO_MEMORY}{mode}")).await;
            for _ in 0..4 {
                is_served(&rig, "backup").await;
            }
            rig.until_no_sessions().await;
            assert_eq!(rig.ended(Outcome::Completed), 4);
            rig.stop().await;
        }
    }
}

/// The rule, for the whole program: whatever tiers there are, and however many are dead, a session is served if one is alive.
#[tokio::test]
async fn sessions_are_served_while_any_backend_lives() {
    let living = Backend::answering("here").await;
    for seed in seeds(8, 4) {
        let mut random = fastrand::Rng::with_seed(seed);
        // Several identities may be at one address.
        let count = random.usize(1..9);
        let alive: Vec<bool> = (0..count).map(|_| random.u8(..4) == 0).collect();
        let backends: Vec<String> = alive
            .iter()
            .enumerate()
            .map(|(id, alive)| {
                let address = if *alive { living.address() } else { free_port() };
                let (weight, priority) = (random.u8(1..4), random.u8(..3));
                format!("{{ address = \"{address}\", id = \"{id}\", weight = {weight}, priority = {priority} }}")
            })
            .collect();
        let balance = Balance::ALL[random.usize(..Balance::ALL.len())].name();
        let replay = ["off", "until_response"][random.usize(..2)];
        let rig = Rig::start(&format!(
            "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nbackends = [{}]\n\
             balance = \"{balance}\"\nreplay = \"{replay}\"\nconnect = {{ attempts = 1, retry_budget = 1000 }}\n{NO_MEMORY}",
            backends.join(", ")
        ))
        .await;
        let served = if alive.contains(&true) { &b"here"[..] } else { b"" };
        for _ in 0..2 {
            assert_eq!(exchange(rig.front(), b"?").await.unwrap_or_default(), served, "{backends:#?}");
        }
        rig.stop().await;
    }
}

/// After `connect.timeout`, and not when a hedge would be due: one lost SYN sends no session to the backup.
#[tokio::test]
async fn a_silent_primary_costs_its_timeout() {
    let (hole, backup) = (Blackhole::new().await, Backend::answering("backup").await);
    for more in [NO_MEMORY, NO_HEALTH, ""] {
        let rig =
            rig(&[hole.address()], &backup, &format!("connect = {{ timeout = \"400ms\", hedge = \"50ms\" }}\n{more}"))
                .await;
        if more.is_empty() {
            rig.until_standing(&backup.address().to_string(), "up").await;
        }
        for _ in 0..3 {
            let began = Instant::now();
            is_served(&rig, "backup").await;
            assert!(more.is_empty() || began.elapsed() >= Duration::from_millis(390), "{:?}", began.elapsed());
        }
        rig.until_no_sessions().await;
        assert_eq!(by_result(&rig, "hedged_connects", "won").await, 0.0);
        rig.stop().await;
    }
}

#[tokio::test]
async fn with_slow_a_hedge_crosses() {
    let (hole, backup) = (Blackhole::new().await, Backend::answering("backup").await);
    let connect = "connect = { timeout = \"10m\", deadline = \"10m\", hedge = \"50ms\" }\nspill = [\"slow\"]\n";
    let rig = rig(&[hole.address()], &backup, &format!("{connect}{NO_HEALTH}")).await;
    for _ in 0..3 {
        is_served(&rig, "backup").await;
    }
    assert_eq!(by_result(&rig, "hedged_connects", "won").await, 3.0);
    rig.stop().await;
    // A failure is another matter.
    let rig = self::rig(&[free_port()], &backup, &format!("spill = \"slow\"\n{NO_MEMORY}")).await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    assert_eq!(soon("a refusal", last(&mut client)).await, Last::Fin);
    rig.until_no_sessions().await;
    assert_eq!((rig.ended(Outcome::ConnectFailed), rig.ended(Outcome::Completed)), (1, 0));
    rig.stop().await;
}

#[tokio::test]
async fn replay_crosses() {
    for (_, mode) in MODES {
        for fault in FAULTS {
            let (bad, backup) = (failing(fault).await, Backend::answering("backup").await);
            let limits = if fault == Fault::Silent { "timeouts = { first_byte = \"200ms\" }\n" } else { "" };
            let more = format!("replay = \"until_response\"\n{limits}{mode}{NO_HEALTH}");
            let rig = rig(&[bad.address()], &backup, &more).await;
            for _ in 0..6 {
                is_served(&rig, "backup").await;
            }
            rig.until_no_sessions().await;
            assert_eq!(rig.ended(Outcome::Completed), 6, "{fault:?}");
            rig.stop().await;
        }
    }
}

#[tokio::test]
async fn a_full_primary_sends_the_next_one_to_the_backup() {
    let (primary, backup) = (Backend::echo().await, Backend::echo().await);
    let cap = "backend_max_sessions = 1\ncheck = { kind = \"none\" }\n";
    let rig = rig(&[primary.address()], &backup, cap).await;
    let clients = [session(rig.front()).await, session(rig.front()).await];
    assert_eq!((primary.connections(), backup.connections()), (1, 1));
    drop(clients);
    rig.until_no_sessions().await;
    let next = session(rig.front()).await;
    assert_eq!((primary.connections(), backup.connections()), (2, 1));
    drop(next);
    rig.stop().await;
}

/// With a queue it waits for the primary; before it is refused it goes to the backup all the same, unless `spill` forbids that.
#[tokio::test]
async fn with_a_queue_it_waits_first() {
    let (primary, backup) = (Backend::echo().await, Backend::echo().await);
    let cap = "backend_max_sessions = 1\ncheck = { kind = \"none\" }\n";
    let patient = format!("{cap}queue = {{ max_length = 1, timeout = \"1m\" }}\n");
    let rig = rig(&[primary.address()], &backup, &patient).await;
    let queued = "evenkeel_pool_queued_sessions{pool=\"back\"}";
    let first = session(rig.front()).await;
    let front = rig.front();
    let second = tokio::spawn(async move { session(front).await });
    rig.until_metric(queued, 1.0).await;
    // The queue is full.
    let third = session(rig.front()).await;
    assert_eq!((primary.connections(), backup.connections()), (1, 1));
    drop(first);
    let second = soon("its turn", second).await.unwrap();
    assert_eq!((primary.connections(), backup.connections()), (2, 1));
    drop((second, third));
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 3);
    rig.stop().await;

    let impatient = format!("{cap}queue = {{ max_length = 9, timeout = \"50ms\" }}\n");
    for (spill, served) in
        [("", true), ("spill = [\"full\"]\n", true), ("spill = [\"failed\"]\n", false), ("spill = []\n", false)]
    {
        let rig = self::rig(&[primary.address()], &backup, &format!("{impatient}{spill}")).await;
        let first = session(rig.front()).await;
        let before = backup.connections();
        let answer = exchange(rig.front(), b"x").await.unwrap_or_default();
        assert_eq!((answer == b"x", backup.connections() - before), (served, usize::from(served)), "{spill}");
        drop(first);
        rig.until_no_sessions().await;
        assert_eq!(rig.ended(Outcome::QueueTimeout), u64::from(!served));
        rig.stop().await;
    }
}

/// The last resort holds before the first verdict.
#[tokio::test]
async fn sessions_are_served_before_the_first_probe_result_if_the_pool_fails_open() {
    let backend = Backend::answering("here").await;
    let check =
        "check = { kind = \"script\", steps = [{ expect = \"never\" }], timeout = \"10m\", interval = \"10m\" }\n";
    for opens in ["when_all_down = \"any\"\n", "panic_threshold = 50\n"] {
        let rig = Rig::with_backends(&[&backend.address().to_string()], &format!("{opens}{check}")).await;
        rig.until_standing(&backend.address().to_string(), "unproven").await;
        is_served(&rig, "here").await;
        rig.until_no_sessions().await;
        assert_eq!(rig.ended(Outcome::Completed), 1);
        rig.stop().await;
    }
}

/// `spill = []`: while the primary is up the backup gets nothing, whatever happens to a session; it tries the primary again
/// until the deadline, however few `attempts` there are.
#[tokio::test]
async fn the_pool_of_a_single_writer_stays_with_the_primary() {
    let (hole, backup) = (Blackhole::new().await, Backend::answering("backup").await);
    let dead = free_port();
    let connect = "connect = { attempts = 1, retry_delay = \"20ms\", timeout = \"150ms\", deadline = \"600ms\", hedge = \"20ms\" }\n";
    for primary in [dead, hole.address()] {
        let more = format!("spill = []\npanic_threshold = 100\nreplay = \"until_response\"\n{connect}{NO_MEMORY}");
        let rig = rig(&[primary], &backup, &more).await;
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        assert_eq!(soon("a refusal", last(&mut client)).await, Last::Fin);
        rig.until_no_sessions().await;
        assert_eq!((rig.ended(Outcome::ConnectFailed), backup.connections()), (1, 0));
        assert!(rig.backend_metric("connect_attempts_total", &primary.to_string()).await > 2.0);
        rig.stop().await;
    }

    // It comes back before the deadline.
    let connect = "connect = { attempts = 1, retry_delay = \"20ms\", deadline = \"20s\" }\n";
    let rig = rig(&[dead], &backup, &format!("spill = []\n{connect}{NO_MEMORY}")).await;
    let front = rig.front();
    let client = tokio::spawn(async move { exchange(front, b"?").await });
    until("a few attempts", || async {
        (rig.connect_failures(&dead.to_string(), "refused").await >= 3.0).then_some(())
    })
    .await;
    let _primary = Backend::on(dead, |mut stream| async move {
        let _ = stream.read(&mut [0; 8]).await;
        let _ = stream.write_all(b"primary").await;
    })
    .await;
    assert_eq!(soon("an answer", client).await.unwrap().unwrap(), b"primary");
    assert_eq!(backup.connections(), 0);
    rig.stop().await;
}

/// `spill = []`: once the primary is not up any more, the backup serves, the session included that found it out.
#[tokio::test]
async fn the_backup_of_a_single_writer_serves_when_the_primary_is_out() {
    let backup = Backend::answering("backup").await;
    let rig =
        rig(&[free_port()], &backup, "spill = []\nconnect = { attempts = 1 }\ncheck = { kind = \"none\" }\n").await;
    for _ in 0..3 {
        is_served(&rig, "backup").await;
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 3);
    rig.stop().await;
}

/// Three dead backends and no other: each session makes its own attempt, and what goes beyond that is the budget's.
#[tokio::test]
async fn a_dead_pool_is_not_hammered_by_a_crowd() {
    const SESSIONS: usize = 3_000;
    let dead = [free_port(), free_port(), free_port()].map(|address| address.to_string());
    let rig = Rig::with_backends(
        &dead.each_ref().map(String::as_str),
        "connect = { deadline = \"1s\" }\ncheck = { kind = \"none\" }\n",
    )
    .await;
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..SESSIONS {
        let front = rig.front();
        clients.spawn(async move { exchange(front, b"").await });
        while clients.len() >= 500 {
            let _ = soon("refusals", clients.join_next()).await;
        }
    }
    while soon("refusals", clients.join_next()).await.is_some() {}
    rig.until_no_sessions().await;
    let mut made = 0.0;
    for id in &dead {
        made += rig.backend_metric("connect_attempts_total", id).await;
    }
    let most = SESSIONS as f64 + 20.0 + 10.0 * (began.elapsed().as_secs_f64() + 1.0);
    assert!((SESSIONS as f64..=most).contains(&made), "{made} attempts in {:?}", began.elapsed());
    rig.stop().await;
}
