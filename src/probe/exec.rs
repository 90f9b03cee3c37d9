//! The `exec` kind: a program of the operator's, judged by its exit status.
//! Called by `attempt`.
//! It runs in a process group of its own. The whole group is killed when the program ends, at the timeout, and when the
//! probe is dropped.
//! If this process dies before that, the kernel kills the program, but not the processes that it has started.

use std::fs;
use std::io::{self, PipeWriter, pipe};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, kill_process_group, pidfd_open, set_parent_process_death_signal,
};
use rustix::thread::set_no_new_privs;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::config::ExecCheck;
use crate::health::escaped;

use super::attempt::{Miss, Trace};
use super::identity::{self, Identity};
use super::reaper;

/// How much of its output is kept, in bytes. The rest is read and dropped, so that the program never blocks on a full pipe.
const OUTPUT_LIMIT: usize = 4096;

/// The program's `PATH` if this process has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kills the group when dropped. While this lives the leader has not been waited for, so its process id can't belong to
/// another process.
struct Group {
    /// `None` = it has been waited for.
    child: Option<Child>,
    id: Option<Pid>,
}

impl Group {
    /// Kills the rest of the group while the leader's id is still its own, and returns how the leader ended.
    async fn end(mut self) -> io::Result<ExitStatus> {
        self.stop();
        // It stays in `self` until it is waited for: a drop before that must wait in the background.
        let Some(child) = &mut self.child else { return Err(io::ErrorKind::NotFound.into()) };
        let id = reaper::number(child);
        let status = child.wait().await;
        self.child = None;
        reaper::over(id);
        status
    }

    fn stop(&mut self) {
        if let Some(id) = self.id.take() {
            // The group may be gone already.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
        let Some(mut child) = self.child.take() else { return };
        let id = reaper::number(&child);
        // Without a runtime this process is about to end, and init waits for the child.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = child.wait().await;
                reaper::over(id);
            });
        }
    }
}

/// A program that can't be started says nothing about the backend: the error is local.
pub(super) async fn run(
    address: SocketAddr,
    check: &ExecCheck,
    limit: Duration,
    trace: &mut Trace,
) -> Result<String, Miss> {
    trace.asked = format!("run {}", check.program.display());
    trace.wanted = "exit status 0".to_owned();
    let (reader, writer) = pipe().map_err(Miss::Local)?;
    let output = Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(Miss::Local)?;
    let command = command(address, check, limit, writer).map_err(Miss::Local)?;
    let group = start(command)
        .await
        .map_err(|error| Miss::Local(io::Error::new(error.kind(), format!("{}: {error}", check.program.display()))))?;
    read_output(&group, &output, trace).await.map_err(Miss::Local)?;
    let status = group.end().await.map_err(Miss::Local)?;
    // The output becomes part of the result's text.
    let output = std::mem::take(&mut trace.came);
    let mut got = ended(status);
    if !output.trim_ascii().is_empty() {
        got = format!("{got}, said {}", escaped(output.trim_ascii()));
    }
    if status.success() { Ok(got) } else { Err(Miss::Failed(got)) }
}

fn command(address: SocketAddr, check: &ExecCheck, limit: Duration, writer: PipeWriter) -> io::Result<Command> {
    close_on_exec();
    let mut command = Command::new(&check.program);
    command
        .args(&check.arguments)
        // Our own environment may hold tokens and passwords.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
        .env("EVENKEEL_ADDRESS", address.to_string())
        .env("EVENKEEL_HOST", address.ip().to_string())
        .env("EVENKEEL_PORT", address.port().to_string())
        .env("EVENKEEL_TIMEOUT", limit.as_secs_f64().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .kill_on_drop(true);
    if let Some(run_as) = &check.run_as {
        let Identity { user, group } = identity::of(run_as)?;
        // This drops all supplementary groups, too.
        command.uid(user).gid(group);
    }
    confine(&mut command, check.no_new_privs);
    Ok(command)
}

/// Sets what must hold before the program's first instruction.
#[allow(unsafe_code, reason = "it runs between fork and exec")]
fn confine(command: &mut Command, no_new_privs: bool) {
    let parent = getpid();
    let before_exec = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the signal was asked for.
        if getppid() != Some(parent) {
            return Err(Errno::SRCH.into());
        }
        if no_new_privs {
            set_no_new_privs(true)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes four system calls and nothing else. It takes no lock and allocates nothing: an error of the
    // kernel is a number.
    unsafe { command.pre_exec(before_exec) };
}

/// Work for the thread that starts programs. Its queue has no bound of its own: it holds one for each attempt in flight, and
/// these are bounded.
type Task = Box<dyn FnOnce() + Send>;

/// Starts the program on a thread that lives as long as the process: the kernel kills the program when the *thread* that
/// started it ends (prctl(2), `PR_SET_PDEATHSIG`). Besides, the fork of a large process would delay the other probes of a
/// thread.
async fn start(mut command: Command) -> io::Result<Group> {
    let runtime = Handle::current();
    let (tell, told) = oneshot::channel();
    on_starter(Box::new(move || {
        let _inside = runtime.enter();
        let group = reaper::started(|| command.spawn()).map(|child| {
            let id = reaper::number(&child).and_then(Pid::from_raw);
            Group { child: Some(child), id }
        });
        // If the probe was dropped by now, this drops the group.
        let _ = tell.send(group);
    }))?;
    told.await.map_err(io::Error::other)?
}

fn on_starter(task: Task) -> io::Result<()> {
    // A lock: the first probe starts the thread.
    static STARTER: Mutex<Option<Sender<Task>>> = Mutex::new(None);
    let mut starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    if starter.is_none() {
        let (tasks, next) = channel::<Task>();
        thread::Builder::new().name("exec".to_owned()).spawn(move || next.into_iter().for_each(|task| task()))?;
        *starter = Some(tasks);
    }
    let sent = starter.as_ref().map(|tasks| tasks.send(task));
    sent.is_some_and(|sent| sent.is_ok()).then_some(()).ok_or_else(|| io::Error::other("its thread has ended"))
}

/// Becomes readable when the process has ended. It does not wait for the child.
#[allow(unsafe_code, reason = "an event loop has to be told that a descriptor stays the same")]
fn end_of(id: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let process = pidfd_open(id, PidfdFlags::empty())?;
    // SAFETY: an `OwnedFd` stays the same open descriptor while it lives.
    unsafe { AsyncFd::register(process) }.map_err(Into::into)
}

/// Keeps the output until the program has ended. Its children may live on and hold the pipe; they are not waited for.
async fn read_output(group: &Group, output: &Receiver, trace: &mut Trace) -> io::Result<()> {
    let Some(id) = group.id else { return Ok(()) };
    let ended = end_of(id)?;
    loop {
        tokio::select! {
            ended = ended.readable() => {
                ended?.retain_ready();
                // The end of the output may still be in the pipe.
                while keep(output, trace)? == Read::Bytes {}
                return Ok(());
            }
            readable = output.readable() => {
                readable?;
                if keep(output, trace)? == Read::End {
                    ended.readable().await?.retain_ready();
                    return Ok(());
                }
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Read {
    Bytes,
    /// Nothing to read now.
    Nothing,
    /// No process holds the writing end.
    End,
}

fn keep(output: &Receiver, trace: &mut Trace) -> io::Result<Read> {
    let mut buffer = [0; OUTPUT_LIMIT];
    match output.try_read(&mut buffer) {
        Ok(0) => Ok(Read::End),
        Ok(count) => {
            let room = OUTPUT_LIMIT.saturating_sub(trace.came.len());
            trace.came.extend_from_slice(&buffer[..count.min(room)]);
            Ok(Read::Bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
        Err(error) => Err(error),
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Descriptors that this process inherited may lack close-on-exec, which its own have. A program that runs as a check must
/// get none.
fn close_on_exec() {
    static DONE: Once = Once::new();
    DONE.call_once(mark_inherited);
}

#[allow(unsafe_code, reason = "descriptors of others are known by their numbers alone")]
pub(super) fn mark_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    for entry in entries.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|number| *number > 2) else { continue };
        // SAFETY: the borrow ends with the next line, which sets a flag of the descriptor. It may have been closed since it was
        // listed: then the kernel says so, or the number is another descriptor's of this process by now, which gets the
        // flag. None of ours is meant to be inherited, so that this does no harm, and no memory hangs on a descriptor here.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl_setfd(descriptor.as_fd(), FdFlags::CLOEXEC);
    }
}
