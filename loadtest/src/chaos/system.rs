//! The systems under test, and how each is configured.
//!
//! All get the same checks as far as each program allows: every second while a backend is up and every 300 ms otherwise, timeout
//! 500 ms, rise 2, fall 3; one second to connect, three attempts. Everything else is the program's default.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fault::{CheckKind, Fault};
use super::wire::{PING, PONG};
use crate::harness::envoy;
use crate::harness::programs::{Installed, Software, accepts};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ChaosSystem {
    /// In tables, in the JSON and on the command line.
    pub(super) name: String,
    /// As the program reports it.
    pub(super) version: String,
    pub(super) program: ChaosProgram,
    /// Not in the JSON, because it holds paths of this machine. `None` in tests.
    #[serde(skip)]
    binary: Option<(Software, PathBuf)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChaosProgram {
    Evenkeel(EvenkeelVariant),
    Haproxy,
    Nginx {},
    Envoy,
}

/// What is added to Evenkeel's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum EvenkeelVariant {
    Plain,
    /// `timeouts.first_byte`, for the one fault where a backend is silent.
    FirstByte,
    /// `timeouts.first_byte` and `replay`.
    Replay,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ChaosSetup<'a> {
    /// Where it listens.
    pub(super) front: SocketAddr,
    pub(super) backends: &'a [SocketAddr],
    pub(super) check: CheckKind,
    pub(super) directory: &'a Path,
}

/// The columns, made from the programs that were found; peers come first.
pub(super) fn find((programs, mut missing): (Vec<Installed>, Vec<String>)) -> (Vec<ChaosSystem>, Vec<String>) {
    let mut systems = Vec::new();
    for Installed { software, name, version, binary } in programs {
        let mut push = |name: &str, program| {
            let binary = Some((software.clone(), binary.clone()));
            systems.push(ChaosSystem { name: name.to_owned(), version: version.clone(), program, binary });
        };
        match &software {
            Software::Evenkeel => {
                for variant in EvenkeelVariant::ALL {
                    match accepts(&binary, &trial(variant)) {
                        Ok(()) => push(variant.name(), ChaosProgram::Evenkeel(variant)),
                        Err(why) => missing
                            .push(format!("{}: this binary does not accept its configuration: {why}", variant.name())),
                    }
                }
            }
            Software::Haproxy => push(&name, ChaosProgram::Haproxy),
            Software::Nginx(_) => push(&name, ChaosProgram::Nginx {}),
            Software::Envoy => push(&name, ChaosProgram::Envoy),
        }
    }
    systems.sort_by_key(ChaosSystem::is_ours);
    (systems, missing)
}

impl EvenkeelVariant {
    const ALL: [Self; 3] = [Self::Plain, Self::FirstByte, Self::Replay];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "evenkeel",
            Self::FirstByte => "evenkeel-first-byte",
            Self::Replay => "evenkeel-replay",
        }
    }
}

impl ChaosSystem {
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.program, ChaosProgram::Evenkeel(_))
    }

    /// Whether it has a cell in this row.
    pub(super) fn belongs(&self, fault: Fault, check: CheckKind) -> bool {
        match self.program {
            // nginx has no active checks: one row is enough.
            ChaosProgram::Nginx {} => check == CheckKind::Tcp,
            // The timeout matters only when a backend is silent.
            ChaosProgram::Evenkeel(EvenkeelVariant::FirstByte) => fault == Fault::Stop,
            ChaosProgram::Evenkeel(_) | ChaosProgram::Haproxy | ChaosProgram::Envoy => true,
        }
    }

    /// Writes the configuration and returns the command that runs it.
    pub(super) fn command(&self, setup: &ChaosSetup<'_>) -> io::Result<Command> {
        let Some((software, binary)) = &self.binary else { return Err(io::ErrorKind::NotFound.into()) };
        let config = match (self.program, software) {
            (ChaosProgram::Evenkeel(variant), _) => evenkeel(variant, setup),
            (_, Software::Nginx(module)) => nginx(module.as_deref(), setup),
            (ChaosProgram::Envoy, _) => envoy_config(setup),
            _ => haproxy(setup),
        };
        let mut command = software.command(binary, &config, setup.directory, &setup.log())?;
        let log = File::options().create(true).append(true).open(setup.log())?;
        command.stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }
}

impl ChaosSetup<'_> {
    /// The file for all that a system says.
    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn backend_lines(&self, line: impl Fn(usize, &SocketAddr) -> String) -> String {
        self.backends.iter().enumerate().map(|(index, address)| line(index + 1, address)).collect()
    }
}

/// A configuration of this variant, to see whether a binary accepts it.
fn trial(variant: EvenkeelVariant) -> String {
    // Two addresses: Evenkeel refuses a backend that is the listener itself.
    let (front, backend) = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
    let (check, directory) = (CheckKind::Script, Path::new(""));
    evenkeel(variant, &ChaosSetup { front, backends: &[backend], check, directory })
}

/// The shipped defaults, except for the check intervals that all systems get.
fn evenkeel(variant: EvenkeelVariant, setup: &ChaosSetup<'_>) -> String {
    let ChaosSetup { front, backends, check, .. } = setup;
    let backends: Vec<_> = backends.iter().map(|address| format!("\"{address}\"")).collect();
    let backends = backends.join(", ");
    let more = match variant {
        EvenkeelVariant::Plain => "",
        EvenkeelVariant::FirstByte => "timeouts.first_byte = \"1s\"\n",
        EvenkeelVariant::Replay => "timeouts.first_byte = \"1s\"\nreplay = \"until_response\"\n",
    };
    let check = match check {
        CheckKind::Tcp => "kind = \"tcp\"",
        CheckKind::Script => "kind = \"script\"\nsteps = [{ send = \"PING\\r\\n\" }, { expect = \"PONG\" }]",
    };
    // `connect`, `rise` and `fall` are the defaults.
    format!(
        r#"[listeners.front]
bind = "{front}"
pool = "back"

[pools.back]
backends = [{backends}]
{more}
[pools.back.check]
{check}
interval = "1s"
fast_interval = "300ms"
down_interval = "300ms"
timeout = "500ms"
"#
    )
}

/// With what HAProxy's manual recommends against failing servers: retries on other servers, and `observe layer4`.
fn haproxy(setup: &ChaosSetup<'_>) -> String {
    let ChaosSetup { front, check, .. } = setup;
    let script = match check {
        CheckKind::Tcp => "",
        CheckKind::Script => {
            "    option tcp-check\n    tcp-check connect\n    tcp-check send PING\\r\\n\n    tcp-check expect string PONG\n"
        }
    };
    let servers = setup.backend_lines(|number, address| format!("    server b{number} {address}\n"));
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

/// nginx has no active checks; it leaves a failed backend alone for `fail_timeout`.
fn nginx(module: Option<&Path>, setup: &ChaosSetup<'_>) -> String {
    let ChaosSetup { front, directory, .. } = setup;
    let load = module.map(|path| format!("load_module {};\n", path.display())).unwrap_or_default();
    let servers = setup.backend_lines(|_, address| format!("        server {address} max_fails=1 fail_timeout=1s;\n"));
    let (directory, log) = (directory.display(), setup.log());
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

/// Envoy has a faster interval for a backend that is down, but none for one that is about to go down. So it checks twice as often
/// while all is well.
fn envoy_config(setup: &ChaosSetup<'_>) -> String {
    let ChaosSetup { front, backends, check, .. } = setup;
    let tcp = match check {
        CheckKind::Tcp => json!({}),
        CheckKind::Script => json!({"send": {"text": hex(PING)}, "receive": [{"text": hex(PONG.trim_ascii_end())}]}),
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
            // A check that keeps its connection judges the connection and not the service.
            "reuse_connection": false,
            "tcp_health_check": tcp,
        }],
    });
    envoy::config(*front, backends, json!({"max_connect_attempts": 3}), cluster)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
impl ChaosSystem {
    /// A system of that name that can't be run.
    pub(super) fn sample(name: &str) -> Self {
        let variant = EvenkeelVariant::ALL.into_iter().find(|variant| variant.name() == name);
        let program = variant.map_or(ChaosProgram::Haproxy, ChaosProgram::Evenkeel);
        Self { name: name.to_owned(), version: "1.0".into(), program, binary: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKENDS: [SocketAddr; 2] = [
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 9000),
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 9000),
    ];

    fn texts(check: CheckKind) -> [String; 4] {
        let front = ([127, 0, 0, 1], 8080).into();
        let setup = ChaosSetup { front, backends: &BACKENDS, check, directory: Path::new("/d") };
        [evenkeel(EvenkeelVariant::Replay, &setup), haproxy(&setup), nginx(None, &setup), envoy_config(&setup)]
    }

    #[test]
    fn every_system_gets_every_backend_and_the_front() {
        for text in texts(CheckKind::Tcp) {
            for word in ["10.0.0.1", "10.0.0.2", "9000", "127.0.0.1", "8080"] {
                assert!(text.contains(word), "no {word} in {text}");
            }
        }
    }

    #[test]
    fn only_a_script_check_sends_and_expects_bytes() {
        for (check, talks) in [(CheckKind::Tcp, false), (CheckKind::Script, true)] {
            let [evenkeel, haproxy, _, envoy] = texts(check);
            assert_eq!(evenkeel.contains("PONG"), talks);
            assert_eq!(haproxy.contains("expect string PONG"), talks);
            assert_eq!(envoy.contains("504f4e47"), talks);
        }
    }

    #[test]
    fn the_columns_differ_in_nothing_but_replay_and_first_byte() {
        let front = ([127, 0, 0, 1], 8080).into();
        let setup = ChaosSetup { front, backends: &BACKENDS, check: CheckKind::Tcp, directory: Path::new("/d") };
        let [plain, first_byte, replay] = EvenkeelVariant::ALL.map(|variant| evenkeel(variant, &setup));
        let more = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !plain.lines().any(|plain| plain == *line)).map(str::to_owned).collect()
        };
        assert_eq!(more(&first_byte), ["timeouts.first_byte = \"1s\""]);
        assert_eq!(more(&replay), ["timeouts.first_byte = \"1s\"", "replay = \"until_response\""]);
        assert!(plain.lines().all(|line| replay.lines().any(|replay| replay == line)));
    }

    #[test]
    fn ours_is_a_configuration_that_evenkeel_takes() {
        for &check in CheckKind::ALL {
            let front = ([127, 0, 0, 1], 8080).into();
            let setup = ChaosSetup { front, backends: &BACKENDS, check, directory: Path::new("/d") };
            let text = evenkeel(EvenkeelVariant::Plain, &setup);
            assert!(::evenkeel::config::parse(&text, "lb.toml", &|_| None).is_ok(), "{text}");
        }
    }
}
