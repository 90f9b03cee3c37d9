//! Finds the programs of the systems: paths from the command line, the directory of `peers.sh`, `PATH`, the usual places.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use super::build;

/// Debian puts daemons here, and not every `PATH` has these.
const PLACES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Paths of programs. A program that is not named is searched for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Programs {
    /// Evenkeel's program [default: the one beside this program; `cargo run` builds it first]
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

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Software {
    Evenkeel,
    Haproxy,
    /// With the path of its stream module, if nginx has to load it.
    Nginx(Option<PathBuf>),
    Envoy,
}

#[derive(Debug, Clone)]
pub(crate) struct Installed {
    pub(crate) software: Software,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) binary: PathBuf,
}

impl Programs {
    /// All programs that are there, in the order of the report, and a line for each that is not. Brings Evenkeel's program up
    /// to date. `target` is cargo's target directory.
    pub(crate) fn find(&self, target: &Path) -> anyhow::Result<(Vec<Installed>, Vec<String>)> {
        let evenkeel = build::evenkeel(self.evenkeel.as_deref())?;
        let one = |name: &str, given: &Option<PathBuf>, ask: &str| {
            let candidates = given.as_ref().map_or_else(|| candidates(name, target), |path| vec![path.clone()]);
            candidates.into_iter().find_map(|path| tried(path, ask))
        };
        let mut found = Vec::new();
        let mut missing = Vec::new();
        let mut put =
            |software, name: String, (binary, version)| found.push(Installed { software, name, version, binary });
        match tried(evenkeel.clone(), "--version") {
            Some(program) => put(Software::Evenkeel, "evenkeel".into(), program),
            None => missing.push(format!("evenkeel: no program at {} that runs", evenkeel.display())),
        }
        let haproxies = self.haproxies(target);
        if haproxies.is_empty() {
            missing.push("haproxy: not found (loadtest/peers.sh gets it, --haproxy names it)".into());
        }
        for (index, program) in haproxies.into_iter().enumerate() {
            let number = program.1.split('-').next().unwrap_or_default();
            let name = if index == 0 { "haproxy".to_owned() } else { format!("haproxy-{number}") };
            put(Software::Haproxy, name, program);
        }
        let nginx = one("nginx", &self.nginx, "-v");
        match nginx.map(|program| (stream_module(&program.0), program)) {
            Some((Some(module), program)) => put(Software::Nginx(module), "nginx".into(), program),
            Some((None, _)) => missing.push("nginx: it has no stream module (Debian's libnginx-mod-stream)".into()),
            None => missing.push("nginx: not found (loadtest/peers.sh gets it, --nginx names it)".into()),
        }
        match one("envoy", &self.envoy, "--version") {
            Some(program) => put(Software::Envoy, "envoy".into(), program),
            None => missing.push("envoy: not found (loadtest/peers.sh gets it, --envoy names it)".into()),
        }
        Ok((found, missing))
    }

    /// The newest first. If none was named, only the newest.
    fn haproxies(&self, target: &Path) -> Vec<(PathBuf, String)> {
        let given = !self.haproxy.is_empty();
        let candidates = if given { self.haproxy.clone() } else { candidates("haproxy", target) };
        let mut usable: Vec<_> = candidates.into_iter().filter_map(|path| tried(path, "-v")).collect();
        usable.sort_by_key(|(_, version)| Reverse(numbers(version)));
        usable.truncate(if given { usize::MAX } else { 1 });
        usable
    }
}

impl Software {
    /// Writes the configuration into `directory` and returns the command that runs it. `log` is the file for nginx's own errors.
    pub(crate) fn command(&self, binary: &Path, config: &str, directory: &Path, log: &Path) -> io::Result<Command> {
        let file = match self {
            Self::Evenkeel => "lb.toml",
            Self::Haproxy => "haproxy.cfg",
            Self::Nginx(_) => "nginx.conf",
            Self::Envoy => "envoy.json",
        };
        let path = directory.join(file);
        std::fs::write(&path, config)?;
        let mut command = Command::new(binary);
        match self {
            // Its admin socket goes there, and not to a place where commands look for the one of this machine.
            Self::Evenkeel => command.arg("--config").arg(path).arg("run").env("RUNTIME_DIRECTORY", directory),
            Self::Haproxy => command.arg("-db").arg("-f").arg(path),
            Self::Nginx(_) => command.arg("-p").arg(directory).arg("-c").arg(path).arg("-e").arg(log),
            // Without hot restart there is no shared memory with a fixed name, so several Envoys can run.
            Self::Envoy => {
                command.arg("--config-path").arg(path).args(["--disable-hot-restart", "--log-level", "warning"])
            }
        };
        command.stdin(Stdio::null());
        Ok(command)
    }
}

/// Asks Evenkeel's own `check` whether this binary accepts a configuration, so that older and newer binaries can run. Returns the
/// first lines of its answer if not.
pub(crate) fn accepts(binary: &Path, config: &str) -> Result<(), String> {
    let check = || {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("lb.toml"), config)?;
        let mut command = Command::new(binary);
        // The answer gets into the report, so no path of this machine may be in it.
        command.args(["--config", "lb.toml", "check"]).current_dir(directory.path()).stdin(Stdio::null()).output()
    };
    let output = check().map_err(|error: io::Error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let words: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
    Err(words.join(" "))
}

fn candidates(name: &str, target: &Path) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = vec![target.join("peers/bin")];
    places.extend(env::split_paths(&path));
    places.extend(PLACES.map(PathBuf::from));
    let mut found: Vec<_> = places.into_iter().map(|place| place.join(name)).filter(|path| path.is_file()).collect();
    let mut seen = HashSet::new();
    found.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    found
}

/// Whether the stream module is there: built in (`Some(None)`), or a file to load (`Some(Some(path))`).
fn stream_module(binary: &Path) -> Option<Option<PathBuf>> {
    let output = Command::new(binary).arg("-V").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut words = text.split_whitespace();
    if words.clone().any(|word| word == "--with-stream") {
        return Some(None);
    }
    let place = words.find_map(|word| word.strip_prefix("--modules-path="))?;
    let module = Path::new(place).join("ngx_stream_module.so");
    module.exists().then_some(Some(module))
}

/// The program and its version, if it runs.
fn tried(path: PathBuf, ask: &str) -> Option<(PathBuf, String)> {
    let output = Command::new(&path).arg(ask).stdin(Stdio::null()).output().ok().filter(|out| out.status.success())?;
    let text = [output.stdout, output.stderr].concat();
    let version = version(&String::from_utf8_lossy(&text))?;
    // Absolute, because systems are started in other directories.
    Some((path.canonicalize().unwrap_or(path), version))
}

/// The first word, or part of a word between slashes, that begins with a digit and holds a dot.
fn version(text: &str) -> Option<String> {
    let mut parts = text.split(|c: char| c.is_whitespace() || c == '/');
    let found = parts.find(|part| part.starts_with(|c: char| c.is_ascii_digit()) && part.contains('.'));
    found.map(str::to_owned)
}

/// The leading numbers, for comparison: 2.10 is newer than 2.9.
fn numbers(version: &str) -> Vec<u64> {
    let plain = version.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default();
    plain.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_the_programs_say() {
        for (text, wanted) in [
            ("evenkeel 0.1.0\n", "0.1.0"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12-1+deb12u4"),
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("\nenvoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL\n", "1.40.0"),
        ] {
            assert_eq!(version(text).as_deref(), Some(wanted));
        }
        assert_eq!(version("no such thing"), None);
        assert!(numbers("2.10.1-dev") > numbers("2.9.14+x"));
    }
}
