//! The network of one cell: a namespace for the system and its clients, one for each backend, and a virtual link to each.
//!
//! Each cell makes its own network, so that no cell finds entries of another one in a kernel table. The name of a namespace holds
//! the process that made it. If that process is gone, the next run removes the namespace.

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

use crate::harness::process::{ExternalResource, succeeded};

/// The beginning of the names of namespaces and directories.
const PREFIX: &str = "evenkeel-chaos-";

const NAMESPACES: &str = "/run/netns";

/// The ports are fixed, because each cell has its own namespaces.
const BACK: u16 = 9000;
const FRONT: u16 = 8080;

/// Drops all packets in both directions, without an error to either side.
const FILTER: &str = "table ip chaos {
    chain in { type filter hook input priority 0; policy drop; }
    chain out { type filter hook output priority 0; policy drop; }
}
";

/// The namespaces of a cell. Drop removes them, so nothing may run in them any more.
#[derive(Debug)]
pub(super) struct TestNetwork {
    front: Namespace,
    backends: Vec<Namespace>,
    drop_method: DropMethod,
}

#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
    _resource: ExternalResource,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DropMethod {
    /// With nftables, in both directions.
    Filter,
    /// With a blackhole route for the answers, on machines without nftables.
    Route,
}

/// The process that made a namespace. The start time tells it from a later process with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OwnerProcess {
    pid: u32,
    started: u64,
}

/// Tries to make namespaces and to drop packets in them; returns the method that works. Removes the remains of killed runs.
pub(super) fn prepare() -> anyhow::Result<DropMethod> {
    if !geteuid().is_root() {
        bail!("network namespaces can be made by root only, and this is user {}: try sudo", geteuid().as_raw());
    }
    sweep().context("can't look for the remains of earlier runs")?;
    let network = TestNetwork::make(1, DropMethod::Filter).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow::anyhow!("`ip` is not installed (Debian's iproute2)"),
        _ => anyhow::Error::from(error).context("network namespaces can't be made here"),
    })?;
    if network.blackhole(1).is_ok() {
        return Ok(DropMethod::Filter);
    }
    let network = TestNetwork { drop_method: DropMethod::Route, ..network };
    network
        .blackhole(1)
        .context("packets can't be dropped here, neither by nftables (Debian's nftables) nor by a route")?;
    Ok(DropMethod::Route)
}

/// The beginning of the names of this run.
pub(super) fn prefix() -> io::Result<String> {
    let OwnerProcess { pid, started } = OwnerProcess::current()?;
    Ok(format!("{PREFIX}{pid}-{started}-"))
}

impl TestNetwork {
    pub(super) fn make(backends: u8, drop_method: DropMethod) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: it is only a counter.
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
        Ok(Self { front, backends: all, drop_method })
    }

    /// The namespace of the system and its clients.
    pub(super) fn front(&self) -> &Namespace {
        &self.front
    }

    /// The namespace of backend `number`, from 1.
    pub(super) fn backend(&self, number: u8) -> &Namespace {
        &self.backends[usize::from(number) - 1]
    }

    /// From now on no packet reaches that backend, and no packet leaves it.
    pub(super) fn blackhole(&self, number: u8) -> io::Result<()> {
        match self.drop_method {
            DropMethod::Filter => self.nft(number, FILTER),
            DropMethod::Route => self.backend(number).ip(&format!("route add blackhole {}/32\n", near(number))),
        }
    }

    /// Ends [`Self::blackhole`].
    pub(super) fn restore(&self, number: u8) -> io::Result<()> {
        match self.drop_method {
            DropMethod::Filter => self.nft(number, "delete table ip chaos\n"),
            DropMethod::Route => self.backend(number).ip(&format!("route del blackhole {}/32\n", near(number))),
        }
    }

    fn nft(&self, number: u8, rules: &str) -> io::Result<()> {
        self.backend(number).inside(|| fed(Command::new(tool("nft")).args(["-f", "-"]), rules))?
    }
}

impl Namespace {
    /// Runs `work` on a thread in this namespace. Processes that it starts are in it too.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let path = Path::new(NAMESPACES).join(&self.name);
        let enter = move || {
            let file = File::open(path)?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        // A new thread, because a thread can't be used elsewhere once it has changed its namespace.
        thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn make(name: String) -> io::Result<Self> {
        let ip = tool("ip");
        let resource = ExternalResource::make(&[&ip, "netns", "add", &name], &[&ip, "netns", "del", &name])?;
        Ok(Self { name, _resource: resource })
    }

    fn ip(&self, commands: &str) -> io::Result<()> {
        fed(Command::new(tool("ip")).args(["-n", &self.name, "-batch", "-"]), commands)
    }
}

impl OwnerProcess {
    fn current() -> io::Result<Self> {
        let pid = std::process::id();
        let started = started(&fs::read_to_string("/proc/self/stat")?);
        started.map(|started| Self { pid, started }).ok_or_else(|| io::Error::other("/proc/self/stat can't be read"))
    }

    /// `None` if this program did not make the name.
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

/// Removes the remains of killed runs: namespaces, processes in them, and directories.
fn sweep() -> io::Result<()> {
    for path in [Path::new(NAMESPACES).to_owned(), PathBuf::from("/dev/shm"), std::env::temp_dir()] {
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(maker) = OwnerProcess::of(&name) else { continue };
            if maker.lives() {
                continue;
            }
            let removed = if path == Path::new(NAMESPACES) { remove(&name) } else { fs::remove_dir_all(entry.path()) };
            // Another run may have removed it at the same time.
            if entry.path().exists() {
                removed?;
            }
            eprintln!("removed the remains of a killed run: {name}");
        }
    }
    Ok(())
}

fn remove(name: &str) -> io::Result<()> {
    let inside = Command::new(tool("ip")).args(["netns", "pids", name]).stdin(Stdio::null()).output()?;
    for line in String::from_utf8_lossy(&inside.stdout).lines() {
        if let Some(pid) = line.trim().parse().ok().and_then(Pid::from_raw) {
            // The process may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let output = Command::new(tool("ip")).args(["netns", "del", name]).stdin(Stdio::null()).output()?;
    succeeded(&format!("`ip netns del {name}`"), &output)
}

/// Field 22 of /proc/PID/stat: the 20th after the name, which may hold spaces and parentheses.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The path of a system program, since not every PATH has these directories.
fn tool(name: &str) -> String {
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let found = places.iter().map(|place| format!("{place}/{name}")).find(|path| Path::new(path).exists());
    found.unwrap_or_else(|| name.to_owned())
}

fn fed(command: &mut Command, input: &str) -> io::Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read all of its input reports why.
        let _ = stdin.write_all(input.as_bytes());
    }
    succeeded(&command.get_program().to_string_lossy(), &child.wait_with_output()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_the_process_that_made_it() {
        let maker = OwnerProcess::current().unwrap();
        assert!(maker.lives());
        let name = format!("{}3-b1", prefix().unwrap());
        assert_eq!(OwnerProcess::of(&name), Some(maker));
        // Another process with the same id, and no process at all.
        assert!(!OwnerProcess { started: maker.started + 1, ..maker }.lives());
        assert!(!OwnerProcess { pid: u32::MAX, ..maker }.lives());
        for name in ["evenkeel-chaos-x-1-front", "evenkeel-chaos-12", "somebody-elses", "evenkeel-compare-1-2"] {
            assert_eq!(OwnerProcess::of(name), None, "{name}");
        }
    }

    #[test]
    fn the_start_time_is_read_from_proc_stat() {
        let stat = "12 (a) b (c) S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(started(stat), Some(987_654));
        assert_eq!(started("12"), None);
    }
}
