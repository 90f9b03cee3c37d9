//! A Consul client that others wrote (py-consul) registers and watches: the development registry answers it as an agent does,
//! and we conclude the same as it does.

use std::path::Path;

use serde_json::{Value, json};

use super::{Conversation, port};
use crate::support::{Backend, Registry, Rig, command, program, soon, until};

/// Calls a method by its name.
const CLIENT: &str = r#"
import consul, json, sys

client = consul.Consul(host="127.0.0.1", port=int(sys.argv[1]))
for line in sys.stdin:
    name, positional, named = json.loads(line)
    method = client
    for part in name.split("."):
        method = getattr(method, part)
    try:
        result = method(*positional, **named)
    except consul.ConsulException as error:
        result = type(error).__name__
    print(json.dumps(result, default=bytes.decode), flush=True)
"#;

struct Client(Conversation);

impl Client {
    fn start(python: &Path, registry: &Registry) -> Self {
        let mut command = command(python);
        command.args(["-c", CLIENT, &port(registry.address())]);
        Self(Conversation::start(command))
    }

    async fn call(&mut self, method: &str, positional: Value, named: Value) -> Value {
        self.begin(method, positional, named).await;
        self.end().await
    }

    /// A call that waits.
    async fn begin(&mut self, method: &str, positional: Value, named: Value) {
        self.0.say(&json!([method, positional, named]).to_string()).await;
    }

    async fn end(&mut self) -> Value {
        let line = soon("the client's answer", self.0.hear()).await.expect("the client has ended");
        serde_json::from_str(&line).unwrap()
    }

    /// The index, and what it says of each instance: id, and the status of each check by its id.
    async fn instances(&mut self) -> (String, Value) {
        shown(&self.call("health.service", json!(["web"]), json!({})).await)
    }

    /// Waits for what is newer than `index`.
    async fn watch(&mut self, index: &str) {
        self.begin("health.service", json!(["web"]), json!({ "index": index, "wait": "60s" })).await;
    }
}

fn shown(answer: &Value) -> (String, Value) {
    let instance = |entry: &Value| {
        let checks = entry["Checks"].as_array().unwrap().iter();
        let checks: serde_json::Map<_, _> =
            checks.map(|check| (check["CheckID"].as_str().unwrap().to_owned(), check["Status"].clone())).collect();
        json!({ "id": entry["Service"]["ID"], "node": entry["Node"]["Node"], "checks": checks })
    };
    let instances: Vec<_> = answer[1].as_array().unwrap().iter().map(instance).collect();
    (answer[0].as_str().unwrap().to_owned(), instances.into())
}

async fn until_registry(rig: &Rig, id: &str, says: &str) -> Value {
    until(&format!("{id}: the registry says {says}"), || async {
        rig.backend(id).await.filter(|backend| backend["facts"]["registry"] == says)
    })
    .await
}

#[tokio::test]
async fn an_independent_consul_client_registers_and_the_pool_follows() {
    let Some(python) = program("interop-python") else { return };
    let registry = Registry::new().await;
    let backend = Backend::answering("a").await;
    let rig = registry.rig("", "").await;
    let (mut member, mut watcher) = (Client::start(&python, &registry), Client::start(&python, &registry));
    let done = json!(true);
    assert_eq!(member.call("agent.self", json!([]), json!({})).await["Config"]["Datacenter"], "dc1");

    // A TTL check begins critical and without output: it has not run, and our own probe decides.
    let definition = json!({
        "service_id": "py-1", "address": "127.0.0.1", "port": backend.address().port(), "tags": ["v1"],
        "meta": { "zone": "east" }, "weights": { "Passing": 3, "Warning": 1 }, "check": { "ttl": "300s" },
    });
    assert_eq!(member.call("agent.service.register", json!(["web"]), definition).await, done);
    until_registry(&rig, "dev/py-1", "unknown").await;
    rig.until_standing("dev/py-1", "up").await;
    let instance = |own: &str| json!([{ "id": "py-1", "node": "dev", "checks": { "serfHealth": "passing", "service:py-1": own } }]);
    let (index, instances) = watcher.instances().await;
    assert_eq!(instances, instance("critical"));

    // The waiting client gets the change.
    for (method, status, weight) in [("ttl_pass", "passing", 3), ("ttl_warn", "warning", 1), ("ttl_pass", "passing", 3)]
    {
        let (index, _) = watcher.instances().await;
        watcher.watch(&index).await;
        let method = format!("agent.check.{method}");
        assert_eq!(member.call(&method, json!(["service:py-1"]), json!({ "notes": "so so" })).await, done);
        let (newer, instances) = shown(&watcher.end().await);
        assert_eq!(instances, instance(status));
        assert!(newer.parse::<u64>().unwrap() > index.parse().unwrap(), "{newer} after {index}");
        let backend = until_registry(&rig, "dev/py-1", status).await;
        assert_eq!(backend["weight"], weight);
    }
    rig.until_standing("dev/py-1", "up").await;
    assert_ne!(watcher.instances().await.0, index);
    for (selection, found) in [
        (json!({ "passing": true }), 1),
        (json!({ "tag": "v1" }), 1),
        (json!({ "tag": "v2" }), 0),
        (json!({ "filter_expr": "Service.Meta.zone == east" }), 1),
        (json!({ "filter_expr": "\"v2\" in Service.Tags" }), 0),
    ] {
        let answer = watcher.call("health.service", json!(["web"]), selection.clone()).await;
        assert_eq!(answer[1].as_array().unwrap().len(), found, "{selection}");
    }
    assert_eq!(watcher.call("catalog.services", json!([]), json!({})).await[1]["web"], json!(["v1"]));

    let maintain = |enable: &str| json!(["py-1", enable, "a new disk & more"]);
    assert_eq!(member.call("agent.service.maintenance", maintain("true"), json!({})).await, done);
    let out = rig.until_standing("dev/py-1", "maintenance").await;
    assert!(out["reason"].as_str().unwrap().ends_with(": a new disk & more"), "{out}");
    assert_eq!(watcher.instances().await.1[0]["checks"]["_service_maintenance:py-1"], "critical");
    assert_eq!(member.call("agent.service.maintenance", maintain("false"), json!({})).await, done);
    rig.until_standing("dev/py-1", "up").await;

    let (index, _) = watcher.instances().await;
    watcher.watch(&index).await;
    assert_eq!(member.call("agent.service.deregister", json!(["py-1"]), json!({})).await, done);
    assert_eq!(shown(&watcher.end().await).1, json!([]));
    rig.until_standing("dev/py-1", "removed").await;
    // After a restart the agent does not know the check.
    assert_eq!(member.call("agent.check.ttl_pass", json!(["service:py-1"]), json!({})).await, json!(false));
    assert_eq!(member.call("kv.put", json!(["a/b", "value"]), json!({})).await, done);
    assert_eq!(watcher.call("kv.get", json!(["a/b"]), json!({})).await[1]["Value"], "value");
    assert_eq!(watcher.call("kv.get", json!(["a/c"]), json!({})).await[1], Value::Null);
    rig.stop().await;
}
