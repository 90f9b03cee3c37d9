//! The processes that a comparison starts: each leads a process group of its own, which ends with the `Running` that owns it.
//!
//! A panic ends them by unwinding. A signal does not unwind, so all groups, remnants and the scratch directory are also in one
//! register, which a thread that waits for signals works off.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

/// How long a process may take to end when asked to. Envoy writes its log meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// Locked for as long as it takes to start or forget a process, so that no signal comes in between.
static REGISTER: Mutex<Register> = Mutex::new(Register { groups: Vec::new(), remnants: Vec::new(), scratch: None });

struct Register {
    groups: Vec<Pid>,
    remnants: Vec<Vec<String>>,
    scratch: Option<PathBuf>,
}

/// A process and its children. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    group: Pid,
}

impl Running {
    /// Starts it as the leader of a new group.
    pub(crate) fn start(mut command: Command) -> io::Result<Self> {
        let mut register = register();
        let child = command.process_group(0).spawn()?;
        let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
            return Err(io::Error::other("a process without an id"));
        };
        register.groups.push(group);
        Ok(Self { child, group })
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The proportional set size of the whole group, in bytes: private memory, and its share of what is shared.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let mut total = 0;
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            // A process may end while we look.
            let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
            if group_of(&stat) == Some(self.group.as_raw_nonzero().get()) {
                total += pss(&fs::read_to_string(path.join("smaps_rollup"))?);
            }
        }
        Ok(total)
    }

    /// Sends a signal to all of it.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process_group(self.group, signal)?)
    }

    /// Ends it without asking; the owner has it no longer.
    pub(crate) fn kill(mut self) {
        self.finish();
    }

    /// Asks it to end, then makes it.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = kill_process_group(self.group, Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < PATIENCE && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(2));
        }
        self.finish();
    }

    fn finish(&mut self) {
        let mut register = register();
        // Also when the leader has ended: its children may not have. The group's number is taken while any of them lives.
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait();
        register.groups.retain(|group| *group != self.group);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if register().groups.contains(&self.group) {
            self.end();
        }
    }
}

/// Something outside of this process that a command made and another one removes, such as a network namespace.
#[derive(Debug)]
pub(crate) struct Remnant {
    removal: Vec<String>,
}

impl Remnant {
    /// Runs the first command, which has to succeed. Dropping it runs the second one.
    pub(crate) fn make(command: &[&str], removal: &[&str]) -> io::Result<Self> {
        let mut register = register();
        say(command)?;
        let removal: Vec<_> = removal.iter().map(|word| (*word).to_owned()).collect();
        register.remnants.push(removal.clone());
        Ok(Self { removal })
    }
}

impl Drop for Remnant {
    fn drop(&mut self) {
        let mut register = register();
        remove(&self.removal);
        register.remnants.retain(|removal| *removal != self.removal);
    }
}

fn say(command: &[&str]) -> io::Result<()> {
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("`{}`: {}", command.join(" "), said.trim())))
}

fn remove(removal: &[String]) {
    let words: Vec<_> = removal.iter().map(String::as_str).collect();
    if let Err(error) = say(&words) {
        eprintln!("loadtest: left behind: {error}");
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP end all processes, remove all remnants and `scratch` and then end this process.
pub(crate) fn clean_up_on_signals(scratch: &Path) -> io::Result<()> {
    static ONCE: Once = Once::new();
    register().scratch = Some(scratch.to_owned());
    let mut result = Ok(());
    ONCE.call_once(|| result = thread::Builder::new().name("signals".into()).spawn(wait_for_signals).map(drop));
    result
}

fn wait_for_signals() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else { return };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        // Kept until the end: nothing may be started any more.
        let register = register();
        for group in &register.groups {
            let _ = kill_process_group(*group, Signal::KILL);
        }
        for removal in &register.remnants {
            remove(removal);
        }
        if let Some(scratch) = &register.scratch {
            let _ = fs::remove_dir_all(scratch);
        }
        eprintln!("\nloadtest: interrupted");
        std::process::exit(130);
    });
}

fn register() -> MutexGuard<'static, Register> {
    // A list of numbers is whole whenever somebody panicked.
    REGISTER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process group in /proc/PID/stat: the third field after the name, which may hold spaces and parentheses.
fn group_of(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(2)?.parse().ok()
}

/// `Pss:` of smaps_rollup, in bytes.
fn pss(rollup: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default();
    kilobytes * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(group_of("12 (a) b (c) S 1 77 77 0 -1"), Some(77));
        assert_eq!(group_of("12"), None);
        assert_eq!(pss("55-66 ---p 00 [rollup]\nRss:  900 kB\nPss:   123 kB\nPss_Anon:  1 kB\n"), 123 * 1024);
        assert_eq!(pss(""), 0);
    }

    #[test]
    fn a_group_ends_with_its_owner_children_included() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & exec sleep 60"]);
        let running = Running::start(command).unwrap();
        assert!(running.memory().unwrap() > 0);
        let group = running.group;
        drop(running);
        // What is left of it are at most dead children that init has not collected yet.
        let alive = |stat: &str| group_of(stat) == Some(group.as_raw_nonzero().get()) && !stat.contains(") Z ");
        let start = Instant::now();
        while fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| alive(&stat)))
        {
            assert!(start.elapsed() < PATIENCE, "a child is left");
            thread::sleep(Duration::from_millis(5));
        }
    }
}
