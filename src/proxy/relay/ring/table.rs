//! The sessions on the ring: what a completion means for its session. Nothing in here waits, or calls out of the ring.

use std::collections::VecDeque;
use std::io;
use std::mem::take;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use slab::Slab;

use super::Step;
use super::queue::{BufferLink, DirectionQueue};
use super::raw::{Completion, Raw};
use crate::metrics::Direction;
use crate::pool::ByteCell;
use crate::proxy::socket::TcpFd;

/// Buffers in a direction's queue, beyond which the session leaves.
const QUEUE: u16 = 8;

const DIRECTIONS: [Direction; 2] = [Direction::ToBackend, Direction::ToClient];

const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const CANCEL: u64 = 2;

/// Says which session, direction (0: to the backend) and operation a completion belongs to. `CANCEL | SEND` cancels a send.
fn tag(key: usize, direction: usize, operation: u64) -> u64 {
    (key as u64) << 8 | (direction as u64) << 4 | operation
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RingPhase {
    On,
    /// Everything is cancelled; the session waits for the rest.
    Leaving,
    /// Nothing waits for it any more.
    Abandoned,
}

#[derive(Debug)]
pub(super) struct SessionEntry {
    /// The client's and the backend's. Direction `d` goes from end `d` to end `1 - d`.
    pub(super) ends: [Rc<TcpFd>; 2],
    pub(super) ways: [DirectionQueue; 2],
    pub(super) course: RingPhase,
    /// Completions still to come. The entry, and with it its key and its sockets, stays until there is none.
    pub(super) pending: u32,
    pub(super) broken: [Option<io::Error>; 2],
    pub(super) waker: Option<Waker>,
    pub(super) bytes: ByteCell,
    pub(super) last_progress: Instant,
    pub(super) first_byte: Option<Instant>,
    pub(super) closed_first: bool,
}

/// A send, to see in the next round whether its target took it.
pub(super) type Sent = (usize, usize, u32);

/// All sessions on the ring.
#[derive(Debug)]
pub(super) struct SessionTable {
    pub(super) entries: Slab<SessionEntry>,
    pub(super) slots: Box<[BufferLink]>,
    now: Instant,
    round: u32,
    sent: Vec<Sent>,
    spare: Vec<Sent>,
    /// Directions that received in this round. They send at its end, when it is known whether FIN came with the bytes.
    arrived: Vec<(usize, usize)>,
    /// Directions that had no buffer to receive into. May name some that do not wait any more.
    starving: VecDeque<(usize, usize)>,
    /// Directions that have [`DirectionQueue::heard`] something. May name some that are gone.
    heard: Vec<(usize, usize)>,
    to_wake: Vec<Waker>,
}

impl SessionTable {
    pub(super) fn new(buffers: u16) -> Self {
        Self {
            entries: Slab::new(),
            slots: vec![BufferLink::EMPTY; usize::from(buffers)].into_boxed_slice(),
            now: Instant::now(),
            round: 0,
            sent: Vec::new(),
            spare: Vec::new(),
            arrived: Vec::new(),
            starving: VecDeque::new(),
            heard: Vec::new(),
            to_wake: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn buffers(&self) -> u16 {
        self.slots.len() as u16
    }

    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        take(&mut self.to_wake)
    }

    /// Takes back the empty list, for its memory.
    pub(super) fn keep(&mut self, wakers: Vec<Waker>) {
        if self.to_wake.is_empty() {
            self.to_wake = wakers;
        }
    }

    /// Before the kernel is entered. Returns what it then submits.
    pub(super) fn begin_round(&mut self) -> Vec<Sent> {
        self.round = self.round.wrapping_add(1);
        self.now = Instant::now();
        std::mem::replace(&mut self.sent, take(&mut self.spare))
    }

    /// After all completions were taken.
    pub(super) fn end_round(&mut self, raw: &mut Raw, mut sent: Vec<Sent>) {
        // A target with room takes bytes while they are submitted. One that did not is slow, and must not hold buffers.
        for (key, direction, number) in sent.drain(..) {
            let blocked =
                |entry: &SessionEntry| entry.ways[direction].sending && entry.ways[direction].number == number;
            if self.entries.get(key).is_some_and(blocked) {
                self.leave(raw, key);
            }
        }
        self.spare = sent;
        let mut arrived = take(&mut self.arrived);
        for (key, direction) in arrived.drain(..) {
            // None joins in the middle of a round, so that a key can't be another session's by now.
            if self.entries.get(key).is_some_and(|entry| entry.course == RingPhase::On) {
                self.send(raw, key, direction);
            }
        }
        self.arrived = arrived;
        let mut spare = raw.free();
        while spare > 0
            && let Some((key, direction)) = self.starving.pop_front()
        {
            if self.entries.get(key).is_some_and(|entry| entry.may_receive(direction)) {
                self.receive(raw, key, direction);
                spare -= 1;
            }
        }
    }

    /// Whether a direction waits for a buffer, and there is one.
    pub(super) fn can_feed(&self, raw: &Raw) -> bool {
        raw.free() > 0 && !self.starving.is_empty()
    }

    /// Whether [`Self::look_behind`] has something to look at.
    pub(super) fn has_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Lets those leave whose source has broken behind what was received from it, or has urgent data there. A receive that goes on may give bytes
    /// when the reset behind them is there already, and not say the reset, ever: where both were there when it was asked
    /// for, and on older kernels also where they came before it looked (liburing's issue 1549 is the like of it with FIN
    /// on other sockets). A side that is sent something shows it by that; this is for those that are quiet then. And it ends
    /// before an urgent byte, however much is behind it.
    pub(super) fn look_behind(&mut self, raw: &mut Raw) {
        let heard = take(&mut self.heard);
        let mut looked = Vec::with_capacity(heard.len());
        for &(key, direction) in &heard {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.ways[direction].heard = false;
                looked.push((key, direction));
            }
        }
        // Errors are told unasked.
        let socket = |&(key, direction): &(usize, usize)| &self.entries[key].ends[direction];
        let mut polled: Vec<_> = looked.iter().map(|place| PollFd::new(socket(place), PollFlags::PRI)).collect();
        // A look, no wait. If it fails, nothing is known: the next bytes are the next occasion.
        let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let broken = polled.iter().map(|polled| polled.revents().intersects(PollFlags::ERR | PollFlags::PRI));
        let broken: Vec<usize> = looked.iter().zip(broken).filter(|(_, is)| *is).map(|((key, _), _)| *key).collect();
        // Where errors are in their place, behind the bytes, and read after them; and urgent data is read past.
        broken.into_iter().for_each(|key| self.leave(raw, key));
    }

    /// What the kernel says.
    pub(super) fn take(&mut self, raw: &mut Raw, completion: Completion) {
        let Completion { tag, result, buffer, more } = completion;
        let (key, direction, operation) = ((tag >> 8) as usize, (tag >> 4 & 1) as usize, tag & 0xf);
        let Some(entry) = self.entries.get_mut(key) else {
            debug_assert!(false, "a completion of nobody");
            buffer.into_iter().for_each(|buffer| raw.give_back(buffer));
            return;
        };
        if !more {
            entry.pending -= 1;
        }
        match operation {
            RECEIVE => {
                entry.ways[direction].receiving &= more;
                self.received(raw, key, direction, result, buffer);
            }
            SEND => {
                entry.ways[direction].sending = false;
                self.was_sent(raw, key, direction, result);
            }
            // The victim was not to be found just then: it was on its way. It is, until it has completed.
            _ if result.is_err() => {
                let way = &entry.ways[direction];
                let victim = operation & !CANCEL;
                if if victim == SEND { way.sending } else { way.receiving } {
                    entry.pending += 1;
                    raw.cancel(self::tag(key, direction, victim), self::tag(key, direction, operation));
                }
            }
            _ => {}
        }
        self.settle(raw, key);
    }

    fn received(
        &mut self,
        raw: &mut Raw,
        key: usize,
        direction: usize,
        result: Result<u32, Errno>,
        buffer: Option<u16>,
    ) {
        let entry = &mut self.entries[key];
        let way = &mut entry.ways[direction];
        match (result, buffer) {
            (Ok(length @ 1..), Some(buffer)) => {
                way.push(&mut self.slots, buffer, length, self.round);
                if !std::mem::replace(&mut way.heard, true) {
                    self.heard.push((key, direction));
                }
                if entry.course != RingPhase::On {
                    return;
                }
                if way.queued > QUEUE || way.direction.is_bulk() {
                    return self.leave(raw, key);
                }
                self.arrived.push((key, direction));
                if self.entries[key].may_receive(direction) {
                    self.receive(raw, key, direction);
                }
            }
            (result, buffer) => {
                buffer.into_iter().for_each(|buffer| raw.give_back(buffer));
                match result {
                    Ok(_) => {
                        way.direction.read_end();
                        entry.closed_first |= direction == 1 && entry.ways[0].direction.is_open();
                        self.finish(raw, key, direction);
                    }
                    Err(Errno::NOBUFS) => self.starving.push_back((key, direction)),
                    Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {
                        if entry.may_receive(direction) {
                            self.receive(raw, key, direction);
                        }
                    }
                    Err(error) => self.broke(raw, key, direction, error),
                }
            }
        }
    }

    fn was_sent(&mut self, raw: &mut Raw, key: usize, direction: usize, result: Result<u32, Errno>) {
        let entry = &mut self.entries[key];
        match result {
            Ok(bytes) => {
                if bytes > 0 {
                    if entry.last_progress < self.now {
                        entry.last_progress = self.now;
                        entry.bytes.touch(self.now);
                    }
                    entry.bytes.add(DIRECTIONS[direction], u64::from(bytes));
                    if direction == 1 && entry.first_byte.is_none() {
                        entry.first_byte = Some(self.now);
                        self.to_wake.extend(entry.waker.take());
                    }
                }
                entry.ways[direction].sent(&self.slots, raw, bytes);
                if entry.course == RingPhase::On {
                    self.send(raw, key, direction);
                    self.finish(raw, key, direction);
                }
            }
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {
                if entry.course == RingPhase::On {
                    self.send(raw, key, direction);
                }
            }
            Err(error) => self.broke(raw, key, 1 - direction, error),
        }
    }

    pub(super) fn receive(&mut self, raw: &mut Raw, key: usize, direction: usize) {
        let entry = &mut self.entries[key];
        entry.ways[direction].receiving = true;
        entry.pending += 1;
        raw.receive(entry.ends[direction].as_fd(), tag(key, direction, RECEIVE));
    }

    /// Sends the first of what was received, unless a send is under way: bytes stay in order.
    fn send(&mut self, raw: &mut Raw, key: usize, direction: usize) {
        let entry = &mut self.entries[key];
        let way = &mut entry.ways[direction];
        if way.sending {
            return;
        }
        let Some((buffer, part)) = way.front(&self.slots) else { return };
        (way.sending, way.number) = (true, way.number.wrapping_add(1));
        entry.pending += 1;
        self.sent.push((key, direction, way.number));
        // FIN follows as soon as this is sent, in the same segment: one packet and one wake-up of the target less.
        let fin_follows = way.direction.has_ended() && way.queued == 1;
        let tag = tag(key, direction, SEND);
        raw.send(entry.ends[1 - direction].as_fd(), buffer, part, fin_follows, tag);
    }

    /// Passes FIN on if it is time.
    fn finish(&mut self, raw: &mut Raw, key: usize, direction: usize) {
        let entry = &mut self.entries[key];
        let way = &mut entry.ways[direction];
        if way.direction.next(way.queued > 0) != Step::Finish || entry.course != RingPhase::On {
            return;
        }
        entry.last_progress = self.now;
        entry.bytes.touch(self.now);
        entry.bytes.finish(DIRECTIONS[direction]);
        match entry.ends[1 - direction].send_fin() {
            Ok(()) => {
                way.direction.finished();
                self.to_wake.extend(entry.waker.take());
            }
            Err(error) => {
                let error = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                self.broke(raw, key, 1 - direction, error);
            }
        }
    }

    fn broke(&mut self, raw: &mut Raw, key: usize, end: usize, error: Errno) {
        self.entries[key].broken[end].get_or_insert_with(|| error.into());
        self.leave(raw, key);
    }

    pub(super) fn leave(&mut self, raw: &mut Raw, key: usize) {
        let entry = &mut self.entries[key];
        if entry.course == RingPhase::On {
            entry.course = RingPhase::Leaving;
            entry.cancel(raw, key);
        }
    }

    pub(super) fn settle(&mut self, raw: &mut Raw, key: usize) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.pending > 0 {
            return;
        }
        match entry.course {
            RingPhase::On => {}
            RingPhase::Leaving => self.to_wake.extend(entry.waker.take()),
            RingPhase::Abandoned => self.remove(raw, key),
        }
    }

    fn remove(&mut self, raw: &mut Raw, key: usize) {
        let mut entry = self.entries.remove(key);
        debug_assert_eq!(entry.pending, 0);
        for way in &mut entry.ways {
            way.empty(&self.slots, raw, None);
        }
    }
}

impl SessionEntry {
    fn may_receive(&self, direction: usize) -> bool {
        let way = &self.ways[direction];
        self.course == RingPhase::On && way.direction.is_open() && !way.receiving
    }

    pub(super) fn cancel(&mut self, raw: &mut Raw, key: usize) {
        for (direction, way) in self.ways.iter().enumerate() {
            for (operation, is_there) in [(RECEIVE, way.receiving), (SEND, way.sending)] {
                if is_there {
                    self.pending += 1;
                    raw.cancel(tag(key, direction, operation), tag(key, direction, CANCEL | operation));
                }
            }
        }
    }
}
