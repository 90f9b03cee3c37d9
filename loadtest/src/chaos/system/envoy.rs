//! Envoy's TCP proxy. It has no faster interval for a backend that is about to go down, only for one that is down, so it checks
//! twice as often while all is well.

use serde_json::json;

use super::super::fault::Check;
use super::super::wire::{PING, PONG};
use super::Setting;
use crate::envoy;

pub(super) fn config(setting: &Setting<'_>) -> String {
    let Setting { front, backends, check, .. } = setting;
    let tcp = match check {
        Check::Tcp => json!({}),
        Check::Script => json!({"send": {"text": hex(PING)}, "receive": [{"text": hex(PONG.trim_ascii_end())}]}),
    };
    let cluster = json!({
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
    });
    envoy::config(*front, backends, json!({"max_connect_attempts": 3}), cluster)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
