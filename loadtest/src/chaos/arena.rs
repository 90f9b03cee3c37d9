//! The network of one cell: a namespace for the system and its clients, one for each backend, a wire between them.
//!
//! All of it is made anew for each cell, so that no cell meets what another one left in a kernel table. Names tell the process
//! that made them: a namespace whose maker is gone was left behind by a killed run, and is removed by the next one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::compare::process::Remnant;

/// Of all that a run leaves in places that others share.
const PREFIX: &str = "evenkeel-chaos-";

/// Where `ip netns` keeps them.
const NAMESPACES: &str = "/run/netns";

/// Port of the backends and of the system: everybody has namespaces of their own.
const BACK: u16 = 9000;
const FRONT: u16 = 8080;

/// Drops all that comes and goes, without a word to anybody.
const FILTER: &str = "table ip chaos {
    chain in { type filter hook input priority 0; policy drop; }
    chain out { type filter hook output priority 0; policy drop; }
}
";

/// The namespaces of a cell. Dropping it removes them: whatever runs in them has to be gone by then.
#[derive(Debug)]
pub(super) struct Arena {
    front: Namespace,
    backends: Vec<Namespace>,
    blackhole: Blackhole,
}

/// One network namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
    _remnant: Remnant,
}

/// How packets are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blackhole {
    /// By nftables, both ways.
    Filter,
    /// Answers find no route, and are dropped without a word: for kernels or machines without nftables.
    Route,
}

/// Who made a namespace: a process, told from a later one of the same number by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Maker {
    pid: u32,
    started: u64,
}

/// Whether namespaces can be made here, and how packets can be dropped in them. Removes what killed runs left behind.
pub(super) fn prepare() -> anyhow::Result<Blackhole> {
    if !geteuid().is_root() {
        bail!("network namespaces can be made by root only, and this is user {}: try sudo", geteuid().as_raw());
    }
    sweep().context("can't look for what an earlier run left behind")?;
    let arena = Arena::make(1, Blackhole::Filter).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow::anyhow!("`ip` is not installed (Debian's iproute2)"),
        _ => anyhow::Error::from(error).context("network namespaces can't be made here"),
    })?;
    if arena.blackhole(1).is_ok() {
        return Ok(Blackhole::Filter);
    }
    let arena = Arena { blackhole: Blackhole::Route, ..arena };
    arena
        .blackhole(1)
        .context("packets can't be dropped here, neither by nftables (Debian's nftables) nor by a route")?;
    Ok(Blackhole::Route)
}

/// For a file or directory of this run.
pub(super) fn prefix() -> io::Result<String> {
    let Maker { pid, started } = Maker::this()?;
    Ok(format!("{PREFIX}{pid}-{started}-"))
}

impl Arena {
    /// With so many backends.
    pub(super) fn make(backends: u8, blackhole: Blackhole) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only has to count.
        let name = format!("{}{}-", prefix()?, NEXT.fetch_add(1, Ordering::Relaxed));
        let front = Namespace::make(format!("{name}front"))?;
        front.ip("link set lo up\n")?;
        let mut all = Vec::new();
        for number in 1..=backends {
            let backend = Namespace::make(format!("{name}b{number}"))?;
            front.ip(&format!(
                "link add b{number} type veth peer name front netns {}\n\
                 addr add {}/24 dev b{number}\nlink set b{number} up\n",
                backend.name,
                near(number)
            ))?;
            let far = far(number);
            backend.ip(&format!("link set lo up\naddr add {far}/24 dev front\nlink set front up\n"))?;
            all.push(backend);
        }
        Ok(Self { front, backends: all, blackhole })
    }

    /// Where the system and its clients are.
    pub(super) fn front(&self) -> &Namespace {
        &self.front
    }

    /// Where backend `number`, counted from 1, is.
    pub(super) fn backend(&self, number: u8) -> &Namespace {
        &self.backends[usize::from(number) - 1]
    }

    /// From now on nothing reaches that backend, and nothing of it reaches anybody.
    pub(super) fn blackhole(&self, number: u8) -> io::Result<()> {
        match self.blackhole {
            Blackhole::Filter => self.nft(number, FILTER),
            Blackhole::Route => self.backend(number).ip(&format!("route add blackhole {}/32\n", near(number))),
        }
    }

    /// The opposite.
    pub(super) fn restore(&self, number: u8) -> io::Result<()> {
        match self.blackhole {
            Blackhole::Filter => self.nft(number, "delete table ip chaos\n"),
            Blackhole::Route => self.backend(number).ip(&format!("route del blackhole {}/32\n", near(number))),
        }
    }

    fn nft(&self, number: u8, rules: &str) -> io::Result<()> {
        self.backend(number).inside(|| fed(Command::new(tool("nft")).args(["-f", "-"]), rules))?
    }
}

impl Namespace {
    /// Does something on a thread that is in it. Processes that it starts are in it too.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let path = Path::new(NAMESPACES).join(&self.name);
        let enter = move || {
            let file = File::open(path)?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        // Of its own: a thread that has left a namespace is of no use to others.
        thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn make(name: String) -> io::Result<Self> {
        let ip = tool("ip");
        let remnant = Remnant::make(&[&ip, "netns", "add", &name], &[&ip, "netns", "del", &name])?;
        Ok(Self { name, _remnant: remnant })
    }

    fn ip(&self, commands: &str) -> io::Result<()> {
        fed(Command::new(tool("ip")).args(["-n", &self.name, "-batch", "-"]), commands)
    }
}

impl Maker {
    fn this() -> io::Result<Self> {
        let pid = std::process::id();
        let started = started(&fs::read_to_string("/proc/self/stat")?);
        started.map(|started| Self { pid, started }).ok_or_else(|| io::Error::other("/proc/self/stat can't be read"))
    }

    /// `None` if the name is not one of ours.
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.split('-');
        Some(Self { pid: parts.next()?.parse().ok()?, started: parts.next()?.parse().ok()? })
    }

    fn lives(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        started(&stat) == Some(self.started)
    }
}

/// Where backend `number` serves.
pub(super) fn address(number: u8) -> SocketAddr {
    (far(number), BACK).into()
}

/// Where the system listens.
pub(super) fn front() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, FRONT).into()
}

fn near(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 231, number, 1)
}

fn far(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 231, number, 2)
}

/// Removes namespaces, processes in them, and directories in the usual places that killed runs left behind.
fn sweep() -> io::Result<()> {
    for path in [Path::new(NAMESPACES).to_owned(), PathBuf::from("/dev/shm"), std::env::temp_dir()] {
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(maker) = Maker::of(&name) else { continue };
            if maker.lives() {
                continue;
            }
            let removed = if path == Path::new(NAMESPACES) { remove(&name) } else { fs::remove_dir_all(entry.path()) };
            // Another run may be sweeping too.
            if entry.path().exists() {
                removed?;
            }
            eprintln!("removed what a killed run left behind: {name}");
        }
    }
    Ok(())
}

fn remove(name: &str) -> io::Result<()> {
    let inside = Command::new(tool("ip")).args(["netns", "pids", name]).stdin(Stdio::null()).output()?;
    for line in String::from_utf8_lossy(&inside.stdout).lines() {
        if let Some(pid) = line.trim().parse().ok().and_then(Pid::from_raw) {
            // One that has ended by itself needs no signal.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let status = Command::new(tool("ip")).args(["netns", "del", name]).stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("`ip netns del {name}`: {status}"))) }
}

/// Field 22 of /proc/PID/stat: the 20th after the name, which may hold spaces and parentheses.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A program of the administrator's, which may not be on everybody's PATH.
fn tool(name: &str) -> String {
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let found = places.iter().map(|place| format!("{place}/{name}")).find(|path| Path::new(path).exists());
    found.unwrap_or_else(|| name.to_owned())
}

fn fed(command: &mut Command, input: &str) -> io::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // What it did not read it says itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_maker() {
        let maker = Maker::this().unwrap();
        assert!(maker.lives());
        let name = format!("{}3-b1", prefix().unwrap());
        assert_eq!(Maker::of(&name), Some(maker));
        // Another process with our number, and none at all.
        assert!(!Maker { started: maker.started + 1, ..maker }.lives());
        assert!(!Maker { pid: u32::MAX, ..maker }.lives());
        for name in ["evenkeel-chaos-x-1-front", "evenkeel-chaos-12", "somebody-elses", "evenkeel-compare-1-2"] {
            assert_eq!(Maker::of(name), None, "{name}");
        }
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "12 (a) b (c) S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(started(stat), Some(987_654));
        assert_eq!(started("12"), None);
    }
}
