//! One direction of a relay in copy mode: from the source's kernel buffer through the worker's scratch buffer into the
//! destination's. Only what the destination does not take at once is kept, in a buffer from the worker's stock, and
//! nothing is read before that is written: back-pressure reaches the source through its receive window.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

use super::Side;
use crate::proxy::socket::Socket;

/// Read in one system call. Large enough that bulk is not bound by calls, small enough for the L2 cache.
const SCRATCH: usize = 64 * 1024;

/// Kept buffers of a worker; more are given back to the allocator.
const STOCK: usize = 64;

/// Reads in a row before other sessions of the worker get a turn.
const READS_IN_A_ROW: usize = 16;

/// What the sessions of one worker share for copying. Never borrowed across an await.
#[derive(Debug)]
pub(crate) struct Scratch {
    buffer: RefCell<Box<[u8]>>,
    stock: RefCell<Vec<Vec<u8>>>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { buffer: RefCell::new(vec![0; SCRATCH].into_boxed_slice()), stock: RefCell::default() }
    }

    fn keep(&self, bytes: &[u8]) -> Vec<u8> {
        let mut kept = self.stock.borrow_mut().pop().unwrap_or_default();
        kept.extend_from_slice(bytes);
        kept
    }

    fn put_back(&self, mut kept: Vec<u8>) {
        let mut stock = self.stock.borrow_mut();
        if stock.len() < STOCK {
            kept.clear();
            stock.push(kept);
        }
    }
}

/// Bytes of one direction, and how far it has come.
#[derive(Debug)]
pub(super) struct Flow {
    state: State,
    /// Read and not yet written, from `written` on.
    kept: Vec<u8>,
    written: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Reading.
    Open,
    /// The source has finished; what is kept, then FIN, is to be written.
    Ended,
    /// The source was reset; what is kept is to be written, and no FIN.
    Cut,
    /// FIN is written.
    Finished,
    /// Nothing more goes this way.
    Closed,
}

/// What one turn of a flow came to.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing can be done before the loop says so.
    Waiting,
    /// It may go on, but others should have a turn first.
    Yield,
    /// A side's connection broke.
    Broken(Side, io::Error),
}

impl Flow {
    pub(super) fn new() -> Self {
        Self::beginning_with(Vec::new())
    }

    /// These bytes were read from the source before.
    pub(super) fn beginning_with(kept: Vec<u8>) -> Self {
        Self { state: State::Open, kept, written: 0 }
    }

    /// Moves bytes from `source` to `target` until one of them has to be waited for; returns how many `target` took.
    /// `side` names the source.
    pub(super) fn turn(
        &mut self,
        cx: &mut Context<'_>,
        (side, source, target): (Side, &Socket, &Socket),
        scratch: &Scratch,
    ) -> (u64, Turn) {
        let mut moved = 0;
        for _ in 0..READS_IN_A_ROW {
            while self.written < self.kept.len() {
                match target.poll_write(cx, &self.kept[self.written..]) {
                    Poll::Ready(Ok(n)) => {
                        self.written += n;
                        moved += n as u64;
                    }
                    Poll::Ready(Err(error)) => return (moved, Turn::Broken(side.other(), error)),
                    Poll::Pending => return (moved, Turn::Waiting),
                }
            }
            self.give_back(scratch);
            match self.state {
                State::Open => {}
                State::Ended => {
                    if let Err(error) = target.send_fin() {
                        return (moved, Turn::Broken(side.other(), error));
                    }
                    self.state = State::Finished;
                    return (moved, Turn::Waiting);
                }
                State::Cut | State::Finished | State::Closed => return (moved, Turn::Waiting),
            }
            let mut buffer = scratch.buffer.borrow_mut();
            let read = match source.poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(0)) => {
                    self.state = State::Ended;
                    continue;
                }
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return (moved, Turn::Broken(side, error)),
                Poll::Pending => return (moved, Turn::Waiting),
            };
            let taken = match target.poll_write(cx, &buffer[..read]) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return (moved, Turn::Broken(side.other(), error)),
                Poll::Pending => 0,
            };
            moved += taken as u64;
            if taken < read {
                self.kept = scratch.keep(&buffer[taken..read]);
            }
        }
        (moved, Turn::Yield)
    }

    /// The source's connection broke: only what was already read goes on.
    pub(super) fn cut(&mut self) {
        if matches!(self.state, State::Open | State::Ended) {
            self.state = State::Cut;
        }
    }

    /// The target's connection broke: nothing goes on.
    pub(super) fn close(&mut self, scratch: &Scratch) {
        self.written = self.kept.len();
        self.give_back(scratch);
        if self.state != State::Finished {
            self.state = State::Closed;
        }
    }

    /// Whether it waits for the source, which then shows its errors by itself.
    pub(super) fn is_reading(&self) -> bool {
        self.state == State::Open && self.kept.is_empty()
    }

    /// Whether the source has said FIN.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended | State::Finished)
    }

    /// Whether the target has been sent FIN.
    pub(super) fn has_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Whether everything that was read is written.
    pub(super) fn is_flushed(&self) -> bool {
        self.written >= self.kept.len()
    }

    fn give_back(&mut self, scratch: &Scratch) {
        if self.kept.capacity() > 0 {
            scratch.put_back(std::mem::take(&mut self.kept));
            self.written = 0;
        }
    }
}
