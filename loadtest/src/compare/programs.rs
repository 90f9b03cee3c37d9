//! The options that name programs, which `compare` and `chaos` have in common.

use std::path::{Path, PathBuf};

use clap::Args;

use super::build;
use super::system::Binaries;

/// Paths of programs; what is not named is looked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Programs {
    /// Evenkeel's program [default: the one beside this program, built anew under `cargo run`]
    #[arg(long, value_name = "PATH")]
    evenkeel: Option<PathBuf>,
    /// HAProxy's program; may be given several times [default: the newest that is found]
    #[arg(long, value_name = "PATH")]
    haproxy: Vec<PathBuf>,
    /// nginx's program
    #[arg(long, value_name = "PATH")]
    nginx: Option<PathBuf>,
    /// Envoy's program
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
}

impl Programs {
    /// With Evenkeel's program brought up to date. `target` is cargo's target directory.
    pub(crate) fn binaries(&self, target: &Path) -> anyhow::Result<Binaries> {
        Ok(Binaries {
            evenkeel: Some(build::evenkeel(self.evenkeel.as_deref())?),
            haproxy: self.haproxy.clone(),
            nginx: self.nginx.clone(),
            envoy: self.envoy.clone(),
            target: target.to_owned(),
        })
    }
}
