//! What systemd tells this process and wants to hear from it (`sd_listen_fds(3)`, `sd_notify(3)`). Does nothing where
//! there is no systemd. The door to sd-notify.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use sd_notify::NotifyState;

use crate::server::Inherited;

/// Takes the sockets that systemd passed to this process. To be called once, before threads that could open descriptors.
///
/// # Errors
/// If `LISTEN_FDS` and its companions make no sense.
#[allow(unsafe_code, reason = "descriptors that come as numbers have to be taken over once")]
pub(super) fn inherited() -> io::Result<Vec<Inherited>> {
    let take = |(number, name)| {
        // SAFETY: `LISTEN_PID` said that these descriptors are for this process, nobody else in it knows of them, and
        // this function is called once.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        Inherited { name, fd }
    };
    if sd_notify::listen_fds()?.len() == 0 {
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
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd can't be told");
    }
}
