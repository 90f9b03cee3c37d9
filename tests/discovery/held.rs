//! A registry that answers, and is wrong: what it takes away stays while it works, and clients do not notice.

use std::time::Duration;

use backend_demo::registry::{Fault, Status};

use super::faults::{Scene, until_fact};
use crate::support::{Backend, Program, Registry, Rig, exchange, get, soon, until};

const FILTERED: &str = "evenkeel_discovery_filtered{pool=\"back\",source=\"consul\"}";

fn held(reason: &str) -> String {
    format!("evenkeel_pool_held_backends{{pool=\"back\",reason=\"{reason}\"}}")
}

/// Two instances with a check of their own that has run.
async fn scene() -> Scene {
    Scene::with(|registry, id, backend| {
        registry.add("web", id, backend);
        registry.set_status(id, Status::Passing);
    })
    .await
}

async fn reason(rig: &Rig, id: &str) -> String {
    rig.backend(id).await.unwrap()["reason"].as_str().unwrap().to_owned()
}

/// `a` works and is passing; one is in maintenance and one critical, and both work.
async fn with_the_dead(guard: &str) -> (Registry, Vec<Backend>, Rig) {
    let registry = Registry::new().await;
    let mut backends = Vec::new();
    for id in ["a", "out", "bad"] {
        let backend = Backend::answering(id).await;
        registry.add("web", id, backend.address());
        registry.set_status(id, Status::Passing);
        backends.push(backend);
    }
    registry.maintenance("out", true);
    registry.set_status("bad", Status::Critical);
    let rig = registry.rig("", guard).await;
    for (id, standing) in [("a", "up"), ("out", "maintenance"), ("bad", "down")] {
        rig.until_standing(&registry.id(id), standing).await;
        until_fact(&rig, &registry.id(id), "probe", "up").await;
    }
    (registry, backends, rig)
}

async fn only_a_answers(rig: &Rig) {
    for _ in 0..10 {
        assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"a");
    }
}

#[tokio::test]
async fn a_restart_of_the_registry_revives_no_backend() {
    let (registry, _backends, rig) = with_the_dead("").await;
    registry.restart_empty().await;
    until_fact(&rig, &registry.id("a"), "guard", "held").await;
    assert_eq!(rig.metric(&held("restart")).await + rig.metric(&held("trouble")).await, 1.0);
    for (id, standing) in [("out", "maintenance"), ("bad", "down")] {
        assert_eq!(rig.backend(&registry.id(id)).await.unwrap()["standing"], standing);
    }
    only_a_answers(&rig).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_backend_taken_out_during_an_outage_gets_no_sessions() {
    let (registry, _backends, rig) = with_the_dead("").await;
    registry.inject(Some(Fault::Status500));
    rig.until_metric("evenkeel_discovery_failing{pool=\"back\",source=\"consul\"}", 1.0).await;
    registry.deregister("bad");
    registry.deregister("out");
    registry.inject(None);
    rig.until_metric("evenkeel_discovery_failing{pool=\"back\",source=\"consul\"}", 0.0).await;
    let missing = "missing since the registry's trouble; the registry says critical: Pinned";
    until("told", || async { (reason(&rig, &registry.id("bad")).await == missing).then_some(()) }).await;
    only_a_answers(&rig).await;
    rig.stop().await;
}

/// An agent with a data directory: all are listed, every check is critical and has not run.
#[tokio::test]
async fn a_restart_with_checks_that_have_not_run_is_no_outage() {
    let scene = scene().await;
    scene.registry.restart().await;
    for id in ["a", "b"] {
        until_fact(&scene.rig, &scene.registry.id(id), "registry", "unknown").await;
        let why = reason(&scene.rig, &scene.registry.id(id)).await;
        assert!(why.starts_with("a check of the registry has not run yet: Pinned; tcp connect"), "{why}");
    }
    scene.a_while().await;
    // The first results come one after the other, and one is bad: right after the restart that is not believed.
    scene.registry.set_status("a", Status::Passing);
    until_fact(&scene.rig, &scene.registry.id("a"), "registry", "passing").await;
    scene.registry.set_status("b", Status::Passing);
    scene.registry.set_status("b", Status::Critical);
    scene.until_guard("b", "held").await;
    let why = "held: critical since the registry's restart, and its own probes pass: Pinned";
    assert_eq!(reason(&scene.rig, &scene.registry.id("b")).await, why);
    assert_eq!(scene.rig.metric(&held("restart")).await, 1.0);
    scene.a_while().await;
    scene.registry.set_status("b", Status::Passing);
    scene.until_guard("b", "none").await;
    scene.end().await;
}

/// The demo's `PUT /fault/hang`, mended after the members' TTL: critical with an output until they report again.
#[tokio::test]
async fn ttls_that_ran_out_while_the_registry_hung_are_no_outage() {
    let scene =
        Scene::with(|registry, id, backend| registry.add_with_ttl("web", id, backend, Duration::from_secs(1))).await;
    scene.registry.inject(Some(Fault::Hang));
    let out = |id: &str| scene.registry.status(id) == Some(Status::Critical);
    until("the TTLs run out", || async { (out("a") && out("b")).then_some(()) }).await;
    scene.registry.inject(None);
    for id in ["a", "b"] {
        scene.until_guard(id, "held").await;
        let why = reason(&scene.rig, &scene.registry.id(id)).await;
        assert!(why.starts_with("held: critical since the registry's trouble, and its own probes pass: "), "{why}");
        assert!(why.ends_with("Service 'web' check: TTL expired (last output before timeout follows):"), "{why}");
    }
    scene.a_while().await;
    for id in ["a", "b"] {
        scene.registry.set_status(id, Status::Passing);
        scene.until_guard(id, "none").await;
    }
    scene.end().await;
}

#[tokio::test]
async fn a_list_that_becomes_filtered_is_held() {
    let scene = scene().await;
    assert_eq!(scene.rig.metric(FILTERED).await, 0.0);
    // One of them: with the header that is no departure.
    scene.registry.hide(&["b"], true);
    scene.until_guard("b", "held").await;
    scene.rig.until_metric(FILTERED, 1.0).await;
    assert_eq!(scene.rig.metric(&held("filtered")).await, 1.0);
    scene.registry.hide(&[], true);
    scene.until_guard("a", "held").await;
    let why = "held: missing since the registry's answers became filtered by ACLs, and its own probes pass";
    assert_eq!(reason(&scene.rig, &scene.registry.id("a")).await, why);
    scene.a_while().await;
    scene.registry.unhide();
    for id in ["a", "b"] {
        scene.until_guard(id, "none").await;
    }
    scene.rig.until_metric(FILTERED, 0.0).await;
    scene.end().await;
}

#[tokio::test]
async fn a_list_that_becomes_empty_in_one_step_is_held() {
    let scene = scene().await;
    scene.registry.hide(&[], false);
    for id in ["a", "b"] {
        scene.until_guard(id, "held").await;
    }
    assert_eq!(scene.rig.metric(&held("shrink")).await, 2.0);
    assert_eq!(scene.rig.metric(FILTERED).await, 0.0);
    scene.a_while().await;
    scene.registry.unhide();
    for id in ["a", "b"] {
        scene.until_guard(id, "none").await;
    }
    assert_eq!(scene.rig.metric(&held("shrink")).await, 0.0);
    scene.end().await;
}

#[tokio::test]
async fn answers_that_are_filtered_from_the_start_are_obeyed() {
    let registry = Registry::new().await;
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    registry.add("web", "a", a.address());
    registry.add("web", "b", b.address());
    registry.add("web", "secret", b.address());
    registry.hide(&["secret"], true);
    let rig = registry.rig("", "").await;
    for id in ["a", "b"] {
        rig.until_standing(&registry.id(id), "up").await;
    }
    rig.until_metric(FILTERED, 1.0).await;
    assert_eq!(rig.pools().await["pools"][0]["source"]["filtered"], true);
    registry.deregister("b");
    rig.until_standing(&registry.id("b"), "removed").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_hold_ends_when_its_time_is_over() {
    let (registry, _backends, rig) = with_the_dead("guard.hold = \"300ms\"").await;
    registry.restart_empty().await;
    for id in ["a", "out", "bad"] {
        rig.until_standing(&registry.id(id), "removed").await;
    }
    rig.stop().await;
}

/// The file is a person's word: it is obeyed at once, also where it empties the pool of what works.
#[tokio::test]
async fn a_reload_removes_working_backends_at_once() {
    let registry = Registry::new().await;
    let mut backends = Vec::new();
    for id in ["a", "b"] {
        let backend = Backend::answering(id).await;
        registry.add("web", id, backend.address());
        backends.push(backend);
    }
    let other = Backend::answering("other").await;
    registry.add("other", "other", other.address());
    let rig = registry.rig("", "").await;
    for id in ["a", "b"] {
        rig.until_standing(&registry.id(id), "up").await;
    }
    let before = registry.config("", "");
    rig.reload(&before.replace("\"web\"", "\"empty\"")).await.unwrap();
    for id in ["a", "b"] {
        rig.until_standing(&registry.id(id), "removed").await;
    }
    rig.reload(&before.replace("\"web\"", "\"other\"")).await.unwrap();
    rig.until_standing(&registry.id("other"), "up").await;
    let backend = |backend: &Backend| format!("\"{}\"", backend.address());
    let fixed = |list: &str| before.replace("consul = { service = \"web\" }", &format!("backends = [{list}]"));
    let (one, two) = (backend(&backends[0]), backend(&backends[1]));
    rig.reload(&fixed(&format!("{one}, {two}"))).await.unwrap();
    for one in [&one, &two] {
        rig.until_standing(one.trim_matches('"'), "up").await;
    }
    rig.reload(&fixed(&backend(&other))).await.unwrap();
    for one in [&one, &two] {
        rig.until_standing(one.trim_matches('"'), "removed").await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_operator_sees_a_hold_and_can_release_it() {
    let registry = Registry::new().await;
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    for (id, backend) in [("a", &a), ("b", &b)] {
        registry.add("web", id, backend.address());
        registry.set_status(id, Status::Passing);
    }
    let admin = "admin = { bind = \"127.0.0.1:0\", admin_token = \"secret\" }\n";
    let program = Program::start(&format!("{admin}{}", registry.config("", "")), &[]);
    program.until_says("settled").await;
    assert_eq!(
        program.good("secret", &["release", "back"]).await,
        "no backend was held: what discovery says holds already\n"
    );

    registry.set_status("b", Status::Warning);
    let listed = || program.good("secret", &["backends"]);
    until("a warning in WHY", || async { listed().await.contains("the registry warns: Pinned; ").then_some(()) }).await;

    registry.hide(&[], false);
    let words = "held: missing since one answer that took every instance away, and their own probes pass";
    let line = program.until_says(words).await;
    assert!(line.contains(" WARN ") && line.contains("pool=back backends=2"), "{line}");
    let why = words.replace("their", "its");
    assert_eq!(listed().await.matches(&why).count(), 2);
    let explained = program.good("secret", &["explain", &registry.id("a")]).await;
    let until_when = "it stays while its own probes pass, until 20";
    assert!(explained.contains(until_when) && explained.contains("absent"), "{explained}");

    let out = program.good("secret", &["release", "back", "--note", "scaled to zero"]).await;
    for id in ["a", "b"] {
        let line = format!("back/dev/{id}: removed, weight 1, 0 sessions: no longer in the registry\n");
        assert!(out.contains(&line), "{out}");
    }
    let line = program.until_says(": scaled to zero pool=back").await;
    assert!(line.contains("operator: the whole pool: released: what discovery says holds by "), "{line}");
    assert_eq!(exchange(program.front("front").await, b"").await.unwrap(), b"");
    let pools = get(program.admin().await, "/api/v1/pools/back").await.unwrap().1;
    assert!(pools.contains("\"held\":null"), "{pools}");
}
