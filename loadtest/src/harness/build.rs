//! Where this program was built, and Evenkeel's program beside it.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Evenkeel's program: the given one, or the one beside this program. Under `cargo run` it is built first, because cargo has built
/// only this package, and an old program would be measured unnoticed.
pub(crate) fn evenkeel(given: Option<&Path>) -> anyhow::Result<PathBuf> {
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

/// The name of the directory of this program, which is the name of its cargo profile.
pub(crate) fn profile() -> String {
    let name = beside().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    name.unwrap_or_default()
}

pub(crate) fn target_directory() -> io::Result<PathBuf> {
    let beside = beside()?;
    Ok(beside.parent().map_or_else(|| beside.clone(), Path::to_owned))
}

/// The command line for the report. Absolute paths are shortened to the file name, since they mean nothing on another machine.
pub(crate) fn command_line() -> String {
    let program = match env::var_os("CARGO") {
        Some(_) => format!("cargo run --profile {} -p loadtest --", profile().replace("debug", "dev")),
        None => "loadtest".to_owned(),
    };
    std::iter::once(program).chain(env::args().skip(1).map(|word| shortened(&word))).collect::<Vec<_>>().join(" ")
}

fn shortened(word: &str) -> String {
    let (option, value) = match word.split_once('=') {
        Some((option, value)) => (format!("{option}="), value),
        None => (String::new(), word),
    };
    let name = Path::new(value).file_name().filter(|_| value.starts_with('/'));
    option + &name.map_or_else(|| value.into(), |name| name.to_string_lossy())
}

fn beside() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    let mut place = program.parent().map_or_else(PathBuf::new, Path::to_owned);
    // Test programs are one directory deeper.
    if place.ends_with("deps") {
        place.pop();
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn no_path_of_this_machine_gets_into_a_report() {
        for (word, wanted) in [
            ("--quick", "--quick"),
            ("/a/b/evenkeel", "evenkeel"),
            ("--out=/a/b", "--out=b"),
            ("--write-results=loadtest/RESULTS.md", "--write-results=loadtest/RESULTS.md"),
            ("ping-64,churn", "ping-64,churn"),
        ] {
            assert_eq!(shortened(word), wanted);
        }
    }
}
