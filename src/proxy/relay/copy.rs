//! Copying: from the source's kernel buffer through the worker's scratch buffer into the destination's. Only what the
//! destination does not take at once is kept, in a buffer from the worker's stock.

use std::cell::{RefCell, RefMut};

/// Read in one system call. Large enough that bulk is not bound by calls, small enough for the L2 cache.
pub(super) const SCRATCH: usize = 64 * 1024;

/// Kept buffers of a worker; more are given back to the allocator.
const STOCK: usize = 64;

/// Bytes that were read and could not be written at once.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    bytes: Vec<u8>,
    /// So many of them are written by now.
    written: usize,
}

impl Unwritten {
    /// `None` = there are none.
    pub(super) fn of(bytes: Vec<u8>) -> Option<Box<Self>> {
        (!bytes.is_empty()).then(|| Box::new(Self { bytes, written: 0 }))
    }

    /// Not written yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
    }
}

/// What the sessions of one worker share for copying. Never borrowed across an await.
#[derive(Debug)]
pub(super) struct Scratch {
    buffer: RefCell<Box<[u8]>>,
    #[expect(clippy::vec_box, reason = "they come and go in their boxes")]
    stock: RefCell<Vec<Box<Unwritten>>>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self { buffer: RefCell::new(vec![0; SCRATCH].into_boxed_slice()), stock: RefCell::default() }
    }

    pub(super) fn buffer(&self) -> RefMut<'_, Box<[u8]>> {
        self.buffer.borrow_mut()
    }

    /// A copy of what could not be written.
    pub(super) fn keep(&self, bytes: &[u8]) -> Box<Unwritten> {
        let mut kept = self.stock.borrow_mut().pop().unwrap_or_default();
        kept.bytes.extend_from_slice(bytes);
        kept
    }

    pub(super) fn put_back(&self, mut kept: Box<Unwritten>) {
        let mut stock = self.stock.borrow_mut();
        // What came off the ring at once may be larger.
        if stock.len() < STOCK && kept.bytes.capacity() <= SCRATCH {
            kept.bytes.clear();
            kept.written = 0;
            stock.push(kept);
        }
    }
}

#[cfg(test)]
impl Scratch {
    pub(super) fn stock_size(&self) -> usize {
        self.stock.borrow().len()
    }
}
