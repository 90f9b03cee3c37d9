//! The `exec` kind: a program of the operator's, judged by its exit status. It runs in a process group of its own, which is
//! killed as a whole when the program ends, when its time is up and when the probe is dropped. If this process dies without
//! doing so, the kernel kills the program itself, though not what that has started.

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

/// Of what it prints; the rest is read and forgotten, so that a program that talks a lot is not held up.
const KEPT: usize = 4096;

/// What a shell would look in, if we have no `PATH` ourselves.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kills the group when dropped. The leader has not been waited for as long as this lives, so that its number can't have
/// become somebody else's.
struct Group {
    /// `None` = it was waited for.
    child: Option<Child>,
    id: Option<Pid>,
}

impl Group {
    /// Kills what is left, while the leader's number is still its own, and says how the leader ended.
    async fn end(mut self) -> io::Result<ExitStatus> {
        self.stop();
        // Kept in its place until then: a drop in between has to wait for it in another way.
        let Some(child) = &mut self.child else { return Err(io::ErrorKind::NotFound.into()) };
        let id = reaper::number(child);
        let status = child.wait().await;
        self.child = None;
        reaper::over(id);
        status
    }

    fn stop(&mut self) {
        if let Some(id) = self.id.take() {
            // One that has gone by itself needs no signal.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
        let Some(mut child) = self.child.take() else { return };
        let id = reaper::number(&child);
        // Without a runtime the process is about to end, and the kernel waits for it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = child.wait().await;
                reaper::over(id);
            });
        }
    }
}

/// See the module. That a program can't be started says nothing about a backend.
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
    listen(&group, &output, trace).await.map_err(Miss::Local)?;
    let status = group.end().await.map_err(Miss::Local)?;
    // What the output was kept for: the words of the verdict.
    let said = std::mem::take(&mut trace.came);
    let mut got = ended(status);
    if !said.trim_ascii().is_empty() {
        got = format!("{got}, said {}", escaped(said.trim_ascii()));
    }
    if status.success() { Ok(got) } else { Err(Miss::Failed(got)) }
}

fn command(address: SocketAddr, check: &ExecCheck, limit: Duration, writer: PipeWriter) -> io::Result<Command> {
    close_on_exec();
    let mut command = Command::new(&check.program);
    command
        .args(&check.arguments)
        // Tokens and passwords in our own environment are none of its business.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()))
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
        // With it go all supplementary groups.
        command.uid(user).gid(group);
    }
    confine(&mut command, check.no_new_privs);
    Ok(command)
}

/// What holds from before its first instruction on.
#[allow(unsafe_code, reason = "it runs between fork and exec")]
fn confine(command: &mut Command, no_new_privs: bool) {
    let parent = getpid();
    let promise = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before it was asked to tell.
        if getppid() != Some(parent) {
            return Err(Errno::SRCH.into());
        }
        if no_new_privs {
            set_no_new_privs(true)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes four system calls and nothing else: it takes no lock and allocates nothing, an error of the
    // kernel being a number.
    unsafe { command.pre_exec(promise) };
}

/// What the thread that starts programs does next. Without a bound: one for each probe in flight, and these have one.
type Task = Box<dyn FnOnce() + Send>;

/// Starts it on a thread that lives as long as the process, because the kernel ends it when the *thread* ends that started
/// it (prctl(2), `PR_SET_PDEATHSIG`), and a fork of a large process would hold up a thread of all probes.
async fn start(mut command: Command) -> io::Result<Group> {
    let runtime = Handle::current();
    let (tell, told) = oneshot::channel();
    on_starter(Box::new(move || {
        let _inside = runtime.enter();
        let group = reaper::started(|| command.spawn()).map(|child| {
            let id = reaper::number(&child).and_then(Pid::from_raw);
            Group { child: Some(child), id }
        });
        // If the probe was dropped meanwhile, this drops the group.
        let _ = tell.send(group);
    }))?;
    told.await.map_err(io::Error::other)?
}

fn on_starter(task: Task) -> io::Result<()> {
    // A lock, as the thread is started by whoever comes first.
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

/// Readable once it has ended, without it being waited for.
#[allow(unsafe_code, reason = "an event loop has to be told that a descriptor stays the same")]
fn end_of(id: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let process = pidfd_open(id, PidfdFlags::empty())?;
    // SAFETY: an `OwnedFd` is the same open descriptor as long as it lives.
    unsafe { AsyncFd::register(process) }.map_err(Into::into)
}

/// Keeps what it prints until it has ended. Its children may live on and hold the pipe: they are not waited for.
async fn listen(group: &Group, output: &Receiver, trace: &mut Trace) -> io::Result<()> {
    let Some(id) = group.id else { return Ok(()) };
    let ended = end_of(id)?;
    loop {
        tokio::select! {
            ended = ended.readable() => {
                ended?.retain_ready();
                // The last words may still be in the pipe.
                while keep(output, trace)? == Heard::Words {}
                return Ok(());
            }
            readable = output.readable() => {
                readable?;
                if keep(output, trace)? == Heard::End {
                    ended.readable().await?.retain_ready();
                    return Ok(());
                }
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Heard {
    Words,
    /// Not now.
    Nothing,
    /// Nobody is left who could say more.
    End,
}

/// Reads once.
fn keep(output: &Receiver, trace: &mut Trace) -> io::Result<Heard> {
    let mut buffer = [0; KEPT];
    match output.try_read(&mut buffer) {
        Ok(0) => Ok(Heard::End),
        Ok(count) => {
            let room = KEPT.saturating_sub(trace.came.len());
            trace.came.extend_from_slice(&buffer[..count.min(room)]);
            Ok(Heard::Words)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Nothing),
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

/// Descriptors that we were started with may lack the flag that our own have: what runs as a check gets none of them.
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
        // SAFETY: it is only asked for its flags, within this call; if it has been closed meanwhile, the kernel says so.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl_setfd(descriptor.as_fd(), FdFlags::CLOEXEC);
    }
}
