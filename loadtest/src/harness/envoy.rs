//! The common part of the Envoy configurations: one listener, a TCP proxy, one cluster of fixed addresses. `compare` and `chaos`
//! add their own keys.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// `proxy` adds keys to the TCP proxy, `cluster` to the cluster.
pub(crate) fn config(front: SocketAddr, backends: &[SocketAddr], proxy: Value, cluster: Value) -> String {
    let endpoints: Vec<_> =
        backends.iter().map(|backend| json!({"endpoint": {"address": address(*backend)}})).collect();
    let filter = json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": with(proxy, json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "front",
            "cluster": "back",
        })),
    });
    let config = json!({
        "static_resources": {
            "listeners": [{
                "name": "front",
                "address": address(front),
                "tcp_backlog_size": 4096,
                "filter_chains": [{"filters": [filter]}],
            }],
            "clusters": [with(cluster, json!({
                "name": "back",
                "type": "STATIC",
                "connect_timeout": "1s",
                "lb_policy": "ROUND_ROBIN",
                "load_assignment": {"cluster_name": "back", "endpoints": [{"lb_endpoints": endpoints}]},
            }))],
        },
    });
    config.to_string()
}

/// The keys of both objects.
fn with(more: Value, frame: Value) -> Value {
    let (Value::Object(more), Value::Object(mut keys)) = (more, frame) else { return Value::Null };
    keys.extend(more);
    keys.into()
}

fn address(of: SocketAddr) -> Value {
    json!({"socket_address": {"address": of.ip().to_string(), "port_value": of.port()}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_keys_stand_beside_the_common_ones() {
        let (front, back) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 2], 2)));
        let text = config(front, &[back, back], json!({"idle_timeout": "1s"}), json!({"health_checks": []}));
        let config: Value = serde_json::from_str(&text).unwrap();
        let resources = &config["static_resources"];
        assert_eq!(resources["listeners"][0]["address"]["socket_address"]["port_value"], 1);
        let proxy = &resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!((&proxy["cluster"], &proxy["idle_timeout"]), (&json!("back"), &json!("1s")));
        let cluster = &resources["clusters"][0];
        assert_eq!((&cluster["name"], &cluster["health_checks"]), (&json!("back"), &json!([])));
        let endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), 2);
        assert_eq!(endpoints[0]["endpoint"]["address"]["socket_address"]["address"], "127.0.0.2");
    }
}
