//! What each call sends and what it makes of the answer.

use std::time::Duration;

use consul::{CheckRegistration, CheckStatus, Client, HealthQuery, ServiceRegistration, Settings};

use crate::support::{Agent, ok, reply};

async fn client(say: crate::support::Say) -> (Agent, Client) {
    let (agent, address) = Agent::start(say).await;
    (agent, Client::new(&Settings::new(address)).unwrap())
}

#[tokio::test]
async fn health_escapes_and_reads_headers() {
    let headers = "X-Consul-Index: 42\r\nX-Consul-Knownleader: false\r\nX-Consul-Lastcontact: 7\r\n\
                   X-Consul-Effective-Consistency: stale\r\nAge: 3\r\nX-Cache: HIT\r\n";
    let body = r#"[{"Node":{"Node":"n"},"Service":{"ID":"a","Address":"10.0.0.1","Port":80}},{"Node":5}]"#;
    let (agent, client) = client(reply("200 OK", headers, body)).await;
    let query = HealthQuery {
        index: Some(41),
        wait: Some(Duration::from_secs(1)),
        datacenter: Some("d c".to_owned()),
        ..HealthQuery::default()
    };
    let answer = client.health_service("we b/../x?y", &query).await.unwrap();
    assert_eq!(agent.asked()[0].line, "GET /v1/health/service/we%20b%2F..%2Fx%3Fy?index=41&wait=1000ms&dc=d%20c");
    assert_eq!(answer.index, Some(42));
    assert_eq!(answer.known_leader, Some(false));
    assert_eq!(answer.last_contact, Some(Duration::from_millis(7)));
    assert_eq!(answer.effective_consistency.as_deref(), Some("stale"));
    assert_eq!((answer.age, answer.cache_hit), (Some(Duration::from_secs(3)), Some(true)));
    assert_eq!(answer.value[0].service.port, 80);
    assert_eq!(answer.rejected[0].id, "entry 1");
}

#[tokio::test]
async fn connections_are_shared_by_clones() {
    let (agent, client) = client(ok("[]")).await;
    for _ in 0..3 {
        client.clone().health_service("web", &HealthQuery::default()).await.unwrap();
    }
    assert_eq!(agent.asked().len(), 3);
    assert_eq!(agent.connections(), 1);
}

#[tokio::test]
async fn another_token_goes_over_the_same_connections() {
    let (agent, client) = client(ok("[]")).await;
    for token in [Some("one"), None, Some("two")] {
        client.with_token(token, None).unwrap().health_service("web", &HealthQuery::default()).await.unwrap();
    }
    let asked = agent.asked();
    let tokens: Vec<_> = asked.iter().map(|asked| asked.header("x-consul-token")).collect();
    assert_eq!((tokens, agent.connections()), (vec![Some("one"), None, Some("two")], 1));
    assert_eq!(client.with_token(Some("a\nb"), None).unwrap_err().kind(), "config");
}

#[tokio::test]
async fn the_leader_is_asked_for_over_a_connection_that_ends() {
    let (agent, client) = client(ok("\"10.0.0.1:8300\"")).await;
    for _ in 0..2 {
        assert_eq!(client.leader().await.unwrap(), "10.0.0.1:8300");
    }
    let asked = agent.asked();
    assert_eq!((asked[1].line.as_str(), asked[1].header("connection")), ("GET /v1/status/leader", Some("close")));
    assert_eq!(agent.connections(), 2);
    let (_, client) = self::client(ok("\"\"")).await;
    assert_eq!(client.leader().await.unwrap(), "", "there is none");
    let (_, client) = self::client(ok("<html>")).await;
    assert_eq!(client.leader().await.unwrap_err().kind(), "decode");
}

#[tokio::test]
async fn writes_are_puts() {
    let (agent, client) = client(ok("")).await;
    let service = ServiceRegistration {
        name: "web".to_owned(),
        port: 1,
        checks: vec![CheckRegistration::ttl(Duration::from_secs(5))],
        ..ServiceRegistration::default()
    };
    client.register_service(&service).await.unwrap();
    client.update_ttl("service:web/1", CheckStatus::Warning, "so so").await.unwrap();
    client.service_maintenance("web 1", true, "new disk & more").await.unwrap();
    client.deregister_service("web 1").await.unwrap();
    client.kv_write("a/b c", b"va\nlue").await.unwrap();
    let asked = agent.asked();
    let lines: Vec<_> = asked.iter().map(|asked| asked.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "PUT /v1/agent/service/register?replace-existing-checks=true",
            "PUT /v1/agent/check/update/service%3Aweb%2F1",
            "PUT /v1/agent/service/maintenance/web%201?enable=true&reason=new%20disk%20%26%20more",
            "PUT /v1/agent/service/deregister/web%201",
            "PUT /v1/kv/a/b%20c",
        ]
    );
    assert_eq!(asked[0].body, r#"{"Name":"web","Port":1,"Tags":[],"Meta":{},"Checks":[{"TTL":"5000ms"}]}"#);
    assert_eq!(asked[0].header("content-type"), Some("application/json"));
    assert_eq!(asked[1].body, r#"{"Status":"warning","Output":"so so"}"#);
    assert_eq!(asked[4].body, "va\nlue");
}

#[tokio::test]
async fn a_key_that_is_not_there_is_an_answer() {
    let (agent, absent) = client(reply("404 Not Found", "X-Consul-Index: 5\r\n", "")).await;
    let answer = absent.kv_read("a", Some(4), Some(Duration::from_secs(2))).await.unwrap();
    assert_eq!((answer.value, answer.index), (None, Some(5)));
    assert_eq!(agent.asked()[0].line, "GET /v1/kv/a?index=4&wait=2000ms");

    let (_, present) = client(ok(r#"[{"Key":"a","Value":"Zm9v","ModifyIndex":9}]"#)).await;
    assert_eq!(present.kv_read("a", None, None).await.unwrap().value.unwrap().value, b"foo");
}

#[tokio::test]
async fn an_unknown_check_is_not_found() {
    let (_, client) = client(reply("404 Not Found", "", "Unknown check ID \"x\"")).await;
    let error = client.update_ttl("x", CheckStatus::Passing, "").await.unwrap_err();
    assert_eq!((error.kind(), error.status()), ("not_found", Some(404)));
}
