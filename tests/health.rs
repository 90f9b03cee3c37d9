//! Health checks and what follows from them, through a whole balancer and real sockets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, HealthBackend, Program, Registry, Rig, answers, exchange, free_port, until};

const FAST: &str = "interval = \"40ms\", fast_interval = \"20ms\", timeout = \"10s\", rise = 2, fall = 3";

async fn http_pool(backends: &[&HealthBackend], check: &str, more: &str) -> Rig {
    let check = format!("check = {{ kind = \"http\", path = \"/health\", {check} }}\n{more}");
    Rig::with_health_backends(backends, &check).await
}

#[tokio::test]
async fn rise_and_fall_flip_and_isolated_failures_do_not_add_up() {
    let backend = HealthBackend::with_status("a", 200).await;
    let rig = http_pool(&[&backend], FAST, "").await;
    let id = backend.id();
    let up = rig.until_standing(&id, "up").await;
    assert_eq!(up["reason"], "http GET /health: status 200 (1st pass)");

    let script = [503, 503, 200].repeat(8);
    let before = backend.probes();
    backend.set_health(&script, 200);
    backend.until_probes(before + script.len() + 2).await;
    assert_eq!(rig.backend_metric("standing_changes_total", &id).await, 1.0, "two failures in a row are not three");

    backend.set_health(&[], 503);
    let down = rig.until_standing(&id, "down").await;
    assert_eq!(down["reason"], "http GET /health: status 503, wanted 200-399 (3rd failure)");
    assert_eq!(down["facts"]["probe"], "down");

    let before = backend.probes();
    backend.set_health(&[200, 503, 200, 503], 503);
    backend.until_probes(before + 6).await;
    assert_eq!(rig.backend_metric("standing_changes_total", &id).await, 2.0, "one pass in a row is not two");
    backend.set_health(&[], 200);
    let up = rig.until_standing(&id, "up").await;
    assert_eq!(up["reason"], "http GET /health: status 200 (2nd pass)");
    rig.stop().await;
}

#[tokio::test]
async fn a_backend_that_falls_silent_is_down_in_the_promised_time() {
    let backend = HealthBackend::with_status("a", 200).await;
    let check = "interval = \"2s\", fast_interval = \"50ms\", timeout = \"200ms\", fall = 3";
    let rig = http_pool(&[&backend], check, "").await;
    rig.until_standing(&backend.id(), "up").await;
    backend.set_health(&[], 0);
    let silent = Instant::now();
    let down = rig.until_standing(&backend.id(), "down").await;
    let took = silent.elapsed();
    assert_eq!(down["reason"], "http GET /health: timeout after 200ms, wanted 200-399 (3rd failure)");
    // interval + fall × (fast_interval + timeout) = 2.75 s, and a second for a machine that has other things to do.
    // Without `fast_interval` it would be three intervals.
    assert!(took < Duration::from_millis(3_750), "{took:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_slow_backend_does_not_delay_the_probes_of_others() {
    let (slow, good) = (HealthBackend::with_status("slow", 0).await, HealthBackend::with_status("good", 200).await);
    let rig = http_pool(&[&slow, &good], FAST, "").await;
    good.until_probes(20).await;
    assert_eq!(slow.probes(), 1, "its first probe is still on its way");
    assert_eq!(rig.until_standing(&slow.id(), "unproven").await["reason"], "no probe has finished yet");
    assert_eq!(answers(rig.front(), 4).await, ["good"; 4]);
    rig.stop().await;
}

#[tokio::test]
async fn two_pools_share_the_probe_of_one_address() {
    let backend = HealthBackend::with_status("a", 200).await;
    let check = format!("check = {{ kind = \"http\", path = \"/health\", {FAST} }}");
    let other = format!("check = {{ kind = \"http\", path = \"/health?other\", {FAST} }}");
    let pool = |name: &str, check: &str| {
        format!(
            "[listeners.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n[pools.{name}]\nbackends = [\"{}\"]\n{check}\n",
            backend.id()
        )
    };
    let rig = Rig::start(&(pool("one", &check) + &pool("two", &check))).await;
    let passes = |pool: &str| {
        format!("evenkeel_probes_total{{pool=\"{pool}\",backend=\"{}\",kind=\"http\",result=\"pass\"}}", backend.id())
    };
    for pool in ["one", "two"] {
        until(pool, || async { (rig.metric(&passes(pool)).await >= 10.0).then_some(()) }).await;
    }
    let asked_before = backend.probes() as f64;
    let (one, two) = (rig.metric(&passes("one")).await, rig.metric(&passes("two")).await);
    let asked_after = backend.probes() as f64;
    // Each probe counts in both pools; separate probes would make twice as many connections.
    for pool in [one, two] {
        assert!(
            asked_before <= pool + 2.0 && pool <= asked_after,
            "{asked_before} to {asked_after}, but {pool} in a pool"
        );
    }
    assert_eq!(rig.balancer().state().prober.stats().running, 1);
    rig.stop().await;

    let rig = Rig::start(&(pool("one", &check) + &pool("two", &other))).await;
    assert_eq!(rig.until_standing(&backend.id(), "up").await["standing"], "up");
    until("two probes", || async { (rig.balancer().state().prober.stats().running == 2).then_some(()) }).await;
    rig.stop().await;
}

#[tokio::test]
async fn the_probes_of_a_removed_backend_stop() {
    let (gone, stays) = (HealthBackend::with_status("gone", 200).await, HealthBackend::with_status("stays", 200).await);
    let registry = Registry::new().await;
    registry.add("web", "gone", gone.backend.address());
    registry.add("web", "stays", stays.backend.address());
    let rig = registry.rig("", &format!("check = {{ kind = \"http\", path = \"/health\", {FAST} }}")).await;
    let (gone_id, stays_id) = (registry.id("gone"), registry.id("stays"));
    rig.until_standing(&gone_id, "up").await;
    rig.until_standing(&stays_id, "up").await;

    registry.deregister("gone");
    rig.until_standing(&gone_id, "removed").await;
    assert_eq!(rig.balancer().state().prober.stats().running, 1);
    // One may have been on its way; it has arrived when the other has been asked again.
    stays.until_probes(stays.probes() + 2).await;
    let asked = gone.probes();
    stays.until_probes(stays.probes() + 20).await;
    assert_eq!(gone.probes(), asked);
    rig.stop().await;
}

/// Probes go to a port that answers, sessions to one that does not: only sessions can know.
async fn liar(interval: &str, more: &str) -> (HealthBackend, Backend, SocketAddr, Rig) {
    let (health, good, dead) =
        (HealthBackend::with_status("health", 200).await, Backend::answering("good").await, free_port());
    let check = format!(
        "check = {{ kind = \"http\", path = \"/health\", port = {}, interval = \"{interval}\", fast_interval = \"10ms\", fall = 3 }}\n{more}",
        health.backend.address().port()
    );
    let rig = Rig::with_backends(&[&good.address().to_string(), &dead.to_string()], &check).await;
    for id in [good.address(), dead] {
        rig.until_standing(&id.to_string(), "up").await;
    }
    (health, good, dead, rig)
}

#[tokio::test]
async fn sessions_eject_what_they_cannot_reach_and_no_client_notices() {
    let (_health, _good, dead, rig) = liar("1h", "").await;
    let id = dead.to_string();
    // Every second one is sent to the dead backend first, and goes on to the good one.
    assert_eq!(answers(rig.front(), 6).await, ["good"; 6]);
    let ejected = rig.until_standing(&id, "ejected").await;
    assert_eq!(ejected["reason"], "3 connects by sessions failed in a row, the last one: refused");
    assert_eq!((&ejected["facts"]["probe"], &ejected["facts"]["passive"]), (&"up".into(), &"ejected".into()));

    let attempts = format!("evenkeel_backend_connect_attempts_total{{pool=\"back\",backend=\"{id}\"}}");
    let refused =
        format!("evenkeel_backend_connect_failures_total{{pool=\"back\",backend=\"{id}\",reason=\"refused\"}}");
    let before = rig.metric(&attempts).await;
    assert_eq!(before, rig.metric(&refused).await);
    assert_eq!(answers(rig.front(), 10).await, ["good"; 10]);
    assert_eq!(rig.metric(&attempts).await, before, "nothing more is sent there");
    rig.until_metric("evenkeel_pool_eligible_backends{pool=\"back\"}", 1.0).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_probe_of_another_port_does_not_end_an_ejection() {
    let (health, _good, dead, rig) = liar("20ms", "").await;
    let id = dead.to_string();
    until("ejected", || async {
        answers(rig.front(), 2).await;
        rig.backend(&id).await.filter(|backend| backend["standing"] == "ejected")
    })
    .await;
    health.until_probes(health.probes() + 20).await;
    let ejected = rig.backend(&id).await.unwrap();
    assert_eq!((&ejected["standing"], &ejected["facts"]["probe"]), (&"ejected".into(), &"up".into()));
    rig.stop().await;
}

#[tokio::test]
async fn with_any_sessions_try_backends_that_are_down() {
    let (a, b) = (HealthBackend::with_status("a", 503).await, HealthBackend::with_status("b", 503).await);
    let rig = http_pool(&[&a, &b], FAST, "when_all_down = \"any\"").await;
    rig.until_metric("evenkeel_pool_all_down{pool=\"back\"}", 1.0).await;
    rig.until_metric("evenkeel_pool_fail_open{pool=\"back\"}", 1.0).await;
    assert_eq!(answers(rig.front(), 4).await, ["a", "a", "b", "b"]);
    a.set_health(&[], 200);
    rig.until_metric("evenkeel_pool_all_down{pool=\"back\"}", 0.0).await;
    rig.until_metric("evenkeel_pool_fail_open{pool=\"back\"}", 0.0).await;
    assert_eq!(answers(rig.front(), 4).await, ["a"; 4]);
    rig.stop().await;
}

#[tokio::test]
async fn refuse_closes_new_sessions_and_leaves_old_ones() {
    let a = HealthBackend::with_status("a", 200).await;
    let rig = http_pool(&[&a], FAST, "").await;
    rig.until_standing(&a.id(), "up").await;
    let mut old = TcpStream::connect(rig.front()).await.unwrap();
    rig.until_metric("evenkeel_pool_sessions{pool=\"back\"}", 1.0).await;

    a.set_health(&[], 503);
    rig.until_standing(&a.id(), "down").await;
    rig.until_metric("evenkeel_pool_all_down{pool=\"back\"}", 1.0).await;
    rig.until_metric("evenkeel_pool_fail_open{pool=\"back\"}", 0.0).await;
    assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"", "an ordinary close");
    // A refused client may see the close a moment before it is counted.
    until("it is counted", || async { (rig.ended(Outcome::NoBackend) == 1).then_some(()) }).await;

    old.write_all(b"still there?").await.unwrap();
    let mut answer = [0; 1];
    old.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"a");
    drop(old);
    rig.until_no_sessions().await;
    rig.stop().await;
}

#[tokio::test]
async fn without_a_check_a_backend_is_up_until_sessions_fail() {
    let (good, dead) = (Backend::answering("good").await, free_port());
    let id = dead.to_string();
    let rig = Rig::with_backends(&[&good.address().to_string(), &id], "check = { kind = \"none\", fall = 3 }").await;
    let up = rig.until_standing(&id, "up").await;
    assert_eq!((&up["facts"]["probe"], &up["reason"]), (&"none".into(), &"no active check".into()));
    assert!(up["last_probe"].is_null());
    assert_eq!(rig.balancer().state().prober.stats().running, 0);
    assert_eq!(good.connections(), 0, "nobody probes");
    assert_eq!(answers(rig.front(), 6).await, ["good"; 6]);
    rig.until_standing(&id, "ejected").await;
    rig.stop().await;
}

#[tokio::test]
async fn the_log_says_when_and_why_no_backend_is_up() {
    let a = HealthBackend::with_status("a", 200).await;
    let mut program = Program::start(
        &format!(
            "admin.bind = \"off\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
             backends = [\"{}\"]\nwhen_all_down = \"any\"\ncheck = {{ kind = \"http\", path = \"/health\", {FAST} }}\n",
            a.id()
        ),
        &["run"],
    );
    program.until_says("up: http GET /health: status 200 (1st pass)").await;
    a.set_health(&[], 503);
    program.until_says("down: http GET /health: status 503, wanted 200-399 (3rd failure)").await;
    program.until_says("no backend is up: sessions may try any of them").await;
    let asked = a.probes();
    a.until_probes(asked + 10).await;
    a.set_health(&[], 200);
    program.until_says("a backend is up again").await;
    program.signal(rustix::process::Signal::TERM);
    assert!(program.end().await.success());
    for text in ["down: ", "no backend is up", "a backend is up again"] {
        let lines: Vec<_> = program.log().into_iter().filter(|line| line.contains(text)).collect();
        assert_eq!(lines.len(), 1, "{lines:#?}");
    }
}
