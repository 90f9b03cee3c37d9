//! nginx with its stream module. It has no active checks: `fail_timeout` is how long it leaves a backend alone.

use std::path::Path;

use super::Setting;

pub(super) fn config(module: Option<&Path>, setting: &Setting<'_>) -> String {
    let Setting { front, backends, directory, .. } = setting;
    let load = module.map(|path| format!("load_module {};\n", path.display())).unwrap_or_default();
    let servers: String =
        backends.iter().map(|address| format!("        server {address} max_fails=1 fail_timeout=1s;\n")).collect();
    let (directory, log) = (directory.display(), setting.log());
    let log = log.display();
    format!(
        r"{load}daemon off;
worker_processes auto;
pid {directory}/nginx.pid;
error_log {log} crit;

events {{
    worker_connections 16000;
}}

stream {{
    access_log off;
    upstream back {{
        zone back 64k;
{servers}    }}
    server {{
        listen {front} backlog=4096;
        proxy_pass back;
        proxy_connect_timeout 1s;
        proxy_next_upstream_tries 3;
        proxy_timeout 1h;
    }}
}}
"
    )
}
