//! HAProxy, with what its manual recommends against failing servers: retries elsewhere, and an eye on live connections.

use super::super::fault::Check;
use super::Setting;

pub(super) fn config(setting: &Setting<'_>) -> String {
    let Setting { front, backends, check, .. } = setting;
    let script = match check {
        Check::Tcp => "",
        Check::Script => {
            "    option tcp-check\n    tcp-check connect\n    tcp-check send PING\\r\\n\n    tcp-check expect string PONG\n"
        }
    };
    let servers: String =
        backends.iter().enumerate().map(|(index, address)| format!("    server b{} {address}\n", index + 1)).collect();
    format!(
        r"global
    maxconn 8000

defaults
    mode tcp
    timeout connect 1s
    timeout check 500ms
    timeout client 1h
    timeout server 1h
    retries 3
    option redispatch

frontend front
    bind {front} backlog 4096
    default_backend back

backend back
    balance roundrobin
{script}    default-server check inter 1s fastinter 300ms downinter 300ms rise 2 fall 3 observe layer4
{servers}"
    )
}
