//! What systemd tells this process and wants to hear from it (`sd_listen_fds(3)`, `sd_notify(3)`). Does nothing where
//! there is no systemd. The door to sd-notify.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::server::Inherited;

/// For systemd to take a word: under load it may be a while behind, and neither a start nor a stop waits for it for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes the sockets that systemd passed to this process. To be called once, before threads that could open descriptors.
///
/// # Errors
/// If `LISTEN_FDS` and its companions make no sense.
#[allow(unsafe_code, reason = "descriptors that come as numbers have to be taken over once")]
pub(super) fn inherited() -> io::Result<Vec<Inherited>> {
    let take = |(number, name)| {
        // SAFETY: `LISTEN_PID` said that these descriptors are for this process, nothing else in it knows of them, and
        // this function is called once.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        Inherited { name, fd }
    };
    let passed = sd_notify::listen_fds().map_err(|error| match error.raw_os_error() {
        // All that is asked of the system is to mark each of them.
        Some(_) => io::Error::other("$LISTEN_FDS counts more than the descriptors that are open from 3 on"),
        None => error,
    })?;
    if passed.len() == 0 {
        // Names without descriptors are for another process, whose environment this one got.
        return Ok(Vec::new());
    }
    Ok(sd_notify::listen_fds_with_names()?.map(take).collect())
}

/// The configuration is applied and the sockets listen.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Another configuration is about to be applied; [`ready`] ends that.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd can't be told"),
    }
}

/// A stop has begun.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    let Some(to) = std::env::var_os("NOTIFY_SOCKET").filter(|to| !to.is_empty()) else { return };
    let text: String = state.iter().map(|line| format!("{line}\n")).collect();
    if let Err(error) = send(&to, &text) {
        tracing::warn!(notify_socket = %to.display(), %error, "systemd can't be told: {}", text.trim_end());
    }
}

/// Not with sd-notify, which takes the `@` of an abstract name for a file's.
fn send(to: &OsStr, text: &str) -> io::Result<()> {
    let address = match to.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(to)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}
