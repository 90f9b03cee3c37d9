//! The `exec` kind: a program of the operator's, judged by its exit status. It runs in a process group of its own, which is
//! killed as a whole when the program ends, when its time is up and when the probe is dropped; tokio reaps what is left.

use std::fs;
use std::io::{self, PipeReader, PipeWriter, pipe};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Once;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use crate::config::ExecCheck;
use crate::health::escaped;

use super::attempt::{Miss, Trace};

/// Of what it prints; the rest is read and forgotten, so that a program that talks a lot is not held up.
const KEPT: usize = 4096;

/// What a shell would look in, if we have no `PATH` ourselves.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kills the group when dropped. The leader has not been waited for as long as this lives, so that its number can't have
/// become somebody else's.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // One that has gone by itself needs no signal.
            let _ = kill_process_group(id, Signal::KILL);
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
    let (mut group, output) = start(address, check, limit, reader, writer).map_err(Miss::Local)?;
    listen(&group, &output, trace).await.map_err(Miss::Local)?;
    group.stop();
    let status = group.child.wait().await.map_err(Miss::Local)?;
    // What the output was kept for: the words of the verdict.
    let said = std::mem::take(&mut trace.came);
    let mut got = ended(status);
    if !said.trim_ascii().is_empty() {
        got = format!("{got}, said {}", escaped(said.trim_ascii()));
    }
    if status.success() { Ok(got) } else { Err(Miss::Failed(got)) }
}

fn start(
    address: SocketAddr,
    check: &ExecCheck,
    limit: Duration,
    reader: PipeReader,
    writer: PipeWriter,
) -> io::Result<(Group, Receiver)> {
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
    let child = command
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", check.program.display())))?;
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let group = Group { child, id };
    Ok((group, Receiver::from_owned_fd(OwnedFd::from(reader))?))
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

impl Group {
    /// Kills what is left, while the leader's number is still its own.
    fn stop(&mut self) {
        if let Some(id) = self.id.take() {
            let _ = kill_process_group(id, Signal::KILL);
        }
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
