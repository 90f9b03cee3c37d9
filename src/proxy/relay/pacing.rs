//! One direction that has a limit of bandwidth: before each read it draws from its bucket and waits for its turn. The only
//! place in a relay that knows of one; a direction without a limit has none of this.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

use crate::pool::{Draw, Throttle};
use crate::proxy::socket::Socket;

#[derive(Debug)]
pub(super) struct Pacing {
    throttle: Throttle,
    /// Drawn and not used. Between turns: it waits for its time.
    drawn: Option<Draw>,
    /// Made when it has to wait for the first time.
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when it waits.
    waits_since: Option<Instant>,
}

impl Pacing {
    /// `before` bytes of the direction are on their way already.
    pub(super) fn new(throttle: Throttle, before: u64) -> Self {
        throttle.charge(Instant::now(), before);
        Self { throttle, drawn: None, timer: None, waits_since: None }
    }

    /// How many bytes may be read now, once the source has something to say. [`Self::read`] has to follow.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, source: &Socket) -> Poll<usize> {
        if self.drawn.is_none() {
            // One that has nothing to say takes no turn from another. An error shows to the read.
            if ready!(source.poll_readable(cx)).is_err() {
                return Poll::Ready(usize::MAX);
            }
            self.drawn = self.throttle.draw(Instant::now());
        }
        let Some(draw) = &self.drawn else { return Poll::Ready(usize::MAX) };
        let (at, bytes) = (draw.at, draw.bytes);
        if at > Instant::now() {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
            if self.waits_since.is_none() {
                timer.as_mut().reset(at.into());
                self.waits_since = Some(Instant::now());
            }
            ready!(timer.as_mut().poll(cx));
        }
        if let Some(since) = self.waits_since.take() {
            self.throttle.waited(since.elapsed());
        }
        Poll::Ready(bytes)
    }

    /// So many were read.
    pub(super) fn read(&mut self, bytes: usize) {
        if let Some(draw) = self.drawn.take() {
            self.throttle.give_back(&draw, bytes);
        }
    }

    /// Whether its source has something to say, and it has to wait for its turn.
    pub(super) fn waits(&self) -> bool {
        self.drawn.is_some()
    }
}

impl Drop for Pacing {
    fn drop(&mut self) {
        // Others wait for what it does not need any more.
        self.read(0);
    }
}
