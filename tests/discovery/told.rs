//! What an operator is told, at the default log level, when the registry is gone and when it is back.

use std::net::SocketAddr;

use crate::support::{Backend, Program, Registry, get, soon, until};

/// What `evenkeel ARGUMENTS` prints.
async fn says(admin: SocketAddr, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(Program::PATH);
    command.args(arguments).env("EVENKEEL_ADMIN", format!("http://{admin}")).kill_on_drop(true);
    let output = soon("the command", command.output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(super) async fn source(admin: SocketAddr) -> serde_json::Value {
    let pools = get(admin, "/api/v1/pools").await.unwrap().1;
    serde_json::from_str::<serde_json::Value>(&pools).unwrap()["pools"][0]["source"].take()
}

async fn metric(admin: SocketAddr, series: &str) -> Option<f64> {
    let metrics = get(admin, "/metrics").await.unwrap().1;
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test]
async fn a_registry_that_is_gone_and_comes_back() {
    let registry = Registry::new().await;
    let backend = Backend::answering("a").await;
    registry.add("web", "a", backend.address());
    let config = format!("admin.bind = \"127.0.0.1:0\"\n{}", registry.config("", ""));
    let program = Program::start(&config, &[]);
    let admin = program.admin().await;
    program.until_says("settled").await;
    assert_eq!(source(admin).await["last_error"], serde_json::Value::Null);
    assert!(!says(admin, &["status"]).await.contains("discovery"));

    let (address, url, id) = (registry.address(), registry.url(), registry.id("a"));
    registry.stop().await;
    let why = format!("{url}: can't connect to the agent: tcp connect error: Connection refused (os error 111)");
    let line = program.until_says("discovery fails, what is known stays and is ").await;
    assert!(line.contains(" WARN ") && line.contains("pool=\"back\" source=\"consul\""), "{line}");
    until("the refusal is shown", || async { (source(admin).await["error"]["text"] == why).then_some(()) }).await;
    let said = says(admin, &["status"]).await;
    assert!(said.contains("discovery of pool back fails, what is known is ") && said.contains(&why), "{said}");
    let said = says(admin, &["explain", &id]).await;
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
    assert!(!says(admin, &["status"]).await.contains("discovery"));
}

#[tokio::test]
async fn a_registry_that_never_was_there() {
    let registry = Registry::new().await;
    let config = format!("admin.bind = \"127.0.0.1:0\"\n{}", registry.config("", ""));
    registry.stop().await;
    let program = Program::start(&config, &[]);
    let admin = program.admin().await;
    let line = program.until_says("discovery fails, nothing is known yet: ").await;
    let why = format!("{}: can't connect to the agent: tcp connect error: Connection refused", registry.url());
    assert!(line.contains(&why), "{line}");
    let said = says(admin, &["status"]).await;
    assert!(said.contains("discovery of pool back fails, nothing is known yet: "), "{said}");
    let (status, said) = get(admin, "/ready").await.unwrap();
    assert!(status == 503 && said.contains(&why), "{said}");
}
