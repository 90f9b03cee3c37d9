//! The processes that a run starts. Each leads its own process group, which ends when its `ProcessGroup` is dropped.
//!
//! A panic drops them by unwinding. A signal does not unwind. So one register holds all groups, external resources and the scratch
//! directory, and a thread that waits for signals cleans them up.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

/// How long a process may take to end after SIGTERM. Envoy writes its log in that time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Locked while a process is started or removed, so that no signal is handled in between.
static REGISTER: Mutex<Register> = Mutex::new(Register { groups: Vec::new(), removals: Vec::new(), scratch: None });

struct Register {
    groups: Vec<Pid>,
    removals: Vec<Vec<String>>,
    scratch: Option<PathBuf>,
}

/// A process and its children. Drop ends them.
#[derive(Debug)]
pub(crate) struct ProcessGroup {
    child: Child,
    group: Pid,
}

impl ProcessGroup {
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

    /// The exit status, if the process has ended.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The proportional set size of the whole group, in bytes: private memory, and its share of the shared memory.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let mut total = 0;
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            // The process may have ended since `read_dir`.
            let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
            if group_of(&stat) == Some(self.group.as_raw_nonzero().get()) {
                total += pss(&fs::read_to_string(path.join("smaps_rollup"))?);
            }
        }
        Ok(total)
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process_group(self.group, signal)?)
    }

    /// Ends the group with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.finish();
    }

    /// Ends the group with SIGTERM, and with SIGKILL if that takes too long.
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
        // Also if the leader has ended: its children may still run. The group id stays in use while one of them lives.
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait();
        register.groups.retain(|group| *group != self.group);
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if register().groups.contains(&self.group) {
            self.end();
        }
    }
}

/// Something outside of this process that one command makes and another removes, such as a network namespace.
#[derive(Debug)]
pub(crate) struct ExternalResource {
    removal: Vec<String>,
}

impl ExternalResource {
    /// Runs the command that makes it. Drop runs the command `removal`.
    ///
    /// # Errors
    /// When the first command fails.
    pub(crate) fn make(command: &[&str], removal: &[&str]) -> io::Result<Self> {
        let mut register = register();
        run(command)?;
        let removal: Vec<_> = removal.iter().map(|word| (*word).to_owned()).collect();
        register.removals.push(removal.clone());
        Ok(Self { removal })
    }
}

impl Drop for ExternalResource {
    fn drop(&mut self) {
        let mut register = register();
        remove(&self.removal);
        register.removals.retain(|removal| *removal != self.removal);
    }
}

fn run(command: &[&str]) -> io::Result<()> {
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output()?;
    succeeded(&format!("`{}`", command.join(" ")), &output)
}

/// An error with the program's own message unless it exited with 0.
pub(crate) fn succeeded(command: &str, output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn remove(removal: &[String]) {
    let words: Vec<_> = removal.iter().map(String::as_str).collect();
    if let Err(error) = run(&words) {
        eprintln!("loadtest: not removed: {error}");
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP end all processes, remove all external resources and `scratch`, and end this process.
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
        // Stays locked, so that nothing new is started.
        let register = register();
        for group in &register.groups {
            let _ = kill_process_group(*group, Signal::KILL);
        }
        for removal in &register.removals {
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
    // A panic can't leave the lists half changed.
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
    fn group_and_memory_are_read_from_proc() {
        assert_eq!(group_of("12 (a) b (c) S 1 77 77 0 -1"), Some(77));
        assert_eq!(group_of("12"), None);
        assert_eq!(pss("55-66 ---p 00 [rollup]\nRss:  900 kB\nPss:   123 kB\nPss_Anon:  1 kB\n"), 123 * 1024);
        assert_eq!(pss(""), 0);
    }

    #[test]
    fn drop_ends_the_process_and_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & exec sleep 60"]);
        let running = ProcessGroup::start(command).unwrap();
        assert!(running.memory().unwrap() > 0);
        let group = running.group;
        drop(running);
        // Dead children that init has not collected yet do not count.
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
