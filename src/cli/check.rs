//! `evenkeel check`: is the file valid, what would run, what is risky.

use std::path::Path;

use super::{CommandError, say};
use crate::admin;
use crate::balancer::{StartError, permit};
use crate::config::{self, AdminSocket, CheckKind, Config, Source};
use crate::server;

pub(super) fn check(path: &Path, allow_exec: bool) -> Result<(), CommandError> {
    let config = config::load(path)?;
    permit(&config, allow_exec)?;
    server::files_ready(&config).map_err(StartError::from)?;
    let max = server::max_connections(&config)?;
    let mut text = describe(&config, max);
    for warning in config.warnings().into_iter().chain(server::loops(&config)).chain(shared_socket(&config)) {
        text += &format!("warning: {warning}\n");
    }
    text += &format!("{} is valid\n", path.display());
    Ok(say(&text)?)
}

/// Where a socket is that another user could take away and put another one there.
pub(super) fn shared_socket(config: &Config) -> Option<String> {
    let AdminSocket::At(socket) = &config.admin.socket else { return None };
    let why = admin::shared(socket)?;
    Some(format!(
        "[admin]: socket {} is not safe from other users ({why}): leave it out, or write a place where only its owner can \
         write",
        socket.display()
    ))
}

fn describe(config: &Config, max: usize) -> String {
    let mut lines = Vec::new();
    let per_cpu = if config.workers.is_none() { " (one per CPU)" } else { "" };
    let workers = format!("{}{per_cpu}", server::workers(config));
    lines.push(format!("workers: {workers}; at most {max} sessions"));
    lines.push(match config.admin.bind {
        Some(address) => format!("admin: http://{address}"),
        None => "admin: off".to_owned(),
    });
    match &config.admin.socket {
        AdminSocket::At(socket) => lines.push(format!("admin socket: {}", socket.display())),
        // The first that may be used then, by the process that runs.
        AdminSocket::Usual | AdminSocket::Off => {}
    }
    if let Some(directory) = &config.state_dir {
        lines.push(format!("state: {}", directory.display()));
    }
    for listener in &config.listeners {
        let addresses: Vec<_> = listener.bind.iter().map(ToString::to_string).collect();
        let limit = listener.max_connections.map_or_else(String::new, |max| format!(", at most {max} sessions"));
        let routes = match (listener.routes.len(), &listener.pool) {
            (0, _) => String::new(),
            (count, Some(pool)) => format!(" by {count} routes, pool {pool} for the rest"),
            (count, None) => format!(" by {count} routes, the rest is refused"),
        };
        let (addresses, pools) = (addresses.join(", "), listener.pools_shown());
        let word = if listener.pools().len() == 1 { "pool" } else { "pools" };
        lines.push(format!("listener {}: {addresses} -> {word} {pools}{routes}{limit}", listener.name));
    }
    for pool in &config.pools {
        let source = match &pool.source {
            Source::Static(backends) => match backends.len() {
                1 => "1 static backend".to_owned(),
                several => format!("{several} static backends"),
            },
            Source::Consul(consul) => format!("consul service `{}` from {}", consul.service, consul.agent.address),
            Source::File(file) => format!("the backends in {}", file.path.display()),
            Source::Etcd(etcd) => {
                format!("etcd keys below `{}` from {}", etcd.prefix, etcd.cluster.endpoints.join(", "))
            }
            Source::Http(http) => format!("the backends at {}", http.url),
            Source::Dns(dns) => format!("the answers of DNS for {}", dns.name),
        };
        let check = &pool.check;
        let probes = match check.kind {
            CheckKind::None => "no active check".to_owned(),
            _ => format!(
                "{} check every {:?}, rise {}, fall {}",
                check.kind.name(),
                check.interval,
                check.rise,
                check.fall
            ),
        };
        let agent = pool.agent.as_ref().and_then(|agent| agent.port);
        let agent = agent.map_or_else(String::new, |port| format!(", agents on port {port}"));
        lines.push(format!("pool {}: {} over {source}, {probes}{agent}", pool.name, pool.balance.name()));
    }
    lines.join("\n") + "\n"
}
