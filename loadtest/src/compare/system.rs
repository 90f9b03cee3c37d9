//! The systems that are compared, and how each is configured.
//!
//! All get the same settings: one listener, one backend, the same number of threads, a TCP check every 2 s (rise 2, fall 3), the
//! same limit of connections, the same timeouts, and for each session one line in a file of the same file system, or none.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::harness::envoy;
use crate::harness::programs::{Installed, Software, accepts};

/// Values of the pool's key `relay`.
const RELAYS: [&str; 3] = ["copy", "splice", "io_uring"];

/// One column of the comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ComparedSystem {
    /// In tables, in the JSON and on the command line.
    pub(super) name: String,
    /// As the program reports it; empty for `direct`.
    pub(super) version: String,
    pub(super) kind: SystemKind,
    /// Not in the JSON, because it holds paths of this machine. `None` for `direct`.
    #[serde(skip)]
    pub(super) program: Option<(Software, PathBuf)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SystemKind {
    /// No balancer: shows the cost of the load generator and the backend.
    Direct,
    Evenkeel {
        /// Value of the pool's key `relay`; `None` = the key is not written.
        relay: Option<String>,
    },
    Haproxy {
        splice: bool,
    },
    Nginx {},
    Envoy,
}

/// The two rows of each case: with and without a log line for each session. Checks are on in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LogMode {
    Defaults,
    LogsOff,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct SystemSetup<'a> {
    /// Where it listens.
    pub(super) front: SocketAddr,
    pub(super) backend: SocketAddr,
    /// Threads, or worker processes.
    pub(super) threads: usize,
    pub(super) sessions: u64,
    pub(super) row: LogMode,
    pub(super) directory: &'a Path,
}

/// The columns of the comparison, made from the programs that were found; `direct` comes first.
pub(super) fn find((programs, mut missing): (Vec<Installed>, Vec<String>)) -> (Vec<ComparedSystem>, Vec<String>) {
    let direct = (String::from("direct"), String::new());
    let mut systems =
        vec![ComparedSystem { name: direct.0, version: direct.1, kind: SystemKind::Direct, program: None }];
    for Installed { software, name, version, binary } in programs {
        let mut push = |suffix: &str, kind| {
            let (name, program) = (format!("{name}{suffix}"), Some((software.clone(), binary.clone())));
            systems.push(ComparedSystem { name, version: version.clone(), kind, program });
        };
        match &software {
            Software::Evenkeel => {
                push("", SystemKind::Evenkeel { relay: None });
                let (known, unknown): (Vec<_>, Vec<_>) =
                    RELAYS.into_iter().partition(|relay| accepts(&binary, &trial(relay)).is_ok());
                known.iter().for_each(|relay| {
                    push(&format!("-{relay}"), SystemKind::Evenkeel { relay: Some((*relay).into()) });
                });
                if !unknown.is_empty() {
                    missing.push(format!("evenkeel: this binary does not accept relay = {}", unknown.join(", ")));
                }
            }
            Software::Haproxy => {
                push("", SystemKind::Haproxy { splice: false });
                push("-splice", SystemKind::Haproxy { splice: true });
            }
            Software::Nginx(_) => push("", SystemKind::Nginx {}),
            Software::Envoy => push("", SystemKind::Envoy),
        }
    }
    (systems, missing)
}

impl LogMode {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Defaults => "shipped defaults: session log on, checks on",
            Self::LogsOff => "logs off, checks on",
        }
    }

    pub(super) fn short_title(self) -> &'static str {
        match self {
            Self::Defaults => "shipped defaults",
            Self::LogsOff => "logs off",
        }
    }
}

impl SystemKind {
    /// Whether it is a balancer other than Evenkeel.
    pub(super) fn is_peer(&self) -> bool {
        matches!(self, Self::Haproxy { .. } | Self::Nginx {} | Self::Envoy)
    }

    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Evenkeel { .. })
    }
}

impl ComparedSystem {
    /// Writes the configuration and returns the command that runs it; `None` for `direct`.
    pub(super) fn command(&self, setup: &SystemSetup<'_>) -> io::Result<Option<Command>> {
        let Some((software, binary)) = &self.program else { return Ok(None) };
        let config = match (&self.kind, software) {
            (SystemKind::Haproxy { splice }, _) => haproxy(*splice, setup),
            (_, Software::Nginx(module)) => nginx(module.as_deref(), setup),
            (SystemKind::Envoy, _) => envoy_config(setup),
            (kind, _) => evenkeel(kind, setup),
        };
        let mut command = software.command(binary, &config, setup.directory, &setup.other_log())?;
        let (sessions, other) = (append(&setup.session_log())?, append(&setup.other_log())?);
        match software {
            Software::Evenkeel => command.stdout(other).stderr(sessions),
            Software::Haproxy => command.stdout(sessions).stderr(other),
            Software::Nginx(_) => command.stdout(Stdio::null()).stderr(other),
            Software::Envoy => {
                command.args(["--concurrency", &setup.threads.to_string()]);
                command.stdout(append(&setup.other_log())?).stderr(other)
            }
        };
        Ok(Some(command))
    }
}

impl SystemSetup<'_> {
    pub(super) fn session_log(&self) -> PathBuf {
        self.directory.join("sessions.log")
    }

    /// The log of everything but sessions.
    pub(super) fn other_log(&self) -> PathBuf {
        self.directory.join("other.log")
    }
}

fn append(path: &Path) -> io::Result<Stdio> {
    Ok(File::options().create(true).append(true).open(path)?.into())
}

/// A configuration with this value of `relay`, to see whether a binary accepts it.
fn trial(relay: &str) -> String {
    // Two addresses: Evenkeel refuses a backend that is the listener itself.
    let (front, backend) = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
    let directory = Path::new("");
    let setup = SystemSetup { front, backend, threads: 1, sessions: 1, row: LogMode::LogsOff, directory };
    evenkeel(&SystemKind::Evenkeel { relay: Some(relay.into()) }, &setup)
}

/// The session log goes to stderr.
fn evenkeel(kind: &SystemKind, setup: &SystemSetup<'_>) -> String {
    let SystemSetup { front, backend, threads, sessions, row, .. } = setup;
    let relay = match kind {
        SystemKind::Evenkeel { relay: Some(relay) } => format!("relay = \"{relay}\"\n"),
        _ => String::new(),
    };
    let log = *row == LogMode::Defaults;
    format!(
        r#"workers = {threads}
max_connections = {sessions}

[listeners.front]
bind = "{front}"
pool = "back"

[pools.back]
backends = ["{backend}"]
{relay}timeouts.idle = "1h"
connect.timeout = "1s"
check = {{ kind = "tcp", interval = "2s", timeout = "1s", rise = 2, fall = 3 }}

[admin]
bind = "127.0.0.1:0"

[log]
sessions = {log}
"#
    )
}

/// One process with threads. Its log goes to stdout, with one write for each line.
fn haproxy(splice: bool, setup: &SystemSetup<'_>) -> String {
    let SystemSetup { front, backend, threads, sessions, row, .. } = setup;
    let (sink, log) = match row {
        LogMode::Defaults => ("    log stdout format raw local0 info\n", "    log global\n    option tcplog\n"),
        LogMode::LogsOff => ("", ""),
    };
    let splice = if splice { "    option splice-auto\n" } else { "" };
    format!(
        r"global
    nbthread {threads}
    maxconn {sessions}
{sink}
defaults
    mode tcp
{log}{splice}    timeout connect 1s
    timeout client 1h
    timeout server 1h

frontend front
    bind {front} backlog 4096
    maxconn {sessions}
    default_backend back

backend back
    server one {backend} check inter 2s rise 2 fall 3
"
    )
}

/// nginx has no active checks, only `max_fails`, which makes it a little cheaper.
fn nginx(module: Option<&Path>, setup: &SystemSetup<'_>) -> String {
    let SystemSetup { front, backend, threads, sessions, row, directory } = setup;
    let load = module.map(|path| format!("load_module {};\n", path.display())).unwrap_or_default();
    let log = match row {
        LogMode::Defaults => format!(
            "log_format session '$remote_addr [$time_iso8601] $protocol $status $bytes_sent $bytes_received \
             $session_time $upstream_addr $upstream_connect_time';\n    access_log {} session;",
            setup.session_log().display()
        ),
        LogMode::LogsOff => "access_log off;".into(),
    };
    // A session takes two connections of a worker, and all sessions may come to one worker.
    let connections = 2 * sessions + 64;
    let directory = directory.display();
    format!(
        r"{load}daemon off;
worker_processes {threads};
pid {directory}/nginx.pid;
error_log {directory}/other.log error;

events {{
    worker_connections {connections};
}}

stream {{
    {log}
    upstream back {{
        server {backend} max_fails=3 fail_timeout=10s;
    }}
    server {{
        listen {front} backlog=4096;
        proxy_pass back;
        proxy_connect_timeout 1s;
        proxy_timeout 1h;
    }}
}}
"
    )
}

/// A thread of its own writes the access log in batches.
fn envoy_config(setup: &SystemSetup<'_>) -> String {
    let SystemSetup { front, backend, sessions, row, .. } = setup;
    let log = match row {
        LogMode::Defaults => json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": setup.session_log(),
            },
        }]),
        LogMode::LogsOff => json!([]),
    };
    let proxy = json!({"idle_timeout": "3600s", "access_log": log});
    let cluster = json!({
        // The default of 1,024 would refuse the idle connections.
        "circuit_breakers": {"thresholds": [{"max_connections": sessions, "max_pending_requests": sessions}]},
        "health_checks": [{
            "timeout": "1s",
            "interval": "2s",
            "healthy_threshold": 2,
            "unhealthy_threshold": 3,
            "tcp_health_check": {},
        }],
    });
    envoy::config(*front, &[*backend], proxy, cluster)
}
