//! A timer with a precision of some ten microseconds, for the open loop. One for each load thread.
//!
//! tokio's timers round up to a millisecond, which would show as latency of the system under test. So all waiting slots of a thread
//! share one timerfd, which is set to the earliest time.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Poll, Waker};
use std::time::Instant;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

pub(crate) struct PreciseTimer {
    timer: AsyncFd<OwnedFd>,
    waiting: RefCell<TimerQueue>,
}

#[derive(Default)]
struct TimerQueue {
    queue: BinaryHeap<Reverse<(Instant, usize)>>,
    /// One for each slot of the thread.
    wakers: Vec<Option<Waker>>,
}

impl PreciseTimer {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // `new` is deprecated because an `AsRawFd` may give a wrong descriptor. An `OwnedFd` can't, and the replacement would be
        // the only `unsafe` of this package.
        #[expect(deprecated, reason = "sound for an OwnedFd, see above")]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer, waiting: RefCell::default() })
    }

    /// Returns at `due` or right after it. `index` is a small number, and no other waiting caller may use the same.
    pub(crate) async fn until(&self, due: Instant, index: usize) -> io::Result<()> {
        if due <= Instant::now() {
            return Ok(());
        }
        self.enqueue(due, index)?;
        poll_fn(|cx| {
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().wakers[index] = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        Ok(())
    }

    /// The task that wakes the others. Returns only with an error.
    pub(crate) async fn drive(&self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0; 8];
            match rustix::io::read(&self.timer, &mut expirations) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
            self.wake_due()?;
        }
    }

    fn enqueue(&self, due: Instant, index: usize) -> io::Result<()> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.wakers.len() <= index {
            waiting.wakers.resize(index + 1, None);
        }
        let earliest = waiting.queue.peek().is_none_or(|Reverse((first, _))| due < *first);
        waiting.queue.push(Reverse((due, index)));
        if earliest {
            self.arm(due)?;
        }
        Ok(())
    }

    fn wake_due(&self) -> io::Result<()> {
        let now = Instant::now();
        let mut waiting = self.waiting.borrow_mut();
        while let Some(&Reverse((due, index))) = waiting.queue.peek() {
            if due > now {
                return self.arm(due);
            }
            waiting.queue.pop();
            if let Some(waker) = waiting.wakers[index].take() {
                waker.wake();
            }
        }
        Ok(())
    }

    fn arm(&self, due: Instant) -> io::Result<()> {
        // Zero would stop the timer.
        let wait = due.saturating_duration_since(Instant::now()).as_nanos().max(1) as i64;
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec { tv_sec: wait / 1_000_000_000, tv_nsec: wait % 1_000_000_000 },
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value)?;
        Ok(())
    }
}
