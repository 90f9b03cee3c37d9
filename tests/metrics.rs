//! The answers of the admin listener: metrics, the API, readiness, liveness.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use backend_demo::registry::Fault;
use evenkeel::metrics::{self, MetricKind};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::{Backend, Registry, Rig, exchange, free_port, get, sealed, soon, until};

/// A small scene in which everything that can be measured has happened once: sessions, a failed connect, a failing
/// source, limits.
async fn scene() -> ([Backend; 2], Rig) {
    let (backend, dead, sealed) = (Backend::answering("a").await, free_port(), sealed("certificate.pem").await);
    let mute = Backend::serving(|mut stream| async move {
        let _ = tokio::io::AsyncReadExt::read_u8(&mut stream).await;
    })
    .await;
    let rig = Rig::start(&format!(
        "workers = 2
        zone = \"a\"
        consul.address = \"http://{dead}\"
        [listeners.front]
        bind = \"127.0.0.1:0\"
        pool = \"back\"
        max_connections = 100
        per_client = {{ max_connections = 100 }}
        accept = {{ handshakes = 100 }}
        [listeners.other]
        bind = \"127.0.0.1:0\"
        pool = \"down\"
        [pools.down]
        backends = [{{ address = \"{dead}\", id = \"lost\" }}]
        [pools.back]
        backends = [{{ address = \"{}\", id = \"good\", zone = \"a\" }}, {{ address = \"{dead}\", id = \"dead\", zone = \"a\" }}]
        when_all_down = \"any\"
        source = \"127.0.0.2\"
        preconnect = 1
        check = {{ kind = \"tcp\", port = {}, interval = \"1h\", fall = 1 }}
        [listeners.quiet]
        bind = \"127.0.0.1:0\"
        pool = \"quiet\"
        [pools.quiet]
        backends = [{{ address = \"{}\", id = \"mute\" }}]
        check = {{ kind = \"none\" }}
        agent = {{ port = 1 }}
        sticky = {{}}
        [listeners.routed]
        bind = \"127.0.0.1:0\"
        routes = [{{ from = \"10.0.0.0/8\", pool = \"quiet\" }}]
        [pools.sealed]
        backends = [{{ address = \"{}\", id = \"sealed\" }}]
        check = {{ kind = \"tls\", verify = false }}
        fallback = \"back\"
        [pools.found]
        consul = {{ service = \"web\" }}
        required = false
        ",
        backend.address(),
        backend.address().port(),
        mute.address(),
        sealed.address(),
    ))
    .await;
    for (id, standing) in [("good", "up"), ("dead", "up"), ("lost", "down"), ("sealed", "up")] {
        rig.until_standing(id, standing).await;
    }
    for _ in 0..2 {
        assert_eq!(exchange(rig.front(), b"who?").await.unwrap(), b"a");
    }
    rig.until_standing("dead", "ejected").await;
    assert_eq!(exchange(rig.balancer().listeners()[1].1, b"").await.unwrap(), b"");
    let mut asked = TcpStream::connect(rig.balancer().listeners()[2].1).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut asked, b"?").await.unwrap();
    // Its session ends when both sides have.
    let _ = tokio::io::AsyncReadExt::read_u8(&mut asked).await;
    drop(asked);
    let counted = || async { rig.metrics().await.contains("evenkeel_backend_early_ends_total{").then_some(()) };
    until("it ends early", counted).await;
    rig.until_no_sessions().await;
    let failed = "evenkeel_discovery_errors_total{pool=\"found\",source=\"consul\",reason=\"connect\"}";
    until("discovery fails", || async { (rig.metric(failed).await >= 1.0).then_some(()) }).await;
    ([backend, sealed], rig)
}

/// Name → (type, help, label names of its samples).
fn families(text: &str) -> BTreeMap<String, (String, String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    let mut help = "";
    let mut name = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            (name, help) = rest.split_once(' ').unwrap();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (of, kind) = rest.split_once(' ').unwrap();
            assert_eq!(of, name, "TYPE follows HELP");
            let before = families.insert(name.to_owned(), (kind.to_owned(), help.to_owned(), BTreeSet::new()));
            assert!(before.is_none(), "{name} twice");
        } else {
            assert!(line.starts_with(name), "{line} is not of {name}");
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            let names: Vec<_> = labels.split("\",").filter_map(|pair| Some(pair.split_once("=\"")?.0)).collect();
            let names: Vec<_> = names.into_iter().filter(|name| *name != "le").collect();
            families.get_mut(name).unwrap().2.insert(names.join(", "));
        }
    }
    families
}

fn kind(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    }
}

#[tokio::test]
async fn the_set_of_metrics_is_what_it_was() {
    let (_backend, rig) = scene().await;
    let text = rig.metrics().await;
    let lines = families(&text).into_iter().map(|(name, (kind, _, labels))| {
        let labels: Vec<_> = labels.into_iter().map(|labels| format!("{{{labels}}}")).collect();
        format!("{name} {kind} {}", labels.join(" ")).trim_end().to_owned()
    });
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("metrics", lines.collect::<Vec<_>>().join("\n"));
    });
    rig.stop().await;
}

#[tokio::test]
async fn every_metric_is_shown_as_it_is_declared() {
    let (_backend, rig) = scene().await;
    let text = rig.metrics().await;
    let mut shown = families(&text);
    shown.retain(|name, _| !name.starts_with("process_"));
    for metric in metrics::ALL {
        let Some((of, help, labels)) = shown.remove(metric.name) else { panic!("{} is not shown", metric.name) };
        assert_eq!((of.as_str(), help.as_str()), (kind(metric.kind), metric.help), "{}", metric.name);
        assert_eq!(labels, BTreeSet::from([metric.labels.join(", ")]), "{}", metric.name);
    }
    assert!(shown.is_empty(), "not declared: {:?}", shown.keys());
    rig.stop().await;
}

#[tokio::test]
async fn no_label_names_a_client_or_an_address_where_there_is_an_id() {
    let ([backend, _], rig) = scene().await;
    for line in rig.metrics().await.lines() {
        assert!(!line.contains("127.0.0.1") && !line.contains(&backend.address().to_string()), "{line}");
    }
    rig.stop().await;
}

/// What promtool has to say; `None` = it is not there, said so.
fn complaints(text: &str) -> Option<String> {
    let found = Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "promtool is missing, and CI must not skip: apt-get install prometheus");
        eprintln!("SKIPPED: promtool is not on PATH (apt-get install prometheus)");
        return None;
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Some(if output.status.success() { said.trim().to_owned() } else { format!("{}: {said}", output.status) })
}

#[tokio::test]
async fn promtool_has_no_complaints() {
    let (_backend, rig) = scene().await;
    if let Some(said) = complaints(&rig.metrics().await) {
        assert_eq!(said, "");
    }
    rig.stop().await;
}

#[tokio::test]
async fn odd_names_are_labels_and_no_more_backends_have_histograms_than_may() {
    let backend = Backend::answering("a").await;
    let address = backend.address();
    let rig = Rig::start(&format!(
        r#"admin.backend_histograms = 2
        [listeners.front]
        bind = "127.0.0.1:0"
        pool = "back"
        [pools.back]
        check = {{ kind = "none" }}
        backends = [
            {{ address = "{address}", id = 'q"u\o}},te=' }},
            {{ address = "{address}", id = "é💥 # HELP x" }},
            {{ address = "{address}", id = "plain" }},
        ]
        "#
    ))
    .await;
    for _ in 0..3 {
        assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"a");
    }
    rig.until_no_sessions().await;
    let text = rig.metrics().await;
    for id in [r#"q\"u\\o},te="#, "é💥 # HELP x", "plain"] {
        let line = format!(
            "evenkeel_sessions_total{{listener=\"front\",pool=\"back\",backend=\"{id}\",outcome=\"completed\"}} 1"
        );
        assert!(text.lines().any(|shown| shown == line), "{line}");
    }
    for kind in ["connect", "first_byte", "session"] {
        let count = |of: &str| {
            text.lines().filter(|line| line.starts_with(&format!("evenkeel_{of}_{kind}_seconds_count"))).count()
        };
        assert_eq!((count("backend"), count("pool")), (2, 1), "{kind}");
    }
    assert!(text.contains("\nevenkeel_backend_histograms_omitted 1\n"));
    if let Some(said) = complaints(&text) {
        assert_eq!(said, "");
    }
    rig.stop().await;
}

/// A counter that appears only with its first event loses that event for `rate()`.
#[tokio::test]
async fn series_are_there_before_their_first_event_and_300_backends_stay_below_1_mb() {
    let backends: Vec<_> = (0..300)
        .map(|i| format!("{{ address = \"127.0.0.1:{}\", id = \"web-node-{i:03}/web-{i:03}\" }}", 20_000 + i))
        .collect();
    let rig = Rig::start(&format!(
        "[listeners.front]
        bind = \"127.0.0.1:0\"
        pool = \"back\"
        [pools.back]
        check = {{ kind = \"none\" }}
        backends = [{}]",
        backends.join(", ")
    ))
    .await;
    let text = rig.metrics().await;
    let zero = |series: &str| assert!(text.lines().any(|line| line == format!("{series} 0")), "{series}");
    for outcome in metrics::Outcome::ALL {
        let outcome = outcome.name();
        zero(&format!("evenkeel_listener_ended_total{{listener=\"front\",outcome=\"{outcome}\"}}"));
        zero(&format!(
            "evenkeel_sessions_total{{listener=\"front\",pool=\"back\",backend=\"\",outcome=\"{outcome}\"}}"
        ));
    }
    for i in [0, 299] {
        let id = format!("web-node-{i:03}/web-{i:03}");
        zero(&format!(
            "evenkeel_sessions_total{{listener=\"front\",pool=\"back\",backend=\"{id}\",outcome=\"completed\"}}"
        ));
        zero(&format!("evenkeel_backend_failed_connects_total{{pool=\"back\",backend=\"{id}\"}}"));
    }
    assert!(text.len() < 1_000_000, "{} bytes", text.len());
    rig.stop().await;
}

#[test]
fn the_manual_lists_every_metric() {
    const PAGE: &str = "docs/metrics.md";
    let page = crate::pages::page(PAGE);
    let mut table = String::from("| Metric | Kind | Labels | What it says |\n|---|---|---|---|\n");
    for metric in metrics::ALL {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let help = metric.help.replace('|', "\\|");
        table += &format!("| `{}` | {} | {} | {help} |\n", metric.name, kind(metric.kind), labels.join(", "));
    }
    let section = page.split_once("<!-- metrics -->").and_then(|(_, rest)| rest.split_once("<!-- /metrics -->"));
    let Some((section, _)) = section else {
        panic!("{PAGE} has no section between <!-- metrics --> and <!-- /metrics -->; it should be\n{table}");
    };
    assert!(section.trim() == table.trim(), "{PAGE}: between the markers there should be\n\n{table}");
}

/// Values by their type, times and all.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(_) => "string".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "bool".into(),
        Value::Null => Value::Null,
    }
}

#[tokio::test]
async fn the_api_has_the_shape_that_it_had() {
    let (_backend, rig) = scene().await;
    let answer = rig.pools().await;
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("pools", serde_json::to_string_pretty(&shape(&answer)).unwrap());
    });
    let pool = &answer["pools"][0];
    assert_eq!(
        (&pool["name"], &pool["balance"], &pool["check"], &pool["when_all_down"], &pool["eligible"]),
        (&"back".into(), &"round_robin".into(), &"tcp".into(), &"any".into(), &1.into())
    );
    let good = rig.backend("good").await.unwrap();
    assert_eq!(
        good["facts"],
        serde_json::json!({
            "operator": "ready", "registry": "passing", "agent": "ready", "probe": "up", "passive": "ok", "guard": "none"
        })
    );
    assert_eq!((&good["bytes_to_backend"], &good["bytes_to_client"]), (&8.into(), &2.into()));
    let since = good["since"].as_str().unwrap();
    assert!(since.ends_with('Z') && since.len() == "2026-01-01T00:00:00.000Z".len(), "{since}");
    rig.stop().await;
}

/// Waits until `/ready` says 503 with this text.
async fn until_waits_for(rig: &Rig, text: &str) {
    let mut said = String::new();
    for _ in 0..2 {
        said = until(text, || async {
            let (status, body) = get(rig.admin(), "/ready").await.unwrap();
            (status == 503 && body.contains(text)).then_some(body)
        })
        .await;
    }
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(get(rig.admin(), "/live").await.unwrap(), (200, "live\n".to_owned()));
}

#[tokio::test]
async fn ready_names_what_it_waits_for() {
    let registry = Registry::new().await;
    let (silent, good) = (Backend::serving(|stream| async { hold(stream).await }).await, Backend::answering("a").await);
    registry.inject(Some(Fault::Hang));
    let check = "check = { kind = \"script\", steps = [{ send = \"x\" }, { expect = \"a\" }], timeout = \"1h\" }";
    let rig = registry.rig("", check).await;
    until_waits_for(&rig, "pool `back` waits for the first answer of its discovery (consul)\n").await;

    registry.inject(Some(Fault::Forbidden));
    until_waits_for(&rig, "pool `back` waits for the first answer of its discovery (consul): ").await;

    registry.add("web", "silent", silent.address());
    registry.add("web", "good", good.address());
    registry.inject(None);
    rig.until_standing(&registry.id("good"), "up").await;
    until_waits_for(&rig, "pool `back` waits for the first probe of 1 of its 2 backends\n").await;

    registry.deregister("silent");
    until("ready", || async { (get(rig.admin(), "/ready").await.unwrap() == (200, "ready\n".into())).then_some(()) })
        .await;
    // Once ready, a newcomer is no reason to take the whole balancer out.
    registry.add("web", "silent", silent.address());
    rig.until_standing(&registry.id("silent"), "unproven").await;
    assert_eq!(get(rig.admin(), "/ready").await.unwrap().0, 200);
    rig.stop().await;
}

async fn hold(stream: TcpStream) {
    let _stream = stream;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn ready_does_not_wait_for_what_is_not_required() {
    let registry = Registry::new().await;
    registry.inject(Some(Fault::Hang));
    let rig = registry.rig("", "required = false").await;
    assert_eq!(get(rig.admin(), "/ready").await.unwrap(), (200, "ready\n".to_owned()));
    rig.stop().await;
}

#[tokio::test]
async fn a_draining_balancer_is_live_and_not_ready() {
    let backend = Backend::echo().await;
    let rig = Rig::with_backends(&[&backend.address().to_string()], "").await;
    rig.until_standing(&backend.address().to_string(), "up").await;
    until("ready", || async { (get(rig.admin(), "/ready").await.unwrap().0 == 200).then_some(()) }).await;
    rig.until_metric("evenkeel_draining", 0.0).await;
    let session = TcpStream::connect(rig.front()).await.unwrap();
    rig.until_metric("evenkeel_pool_sessions{pool=\"back\"}", 1.0).await;
    let look = async {
        until_waits_for(&rig, "stopping\n").await;
        rig.until_metric("evenkeel_draining", 1.0).await;
        drop(session);
    };
    soon("the drain", async { tokio::join!(rig.balancer().drain(), look) }).await;
    rig.stop().await;
}
