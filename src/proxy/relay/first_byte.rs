//! PURE. The backend's first byte: whether the client has asked for it, by when it has to be there, and what became of it.
//! The clock begins with the first byte that is sent to the backend, so a server that speaks first is never hurried.

use std::io;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::{End, Side};
use crate::metrics::EarlyEnd;

#[derive(Debug)]
pub(super) struct FirstByte {
    /// In milliseconds, in as few bytes as they need. `None` = it may take as long as it wants.
    limit: Option<NonZeroU32>,
    /// When it was asked for; once it is here, when it came.
    at: Option<Instant>,
    is_here: bool,
    /// The backend finished while the client had not.
    closed_first: bool,
    /// It is said elsewhere how it failed.
    is_judged: bool,
}

impl FirstByte {
    pub(super) fn new(limit: Option<Duration>, asked: Option<Instant>, is_judged: bool) -> Self {
        // Rounded up; a limit of nothing is over at once.
        let milliseconds = |limit: Duration| limit.as_nanos().div_ceil(1_000_000).max(1);
        let limit = limit.map(|limit| u32::try_from(milliseconds(limit)).unwrap_or(u32::MAX));
        let limit = limit.and_then(NonZeroU32::new);
        Self { limit, at: asked, is_here: false, closed_first: false, is_judged }
    }

    /// The client has sent something.
    pub(super) fn ask(&mut self, now: Instant) {
        self.at.get_or_insert(now);
    }

    /// It could not come by now, or what it answers could not: its time begins again.
    pub(super) fn postpone(&mut self, now: Instant) {
        if self.at.is_some() && !self.is_here() {
            self.at = Some(now);
        }
    }

    /// The backend has sent something. Returns whether that was the first.
    pub(super) fn arrive(&mut self, now: Instant) -> bool {
        let is_first = !self.is_here();
        if is_first {
            (self.at, self.is_here) = (Some(now), true);
        }
        is_first
    }

    /// The backend has finished, and the client had not.
    pub(super) fn close_first(&mut self) {
        self.closed_first = true;
    }

    pub(super) fn is_here(&self) -> bool {
        self.is_here
    }

    /// Whether the clock has to be watched, now or once the client has sent something.
    pub(super) fn is_timed(&self) -> bool {
        self.limit.is_some() && !self.is_here()
    }

    /// By when it has to be here.
    pub(super) fn due(&self) -> Option<Instant> {
        Some(self.asked()? + Duration::from_millis(self.limit?.get().into()))
    }

    /// When it was asked for, while it is not here.
    pub(super) fn asked(&self) -> Option<Instant> {
        self.at.filter(|_| !self.is_here)
    }

    /// When it came.
    pub(super) fn came(&self) -> Option<Instant> {
        self.at.filter(|_| self.is_here)
    }

    /// Whether a session that ended so was failed by its backend before the first byte. One that only listens, and finishes
    /// after its client has, has not failed.
    pub(super) fn early<C>(&self, end: &End<C>) -> Option<EarlyEnd> {
        if self.is_judged || self.is_here || self.at.is_none() {
            return None;
        }
        match end {
            End::FirstByte => Some(EarlyEnd::Silent),
            _ if self.closed_first => Some(EarlyEnd::Closed),
            End::Broken(Side::Backend, error) => Some(early_break(error)),
            _ => None,
        }
    }
}

/// How a connection that broke failed: the kernel's own patience ends with ETIMEDOUT, and neither side has said anything then.
pub(crate) fn early_break(error: &io::Error) -> EarlyEnd {
    if error.kind() == io::ErrorKind::TimedOut { EarlyEnd::Silent } else { EarlyEnd::Reset }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn broken(side: Side) -> End<()> {
        End::Broken(side, io::ErrorKind::ConnectionReset.into())
    }

    #[test]
    fn the_clock_begins_with_the_first_byte_to_the_backend_and_ends_with_the_first_from_it() {
        let start = Instant::now();
        let mut answer = FirstByte::new(Some(SECOND), None, false);
        assert_eq!((answer.due(), answer.is_timed()), (None, true), "a server that speaks first may take its time");
        answer.ask(start);
        answer.ask(start + SECOND);
        assert_eq!(answer.due(), Some(start + SECOND));
        assert!(answer.arrive(start + SECOND / 2));
        assert!(!answer.arrive(start + SECOND));
        assert_eq!((answer.due(), answer.is_timed(), answer.came()), (None, false, Some(start + SECOND / 2)));
        assert!(!FirstByte::new(None, Some(start), false).is_timed());
    }

    #[test]
    fn who_failed_whom() {
        let start = Instant::now();
        let asked = || FirstByte::new(Some(SECOND), Some(start), false);
        assert_eq!(asked().early(&broken(Side::Backend)), Some(EarlyEnd::Reset));
        assert_eq!(asked().early(&End::<()>::FirstByte), Some(EarlyEnd::Silent));
        let vanished = End::<()>::Broken(Side::Backend, io::ErrorKind::TimedOut.into());
        assert_eq!(asked().early(&vanished), Some(EarlyEnd::Silent));
        // The client left, or both finished and the client did first, or we ended it.
        for end in [broken(Side::Client), End::Completed, End::Idle, End::HalfClosed, End::Forced(())] {
            assert_eq!(asked().early(&end), None, "{end:?}");
        }
        let mut closed = asked();
        closed.close_first();
        assert_eq!(closed.early(&End::<()>::Completed), Some(EarlyEnd::Closed));
        assert_eq!(FirstByte::new(None, Some(start), true).early(&broken(Side::Backend)), None, "said already");
        // Nothing was asked, or there was an answer.
        assert_eq!(FirstByte::new(None, None, false).early(&broken(Side::Backend)), None);
        closed.arrive(start);
        assert_eq!(closed.early(&broken(Side::Backend)), None);
    }
}
