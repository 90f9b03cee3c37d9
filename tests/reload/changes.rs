//! Pools, policies, times and limits change under running sessions.

use evenkeel::config::Difference;
use evenkeel::metrics::Outcome;
use tokio::net::TcpStream;

use super::{Live, file};
use crate::support::{Backend, MODES, Registry, Rig, exchange, free_port, get, get_json, soon, until};

/// One after the other on one live session, none of which announces an end.
#[tokio::test]
async fn a_reload_does_not_disturb_running_sessions() {
    let (a, b) = (Backend::echo().await, Backend::echo().await);
    let (a, b) = (a.address(), b.address());
    let other =
        format!("[listeners.other]\nbind = \"127.0.0.1:0\"\npool = \"other\"\n[pools.other]\nbackends = [\"{b}\"]\n");
    let changes = [
        ("nothing", file(&[a], "", "")),
        ("a backend more", file(&[a, b], "", "")),
        ("another policy", file(&[a, b], "", "balance = \"least_connections\"")),
        ("a check", file(&[a, b], "", "check = { interval = \"50ms\" }")),
        ("another check", file(&[a, b], "", "check = { interval = \"70ms\", fall = 9 }")),
        ("no check", file(&[a, b], "", "")),
        ("a limit", file(&[a, b], "max_connections = 7", "")),
        ("a limit below what there is", file(&[a, b], "max_connections = 1", "")),
        ("no limit", file(&[a, b], "", "timeouts.idle = \"1h\"")),
        ("timeouts", file(&[a, b], "", "timeouts.idle = \"30m\"\ntimeouts.half_close = \"5s\"")),
        ("how it is dialled", file(&[a, b], "", "connect.attempts = 1\nsource = \"127.0.0.3\"\npreconnect = 1")),
        (
            "socket options",
            file(&[a, b], "tcp = { nodelay = false, keepalive = false, backlog = 7 }", "tcp.nodelay = false"),
        ),
        ("who is believed", file(&[a, b], "accept_proxy = { from = [\"10.0.0.0/8\"] }", "send_proxy = \"v1\"")),
        ("others come", file(&[a, b], "", "") + &other),
        ("others go", file(&[a, b], "", "")),
        ("its backend goes", file(&[b], "", "")),
        (
            "its pool is another one",
            file(&[b], "", "").replace("pool = \"back\"", "pool = \"new\"").replace("[pools.back]", "[pools.new]"),
        ),
        ("its listener is another one", file(&[b], "", "").replace("[listeners.front]", "[listeners.new]")),
    ];
    for (mode, keys) in MODES {
        let rig = Rig::start(&file(&[a], "", keys)).await;
        let mut live = Live::new(rig.front()).await;
        for (what, text) in &changes {
            let text = text.replace("kind = \"none\" }\n", &format!("kind = \"none\" }}\n{keys}"));
            rig.reload(&text).await.unwrap_or_else(|error| panic!("{mode}: {what}: {error}"));
            live.goes_on().await;
        }
        assert_eq!(rig.balancer().state().sessions(), 1, "{mode}");
        drop(live);
        rig.until_no_sessions().await;
        rig.stop().await;
    }
}

/// Counters, standing and the moment of its last change stay with an identity that stays.
#[tokio::test]
async fn the_state_of_a_backend_survives_a_reload() {
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    let rig = Rig::start(&file(&[a.address()], "", "check = { interval = \"50ms\" }")).await;
    let id = a.address().to_string();
    let before = rig.until_standing(&id, "up").await;
    for _ in 0..3 {
        exchange(rig.front(), b"?").await.unwrap();
    }
    let weighted = format!("{{ address = \"{id}\", weight = 5 }}");
    let text =
        file(&[a.address(), b.address()], "", "check = { interval = \"50ms\" }\nbalance = \"least_connections\"")
            .replacen(&format!("\"{id}\""), &weighted, 1);
    let applied = rig.reload(&text).await.unwrap();
    assert!(matches!(&applied.diff.pools[..], [pool] if matches!(pool.what, Difference::Changed(_))), "{applied:?}");
    rig.until_standing(&b.address().to_string(), "up").await;
    let after = until("the weight", || async { rig.backend(&id).await.filter(|backend| backend["weight"] == 5) }).await;
    assert_eq!((&before["since"], &before["standing"]), (&after["since"], &after["standing"]));
    rig.until_no_sessions().await;
    let sessions =
        format!("evenkeel_sessions_total{{listener=\"front\",pool=\"back\",backend=\"{id}\",outcome=\"completed\"}}");
    assert_eq!(rig.metric(&sessions).await, 3.0);
    rig.stop().await;
}

/// Backends from discovery are in no file. After a reload they are still there, with all that is known about them: also while the
/// registry does not answer, and also if the query changes.
#[tokio::test]
async fn backends_from_discovery_survive_a_reload() {
    let registry = Registry::new().await;
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    registry.add("web", "a", a.address());
    let rig = registry.rig("", "").await;
    rig.until_standing("dev/a", "up").await;
    registry.add("web", "b", b.address());
    registry.add("web", "dead", free_port());
    rig.until_standing("dev/b", "up").await;
    rig.until_standing("dev/dead", "down").await;
    let known = async || {
        let mut known = Vec::new();
        for id in ["dev/a", "dev/b", "dev/dead"] {
            let backend = rig.backend(id).await.unwrap_or_else(|| panic!("{id} is lost"));
            known.push((id, backend["standing"].clone(), backend["since"].clone()));
        }
        known
    };
    let before = known().await;
    registry.stop().await;
    let slower = "check = { interval = \"200ms\", fast_interval = \"50ms\", timeout = \"10s\" }";
    for (consul, more) in [
        ("", "backend_max_sessions = 100".to_owned()),
        ("", slower.to_owned()),
        ("", format!("{slower}\nbalance = \"least_connections\"")),
        (", warning = \"out\"", "".to_owned()),
        (", tags = [\"none\"]", "".to_owned()),
    ] {
        let applied = rig.reload(&registry.config(consul, &more)).await.unwrap();
        assert!(!applied.diff.is_empty(), "{consul} {more}");
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(exchange(rig.front(), b"?").await.unwrap());
            rig.until_no_sessions().await;
        }
        answers.sort();
        assert_eq!(answers, [b"a", b"a", b"b", b"b"], "{consul} {more}");
        assert_eq!(known().await, before, "{consul} {more}");
    }
    rig.stop().await;
}

/// The sessions that a backend has are known to a policy that came after them.
#[tokio::test]
async fn least_connections_counts_the_sessions_from_before_it() {
    let (a, b) = (Backend::echo().await, Backend::echo().await);
    let rig = Rig::start(&file(&[a.address()], "", "")).await;
    let mut living = Vec::new();
    for _ in 0..3 {
        living.push(Live::new(rig.front()).await);
    }
    rig.reload(&file(&[a.address(), b.address()], "", "balance = \"least_connections\"")).await.unwrap();
    let (a, b) = (a.address().to_string(), b.address().to_string());
    rig.until_standing(&b, "up").await;
    let sessions = async |id: &str| rig.backend(id).await.unwrap()["sessions"].clone();
    for more in 1..=3 {
        living.push(Live::new(rig.front()).await);
        assert_eq!((sessions(&a).await, sessions(&b).await), (3.into(), more.into()));
    }
    for _ in 0..2 {
        living.push(Live::new(rig.front()).await);
    }
    assert_eq!((sessions(&a).await, sessions(&b).await), (4.into(), 4.into()));
    drop(living);
    rig.until_no_sessions().await;
    rig.stop().await;
}

#[tokio::test]
async fn running_sessions_use_the_new_timeouts_in_every_mode() {
    let backend = Backend::echo().await;
    for (mode, keys) in MODES {
        let keep = format!("{keys}timeouts.idle = \"1h\"");
        let rig = Rig::start(&file(&[backend.address()], "", &keep)).await;
        let (quiet, mut half) = (Live::new(rig.front()).await, Live::new(rig.front()).await);
        // A longer time is obeyed as well as a shorter one.
        rig.reload(&file(&[backend.address()], "", &format!("{keys}timeouts.idle = \"2h\""))).await.unwrap();
        half.goes_on().await;
        rig.reload(&file(&[backend.address()], "", &format!("{keys}timeouts.idle = \"50ms\""))).await.unwrap();
        assert!(quiet.ends_reset().await, "{mode}");
        assert!(half.ends_reset().await, "{mode}");
        rig.until_no_sessions().await;
        assert_eq!(rig.ended(Outcome::IdleTimeout), 2, "{mode}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_lower_limit_waits_for_sessions_to_end_and_a_higher_one_admits_at_once() {
    let backend = Backend::echo().await;
    let with = |limit: &str| file(&[backend.address()], limit, "");
    for scope in ["listener", "process"] {
        let with = |limit: u32| match scope {
            "listener" => with(&format!("max_connections = {limit}")),
            _ => format!("max_connections = {limit}\n{}", with("")),
        };
        let rig = Rig::start(&with(3)).await;
        let front = rig.front();
        let (a, b, mut c) = (Live::new(front).await, Live::new(front).await, Live::new(front).await);
        rig.reload(&with(1)).await.unwrap();
        c.goes_on().await;
        let waiting = tokio::spawn(Live::new(front));
        let at_limit = "evenkeel_listener_at_limit{listener=\"front\"}";
        rig.until_metric(at_limit, 1.0).await;
        drop((a, b));
        until("two have left", || async { (rig.balancer().state().sessions() == 1).then_some(()) }).await;
        assert!(!waiting.is_finished(), "{scope}: one is one too many");
        rig.reload(&with(2)).await.unwrap();
        let waited = soon("a place", waiting).await.unwrap();
        assert_eq!(rig.balancer().state().sessions(), 2, "{scope}");
        drop((c, waited));
        rig.until_no_sessions().await;
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_new_check_decides_only_after_rise_or_fall_results() {
    let (good, dead) = (Backend::echo().await, free_port());
    let rig = Rig::start(&file(&[good.address()], "", "check = { interval = \"20ms\" }")).await;
    let id = good.address().to_string();
    rig.until_standing(&id, "up").await;
    let changes = format!("evenkeel_backend_standing_changes_total{{pool=\"back\",backend=\"{id}\"}}");
    let before = rig.metric(&changes).await;
    // The check is wrong from now on; what it says once does not yet count.
    let wrong = format!("check = {{ port = {}, interval = \"20ms\", fall = 4 }}", dead.port());
    rig.reload(&file(&[good.address()], "", &wrong)).await.unwrap();
    let down = rig.until_standing(&id, "down").await;
    assert!(down["reason"].as_str().unwrap().contains("4th failure"), "{down}");
    assert_eq!(rig.metric(&changes).await, before + 1.0, "it never was unproven");
    rig.reload(&file(&[good.address()], "", "")).await.unwrap();
    rig.until_standing(&id, "up").await;
    rig.stop().await;
}

#[tokio::test]
async fn sessions_of_a_removed_backend_stay_or_close_as_configured() {
    let (a, b) = (Backend::echo().await, Backend::echo().await);
    let rig = Rig::start(&file(&[a.address()], "", "")).await;
    let mut live = Live::new(rig.front()).await;
    rig.reload(&file(&[b.address()], "", "")).await.unwrap();
    rig.until_standing(&a.address().to_string(), "removed").await;
    live.goes_on().await;
    // Only this file says that they are to be closed; it applies to running sessions too.
    rig.reload(&file(&[b.address()], "", "on_removed = \"close\"")).await.unwrap();
    assert!(live.ends_reset().await);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::BackendRemoved), 1);
    rig.stop().await;
}

#[tokio::test]
async fn keys_that_need_a_restart_are_named_and_the_rest_is_applied() {
    let backend = Backend::answering("a").await;
    let rig = Rig::start(&file(&[backend.address()], "", "")).await;
    let text = format!("workers = 3\nlog.format = \"json\"\n{}", file(&[backend.address()], "max_connections = 9", ""));
    let applied = rig.reload(&text).await.unwrap();
    assert_eq!(applied.needs_restart, ["log.format", "workers"]);
    assert_eq!(rig.metric("evenkeel_listener_max_connections{listener=\"front\"}").await, 9.0);
    assert_eq!(rig.metric("evenkeel_config_needs_restart").await, 2.0);
    let config: serde_json::Value = get_json(rig.admin(), "/api/v1/config").await;
    assert_eq!(config["needs_restart"], serde_json::json!(["log.format", "workers"]));
    assert_eq!((&config["generation"], &config["last_reload"]["result"]), (&2.into(), &"applied".into()));
    assert_eq!(config["config"]["listeners"]["front"]["max_connections"], 9);
    rig.stop().await;
}

#[tokio::test]
async fn the_admin_listener_moves_or_stays_where_it_is() {
    let backend = Backend::echo().await;
    let rig = Rig::start(&file(&[backend.address()], "", "")).await;
    let (old, new) = (rig.admin(), free_port());
    let to = |address: std::net::SocketAddr| {
        let text = format!("[admin]\nbind = \"{address}\"\n{}", file(&[backend.address()], "", ""));
        evenkeel::config::parse(&text, "test", &|_| None).unwrap()
    };
    // There are sessions: nothing moves.
    let taken = rig.balancer().reload(to(rig.front())).await.unwrap_err().to_string();
    assert!(taken.contains("can't listen on") && taken.contains("another program"), "{taken}");
    assert_eq!(get(old, "/live").await.unwrap().0, 200);
    assert_eq!(rig.metric("evenkeel_config_last_reload_successful").await, 0.0);
    rig.balancer().reload(to(new)).await.unwrap();
    assert_eq!(rig.admin(), new);
    assert_eq!(get(new, "/live").await.unwrap().0, 200);
    until("the old one is gone", || async { TcpStream::connect(old).await.err() }).await;
    rig.stop().await;
}
