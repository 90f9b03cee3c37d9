//! A relay's limits in time: by when it has to end, and whether that may be believed.

use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::{End, RelayTask};
use crate::proxy::socket::TcpFd;

/// For a client that has not finished long after its backend has, and for bytes that are not taken after a reset.
const HALF_CLOSED_CLIENT: Duration = Duration::from_secs(30);

/// Between looks at what is ready once a limit is over: the event loop tells of it meanwhile.
const NEXT_LOOK: Duration = Duration::from_millis(10);

/// So many of them in a row are enough, whatever is ready: nothing moves.
const LOOKS: u8 = 100;

/// When a relay has been quiet for too long. `None` = never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(super) idle: Option<Duration>,
    /// Waiting for the backend to finish after the client has.
    pub(super) for_backend: Option<Duration>,
    /// Waiting for the client to finish after the backend has.
    pub(super) for_client: Option<Duration>,
    /// From the first byte to the backend to the first byte from it.
    pub(super) first_byte: Option<Duration>,
}

impl Limits {
    pub(crate) fn new(idle: Option<Duration>, half_close: Option<Duration>, first_byte: Option<Duration>) -> Self {
        let for_client = half_close.or(Some(HALF_CLOSED_CLIENT));
        Self { idle, for_backend: half_close.or(idle), for_client, first_byte }
    }

    /// While the backend has said nothing: for how long all may be quiet, and from when it may be silent.
    pub(crate) fn unanswered(&self, client_has_finished: bool) -> (Option<Duration>, Option<Duration>) {
        (if client_has_finished { self.for_backend } else { self.idle }, self.first_byte)
    }
}

impl RelayTask<'_> {
    /// The limit that holds in this state.
    fn limit(&self) -> Option<Duration> {
        let limits = self.limits.get();
        if self.broken.is_some() {
            return limits.for_client.or(Some(HALF_CLOSED_CLIENT));
        }
        match (self.upward.has_ended(), self.downward.has_ended()) {
            (false, false) => limits.idle,
            (true, false) => limits.for_backend,
            (_, true) => limits.for_client,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        // "Never" is a look once a day.
        let idle_limits = self.last_progress + self.limit().unwrap_or(Duration::from_secs(86_400));
        self.due().map_or(idle_limits, |due| idle_limits.min(due))
    }

    /// By when the backend has to answer, if it still can.
    fn due(&self) -> Option<Instant> {
        let can = self.broken.is_none() && !self.downward.has_ended();
        self.answer.due().filter(|_| can)
    }

    /// One lazy timer: it is moved only when it fires, or when the limit became a shorter one. Returns whether a limit is over,
    /// as far as is known.
    fn is_over(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> bool {
        let deadline = self.deadline();
        if self.looks == 0 && deadline < timer.deadline().into_std() {
            timer.as_mut().reset(deadline.into());
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return true;
            }
            timer.as_mut().reset(deadline.into());
        }
        false
    }

    /// A limit is believed to be over only after a look at what the event loop has not told yet, since this process may have
    /// been stopped or have had no CPU, and at what the kernels did meanwhile with bytes that were sent.
    pub(super) fn check_time<C>(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        ends: [&TcpFd; 2],
    ) -> Option<End<C>> {
        while self.is_over(cx, timer.as_mut()) {
            let now = Instant::now();
            if self.upward.is_throttled() || self.downward.is_throttled() {
                // Bytes are there, and it is we who let them wait.
                self.progress(now);
                self.answer.postpone(now);
                continue;
            }
            let is_unanswered = self.due().is_some_and(|due| now >= due);
            if self.looks < LOOKS && self.is_ready(ends, is_unanswered) {
                self.looks += 1;
                timer.as_mut().reset((now + NEXT_LOOK).into());
                continue;
            }
            if is_unanswered {
                return Some(End::FirstByte);
            }
            let delivered = ends.into_iter().filter_map(|end| end.last_delivery(now)).max();
            match delivered.filter(|at| *at > self.last_progress) {
                _ if self.limit().is_none() => self.progress(now),
                Some(at) => {
                    self.progress(at);
                    self.bytes.touch(at);
                }
                None if self.has_one_ended() || self.broken.is_some() => return Some(End::HalfClosed),
                None => return Some(End::Idle),
            }
        }
        None
    }

    /// Whether there is something that a turn would move; `from_backend`: only what comes from there counts.
    fn is_ready(&self, [client, backend]: [&TcpFd; 2], from_backend: bool) -> bool {
        let ((reads_client, writes_backend), (reads_backend, writes_client)) =
            (self.upward.waits_for(), self.downward.waits_for());
        backend.is_ready(reads_backend, writes_backend && !from_backend)
            || !from_backend && client.is_ready(reads_client, writes_client)
    }

    pub(super) fn progress(&mut self, at: Instant) {
        (self.last_progress, self.looks) = (at, 0);
    }
}
