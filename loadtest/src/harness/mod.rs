//! What `compare` and `chaos` share: the programs that they start, the machine, the options, the order of the cells, the record
//! of a run and its text.
//!
//! A cell is one measurement: one system in one case (`compare`) or with one fault (`chaos`).

pub(crate) mod build;
pub(crate) mod cells;
pub(crate) mod document;
pub(crate) mod envoy;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod record;

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context, bail};
use clap::Args;
use tempfile::TempDir;

use self::document::Document;
use self::programs::Programs;
use crate::results;

/// The options that `compare` and `chaos` have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct HarnessArgs {
    /// Names of the systems to run; `compare` always runs `direct` too [default: all that are found]
    #[arg(long, value_delimiter = ',')]
    pub(crate) systems: Vec<String>,
    #[command(flatten)]
    pub(crate) programs: Programs,
    /// Directory for the results, which are written again and again during the run [default: compare/ or chaos/ in cargo's
    /// target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write the tables, with machine, versions and command, into this file
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = results::PATH)]
    write_results: Option<PathBuf>,
}

impl HarnessArgs {
    /// Keeps the systems that were asked for: all of them if none was named.
    ///
    /// # Errors
    /// When a name is unknown.
    pub(crate) fn select<S>(
        &self,
        systems: &mut Vec<S>,
        missing: &mut Vec<String>,
        name: impl Fn(&S) -> &str,
    ) -> anyhow::Result<()> {
        for wanted in &self.systems {
            if !systems.iter().any(|system| name(system) == wanted) {
                let names: Vec<_> = systems.iter().map(&name).collect();
                bail!("no system {wanted:?}; there are {} ({})", names.join(", "), missing.join("; "));
            }
        }
        if !self.systems.is_empty() {
            systems
                .retain(|system| name(system) == "direct" || self.systems.iter().any(|wanted| wanted == name(system)));
            missing.clear();
        }
        Ok(())
    }

    /// The directory for the results, made if it is not there.
    pub(crate) fn out(&self, target: &Path, command: &str) -> anyhow::Result<PathBuf> {
        let out = self.out.clone().unwrap_or_else(|| target.join(command));
        fs::create_dir_all(&out).with_context(|| format!("can't make {}", out.display()))?;
        Ok(out)
    }

    /// Prints the tables, says which files were written, and writes the results file if that was asked for.
    pub(crate) fn finish(
        &self,
        document: &Document,
        files: &[PathBuf],
        write: fn(&Path, &str) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        io::Write::write_all(&mut io::stdout(), document.terminal().as_bytes())?;
        let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
        eprintln!("written: {}", names.join(" and "));
        if let Some(path) = &self.write_results {
            write(path, &document.markdown()).with_context(|| format!("can't write {}", path.display()))?;
            eprintln!("written: {}", path.display());
        }
        Ok(())
    }
}

/// A directory for the files of one run, which is removed at its end and after a signal. It is in memory where that is possible,
/// so that no log waits for a disk.
pub(crate) fn scratch_directory(prefix: &str) -> anyhow::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
    let scratch = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
    process::clean_up_on_signals(scratch.path())?;
    Ok(scratch)
}

pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}
