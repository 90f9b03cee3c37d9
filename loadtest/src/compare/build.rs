//! Where this program was built, and the Evenkeel that belongs to it.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The program to compare: the given one, or the one beside this program. Under `cargo run` that one is brought up to date
/// first, since cargo has built only this package, and an old one would be measured without a word.
pub(super) fn evenkeel(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    if let (Some(cargo), Some(package)) = (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) {
        let profile = match profile().as_str() {
            "debug" => "dev".to_owned(),
            other => other.to_owned(),
        };
        let mut command = Command::new(cargo);
        command.args(["build", "--package", "evenkeel", "--bin", "evenkeel", "--profile", &profile, "--target-dir"]);
        command.arg(target_directory()?).current_dir(package).stdin(Stdio::null());
        let status = command.status().context("can't run cargo")?;
        if !status.success() {
            bail!("cargo could not build evenkeel");
        }
    }
    Ok(beside()?.join("evenkeel"))
}

/// The name of the directory that this program lies in, which is that of its cargo profile.
pub(super) fn profile() -> String {
    let name = beside().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    name.unwrap_or_default()
}

/// Cargo's target directory.
pub(super) fn target_directory() -> io::Result<PathBuf> {
    let beside = beside()?;
    Ok(beside.parent().map_or_else(|| beside.clone(), Path::to_owned))
}

/// As it was started. Paths are shortened to their names: whoever reads it has other ones.
pub(super) fn command_line() -> String {
    let words = env::args().map(|word| match word.rsplit_once('/') {
        Some((start, name)) if start.is_empty() || start.contains('/') || start.contains("target") => name.to_owned(),
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

fn beside() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    let mut place = program.parent().map_or_else(PathBuf::new, Path::to_owned);
    // Tests lie one deeper.
    if place.ends_with("deps") {
        place.pop();
    }
    Ok(place)
}
