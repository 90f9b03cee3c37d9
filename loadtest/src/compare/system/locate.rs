//! Which systems are there: paths from the command line, where `peers.sh` puts them, on PATH, in the usual places.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Kind, System, evenkeel, nginx};

/// Where Debian puts daemons, which is not on everybody's PATH.
const PLACES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Paths that were given; the rest is looked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Binaries {
    /// Evenkeel's.
    pub(crate) evenkeel: Option<PathBuf>,
    /// HAProxy's; each is a system of its own.
    pub(crate) haproxy: Vec<PathBuf>,
    /// nginx's.
    pub(crate) nginx: Option<PathBuf>,
    /// Envoy's.
    pub(crate) envoy: Option<PathBuf>,
    /// The directory of this program and of `peers/`: cargo's target directory.
    pub(crate) target: PathBuf,
}

/// What is there, and a line for each thing that is not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// In the order of the report, `direct` first.
    pub(crate) systems: Vec<System>,
    /// What is missing, and why.
    pub(crate) missing: Vec<String>,
}

impl Binaries {
    /// Looks for all systems and asks each for its version.
    pub(crate) fn find(&self) -> Found {
        let mut found = Found { systems: vec![System::direct()], missing: Vec::new() };
        self.find_evenkeel(&mut found);
        self.find_haproxy(&mut found);
        self.find_nginx(&mut found);
        self.find_envoy(&mut found);
        found
    }

    fn find_evenkeel(&self, found: &mut Found) {
        let Some((binary, version)) = self.evenkeel.as_ref().and_then(|path| tried(path.clone(), &["--version"]))
        else {
            let place = self.evenkeel.as_ref().map(|path| format!(" at {}", path.display())).unwrap_or_default();
            found.missing.push(format!("evenkeel: no program{place} that runs"));
            return;
        };
        let mut push = |name: String, relay: Option<String>| {
            let kind = Kind::Evenkeel { relay };
            found.systems.push(System { name, version: version.clone(), kind, binary: binary.clone() });
        };
        push("evenkeel".into(), None);
        let mut unsupported = Vec::new();
        for relay in evenkeel::RELAYS {
            match evenkeel::supports(&binary, relay) {
                Ok(true) => push(format!("evenkeel-{relay}"), Some(relay.into())),
                Ok(false) | Err(_) => unsupported.push(relay),
            }
        }
        if !unsupported.is_empty() {
            let names = unsupported.join(", ");
            found.missing.push(format!("evenkeel: this binary does not accept relay = {names}"));
        }
    }

    fn find_haproxy(&self, found: &mut Found) {
        let given = !self.haproxy.is_empty();
        let candidates = if given { self.haproxy.clone() } else { self.candidates("haproxy") };
        let mut usable: Vec<_> = candidates.into_iter().filter_map(|path| tried(path, &["-v"])).collect();
        usable.sort_by_key(|(_, version)| std::cmp::Reverse(numbers(version)));
        if !given {
            usable.truncate(1);
        }
        if usable.is_empty() {
            found.missing.push("haproxy: not found (loadtest/peers.sh gets it, --haproxy names it)".into());
        }
        for (index, (binary, version)) in usable.iter().enumerate() {
            let name = match index {
                0 => "haproxy".to_owned(),
                _ => format!("haproxy-{}", version.split('-').next().unwrap_or(version)),
            };
            for (splice, suffix) in [(false, ""), (true, "-splice")] {
                let kind = Kind::Haproxy { splice };
                let name = format!("{name}{suffix}");
                found.systems.push(System { name, version: version.clone(), kind, binary: binary.clone() });
            }
        }
    }

    fn find_nginx(&self, found: &mut Found) {
        let usable = self.one("nginx", self.nginx.as_deref(), &["-v"]);
        let Some((binary, version)) = usable else {
            found.missing.push("nginx: not found (loadtest/peers.sh gets it, --nginx names it)".into());
            return;
        };
        let Some(module) = nginx::stream_module(&binary) else {
            found.missing.push("nginx: it has no stream module (Debian's libnginx-mod-stream)".into());
            return;
        };
        found.systems.push(System { name: "nginx".into(), version, kind: Kind::Nginx { module }, binary });
    }

    fn find_envoy(&self, found: &mut Found) {
        match self.one("envoy", self.envoy.as_deref(), &["--version"]) {
            Some((binary, version)) => {
                found.systems.push(System { name: "envoy".into(), version, kind: Kind::Envoy, binary });
            }
            None => found.missing.push("envoy: not found (loadtest/peers.sh gets it, --envoy names it)".into()),
        }
    }

    fn one(&self, name: &str, given: Option<&Path>, ask: &[&str]) -> Option<(PathBuf, String)> {
        let candidates = given.map_or_else(|| self.candidates(name), |path| vec![path.to_owned()]);
        candidates.into_iter().find_map(|path| tried(path, ask))
    }

    fn candidates(&self, name: &str) -> Vec<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = vec![self.target.join("peers/bin")];
        places.extend(std::env::split_paths(&path));
        places.extend(PLACES.map(PathBuf::from));
        let mut found: Vec<_> =
            places.into_iter().map(|place| place.join(name)).filter(|path| path.is_file()).collect();
        let mut seen = std::collections::HashSet::new();
        found.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
        found
    }
}

/// The program and its version, if it runs.
fn tried(path: PathBuf, ask: &[&str]) -> Option<(PathBuf, String)> {
    let output = Command::new(&path).args(ask).stdin(Stdio::null()).output().ok().filter(|out| out.status.success())?;
    let text = [output.stdout, output.stderr].concat();
    let version = version(&String::from_utf8_lossy(&text))?;
    // Absolute, because systems are started elsewhere.
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
