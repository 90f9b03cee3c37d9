//! What is legal and may still hurt: shown by `evenkeel check` and logged at the start, one line each.
//! It sees the validated [`Config`] alone, so it can tell risk from intent only by the value.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::duration::written;
use super::hidden_routes::hidden;
use super::{
    Balance, Check, CheckKind, ClosePolicy, Config, ConsulAgent, EtcdSource, Host, HostPort, HttpSource, Listener,
    Pool, Rebalance, ScriptStep, Source, StaticBackend, WhenAllDown,
};

/// Probes closer together than this are load of their own.
const BUSY_INTERVAL: Duration = Duration::from_millis(100);

/// How many connections a Consul agent takes from one address by default (`limits.http_max_conns_per_client`).
const AGENT_CONNECTIONS: usize = 200;

impl Config {
    /// One line each, beginning with the place: what is legal but risky.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(bind) = self.admin.bind.filter(|bind| !bind.ip().is_loopback() && self.admin.read_token.is_none()) {
            warnings.push(format!("[admin]: bind {bind} lets other machines in, and it asks for no password"));
        }
        let has_token = self.admin.read_token.is_some() || self.admin.admin_token.is_some();
        if let Some(bind) = self.admin.bind.filter(|bind| !bind.ip().is_loopback() && has_token) {
            warnings.push(format!(
                "[admin]: a token for bind {bind} goes over the network in the clear; bind to 127.0.0.1 behind a proxy \
                 with TLS, or use the socket"
            ));
        }
        if self.shutdown.timeout.is_zero() {
            warnings.push("[shutdown]: timeout 0s cuts every running session at a stop".to_owned());
        }
        for listener in &self.listeners {
            self.judge_listener(listener, &mut warnings);
        }
        for pool in &self.pools {
            let mut of_pool = Vec::new();
            self.judge_pool(pool, &mut of_pool);
            warnings.extend(of_pool.into_iter().map(|warning| format!("[pools.{}]: {warning}", pool.name)));
        }
        self.judge_agents(&mut warnings);
        warnings
    }

    fn judge_agents(&self, warnings: &mut Vec<String>) {
        for name in &self.ignored_variables {
            let table = if name.starts_with("ETCDCTL_") { "etcd" } else { "consul" };
            warnings.push(format!(
                "[{table}]: the environment variable {name} is set, and is not supported: it changes nothing"
            ));
        }
        let agents = self.pools.iter().filter_map(|pool| match &pool.source {
            Source::Consul(consul) => Some(&consul.agent),
            _ => None,
        });
        // It is the same for all of them.
        if let Some(most) = agents.map(|agent| agent.max_connections).max().filter(|most| *most >= AGENT_CONNECTIONS) {
            warnings.push(format!(
                "[consul]: max_connections {most}: an agent takes {AGENT_CONNECTIONS} from one address, and at that shuts out every \
                 other client on this machine, unless its limits.http_max_conns_per_client says more"
            ));
        }
    }

    fn judge_listener(&self, listener: &Listener, warnings: &mut Vec<String>) {
        let Listener { name, max_connections, accept_proxy, tcp, .. } = listener;
        if let (Some(own), Some(all)) = (max_connections, self.max_connections)
            && *own > all
        {
            warnings
                .push(format!("[listeners.{name}]: max_connections {own} is never reached, the process takes {all}"));
        }
        for network in accept_proxy.iter().flat_map(|accept| &accept.from).filter(|network| network.prefix == 0) {
            warnings.push(format!(
                "[listeners.{name}]: accept_proxy.from {network} lets everybody claim to be anybody; name the proxies in front"
            ));
        }
        warnings.extend(hidden(listener).into_iter().map(|line| format!("[listeners.{name}]: {line}")));
        let unlimited = listener.pools().into_iter().filter_map(|name| self.pool(name));
        if let Some(pool) = unlimited.into_iter().find(|pool| pool.timeouts.idle.is_none() && tcp.keepalive.is_none()) {
            warnings.push(format!(
                "[listeners.{name}]: keepalive is off and pool {} has no idle timeout: a client that vanished keeps its session forever",
                pool.name
            ));
        }
    }

    fn judge_pool(&self, pool: &Pool, warnings: &mut Vec<String>) {
        let is_fallback = self.pools.iter().any(|other| other.fallback.as_ref() == Some(&pool.name));
        if !is_fallback && !self.listeners.iter().any(|listener| listener.pools().contains(&*pool.name)) {
            let probed = if pool.check.kind == CheckKind::None { "" } else { "; it is probed all the same" };
            warnings.push(format!("no listener uses this pool{probed}"));
        }
        if pool.timeouts.idle.is_none() {
            warnings.push("timeouts.idle 0s: a session that is quiet is never ended".to_owned());
        }
        if pool.connect.deadline < pool.connect.timeout {
            let (deadline, timeout) = (written(pool.connect.deadline), written(pool.connect.timeout));
            warnings.push(format!("connect.deadline {deadline} ends an attempt before its timeout {timeout}"));
        }
        if let Some(hedge) = pool.connect.hedge.filter(|hedge| *hedge != super::connect::DEFAULT_HEDGE)
            && hedge >= pool.connect.timeout
        {
            let (hedge, timeout) = (written(hedge), written(pool.connect.timeout));
            warnings.push(format!("connect.hedge {hedge} is never reached, an attempt ends after {timeout}"));
        }
        if pool.replay.is_some() {
            warnings.push("replay \"until_response\": a request may run twice, on two backends".to_owned());
            if pool.timeouts.first_byte.is_none() {
                warnings.push("replay without timeouts.first_byte: a backend that hangs is waited for".to_owned());
            }
        }
        if pool.when_all_down == WhenAllDown::Any && pool.check.kind != CheckKind::None {
            warnings.push(
                "when_all_down \"any\": with no backend up, sessions go to backends whose checks fail".to_owned(),
            );
        }
        if pool.balance == Balance::First && !has_caps(pool) {
            warnings.push(
                "balance \"first\" without a limit of sessions: the first backend that is up gets every session"
                    .to_owned(),
            );
        }
        if pool.queue.is_some() && !may_wait(pool) {
            warnings.push("queue is never used: no backend has a limit of sessions".to_owned());
        }
        if pool.closing.on_down != ClosePolicy::Keep
            && pool.check.kind == CheckKind::None
            && !matches!(pool.source, Source::Consul(_))
        {
            warnings.push(format!("on_down \"{}\" never applies: nothing checks the backends", pool.closing.on_down));
        }
        if let Some(rebalance) = &pool.rebalance {
            judge_rebalance(pool, rebalance, warnings);
        }
        if !pool.resilience.spill_is_written
            && let Source::Static(backends) = &pool.source
        {
            judge_backups(backends, warnings);
        }
        judge_check(&pool.check, warnings);
        match &pool.source {
            Source::Static(backends) => self.judge_backends(backends, warnings),
            Source::Consul(consul) => judge_agent(&consul.agent, warnings),
            Source::Etcd(etcd) => judge_keys(etcd, warnings),
            Source::Http(http) => judge_token(http, warnings),
            Source::File(_) | Source::Dns(_) => {}
        }
    }

    fn judge_backends(&self, backends: &[StaticBackend], warnings: &mut Vec<String>) {
        if let [only] = backends {
            warnings.push(format!("{} is the only backend; nothing takes over when it fails", only.id));
        }
        if backends.iter().all(|backend| backend.weight == 0) {
            warnings.push("every weight is 0, so no backend gets a new session".to_owned());
        }
        let mut seen = HashSet::new();
        for backend in backends {
            if !seen.insert(&backend.address) {
                warnings.push(format!("{} is written more than once and gets that much more", backend.address));
            }
            if let Some(listener) = self.listeners.iter().find(|listener| leads_back(&backend.address, listener)) {
                warnings.push(format!("{} is listener {} of this balancer: a loop", backend.address, listener.name));
            }
        }
    }
}

/// Whether there can be anything to wait for in its queue.
fn may_wait(pool: &Pool) -> bool {
    has_caps(pool) || pool.when_all_down == WhenAllDown::Wait
}

/// Whether a backend may have a limit of sessions. An agent, and what a source says of an instance, may set one.
fn has_caps(pool: &Pool) -> bool {
    let by_backend = match &pool.source {
        Source::Static(backends) => backends.iter().any(|backend| backend.max_sessions.is_some()),
        Source::Consul(_) | Source::Etcd(_) | Source::File(_) | Source::Http(_) => true,
        Source::Dns(_) => false,
    };
    by_backend || pool.resilience.backend_max_sessions.is_some() || pool.agent.is_some()
}

fn judge_rebalance(pool: &Pool, rebalance: &Rebalance, warnings: &mut Vec<String>) {
    let wanted = rebalance.max_per_second;
    if let Some(rate) = pool.closing.rate.filter(|rate| *rate < wanted) {
        warnings.push(format!("rebalance.max_per_second {wanted} is never reached: close_rate is {rate}"));
    }
    let balance = pool.balance;
    if matches!(balance, Balance::RoundRobin | Balance::Random) {
        warnings.push(format!(
            "rebalance with balance \"{}\": some of the clients that are closed come back to a backend that has too many, and \
             more have to be closed; with \"least_connections\" each goes where there is room",
            balance.name()
        ));
    }
}

/// Nothing in the file says whether a backup may serve beside a primary that is up.
fn judge_backups(backends: &[StaticBackend], warnings: &mut Vec<String>) {
    let first = backends.iter().map(|backend| backend.priority).min();
    for backup in backends.iter().filter(|backend| Some(backend.priority) != first) {
        warnings.push(format!(
            "{} is a backup and `spill` is not written: also while a backend before it is up, it serves sessions that fail \
             there or find it full; write spill = [\"failed\", \"full\"] if that is right, spill = [] if it must not (a \
             database's replica)",
            backup.id
        ));
    }
}

fn judge_check(check: &Check, warnings: &mut Vec<String>) {
    match &check.kind {
        CheckKind::None => {
            warnings.push("check.kind \"none\": a dead backend shows only in the connects of clients".to_owned());
            return;
        }
        CheckKind::Http(http) if http.status.contains(500) || http.status.contains(503) => {
            warnings.push(format!("check.status \"{}\": a backend that answers with an error passes", http.status));
        }
        CheckKind::Script(script) if script.steps.iter().all(|step| matches!(step, ScriptStep::Send(_))) => {
            warnings.push(
                "check.steps without `expect`: every server that takes the bytes passes, whatever it answers"
                    .to_owned(),
            );
        }
        _ => {}
    }
    if check.fall == 1 {
        warnings.push("check.fall 1: one lost packet takes a backend out".to_owned());
    }
    if check.interval < BUSY_INTERVAL {
        let interval = written(check.interval);
        warnings.push(format!("check.interval {interval}: so many probes are load for the backends"));
    }
    if check.timeout > check.interval {
        let (timeout, interval) = (written(check.timeout), written(check.interval));
        warnings.push(format!("check.timeout {timeout} is longer than its interval {interval}: a hang is seen late"));
    }
    if check.fast_interval > check.interval {
        let (fast, interval) = (written(check.fast_interval), written(check.interval));
        warnings.push(format!("check.fast_interval {fast} is longer than the interval {interval}"));
    }
}

fn judge_agent(agent: &ConsulAgent, warnings: &mut Vec<String>) {
    if (agent.token.is_some() || agent.token_file.is_some()) && is_in_the_clear(&agent.address) {
        warnings.push(format!("the token goes to {} in the clear; use https", agent.address));
    }
}

fn judge_token(HttpSource { url, token, token_file, .. }: &HttpSource, warnings: &mut Vec<String>) {
    // Scheme and authority.
    let server = url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    if (token.is_some() || token_file.is_some()) && is_in_the_clear(&server) {
        warnings.push(format!("the token goes to {server} in the clear; use https"));
    }
}

fn judge_keys(EtcdSource { cluster, prefix }: &EtcdSource, warnings: &mut Vec<String>) {
    if let Some(endpoint) =
        cluster.endpoints.iter().find(|endpoint| cluster.user.is_some() && is_in_the_clear(endpoint))
    {
        warnings.push(format!("the password goes to {endpoint} in the clear; use https"));
    }
    if !prefix.ends_with('/') {
        warnings.push(format!(
            "etcd.prefix \"{prefix}\" does not end in `/`: keys such as \"{prefix}2/a\" are backends of this pool, too"
        ));
    }
}

/// Whether what is sent to a registry there can be read on the network.
fn is_in_the_clear(address: &str) -> bool {
    let Some(authority) = address.strip_prefix("http://") else { return false };
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => !ip.is_loopback(),
        Err(_) => host != "localhost",
    }
}

/// Whether a session to that address arrives at the listener again.
fn leads_back(address: &HostPort, listener: &Listener) -> bool {
    let same_host = |bind: &SocketAddr| match &address.host {
        Host::Ip(ip) => *ip == bind.ip() || (ip.is_loopback() && bind.ip().is_unspecified()),
        Host::Name(name) => name == "localhost" && (bind.ip().is_loopback() || bind.ip().is_unspecified()),
    };
    listener.bind.iter().any(|bind| bind.port() == address.port && same_host(bind))
}
