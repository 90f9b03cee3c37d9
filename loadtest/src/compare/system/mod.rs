//! The systems that are compared: a closed set, one file each for how it is configured and started.
//!
//! All get the same setting: one listener, one backend, the same number of threads, a TCP check every 2 s (rise 2, fall 3), the
//! same limit of connections, the same timeouts, and one line a session into a file of the same file system, or none.

mod envoy;
mod evenkeel;
mod haproxy;
mod locate;
mod nginx;

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

pub(crate) use self::locate::Binaries;

/// One column of the comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct System {
    /// In tables, in the JSON and on the command line.
    pub(crate) name: String,
    /// What it says of itself; empty for `direct`.
    pub(crate) version: String,
    /// Which program, and in which mode.
    pub(crate) kind: Kind,
    /// Not part of the report: it would show this machine's paths.
    #[serde(skip)]
    pub(crate) binary: PathBuf,
}

/// Which program, and in which mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// No balancer: what the load generator and the backend cost.
    Direct,
    /// Evenkeel; `relay` is written into the pool when it is given.
    Evenkeel {
        /// A value of the key `relay`.
        relay: Option<String>,
    },
    /// HAProxy, as it comes or with `option splice-auto`.
    Haproxy {
        /// Whether with that option.
        splice: bool,
    },
    /// nginx with its stream module.
    Nginx {
        /// The module, where it has to be loaded.
        #[serde(skip)]
        module: Option<PathBuf>,
    },
    /// Envoy's TCP proxy.
    Envoy,
}

/// The two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Row {
    /// A line for every session, checks on.
    Defaults,
    /// No lines, checks on.
    LogsOff,
}

/// What a system is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    /// Where it listens.
    pub(crate) front: SocketAddr,
    /// Where its one backend is.
    pub(crate) backend: SocketAddr,
    /// Threads, or worker processes.
    pub(crate) threads: usize,
    /// Sessions at the same time.
    pub(crate) sessions: u64,
    /// Whether sessions are logged.
    pub(crate) row: Row,
    /// An empty directory for its files.
    pub(crate) directory: &'a Path,
}

impl Row {
    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Defaults => "shipped defaults: session log on, checks on",
            Self::LogsOff => "logs off, checks on",
        }
    }

    /// For people who have read that.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Defaults => "shipped defaults",
            Self::LogsOff => "logs off",
        }
    }
}

impl Kind {
    /// Whether it is somebody else's balancer.
    pub(crate) fn is_peer(&self) -> bool {
        matches!(self, Self::Haproxy { .. } | Self::Nginx { .. } | Self::Envoy)
    }

    /// Whether it is ours.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Evenkeel { .. })
    }
}

impl System {
    /// The load generator straight to the backend.
    pub(crate) fn direct() -> Self {
        Self { name: "direct".into(), version: String::new(), kind: Kind::Direct, binary: PathBuf::new() }
    }

    /// Writes its configuration and gives the command that runs it; `None` for `direct`.
    pub(crate) fn command(&self, setting: &Setting<'_>) -> io::Result<Option<Command>> {
        let mut command = match &self.kind {
            Kind::Direct => return Ok(None),
            Kind::Evenkeel { relay } => evenkeel::command(&self.binary, relay.as_deref(), setting)?,
            Kind::Haproxy { splice } => haproxy::command(&self.binary, *splice, setting)?,
            Kind::Nginx { module } => nginx::command(&self.binary, module.as_deref(), setting)?,
            Kind::Envoy => envoy::command(&self.binary, setting)?,
        };
        command.stdin(Stdio::null());
        Ok(Some(command))
    }
}

impl Setting<'_> {
    /// Where the session log goes.
    pub(crate) fn session_log(&self) -> PathBuf {
        self.directory.join("sessions.log")
    }

    /// Where everything else goes that a system says.
    pub(crate) fn other_log(&self) -> PathBuf {
        self.directory.join("other.log")
    }

    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.directory.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn file(path: &Path) -> io::Result<Stdio> {
        // Appending, as an administrator's `2>>` would; and standard streams may share the file.
        Ok(File::options().create(true).append(true).open(path)?.into())
    }
}
