//! The systems under test: a closed set, one file each for how it is configured.
//!
//! All get the same: checks every second while a backend is up and every 300 ms otherwise, as far as they have words for that,
//! timeout 500 ms, rise 2, fall 3; a second to connect, three attempts. Everything else is as it comes out of the box.

mod envoy;
mod evenkeel;
mod haproxy;
mod nginx;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::fault::{Check, Fault};
use crate::compare::system::{Binaries, Kind};

/// One column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Subject {
    /// In tables, in the JSON and on the command line.
    pub(super) name: String,
    /// What it says of itself.
    pub(super) version: String,
    pub(super) program: Program,
    /// Not part of the report: it would show this machine's paths.
    #[serde(skip)]
    binary: PathBuf,
}

/// Which program, and how it is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Program {
    /// Evenkeel.
    Evenkeel(Variant),
    /// HAProxy.
    Haproxy,
    /// nginx with its stream module.
    Nginx {
        /// The module, where it has to be loaded.
        #[serde(skip)]
        module: Option<PathBuf>,
    },
    /// Envoy's TCP proxy.
    Envoy,
}

/// What is written into Evenkeel's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Variant {
    /// Nothing.
    Plain,
    /// `timeouts.first_byte`: for the one fault where a backend is silent.
    FirstByte,
    /// That, and `replay`.
    Replay,
}

/// What a system is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) front: SocketAddr,
    pub(super) backends: &'a [SocketAddr],
    pub(super) check: Check,
    /// A directory for its files.
    pub(super) directory: &'a Path,
}

/// What is there, and a line for each thing that is not.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) subjects: Vec<Subject>,
    pub(super) missing: Vec<String>,
}

/// Looks for all systems, where `compare` finds them.
pub(super) fn find(binaries: &Binaries) -> Found {
    let there = binaries.find();
    // What `compare` says about values of `relay` does not matter here.
    let missing = there.missing.into_iter().filter(|line| !line.contains("relay")).collect();
    let mut found = Found { subjects: Vec::new(), missing };
    for system in there.systems {
        let mut push = |name: &str, program| {
            let (version, binary) = (system.version.clone(), system.binary.clone());
            found.subjects.push(Subject { name: name.to_owned(), version, program, binary });
        };
        match system.kind {
            Kind::Evenkeel { relay: None } => {
                for variant in Variant::ALL {
                    match evenkeel::supports(&system.binary, variant) {
                        Ok(()) => push(variant.name(), Program::Evenkeel(variant)),
                        Err(why) => found.missing.push(format!("{}: {why}", variant.name())),
                    }
                }
            }
            Kind::Haproxy { splice: false } => push(&system.name, Program::Haproxy),
            Kind::Nginx { module } => push(&system.name, Program::Nginx { module }),
            Kind::Envoy => push(&system.name, Program::Envoy),
            Kind::Direct | Kind::Evenkeel { .. } | Kind::Haproxy { splice: true } => {}
        }
    }
    // Peers first, as whom ours has to be measured against.
    found.subjects.sort_by_key(Subject::is_ours);
    found
}

impl Variant {
    const ALL: [Self; 3] = [Self::Plain, Self::FirstByte, Self::Replay];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "evenkeel",
            Self::FirstByte => "evenkeel-first-byte",
            Self::Replay => "evenkeel-replay",
        }
    }
}

impl Subject {
    /// Whether it is ours.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.program, Program::Evenkeel(_))
    }

    /// Whether it has a cell in this row.
    pub(super) fn belongs(&self, fault: Fault, check: Check) -> bool {
        match self.program {
            // It has no active checks: one row is enough.
            Program::Nginx { .. } => check == Check::Tcp,
            // A backend that is silent is all that it is about.
            Program::Evenkeel(Variant::FirstByte) => fault == Fault::Stop,
            Program::Evenkeel(_) | Program::Haproxy | Program::Envoy => true,
        }
    }

    /// Writes its configuration and gives the command that runs it.
    pub(super) fn command(&self, setting: &Setting<'_>) -> io::Result<Command> {
        let write = |name: &str, text: String| {
            let path = setting.directory.join(name);
            std::fs::write(&path, text).map(|()| path)
        };
        let mut command = Command::new(&self.binary);
        match &self.program {
            Program::Evenkeel(variant) => {
                command.arg("--config").arg(write("lb.toml", evenkeel::config(*variant, setting))?).arg("run");
            }
            Program::Haproxy => {
                command.arg("-db").arg("-f").arg(write("haproxy.cfg", haproxy::config(setting))?);
            }
            Program::Nginx { module } => {
                let path = write("nginx.conf", nginx::config(module.as_deref(), setting))?;
                command.arg("-p").arg(setting.directory).arg("-c").arg(path).arg("-e").arg(setting.log());
            }
            Program::Envoy => {
                command.arg("--config-path").arg(write("envoy.json", envoy::config(setting))?);
                // Without hot restart there is no shared memory with a fixed name, so that others may run beside it.
                command.args(["--disable-hot-restart", "--log-level", "warning"]);
            }
        }
        let log = File::options().create(true).append(true).open(setting.log())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }
}

impl Setting<'_> {
    /// Where all goes that it says.
    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }
}

#[cfg(test)]
impl Subject {
    /// One of that name that can't be run.
    pub(super) fn sample(name: &str) -> Self {
        let variant = Variant::ALL.into_iter().find(|variant| variant.name() == name);
        let program = variant.map_or(Program::Haproxy, Program::Evenkeel);
        Self { name: name.to_owned(), version: "1.0".into(), program, binary: PathBuf::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKENDS: [SocketAddr; 2] = [
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 9000),
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 9000),
    ];

    fn texts(check: Check) -> [String; 4] {
        let front = ([127, 0, 0, 1], 8080).into();
        let setting = Setting { front, backends: &BACKENDS, check, directory: Path::new("/d") };
        [
            evenkeel::config(Variant::Replay, &setting),
            haproxy::config(&setting),
            nginx::config(None, &setting),
            envoy::config(&setting),
        ]
    }

    #[test]
    fn every_system_gets_every_backend_and_the_front() {
        for text in texts(Check::Tcp) {
            for word in ["10.0.0.1", "10.0.0.2", "9000", "127.0.0.1", "8080"] {
                assert!(text.contains(word), "no {word} in {text}");
            }
        }
    }

    #[test]
    fn who_can_talks_where_the_check_talks_and_only_there() {
        for (check, talks) in [(Check::Tcp, false), (Check::Script, true)] {
            let [evenkeel, haproxy, _, envoy] = texts(check);
            assert_eq!(evenkeel.contains("PONG"), talks);
            assert_eq!(haproxy.contains("expect string PONG"), talks);
            assert_eq!(envoy.contains("504f4e47"), talks);
        }
    }

    #[test]
    fn the_columns_differ_in_nothing_but_replay_and_first_byte() {
        let front = ([127, 0, 0, 1], 8080).into();
        let setting = Setting { front, backends: &BACKENDS, check: Check::Tcp, directory: Path::new("/d") };
        let [plain, first_byte, replay] = Variant::ALL.map(|variant| evenkeel::config(variant, &setting));
        let more = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !plain.lines().any(|plain| plain == *line)).map(str::to_owned).collect()
        };
        assert_eq!(more(&first_byte), ["timeouts.first_byte = \"1s\""]);
        assert_eq!(more(&replay), ["timeouts.first_byte = \"1s\"", "replay = \"until_response\""]);
        assert!(plain.lines().all(|line| replay.lines().any(|replay| replay == line)));
    }

    #[test]
    fn ours_is_a_configuration_that_evenkeel_takes() {
        for check in Check::ALL {
            let front = ([127, 0, 0, 1], 8080).into();
            let setting = Setting { front, backends: &BACKENDS, check, directory: Path::new("/d") };
            let text = evenkeel::config(Variant::Plain, &setting);
            assert!(::evenkeel::config::parse(&text, "lb.toml", &|_| None).is_ok(), "{text}");
        }
    }
}
