//! A pool's `fallback`: where its sessions go while it has nothing for them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, Blackhole, Last, MODES, Program, Rig, exchange, free_port, last, soon, until};

const NO_CHECK: &str = "check = { kind = \"none\", fall = 100 }\n";
const FAST_CHECK: &str =
    "check = { interval = \"50ms\", fast_interval = \"20ms\", timeout = \"500ms\", rise = 1, fall = 1 }\n";

/// The pools `back` with `fallback = "other"`, and `other`.
fn config((backs, back): (&[SocketAddr], &str), (others, other): (&[SocketAddr], &str)) -> String {
    let list = |all: &[SocketAddr]| format!("{:?}", all.iter().map(ToString::to_string).collect::<Vec<_>>());
    format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nfallback = \"other\"\nbackends = {}\n{back}\n\
         [pools.other]\nbackends = {}\n{other}\n",
        list(backs),
        list(others)
    )
}

async fn is_served(client: &mut TcpStream) {
    client.write_all(b"x").await.unwrap();
    assert_eq!(soon("an answer", client.read_u8()).await.unwrap(), b'x');
}

async fn is_refused(front: SocketAddr) {
    let mut client = TcpStream::connect(front).await.unwrap();
    assert_eq!(soon("a refusal", last(&mut client)).await, Last::Fin);
}

async fn fallback_sessions(rig: &Rig) -> f64 {
    rig.metric("evenkeel_pool_fallback_sessions_total{pool=\"back\"}").await
}

/// While nothing is up here; the fallback's own settings apply; and new sessions come home.
#[tokio::test]
async fn sessions_go_there_while_nothing_is_up_and_come_home() {
    let dead = free_port();
    let other = Backend::serving(|mut stream| async move {
        let mut line = [0; 6];
        let _ = stream.read_exact(&mut line).await;
        let _ = stream.write_all(if &line == b"PROXY " { b"header" } else { b"none" }).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let rig = Rig::start(&config((&[dead], FAST_CHECK), (&[other.address()], "send_proxy = \"v1\""))).await;
    // The first client comes while nothing is known: it waits, and is served.
    assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"header");
    rig.until_metric("evenkeel_pool_all_down{pool=\"back\"}", 1.0).await;
    assert_eq!(rig.metric("evenkeel_pool_on_fallback{pool=\"back\"}").await, 1.0);
    let pools = rig.pools().await;
    assert_eq!((&pools["pools"][0]["fallback"], &pools["pools"][0]["served_by"]), (&"other".into(), &"other".into()));
    assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"header");
    let dials = rig.backend_metric("connect_attempts_total", &dead.to_string()).await;
    assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"header");
    assert_eq!(
        rig.backend_metric("connect_attempts_total", &dead.to_string()).await,
        dials,
        "what is down is not dialled"
    );

    let _home = Backend::on(dead, |mut stream| async move {
        let _ = stream.write_all(b"home").await;
    })
    .await;
    rig.until_metric("evenkeel_pool_on_fallback{pool=\"back\"}", 0.0).await;
    assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"home");
    rig.until_no_sessions().await;
    assert_eq!((fallback_sessions(&rig).await, rig.ended(Outcome::Completed)), (3.0, 4));
    // By the backend that served.
    let series = |pool| {
        format!(
            "evenkeel_sessions_total{{listener=\"front\",pool=\"{pool}\",backend=\"{}\",outcome=\"completed\"}}",
            other.address()
        )
    };
    assert_eq!(rig.metric(&series("other")).await, 3.0);
    rig.stop().await;
}

/// In every way that bytes go, and with the fallback's own relay.
#[tokio::test]
async fn every_relay_of_the_fallback_works() {
    for (relay, more) in MODES {
        let other = Backend::echo().await;
        let text = config((&[free_port()], NO_CHECK), (&[other.address()], more));
        let rig = Rig::start(&text).await;
        let request: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        assert!(exchange(rig.front(), &request).await.unwrap() == request, "{relay}");
        rig.until_no_sessions().await;
        assert_eq!(fallback_sessions(&rig).await, 1.0, "{relay}");
        rig.stop().await;
    }
}

/// `failed`: the session whose connects fail goes on; without it, it does not.
#[tokio::test]
async fn a_session_that_has_failed_goes_on_by_spill() {
    let (first, second, other) = (free_port(), free_port(), Backend::answering("there").await);
    for (spill, is_served) in [("[\"failed\"]", true), ("[\"full\", \"slow\"]", false), ("[]", false)] {
        let back = format!("{NO_CHECK}spill = {spill}\nconnect = {{ deadline = \"600ms\" }}");
        let rig = Rig::start(&config((&[first, second], &back), (&[other.address()], ""))).await;
        rig.until_standing(&other.address().to_string(), "up").await;
        if is_served {
            assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"there");
        } else {
            is_refused(rig.front()).await;
        }
        rig.until_no_sessions().await;
        let outcome = if is_served { Outcome::Completed } else { Outcome::ConnectFailed };
        assert_eq!(rig.ended(outcome), 1, "{spill}");
        for dead in [first, second] {
            assert!(rig.backend_metric("connect_attempts_total", &dead.to_string()).await >= 1.0, "{spill}");
        }
        rig.stop().await;
    }
}

/// One deadline for all pools, and all of them are tried again in rounds.
#[tokio::test]
async fn one_deadline_over_all_pools() {
    let (hole, other) = (Blackhole::new().await, Blackhole::new().await);
    let back = format!("{NO_CHECK}connect = {{ timeout = \"400ms\", deadline = \"700ms\", hedge = \"0s\" }}");
    let there = format!("{NO_CHECK}connect = {{ timeout = \"30s\", deadline = \"60s\" }}");
    let rig = Rig::start(&config((&[hole.address()], &back), (&[other.address()], &there))).await;
    let began = Instant::now();
    is_refused(rig.front()).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(650) && took < Duration::from_secs(5), "{took:?}");
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::ConnectFailed), 1);
    rig.stop().await;
}

/// A hedge goes there where `spill` has `slow`.
#[tokio::test]
async fn a_hedge_goes_there_with_slow() {
    let (hole, other) = (Blackhole::new().await, Backend::answering("there").await);
    let back = format!(
        "{NO_CHECK}spill = [\"slow\"]\nconnect = {{ timeout = \"30s\", deadline = \"40s\", hedge = \"50ms\" }}"
    );
    let rig = Rig::start(&config((&[hole.address()], &back), (&[other.address()], NO_CHECK))).await;
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"there");
    let won = "evenkeel_pool_hedged_connects_total{pool=\"other\",result=\"won\"}";
    assert_eq!((rig.metric(won).await, fallback_sessions(&rig).await), (1.0, 1.0));
    rig.stop().await;
}

/// `full`, without a queue: at once.
#[tokio::test]
async fn a_full_pool_spills_there() {
    let (backend, other) = (Backend::echo().await, Backend::echo().await);
    let (back, there) = (format!("{NO_CHECK}backend_max_sessions = 1"), format!("{NO_CHECK}backend_max_sessions = 1"));
    let rig = Rig::start(&config((&[backend.address()], &back), (&[other.address()], &there))).await;
    let mut clients = Vec::new();
    for wanted in [(1, 0), (1, 1)] {
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        is_served(&mut client).await;
        clients.push(client);
        assert_eq!((backend.connections(), other.connections()), wanted);
    }
    is_refused(rig.front()).await;
    drop(clients);
    rig.until_no_sessions().await;
    assert_eq!((rig.ended(Outcome::NoBackend), fallback_sessions(&rig).await), (1, 1.0));
    rig.stop().await;
}

/// With a queue it waits first; then it goes on, and waits in the fallback's queue if that is full, too.
#[tokio::test]
async fn after_its_queue_a_session_goes_on_and_may_wait_there() {
    let (backend, other) = (Backend::echo().await, Backend::echo().await);
    let (back, there) = (
        format!("{NO_CHECK}backend_max_sessions = 1\nqueue = {{ max_length = 1, timeout = \"300ms\" }}"),
        format!("{NO_CHECK}backend_max_sessions = 1\nqueue = {{ max_length = 1, timeout = \"1m\" }}"),
    );
    let rig = Rig::start(&config((&[backend.address()], &back), (&[other.address()], &there))).await;
    let mut first = TcpStream::connect(rig.front()).await.unwrap();
    is_served(&mut first).await;
    let began = Instant::now();
    let mut second = TcpStream::connect(rig.front()).await.unwrap();
    is_served(&mut second).await;
    assert!(began.elapsed() >= Duration::from_millis(300), "it waits before it goes on");
    // The queue there is the last that it waits in.
    let mut third = TcpStream::connect(rig.front()).await.unwrap();
    rig.until_metric("evenkeel_pool_queued_sessions{pool=\"other\"}", 1.0).await;
    drop(second);
    is_served(&mut third).await;
    assert_eq!((backend.connections(), other.connections()), (1, 2));
    drop((first, third));
    rig.until_no_sessions().await;
    assert_eq!(fallback_sessions(&rig).await, 2.0);
    rig.stop().await;
}

/// `when_all_down` says what becomes of a session when nothing is up there either.
#[tokio::test]
async fn a_backend_that_is_up_goes_before_a_last_resort() {
    let (bad, other) = (Backend::answering("bad").await, Backend::answering("there").await);
    let wrong = format!("when_all_down = \"any\"\n{}", FAST_CHECK.replace("{ interval", "{ kind = \"http\", interval"));
    let rig = Rig::start(&config((&[bad.address()], &wrong), (&[other.address()], FAST_CHECK))).await;
    let there = other.address();
    rig.until_standing(&bad.address().to_string(), "down").await;
    rig.until_standing(&there.to_string(), "up").await;
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"there");
    other.stop().await;
    rig.until_standing(&there.to_string(), "down").await;
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"bad");
    rig.stop().await;
}

/// A session that waits until something is up goes to the fallback as soon as something is up there.
#[tokio::test]
async fn a_session_that_waits_is_served_by_the_fallback_that_comes_back() {
    let (dead, gone) = (free_port(), free_port());
    let back = format!("when_all_down = \"wait\"\nqueue = {{ max_length = 9, timeout = \"1m\" }}\n{FAST_CHECK}");
    let rig = Rig::start(&config((&[dead], &back), (&[gone], FAST_CHECK))).await;
    rig.until_standing(&dead.to_string(), "down").await;
    rig.until_standing(&gone.to_string(), "down").await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    rig.until_metric("evenkeel_pool_queued_sessions{pool=\"back\"}", 1.0).await;
    let _other = Backend::on(gone, |mut stream| async move {
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            let _ = stream.write_all(&byte).await;
        }
    })
    .await;
    is_served(&mut client).await;
    assert_eq!(fallback_sessions(&rig).await, 1.0);
    drop(client);
    rig.stop().await;
}

/// A request goes on to the fallback; one without `replay` gets it as the last.
#[tokio::test]
async fn a_replay_goes_on_to_the_fallback() {
    let closes = || Backend::serving(|mut stream| async move { drop(stream.read_u8().await) });
    let (bad, worse, other) = (closes().await, closes().await, Backend::answering("there").await);
    let replay = format!("{NO_CHECK}replay = \"until_response\"\noutliers = {{ mode = \"off\" }}\n");
    let keeps_none = format!("{NO_CHECK}outliers = {{ mode = \"off\" }}\nsend_proxy = \"v1\"\nfallback = \"last\"");
    let text = config((&[bad.address()], &replay), (&[worse.address()], &keeps_none));
    let text = format!("{text}\n[pools.last]\nbackends = [\"{}\"]\n", other.address());
    let rig = Rig::start(&text).await;
    let answer = exchange(rig.front(), b"?").await;
    assert!(answer.as_ref().is_ok_and(Vec::is_empty) || answer.is_err(), "nothing comes after it: {answer:?}");
    rig.until_no_sessions().await;
    assert_eq!((worse.connections(), other.connections()), (1, 1), "the other connection is from the first part");
    rig.stop().await;

    // The other way round: only the fallback keeps requests. What the client said before goes with them.
    let text = config((&[free_port()], NO_CHECK), (&[worse.address(), other.address()], &replay));
    let rig = Rig::start(&text).await;
    for _ in 0..4 {
        assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"there");
    }
    rig.stop().await;
}

/// Pools in a row, and connections that the fallback keeps ready.
#[tokio::test]
async fn a_fallback_of_a_fallback_with_connections_kept_ready() {
    let last = Backend::echo().await;
    let text = config((&[free_port()], NO_CHECK), (&[free_port()], &format!("{NO_CHECK}fallback = \"last\"")));
    let rig = Rig::start(&format!("{text}\n[pools.last]\nbackends = [\"{}\"]\npreconnect = 4\n", last.address())).await;
    let of_last = |name: &str| format!("evenkeel_backend_{name}{{pool=\"last\",backend=\"{}\"}}", last.address());
    rig.until_metric(&of_last("preconnected"), 4.0).await;
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"?");
    assert_eq!(rig.metric(&of_last("preconnects_used_total")).await, 1.0);
    assert_eq!(fallback_sessions(&rig).await, 1.0);
    assert_eq!(
        rig.metric("evenkeel_pool_fallback_sessions_total{pool=\"other\"}").await,
        0.0,
        "it was routed to `back`"
    );
    rig.stop().await;
}

/// A reload gives and takes fallbacks; sessions there go on, also in a pool that leaves.
#[tokio::test]
async fn a_reload_changes_it_and_no_session_notices() {
    let (dead, first, second) = (free_port(), Backend::echo().await, Backend::echo().await);
    let to = |fallback: &str, pools: &[(&str, &Backend)]| {
        let more = |(name, backend): &(&str, &Backend)| {
            format!("[pools.{name}]\nbackends = [\"{}\"]\n{NO_CHECK}", backend.address())
        };
        format!(
            "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nbackends = [\"{dead}\"]\n{NO_CHECK}{fallback}\n{}",
            pools.iter().map(more).collect::<String>()
        )
    };
    let rig = Rig::start(&to("", &[])).await;
    is_refused(rig.front()).await;
    rig.reload(&to("fallback = \"one\"", &[("one", &first)])).await.unwrap();
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    is_served(&mut client).await;
    rig.reload(&to("fallback = \"two\"", &[("two", &second)])).await.unwrap();
    let mut later = TcpStream::connect(rig.front()).await.unwrap();
    is_served(&mut later).await;
    is_served(&mut client).await;
    assert_eq!((first.connections(), second.connections()), (1, 1));
    let sessions = crate::support::get_json(rig.admin(), "/api/v1/sessions").await;
    let pools: Vec<_> =
        sessions["sessions"].as_array().unwrap().iter().map(|it| (&it["pool"], &it["fallback_of"])).collect();
    assert_eq!(pools, [(&"one".into(), &"back".into()), (&"two".into(), &"back".into())]);
    drop(client);
    until("pool one is gone", || async { (rig.pools().await["pools"].as_array()?.len() == 2).then_some(()) }).await;
    is_served(&mut later).await;
    drop(later);
    rig.stop().await;
}

/// The program says it: `check`, the log, `explain`, `status`.
#[tokio::test]
async fn the_program_says_who_serves() {
    let (dead, other) = (free_port(), Backend::answering("there").await);
    let text = config((&[dead], FAST_CHECK), (&[other.address()], FAST_CHECK));
    let program = Program::start(&format!("admin.bind = \"127.0.0.1:0\"\n{text}"), &[]);
    let said = program.until_says("no backend is up: sessions go to pool `other`").await;
    assert!(said.contains("if none is up there, new sessions are refused"), "{said}");
    assert_eq!(exchange(program.front("front").await, b"?").await.unwrap(), b"there");
    let line = program.until_says("session ended").await;
    assert!(line.contains("pool=other fallback_of=back"), "{line}");
    let explained = program.good("", &["explain", "back"]).await;
    assert!(explained.contains("nothing is up here: sessions go to pool other"), "{explained}");
    let status = program.good("", &["status"]).await;
    assert!(status.contains("nothing is up, sessions go to pool other"), "{status}");
    program.stop().await;
}
