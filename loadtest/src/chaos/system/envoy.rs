//! Envoy's TCP proxy. It has no faster interval for a backend that is about to go down, only for one that is down, so it checks
//! twice as often while all is well.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::super::fault::Check;
use super::super::wire::{PING, PONG};
use super::Setting;

pub(super) fn config(setting: &Setting<'_>) -> String {
    let Setting { front, backends, check, .. } = setting;
    let tcp = match check {
        Check::Tcp => json!({}),
        Check::Script => json!({"send": {"text": hex(PING)}, "receive": [{"text": hex(PONG.trim_ascii_end())}]}),
    };
    let endpoints: Vec<_> =
        backends.iter().map(|backend| json!({"endpoint": {"address": address(*backend)}})).collect();
    let proxy = json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "front",
            "cluster": "back",
            "max_connect_attempts": 3,
        },
    });
    let config = json!({
        "static_resources": {
            "listeners": [{
                "name": "front",
                "address": address(*front),
                "tcp_backlog_size": 4096,
                "filter_chains": [{"filters": [proxy]}],
            }],
            "clusters": [{
                "name": "back",
                "type": "STATIC",
                "connect_timeout": "1s",
                "lb_policy": "ROUND_ROBIN",
                // The default of 50 % sends clients to dead backends as soon as two of three are dead.
                "common_lb_config": {"healthy_panic_threshold": {"value": 0.0}},
                // The default of 1,024 would refuse clients while a backend is silent.
                "circuit_breakers": {"thresholds": [{"max_connections": 20000, "max_pending_requests": 20000}]},
                "health_checks": [{
                    "timeout": "0.5s",
                    "interval": "0.5s",
                    // By default the second check comes a minute after the first, if there was no traffic yet at that time.
                    "no_traffic_interval": "0.5s",
                    "unhealthy_interval": "0.3s",
                    "unhealthy_edge_interval": "0.3s",
                    "healthy_threshold": 2,
                    "unhealthy_threshold": 3,
                    // One that keeps its connection judges the connection and not the service.
                    "reuse_connection": false,
                    "tcp_health_check": tcp,
                }],
                "load_assignment": {"cluster_name": "back", "endpoints": [{"lb_endpoints": endpoints}]},
            }],
        },
    });
    config.to_string()
}

fn address(of: SocketAddr) -> Value {
    json!({"socket_address": {"address": of.ip().to_string(), "port_value": of.port()}})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
