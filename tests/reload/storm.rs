//! Many reloads under many sessions, in three processes: clients here, the balancer, and the backends in a copy of this
//! program. `EVENKEEL_STORM=full` makes it 5,000 sessions and 200 reloads.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use evenkeel::config::Balance;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{Backend, Pattern, Program, free_port_of, get, get_json, seeds, soon, until};

const BACKENDS: usize = 6;
const LISTENERS: usize = 5;
const POOLS: usize = 4;

/// Where the copy of this program says its ports.
const PORTS: &str = "EVENKEEL_STORM_PORTS";

/// Not a test: what the second process does, until its input ends.
#[tokio::test]
async fn backends() {
    let Ok(path) = std::env::var(PORTS) else { return };
    let mut all = Vec::new();
    for _ in 0..BACKENDS {
        all.push(Backend::echo().await);
    }
    let ports: Vec<_> = all.iter().map(|backend| backend.address().to_string()).collect();
    std::fs::write(format!("{path}.new"), ports.join("\n")).unwrap();
    std::fs::rename(format!("{path}.new"), path).unwrap();
    loadtest::raise_descriptor_limit();
    let _ = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await;
}

/// What all clients share.
#[derive(Default)]
struct Shared {
    over: AtomicBool,
    live: AtomicUsize,
    cut: AtomicUsize,
    bytes: AtomicU64,
    /// The longest of a client, in milliseconds.
    pause: AtomicU64,
}

/// A session that moves verified bytes until the storm is over or the session is closed. `Err` = it never began.
async fn session(front: SocketAddr, seed: u64, pattern: Arc<Pattern>, shared: Arc<Shared>) -> Result<(), ()> {
    let mut stream = TcpStream::connect(front).await.map_err(drop)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut position = random.u64(..60_000);
    let mut joined = false;
    let mut heard = vec![0; 2_048];
    while !shared.over.load(SeqCst) || !joined {
        let piece = pattern.piece(position, random.u64(1..2_048));
        let turn = async {
            stream.write_all(piece).await?;
            stream.read_exact(&mut heard[..piece.len()]).await
        };
        if soon::<io::Result<usize>>("an echo", turn).await.is_err() {
            if joined {
                shared.cut.fetch_add(1, SeqCst);
                shared.live.fetch_sub(1, SeqCst);
            }
            return if joined { Ok(()) } else { Err(()) };
        }
        pattern.check(position, &heard[..piece.len()]);
        position += piece.len() as u64;
        shared.bytes.fetch_add(piece.len() as u64, SeqCst);
        if !joined {
            joined = true;
            shared.live.fetch_add(1, SeqCst);
        }
        // The pace of a client; the test waits for nothing by it.
        sleep(Duration::from_millis(random.u64(20..shared.pause.load(SeqCst)))).await;
    }
    stream.shutdown().await.unwrap();
    assert_eq!(soon("FIN", stream.read(&mut heard)).await.unwrap(), 0);
    shared.live.fetch_sub(1, SeqCst);
    Ok(())
}

/// One of many files; the listener `l0` is in all of them.
fn some_file(random: &mut fastrand::Rng, fronts: &[SocketAddr], backends: &[String]) -> (String, Vec<SocketAddr>) {
    let mut text = "admin.bind = \"127.0.0.1:0\"\nlog.sessions = false\n".to_owned();
    let (mut open, mut used) = (Vec::new(), [false; POOLS]);
    for (number, front) in fronts.iter().enumerate() {
        if number > 0 && random.u8(..10) < 3 {
            continue;
        }
        let pool = random.usize(..POOLS);
        used[pool] = true;
        open.push(*front);
        text += &format!("[listeners.l{number}]\nbind = \"{front}\"\npool = \"p{pool}\"\n");
        match random.u8(..3) {
            0 => text += &format!("max_connections = {}\n", random.u32(8_000..9_000)),
            1 => text += "tcp = { nodelay = false, backlog = 512 }\n",
            _ => {}
        }
    }
    for (pool, used) in used.into_iter().enumerate() {
        if !used && random.bool() {
            continue;
        }
        let mut some: Vec<_> = backends.iter().filter(|_| random.u8(..10) < 6).cloned().collect();
        if some.is_empty() {
            some.push(backends[0].clone());
        }
        let balance = Balance::ALL[random.usize(..Balance::ALL.len())].name();
        let check = ["{ kind = \"none\" }", "{ interval = \"500ms\", fall = 30 }"][random.usize(..2)];
        let (removed, rate) = (["keep", "keep", "close"][random.usize(..3)], 0);
        let relay = ["copy", "splice", "auto"][random.usize(..3)];
        text += &format!(
            "[pools.p{pool}]\nbackends = {some:?}\nbalance = \"{balance}\"\ncheck = {check}\non_removed = \"{removed}\"\n\
             close_rate = {rate}\nrelay = \"{relay}\"\ntimeouts.idle = \"{}m\"\nconnect.timeout = \"5s\"\nconnect.deadline = \"10s\"\n",
            random.u8(10..60)
        );
    }
    (text, open)
}

async fn planned(program: &Program, admin: &str) -> Value {
    let output = Command::new(Program::PATH)
        .args(["plan", "--json", "--admin", admin, "--config", "next.toml"])
        .current_dir(program.directory())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Open descriptors, and resident memory in KiB.
fn size_of(pid: i32) -> (usize, usize) {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (descriptors, line.trim().trim_end_matches(" kB").parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_closes_only_sessions_that_its_plan_announced() {
    let full = std::env::var("EVENKEEL_STORM").is_ok_and(|value| value == "full");
    for seed in seeds(u64::from(!full), 1) {
        storm(seed, full).await;
    }
}

async fn storm(seed: u64, full: bool) {
    let (sessions, reloads) = if full { (5_000, 200) } else { (200, 30) };
    let mut random = fastrand::Rng::with_seed(seed);
    loadtest::raise_descriptor_limit();

    let directory = tempfile::tempdir().unwrap();
    let ports = directory.path().join("ports");
    let _backends = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reload::storm::backends", "--nocapture"])
        .env(PORTS, &ports)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let said = until("the backends listen", || async { std::fs::read_to_string(&ports).ok() }).await;
    let backends: Vec<String> = said.lines().map(str::to_owned).collect();
    let fronts: Vec<_> = (0..LISTENERS).map(|_| free_port_of([127, 77, 9, 1])).collect();

    let (text, mut open) = some_file(&mut random, &fronts, &backends);
    let program = Program::start(&text, &[]);
    let admin = program.admin().await;
    program.front("l0").await;
    let (pattern, shared) = (Arc::new(Pattern::new(seed)), Arc::new(Shared::default()));
    shared.pause.store(if full { 1_000 } else { 200 }, SeqCst);
    let mut clients = JoinSet::new();
    let (mut announced, mut sizes) = (0, Vec::new());
    for number in 1..=reloads {
        // Tries again until there are enough sessions.
        until("all sessions are there", || {
            while clients.try_join_next().is_some_and(|ended| ended.is_ok()) {}
            let missing = sessions - shared.live.load(SeqCst).min(sessions);
            if clients.len() < sessions && missing > 0 {
                for _ in 0..(sessions - clients.len()).min(100) {
                    let front = open[random.usize(..open.len())];
                    clients.spawn(session(front, random.u64(..), Arc::clone(&pattern), Arc::clone(&shared)));
                }
            }
            async move { (missing == 0).then_some(()) }
        })
        .await;
        if number % (reloads / 10) == 0 {
            sizes.push(size_of(program.pid()));
        }

        let (text, now_open) = some_file(&mut random, &fronts, &backends);
        std::fs::write(program.directory().join("next.toml"), &text).unwrap();
        let plan = planned(&program, &format!("http://{admin}")).await;
        let before = get_json(admin, "/api/v1/config").await;
        let some = |key: &str| !plan[key].as_array().unwrap().is_empty();
        std::fs::rename(program.directory().join("next.toml"), program.directory().join("lb.toml")).unwrap();
        program.signal(rustix::process::Signal::HUP);
        if some("listeners") || some("pools") || some("process") {
            until(&format!("reload {number} of SEED={seed}"), || async {
                let now = get_json(admin, "/api/v1/config").await;
                assert_ne!(now["last_reload"]["result"], "refused", "SEED={seed}: {now}\n{text}");
                (now["generation"] != before["generation"]).then_some(())
            })
            .await;
        }
        announced += usize::try_from(plan["sessions"]["closed"].as_u64().unwrap()).unwrap();
        until(&format!("{announced} are cut, SEED={seed}, reload {number}"), || async {
            let cut = shared.cut.load(SeqCst);
            if cut > announced {
                let ended = get(admin, "/metrics").await.unwrap().1;
                let ended: Vec<_> = ended.lines().filter(|line| line.starts_with("evenkeel_sessions_total")).collect();
                panic!("SEED={seed}, reload {number}: {cut} of {announced}\n{ended:#?}\n{plan:#}\n{text}");
            }
            (cut == announced).then_some(())
        })
        .await;
        open = now_open;
    }
    shared.over.store(true, SeqCst);
    while let Some(ended) = soon("the sessions end", clients.join_next()).await {
        let _ = ended.unwrap();
    }
    assert_eq!((shared.cut.load(SeqCst), shared.live.load(SeqCst)), (announced, 0), "SEED={seed}");
    let bytes = shared.bytes.load(SeqCst);
    eprintln!("{sessions} sessions, {reloads} reloads, {announced} cuts announced and seen, {bytes} bytes verified");
    eprintln!("(descriptors, KiB resident) over time: {sizes:?}");
    // The second of the ten is past the start's growth.
    let (settled, last) = (sizes[1], *sizes.last().unwrap());
    assert!(last.0 <= settled.0 + 2 * sessions / 10 + 200, "descriptors grow: {sizes:?}");
    assert!(last.1 <= settled.1 * 3 / 2 + 16_384, "memory grows: {sizes:?}");
    let metrics = get(admin, "/metrics").await.unwrap().1;
    assert!(metrics.contains("evenkeel_config_reloads_total{result=\"refused\"} 0\n"), "SEED={seed}");
}
