//! What the log and the commands say, at the default level, when the registry is gone and when it is back.

use std::net::SocketAddr;

use crate::support::{Backend, Program, Registry, get, metric, soon, until};

pub(super) async fn source(admin: SocketAddr) -> serde_json::Value {
    let pools = get(admin, "/api/v1/pools").await.unwrap().1;
    serde_json::from_str::<serde_json::Value>(&pools).unwrap()["pools"][0]["source"].take()
}

#[tokio::test]
async fn a_registry_outage_and_its_end_are_reported() {
    let registry = Registry::new().await;
    let backend = Backend::answering("a").await;
    registry.add("web", "a", backend.address());
    let config = format!("admin.bind = \"127.0.0.1:0\"\n{}", registry.config("", ""));
    let program = Program::start(&config, &[]);
    let admin = program.admin().await;
    program.until_says("settled").await;
    assert_eq!(source(admin).await["last_error"], serde_json::Value::Null);
    assert!(!program.good("", &["status"]).await.contains("discovery"));

    let (address, url, id) = (registry.address(), registry.url(), registry.id("a"));
    registry.stop().await;
    let why = format!("{url}: can't connect to the agent: tcp connect error: Connection refused (os error 111)");
    let line = program.until_says("discovery fails, what is known stays and is ").await;
    assert!(line.contains(" WARN ") && line.contains("pool=\"back\" source=\"consul\""), "{line}");
    until("the refusal is shown", || async { (source(admin).await["error"]["text"] == why).then_some(()) }).await;
    let said = program.good("", &["status"]).await;
    assert!(said.contains("discovery of pool back fails, what is known is ") && said.contains(&why), "{said}");
    let said = program.good("", &["explain", &id]).await;
    assert!(said.contains("nothing against it, ") && said.contains(&format!("discovery fails: {why}")), "{said}");
    assert_eq!(metric(admin, "evenkeel_discovery_failing{pool=\"back\",source=\"consul\"}").await, Some(1.0));

    let _registry = Registry::at(address).await;
    let line = program.until_says("discovery works again after ").await;
    assert!(line.contains(" INFO "), "{line}");
    until("no error", || async { source(admin).await["error"].is_null().then_some(()) }).await;
    assert_eq!(source(admin).await["last_error"]["text"], why);
    assert_eq!(metric(admin, "evenkeel_discovery_failing{pool=\"back\",source=\"consul\"}").await, Some(0.0));
    let last = "evenkeel_discovery_last_error_timestamp_seconds{pool=\"back\",source=\"consul\",reason=\"connect\"}";
    assert!(metric(admin, last).await.is_some_and(|at| at > 1.7e9));
    assert!(!program.good("", &["status"]).await.contains("discovery"));
}

#[tokio::test]
async fn a_registry_that_was_never_reachable_is_reported() {
    let registry = Registry::new().await;
    let config = format!("admin.bind = \"127.0.0.1:0\"\n{}", registry.config("", ""));
    registry.stop().await;
    let program = Program::start(&config, &[]);
    let admin = program.admin().await;
    let line = program.until_says("discovery fails, nothing is known yet: ").await;
    let why = format!("{}: can't connect to the agent: tcp connect error: Connection refused", registry.url());
    assert!(line.contains(&why), "{line}");
    let said = program.good("", &["status"]).await;
    assert!(said.contains("discovery of pool back fails, nothing is known yet: "), "{said}");
    let (status, said) = get(admin, "/ready").await.unwrap();
    assert!(status == 503 && said.contains(&why), "{said}");
}
