//! A registry that works: the pool is what it says.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use backend_demo::registry::{Definition, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, PATIENCE, Registry, Rig, answers, exchange, free_port, soon, until};

const REJECTED: &str = "evenkeel_discovery_rejected_instances{pool=\"back\",source=\"consul\"}";

fn instance(id: &str, address: SocketAddr) -> Definition {
    Definition::new("web", id, &address.ip().to_string(), address.port())
}

async fn until_weight(rig: &Rig, id: &str, weight: u16) {
    until(&format!("{id}: weight {weight}"), || async {
        rig.backend(id).await.filter(|backend| backend["weight"] == weight)
    })
    .await;
}

#[tokio::test]
async fn instances_come_and_go_and_traffic_follows_within_a_second() {
    let registry = Registry::new().await;
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    registry.add("web", "a", a.address());
    let rig = registry.rig("", "").await;
    rig.until_standing(&registry.id("a"), "up").await;
    let mut took = Vec::new();
    for _ in 0..3 {
        let came = Instant::now();
        registry.add("web", "b", b.address());
        until("b answers", || async { answers(rig.front(), 2).await.contains(&"b".to_owned()).then_some(()) }).await;
        took.push(came.elapsed());
        let went = Instant::now();
        registry.deregister("b");
        until("b answers no more", || async { (answers(rig.front(), 4).await == ["a"; 4]).then_some(()) }).await;
        took.push(went.elapsed());
    }
    took.sort();
    // It takes some 20 ms. The median, because one pause of the machine says nothing.
    assert!(took[took.len() / 2] < Duration::from_secs(1), "{took:?}");
    let id = registry.id("b");
    assert_eq!(rig.until_standing(&id, "removed").await["reason"], "no longer in the registry");
    rig.stop().await;
}

#[tokio::test]
async fn weights_follow_the_registry_also_while_it_warns() {
    let registry = Registry::new().await;
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    registry.register(Definition { passing_weight: 3, warning_weight: 0, ..instance("a", a.address()) });
    registry.add("web", "b", b.address());
    let rig = registry.rig("", "").await;
    let id = registry.id("a");
    rig.until_standing(&id, "up").await;
    rig.until_standing(&registry.id("b"), "up").await;
    until_weight(&rig, &id, 3).await;
    assert_eq!(answers(rig.front(), 8).await, ["a", "a", "a", "a", "a", "a", "b", "b"]);

    registry.set_status("a", Status::Warning);
    until_weight(&rig, &id, 0).await;
    assert_eq!(rig.backend(&id).await.unwrap()["facts"]["registry"], "warning");
    assert_eq!(answers(rig.front(), 4).await, ["b"; 4]);

    registry.set_status("a", Status::Passing);
    until_weight(&rig, &id, 3).await;
    registry.register(Definition { passing_weight: 1, warning_weight: 0, ..instance("a", a.address()) });
    until_weight(&rig, &id, 1).await;
    assert_eq!(answers(rig.front(), 4).await, ["a", "a", "b", "b"]);
    rig.until_metric(&format!("evenkeel_backend_weight{{pool=\"back\",backend=\"{id}\"}}"), 1.0).await;
    rig.stop().await;
}

#[tokio::test]
async fn maintenance_admits_no_new_session_and_closes_none() {
    let registry = Registry::new().await;
    let (a, b) = (Backend::echo().await, Backend::echo().await);
    registry.add("web", "a", a.address());
    let rig = registry.rig("", "").await;
    let id = registry.id("a");
    rig.until_standing(&id, "up").await;
    let mut session = TcpStream::connect(rig.front()).await.unwrap();
    rig.until_metric("evenkeel_pool_sessions{pool=\"back\"}", 1.0).await;
    registry.add("web", "b", b.address());
    rig.until_standing(&registry.id("b"), "up").await;

    registry.maintenance("a", true);
    let backend = rig.until_standing(&id, "maintenance").await;
    let reason = backend["reason"].as_str().unwrap();
    assert!(reason.starts_with("the registry has it in maintenance: Service Maintenance Mode: "), "{reason}");
    let attempts = format!("evenkeel_backend_connect_attempts_total{{pool=\"back\",backend=\"{id}\"}}");
    let before = rig.metric(&attempts).await;
    for _ in 0..4 {
        assert_eq!(exchange(rig.front(), b"x").await.unwrap(), b"x");
    }
    assert_eq!(rig.metric(&attempts).await, before);
    session.write_all(b"still").await.unwrap();
    let mut answer = [0; 5];
    soon("the old session", session.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"still");

    registry.maintenance("a", false);
    rig.until_standing(&id, "up").await;
    registry.node_maintenance(true);
    rig.until_standing(&id, "maintenance").await;
    rig.until_standing(&registry.id("b"), "maintenance").await;
    drop(session);
    rig.stop().await;
}

#[tokio::test]
async fn critical_is_down_and_warning_can_be_out() {
    let registry = Registry::new().await;
    let a = Backend::answering("a").await;
    registry.add("web", "a", a.address());
    let rig = registry.rig(", warning = \"out\"", "").await;
    let id = registry.id("a");
    rig.until_standing(&id, "up").await;
    for status in [Status::Critical, Status::Warning] {
        registry.set_status("a", status);
        let down = rig.until_standing(&id, "down").await;
        assert_eq!(down["reason"], "the registry says critical: Pinned");
        assert_eq!(down["facts"]["probe"], "up", "its probes go on and pass");
        registry.set_status("a", Status::Passing);
        rig.until_standing(&id, "up").await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn tags_and_filter_choose() {
    let registry = Registry::new().await;
    let backend = Backend::answering("a").await;
    for (id, tags, zone) in
        [("both", &["v2", "eu"][..], "a"), ("tag", &["v2"], "a"), ("zone", &["v2", "eu"], "b"), ("none", &[], "a")]
    {
        let tags = tags.iter().map(ToString::to_string).collect();
        let meta = [("zone".to_owned(), zone.to_owned())].into();
        registry.register(Definition { tags, meta, ..instance(id, backend.address()) });
    }
    let rig = registry.rig(", tags = [\"v2\", \"eu\"], filter = \"Service.Meta.zone == a\"", "").await;
    rig.until_standing(&registry.id("both"), "up").await;
    let pools = rig.pools().await;
    let ids: Vec<_> = pools["pools"][0]["backends"].as_array().unwrap().iter().map(|backend| &backend["id"]).collect();
    assert_eq!(ids, [&registry.id("both")]);
    rig.stop().await;
}

#[tokio::test]
async fn a_bad_instance_is_skipped_and_counted() {
    let registry = Registry::new().await;
    let a = Backend::answering("a").await;
    registry.add("web", "a", a.address());
    registry.register(Definition::new("web", "portless", "127.0.0.1", 0));
    registry.register(Definition::new("web", "nowhere", "no host at all!", 80));
    let rig = registry.rig("", "").await;
    rig.until_standing(&registry.id("a"), "up").await;
    rig.until_metric(REJECTED, 2.0).await;
    assert_eq!(answers(rig.front(), 2).await, ["a"; 2]);
    let pools = rig.pools().await;
    let source = &pools["pools"][0]["source"];
    assert_eq!(
        source["rejected"],
        serde_json::json!([
            { "id": registry.id("nowhere"), "why": "address \"no host at all!\" is neither an IP address nor a host name" },
            { "id": registry.id("portless"), "why": "no port" },
        ])
    );
    assert!(source["error"].is_null());
    registry.deregister("portless");
    rig.until_metric(REJECTED, 1.0).await;
    rig.stop().await;
}

#[tokio::test]
async fn an_empty_list_without_trouble_is_obeyed() {
    let registry = Registry::new().await;
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    registry.add("web", "a", a.address());
    registry.add("web", "b", b.address());
    let rig = registry.rig("", "").await;
    for id in ["a", "b"] {
        rig.until_standing(&registry.id(id), "up").await;
    }
    for id in ["a", "b"] {
        registry.deregister(id);
        rig.until_standing(&registry.id(id), "removed").await;
    }
    rig.until_metric("evenkeel_pool_eligible_backends{pool=\"back\"}", 0.0).await;
    rig.until_metric("evenkeel_pool_all_down{pool=\"back\"}", 1.0).await;
    assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"", "an ordinary close");
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(evenkeel::metrics::Outcome::NoBackend), 1);
    rig.stop().await;
}

#[tokio::test]
async fn an_instance_that_moves_keeps_its_identity() {
    let registry = Registry::new().await;
    let (old, new) = (Backend::answering("old").await, Backend::answering("new").await);
    registry.add("web", "a", old.address());
    let rig = registry.rig("", "").await;
    let id = registry.id("a");
    rig.until_standing(&id, "up").await;
    assert_eq!(answers(rig.front(), 2).await, ["old"; 2]);
    registry.add("web", "a", new.address());
    let mut answered = 2.0;
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "it never answers from its new address");
        // Refused while nothing is known about the new address.
        let answer = exchange(rig.front(), b"who?").await.unwrap_or_default();
        answered += if answer.is_empty() { 0.0 } else { 1.0 };
        if answer == b"new" {
            break;
        }
    }
    rig.until_no_sessions().await;
    let completed =
        format!("evenkeel_sessions_total{{listener=\"front\",pool=\"back\",backend=\"{id}\",outcome=\"completed\"}}");
    rig.until_metric(&completed, answered).await;
    assert_eq!(rig.pools().await["pools"][0]["backends"].as_array().unwrap().len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_static_host_name_is_one_backend() {
    // Wherever this machine's `localhost` is looked for first.
    let localhost = tokio::net::lookup_host(("localhost", 0)).await.unwrap().next().unwrap();
    let backend = Backend::on(localhost, |mut stream| async move {
        let mut request = [0; 64];
        if stream.read(&mut request).await.is_ok_and(|n| n > 0) {
            let _ = stream.write_all(b"local").await;
        }
    })
    .await;
    let id = format!("localhost:{}", backend.address().port());
    // The name at the side never resolves (RFC 6761), which is not the other one's fault.
    let bad = format!("nobody.invalid:{}", free_port().port());
    let rig = Rig::with_backends(&[&id, &bad], "").await;
    let up = rig.until_standing(&id, "up").await;
    assert_eq!(up["address"], backend.address().to_string());
    assert_eq!(answers(rig.front(), 2).await, ["local"; 2]);
    until("the bad name is told", || async {
        let errors = "evenkeel_discovery_errors_total{pool=\"back\",source=\"static\",reason=\"resolve\"}";
        (rig.metric(errors).await >= 1.0).then_some(())
    })
    .await;
    rig.until_metric("evenkeel_discovery_rejected_instances{pool=\"back\",source=\"static\"}", 1.0).await;
    assert_eq!(rig.pools().await["pools"][0]["source"]["rejected"][0]["id"], bad);
    rig.stop().await;
}

#[tokio::test]
async fn odd_names_reach_the_registry_as_they_are() {
    let registry = Registry::new().await;
    let a = Backend::answering("a").await;
    let (service, id, tag) = ("we/b \u{fc}?x=1#&%", "i/1 \"\u{e4}\"", "a\"b\\c in d");
    for (id, tags) in [(id, &[tag, "/e"][..]), ("other", &[tag])] {
        let tags = tags.iter().map(ToString::to_string).collect();
        registry.register(Definition { name: service.to_owned(), tags, ..instance(id, a.address()) });
    }
    let written = toml::Value::from(service).to_string();
    let tags = toml::Value::from(vec![tag, "/e"]).to_string();
    let config = registry.config("", "").replace("\"web\"", &format!("{written}, tags = {tags}"));
    let rig = Rig::start(&config).await;
    rig.until_standing(&registry.id(id), "up").await;
    assert_eq!(answers(rig.front(), 2).await, ["a"; 2]);
    assert_eq!(rig.pools().await["pools"][0]["backends"].as_array().unwrap().len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn an_instance_has_its_own_address_or_that_of_its_node() {
    let registry = Registry::new().await;
    for (id, address) in [("node", ""), ("name", "localhost"), ("six", "::1"), ("gone", "nobody.invalid"), ("odd", "0")]
    {
        registry.register(Definition::new("web", id, address, 7));
    }
    let rig = registry.rig("", "check = { kind = \"none\" }").await;
    let localhost = tokio::net::lookup_host(("localhost", 7)).await.unwrap().next().unwrap().to_string();
    for (id, address) in [("node", "127.0.0.1:7"), ("name", &localhost), ("six", "[::1]:7")] {
        assert_eq!(rig.until_standing(&registry.id(id), "up").await["address"], address);
    }
    rig.until_metric(REJECTED, 2.0).await;
    let pools = rig.pools().await;
    let source = &pools["pools"][0]["source"];
    let why: Vec<_> = source["rejected"].as_array().unwrap().iter().map(|one| one["why"].as_str().unwrap()).collect();
    assert_eq!(why[0], "address \"0\" is neither an IP address nor a host name");
    assert!(why[1].starts_with("can't resolve nobody.invalid: "), "{why:?}");
    rig.stop().await;
}
