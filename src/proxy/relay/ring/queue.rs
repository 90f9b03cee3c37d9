//! One direction of a session on the ring: drives its [`DirectionState`], with buffers received and not yet sent, a linked list
//! through the ring's table of buffers. Receives go on while sends are under way.

use super::DirectionState;
use super::raw::Raw;

/// No buffer.
const NONE: u16 = u16::MAX;

/// What is remembered for each buffer of the ring while it is in a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferLink {
    next: u16,
    length: u32,
}

impl BufferLink {
    pub(super) const EMPTY: Self = Self { next: NONE, length: 0 };
}

#[derive(Debug)]
pub(super) struct DirectionQueue {
    first: u16,
    last: u16,
    pub(super) queued: u16,
    /// Sent of the first.
    offset: u32,
    pub(super) direction: DirectionState,
    pub(super) receiving: bool,
    pub(super) sending: bool,
    /// Something was received since it was last looked for an error behind it.
    pub(super) heard: bool,
    /// Of the latest send, to tell it from those before.
    pub(super) number: u32,
    /// The round of `burst`, the bytes received in it.
    round: u32,
    burst: u32,
}

impl DirectionQueue {
    pub(super) fn new(direction: DirectionState) -> Self {
        Self {
            first: NONE,
            last: NONE,
            queued: 0,
            offset: 0,
            direction,
            receiving: false,
            sending: false,
            heard: false,
            number: 0,
            round: 0,
            burst: 0,
        }
    }

    /// Queues what was received.
    pub(super) fn push(&mut self, slots: &mut [BufferLink], buffer: u16, length: u32, round: u32) {
        slots[usize::from(buffer)] = BufferLink { next: NONE, length };
        match self.last {
            NONE => self.first = buffer,
            last => slots[usize::from(last)].next = buffer,
        }
        self.last = buffer;
        self.queued += 1;
        // A burst is what there was at one time: what a plain read would have returned.
        if round != self.round {
            if self.burst > 0 {
                self.direction.read(self.burst as usize);
            }
            (self.round, self.burst) = (round, 0);
        }
        self.burst = self.burst.saturating_add(length);
    }

    /// The buffer that is next to be sent, and the part of it.
    pub(super) fn front(&self, slots: &[BufferLink]) -> Option<(u16, std::ops::Range<u32>)> {
        (self.first != NONE).then(|| (self.first, self.offset..slots[usize::from(self.first)].length))
    }

    /// So much of the front was sent.
    pub(super) fn sent(&mut self, slots: &[BufferLink], raw: &mut Raw, bytes: u32) {
        self.offset += bytes;
        if self.front(slots).is_some_and(|(_, part)| part.is_empty()) {
            self.pop(slots, raw);
        }
    }

    fn pop(&mut self, slots: &[BufferLink], raw: &mut Raw) {
        let buffer = self.first;
        self.first = slots[usize::from(buffer)].next;
        if self.first == NONE {
            self.last = NONE;
        }
        (self.offset, self.queued) = (0, self.queued - 1);
        raw.give_back(buffer);
    }

    /// Gives back all buffers; a copy of what they hold goes to `into`, if it is wanted.
    pub(super) fn empty(&mut self, slots: &[BufferLink], raw: &mut Raw, mut into: Option<&mut Vec<u8>>) {
        while let Some((buffer, part)) = self.front(slots) {
            if let Some(into) = &mut into {
                raw.copy_out(buffer, part, into);
            }
            self.pop(slots, raw);
        }
    }
}
