//! The development registry behaves as a Consul agent does, as far as its clients can see.

#[path = "support/http.rs"]
mod http;

use std::{net::SocketAddr, time::Duration};

use backend_demo::registry::{Definition, Fault, Registry, Status};
use http::{exchange, get, put, until};
use tokio::{io::AsyncReadExt as _, task::JoinHandle, time::Instant};

const WEB: &str = "/v1/health/service/web";

async fn registry() -> Registry {
    Registry::start("127.0.0.1:0".parse().expect("an address")).await.expect("a registry")
}

fn backend(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Registers with a TTL check; `more` is further JSON of the check.
async fn register(registry: &Registry, id: &str, ttl: &str, more: &str) {
    let body = format!(
        r#"{{"Name":"web","ID":"{id}","Address":"127.0.0.1","Port":9000,"Tags":["{id}-tag"],"Meta":{{"zone":"a"}},
            "Weights":{{"Passing":3,"Warning":1}},"EnableTagOverride":true,"Check":{{"TTL":"{ttl}"{more}}}}}"#
    );
    let reply = put(registry.address(), "/v1/agent/service/register", &body).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
}

fn ids(reply: &http::Reply) -> Vec<String> {
    let entries = reply.json();
    let entries = entries.as_array().expect("a list").iter();
    entries.map(|entry| entry["Service"]["ID"].as_str().expect("an id").to_owned()).collect()
}

/// Starts a blocking query and returns when the registry holds it.
async fn blocked(registry: &Registry, path: String) -> JoinHandle<Option<http::Reply>> {
    let (address, before) = (registry.address(), registry.waiting());
    let query = tokio::spawn(async move { exchange(address, "GET", &path, "").await });
    until("the query waits", || registry.waiting() > before).await;
    query
}

#[tokio::test]
async fn an_instance_registers_passes_and_leaves() {
    let registry = registry().await;
    let at = registry.address();
    register(&registry, "web-1", "30s", "").await;
    assert_eq!(registry.status("web-1"), Some(Status::Critical), "a TTL check starts critical");
    assert_eq!(ids(&get(at, &format!("{WEB}?passing")).await), Vec::<String>::new());

    assert_eq!(put(at, "/v1/agent/check/pass/service:web-1?note=fine", "").await.status, 200);
    let reply = get(at, &format!("{WEB}?passing")).await;
    let entry = &reply.json()[0];
    assert_eq!(entry["Node"]["Address"], "127.0.0.1");
    assert_eq!(entry["Service"]["Port"], 9000);
    assert_eq!(entry["Service"]["Weights"]["Passing"], 3);
    assert_eq!(entry["Service"]["EnableTagOverride"], false);
    let checks: Vec<_> =
        entry["Checks"].as_array().expect("checks").iter().map(|check| (&check["CheckID"], &check["Output"])).collect();
    assert_eq!(checks.len(), 2);
    assert!(checks.iter().any(|(id, output)| **id == "service:web-1" && **output == "fine"), "{checks:?}");
    assert!(checks.iter().any(|(id, _)| **id == "serfHealth"), "{checks:?}");

    let update = r#"{"Status":"warning","Output":"slow"}"#;
    assert_eq!(put(at, "/v1/agent/check/update/service:web-1", update).await.status, 200);
    assert_eq!(registry.status("web-1"), Some(Status::Warning));
    // A new registration keeps the status.
    register(&registry, "web-1", "30s", "").await;
    assert_eq!(registry.status("web-1"), Some(Status::Warning));

    assert_eq!(get(at, "/v1/agent/services").await.json()["web-1"]["Service"], "web");
    assert_eq!(get(at, "/v1/catalog/services").await.json()["web"][0], "web-1-tag");
    assert_eq!(put(at, "/v1/agent/service/deregister/web-1", "").await.status, 200);
    assert_eq!(get(at, WEB).await.body, "[]");
    assert_eq!(put(at, "/v1/agent/service/deregister/web-1", "").await.status, 404);
}

#[tokio::test]
async fn unknown_and_invalid_requests_are_refused_in_plain_text() {
    let registry = registry().await;
    let at = registry.address();
    let unknown = put(at, "/v1/agent/check/update/nope", r#"{"Status":"passing"}"#).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.starts_with("Unknown check ID \"nope\""), "{}", unknown.body);
    assert_eq!(put(at, "/v1/agent/check/update/nope", r#"{"Status":"good"}"#).await.status, 400);
    assert_eq!(put(at, "/v1/agent/check/update/nope", "{").await.status, 400);
    assert_eq!(put(at, "/v1/agent/service/register", r#"{"ID":"x"}"#).await.body, "Missing service name");
    assert_eq!(put(at, "/v1/agent/service/maintenance/nope?enable=true", "").await.status, 404);
    assert_eq!(put(at, "/v1/agent/maintenance", "").await.body, "Missing value for enable");

    let refused = |path: &'static str, status, text| async move {
        let reply = get(at, path).await;
        assert_eq!((reply.status, reply.body.as_str()), (status, text), "{path}");
    };
    refused("/v1/health/service/web?index=-1", 400, "Invalid index").await;
    refused("/v1/health/service/web?index=1&wait=soon", 400, "Invalid wait time").await;
    refused("/v1/health/service/web?dc=mars", 500, "No path to datacenter").await;
    let both = get(at, "/v1/health/service/web?stale&consistent").await;
    assert_eq!(both.status, 400);
    assert_eq!(get(at, "/v1/health/service/web?filter=Service.Nope%3D%3D1").await.status, 400);
    assert_eq!(get(at, "/v1/nope").await.status, 404);
}

#[tokio::test]
async fn a_change_reaches_only_the_queries_that_wait_for_it() {
    let registry = registry().await;
    registry.add("web", "web-1", backend(1));
    let first = get(registry.address(), WEB).await;
    assert_eq!(first.header("x-consul-knownleader"), Some("true"));
    assert_eq!(first.header("x-consul-lastcontact"), Some("0"));
    assert_eq!(first.header("x-consul-effective-consistency"), Some("leader"));

    let path = format!("{WEB}?index={}&wait=5m", first.index());
    let query = blocked(&registry, path.clone()).await;
    registry.add("other", "other-1", backend(2));
    assert_eq!(get(registry.address(), WEB).await.index(), first.index(), "another service is no change");
    assert!(!query.is_finished());

    let changed = Instant::now();
    registry.add("web", "web-2", backend(3));
    let reply = query.await.expect("no panic").expect("a reply");
    assert!(changed.elapsed() < Duration::from_secs(2), "took {:?}", changed.elapsed());
    assert_eq!(ids(&reply), ["web-1", "web-2"]);
    assert!(reply.index() > first.index());
    assert_eq!(reply.header("x-consul-knownleader"), Some("false"), "as the streaming backend says");

    // The same registration again is no change; a wake-up without change gives the same set and a higher index.
    registry.add("web", "web-2", backend(3));
    let query = blocked(&registry, format!("{WEB}?index={}", reply.index())).await;
    registry.wake("web");
    let woken = query.await.expect("no panic").expect("a reply");
    assert_eq!(woken.json(), reply.json());
    assert!(woken.index() > reply.index());
}

#[tokio::test]
async fn a_query_answers_with_the_current_set_when_its_wait_ends() {
    let registry = registry().await;
    registry.add("web", "web-1", backend(1));
    let index = get(registry.address(), WEB).await.index();
    let started = Instant::now();
    let reply = get(registry.address(), &format!("{WEB}?index={index}&wait=80ms")).await;
    assert!(started.elapsed() >= Duration::from_millis(80));
    assert_eq!((ids(&reply), reply.index()), (vec!["web-1".to_owned()], index));
    assert_eq!(get(registry.address(), "/v1/health/service/nobody").await.index(), 1, "never 0");
}

#[tokio::test]
async fn ttls_expire_and_dead_instances_are_removed() {
    let registry = registry().await;
    register(&registry, "web-1", "300ms", r#","Status":"passing","DeregisterCriticalServiceAfter":"2s""#).await;
    let first = get(registry.address(), WEB).await;
    let critical = get(registry.address(), &format!("{WEB}?index={}&wait=10s", first.index())).await;
    let checks = critical.json()[0]["Checks"].to_string();
    assert!(checks.contains("TTL expired") && checks.contains("critical"), "{checks}");
    let gone = get(registry.address(), &format!("{WEB}?index={}&wait=10s", critical.index())).await;
    assert_eq!(gone.body, "[]");
    assert!(gone.index() > critical.index());
}

#[tokio::test]
async fn maintenance_is_a_critical_check() {
    let registry = registry().await;
    let at = registry.address();
    registry.add("web", "web-1", backend(1));
    registry.add("web", "web-2", backend(2));
    assert_eq!(put(at, "/v1/agent/service/maintenance/web-1?enable=true&reason=new%20disk", "").await.status, 200);
    let checks = get(at, WEB).await.json()[0]["Checks"].to_string();
    assert!(checks.contains("_service_maintenance:web-1") && checks.contains("new disk"), "{checks}");
    assert_eq!(ids(&get(at, &format!("{WEB}?passing")).await), ["web-2"]);

    assert_eq!(put(at, "/v1/agent/maintenance?enable=true", "").await.status, 200);
    assert_eq!(get(at, &format!("{WEB}?passing")).await.body, "[]");
    assert!(get(at, WEB).await.body.contains("_node_maintenance"));
    assert_eq!(put(at, "/v1/agent/maintenance?enable=false", "").await.status, 200);
    assert_eq!(put(at, "/v1/agent/service/maintenance/web-1?enable=false", "").await.status, 200);
    assert_eq!(ids(&get(at, &format!("{WEB}?passing")).await), ["web-1", "web-2"]);
}

#[tokio::test]
async fn filters_and_tags_select() {
    let registry = registry().await;
    for (id, tag, zone) in [("web-1", "blue", "a"), ("web-2", "green", "a"), ("web-3", "blue", "b")] {
        let mut definition = Definition::new("web", id, "127.0.0.1", 80);
        definition.tags = vec![tag.to_owned()];
        definition.meta = [("zone".to_owned(), zone.to_owned())].into();
        registry.register(definition);
    }
    let at = registry.address();
    let select = |query: &'static str| async move { ids(&get(at, &format!("{WEB}?{query}")).await) };
    assert_eq!(select("tag=blue").await, ["web-1", "web-3"]);
    assert_eq!(select("filter=%22blue%22+in+Service.Tags+and+Service.Meta.zone+%3D%3D+%22b%22").await, ["web-3"]);
    assert_eq!(select("filter=not%20(Service.ID%20%3D%3D%20%22web-1%22)").await, ["web-2", "web-3"]);
}

#[tokio::test]
async fn names_may_hold_any_character() {
    let registry = registry().await;
    registry.add("a/b c", "x", backend(1));
    assert_eq!(ids(&get(registry.address(), "/v1/health/service/a%2Fb%20c").await), ["x"]);
}

#[tokio::test]
async fn keys_can_be_written_read_and_waited_for() {
    let registry = registry().await;
    let at = registry.address();
    let missing = get(at, "/v1/kv/lb/web").await;
    assert_eq!((missing.status, missing.index()), (404, 1));
    let query = blocked(&registry, "/v1/kv/lb/web?index=1&wait=5m".to_owned()).await;
    assert_eq!(put(at, "/v1/kv/lb/web", "hello").await.body, "true");
    let reply = query.await.expect("no panic").expect("a reply");
    assert_eq!(reply.json()[0]["Value"], "aGVsbG8=");
    assert_eq!(reply.json()[0]["ModifyIndex"], reply.index());
    assert_eq!(get(at, "/v1/kv/lb/web?raw").await.body, "hello");

    let query = blocked(&registry, format!("/v1/kv/lb/web?index={}", reply.index())).await;
    assert_eq!(exchange(at, "DELETE", "/v1/kv/lb/web", "").await.expect("a reply").body, "true");
    let deleted = query.await.expect("no panic").expect("a reply");
    assert_eq!(deleted.status, 404);
    assert!(deleted.index() > reply.index());
}

#[tokio::test]
async fn faults_affect_new_and_waiting_requests() {
    let registry = registry().await;
    registry.add("web", "web-1", backend(1));
    let index = get(registry.address(), WEB).await.index();
    let query = blocked(&registry, format!("{WEB}?index={index}")).await;
    registry.inject(Some(Fault::Status500));
    assert_eq!(query.await.expect("no panic").expect("a reply").status, 500);

    let at = registry.address();
    for (fault, status, body) in [
        (Fault::Forbidden, 403, "Permission denied"),
        (Fault::TooManyRequests, 429, ""),
        (Fault::Status(503, "down".to_owned()), 503, "down"),
        (Fault::Garbage, 200, "[{"),
        (Fault::Empty200, 200, "[]"),
    ] {
        registry.inject(Some(fault.clone()));
        let reply = get(at, WEB).await;
        assert_eq!(reply.status, status, "{fault:?}");
        assert!(reply.body.starts_with(body), "{fault:?}: {}", reply.body);
    }
    registry.inject(Some(Fault::NoIndex));
    assert_eq!(get(at, WEB).await.header("x-consul-index"), None);

    registry.inject(Some(Fault::Hang));
    let before = registry.requests();
    let hanging = tokio::spawn(async move { get(at, WEB).await.status });
    until("the request came", || registry.requests() > before).await;
    assert!(!hanging.is_finished());
    registry.inject(None);
    assert_eq!(hanging.await.expect("no panic"), 500);
    assert_eq!(ids(&get(at, WEB).await), ["web-1"]);
}

#[tokio::test]
async fn after_a_restart_no_check_has_run() {
    let registry = registry().await;
    let at = registry.address();
    registry.add_with_ttl("web", "web-1", backend(1), Duration::from_secs(60));
    registry.add("web", "web-2", backend(2));
    registry.set_status("web-2", Status::Passing);
    registry.add("web", "web-3", backend(3));
    registry.maintenance("web-3", true);
    for hand in [false, true] {
        registry.set_status("web-1", Status::Passing);
        for _ in 0..10 {
            registry.wake("web");
        }
        let index = get(at, WEB).await.index();
        if hand {
            assert_eq!(put(at, "/fault/restart", "").await.status, 200);
        } else {
            registry.restart().await;
        }
        let reply = get(at, WEB).await;
        assert!(reply.index() < index, "{} after {index}", reply.index());
        let said = |id: &str| {
            let entries: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
            let of_id = entries.as_array().unwrap().iter().find(|entry| entry["Service"]["ID"] == id).cloned();
            let checks = of_id.unwrap()["Checks"].as_array().unwrap().clone();
            let own = checks.into_iter().filter(|check| check["ServiceID"] != "");
            own.map(|check| (check["Status"].clone(), check["Output"].clone())).collect::<Vec<_>>()
        };
        for id in ["web-1", "web-2"] {
            assert_eq!(said(id), [("critical".into(), "".into())], "{id}");
        }
        assert_eq!(said("web-3").len(), 1, "maintenance is kept");
        assert_eq!(put(at, "/v1/agent/check/pass/service:web-1?note=well", "").await.status, 200);
        assert_eq!(registry.status("web-1"), Some(Status::Passing));
    }
}

#[tokio::test]
async fn connections_of_one_address_are_limited_as_by_an_agent() {
    let registry = registry().await;
    let at = registry.address();
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(tokio::net::TcpStream::connect(at).await.expect("a connection"));
    }
    until("all are accepted", || registry.connections() == 200).await;
    // It is refused before it has sent a request.
    let refused = async || {
        let mut answer = String::new();
        let mut stream = tokio::net::TcpStream::connect(at).await.expect("a connection");
        stream.read_to_string(&mut answer).await.expect("an answer and an end");
        answer
    };
    let answer = refused().await;
    assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answer}");
    assert!(answer.contains("\r\n\r\nYour IP is issuing too many concurrent connections"), "{answer}");
    // A connection from another address is served, and so is one that takes a freed place.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.2:0".parse().expect("an address")).expect("it is free");
    let _other = socket.connect(at).await.expect("a connection");
    held.pop();
    until("there is room", || registry.connections() == 199).await;
    assert_eq!(get(at, WEB).await.status, 200);
    registry.limit_connections(1);
    assert!(refused().await.contains(" 429 "));
    drop(held);
    until("they are gone", || registry.connections() <= 1).await;
}

#[tokio::test]
async fn without_a_leader_only_stale_reads_are_answered() {
    let registry = registry().await;
    let at = registry.address();
    registry.add("web", "web-1", backend(1));
    let index = get(at, WEB).await.index();
    let waits = tokio::spawn(async move { get(at, &format!("{WEB}?index={index}")).await });
    until("it waits", || registry.waiting() == 1).await;
    assert_eq!(put(at, "/fault/no-leader", "").await.status, 200);
    assert_eq!(get(at, "/v1/status/leader").await.body, "\"\"");
    assert_eq!(get(at, WEB).await.body, "No cluster leader");
    assert_eq!(ids(&get(at, &format!("{WEB}?stale")).await), ["web-1"]);
    assert_eq!(registry.waiting(), 1, "who waits is not told");
    assert_eq!(exchange(at, "DELETE", "/fault", "").await.expect("a reply").status, 200);
    registry.add("web", "web-2", backend(2));
    assert_eq!(ids(&waits.await.expect("no panic")), ["web-1", "web-2"]);
}

#[tokio::test]
async fn faults_can_be_injected_by_hand() {
    let registry = registry().await;
    let at = registry.address();
    registry.add("web", "web-1", backend(1));
    registry.add("web", "web-2", backend(2));
    for (name, status, body) in [
        ("error", 500, "No cluster leader"),
        ("forbidden", 403, "Permission denied"),
        ("rate-limit", 429, ""),
        ("garbage", 200, "[{"),
        ("empty", 200, "[]"),
        ("no-index", 200, "[]"),
    ] {
        assert_eq!(put(at, &format!("/fault/{name}"), "").await.status, 200, "{name}");
        let reply = get(at, WEB).await;
        assert_eq!(
            (reply.status, reply.header("x-consul-index").is_some()),
            (status, matches!(name, "garbage" | "empty"))
        );
        assert!(reply.body.starts_with(body), "{name}: {}", reply.body);
    }
    assert_eq!(put(at, "/fault/hang", "").await.status, 200);
    let before = registry.requests();
    let hanging = tokio::spawn(async move { get(at, WEB).await.status });
    until("the request came", || registry.requests() > before).await;
    let mended = exchange(at, "DELETE", "/fault", "").await.expect("a reply");
    assert_eq!((mended.status, mended.body.as_str()), (200, "no fault\n"));
    assert_eq!(hanging.await.expect("no panic"), 500);
    let index = get(at, WEB).await.index();
    assert_eq!(put(at, "/fault/index-back", "").await.status, 200);
    let reply = get(at, WEB).await;
    assert!(reply.index() < index, "{} after {index}", reply.index());
    assert_eq!(ids(&reply), ["web-1", "web-2"]);
    for (name, header) in [("acl", Some("true")), ("shrink", None)] {
        let index = get(at, WEB).await.index();
        assert_eq!(put(at, &format!("/fault/{name}"), "").await.status, 200);
        // It wakes waiting queries.
        let reply = get(at, &format!("{WEB}?index={index}")).await;
        assert_eq!((reply.body.as_str(), reply.header("x-consul-results-filtered-by-acls")), ("[]", header), "{name}");
        assert_eq!(exchange(at, "DELETE", "/fault", "").await.expect("a reply").status, 200);
        let reply = get(at, WEB).await;
        assert_eq!(reply.header("x-consul-results-filtered-by-acls"), None);
        assert_eq!(ids(&reply), ["web-1", "web-2"]);
    }
    let unknown = put(at, "/fault/fire", "").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("hang"), "{}", unknown.body);
}

#[tokio::test]
async fn the_index_can_go_back() {
    let registry = registry().await;
    for port in 1..50 {
        registry.add("web", &format!("web-{port}"), backend(port));
    }
    let index = get(registry.address(), WEB).await.index();
    let query = blocked(&registry, format!("{WEB}?index={index}")).await;
    registry.rewind_index(11);
    let reply = query.await.expect("no panic").expect("a reply");
    assert_eq!((reply.index(), ids(&reply).len()), (11, 49));
}

#[tokio::test]
async fn a_restart_deletes_everything_and_closes_connections_and_a_stop_frees_the_port() {
    let registry = registry().await;
    let at = registry.address();
    registry.add("web", "web-1", backend(1));
    let index = get(at, WEB).await.index();
    let query = blocked(&registry, format!("{WEB}?index={index}")).await;
    registry.drop_connections().await;
    assert!(query.await.expect("no panic").is_none(), "cut, not answered");
    assert_eq!(ids(&get(at, WEB).await), ["web-1"]);

    let query = blocked(&registry, format!("{WEB}?index={index}")).await;
    registry.restart_empty().await;
    assert!(query.await.expect("no panic").is_none(), "cut, not answered");
    assert_eq!(get(at, WEB).await.body, "[]");

    registry.stop().await;
    assert!(exchange(at, "GET", WEB, "").await.is_none());
    registry.stop().await;
    let again = Registry::start(at).await.expect("the port is free");
    assert_eq!(get(again.address(), "/v1/status/leader").await.body, "\"127.0.0.1:8300\"");
    assert_eq!(get(again.address(), "/v1/agent/self").await.json()["Config"]["Datacenter"], "dc1");
}
