//! One io_uring with one ring of provided buffers, behind safe calls. Used by `ring` only. The door to the io_uring crate,
//! and the only place of the relay that is `unsafe`.
//!
//! What makes it sound:
//!
//! 1. The kernel is only ever given addresses inside [`Memory`], which lives until nothing is in flight any more: `in_flight`
//!    counts what was pushed and has not completed for good, and [`Raw`]'s `Drop` waits for it, or leaks the memory.
//! 2. A reference into `Memory` lives for one copy (`copy_out`: of a buffer that is ours, so that the kernel does not write to
//!    it) or for one entry (`offer`: one that the kernel does not look at before the tail says so). Between calls there is
//!    none: everything else goes through raw pointers, within bounds that are checked.
//! 3. `ours` says for each buffer whether the kernel has handed it to us. Only such a buffer is sent, copied from or given
//!    back, so the kernel never writes where we read, and is never given a buffer twice.
//! 4. Descriptors are passed as numbers. The kernel looks a number up when the request is submitted, and holds the file itself
//!    from then on; a wrong number would be a matter of I/O safety, not of memory. So a socket stays open until its requests
//!    are submitted: `table` keeps it until the last completion, `rehearse` submits before it lets go.
//! 5. The ring is used by the thread that made it (`SINGLE_ISSUER`): `Raw` is neither `Send` nor `Sync`.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::param::page_size;
use thiserror::Error;

/// The only group of buffers.
const GROUP: u16 = 0;

/// Buffers that the kernel has at first. It takes them in turn, so that all that it has are soon in memory, however little they
/// are needed: more follow when they are.
const FIRST: usize = 16;

/// `IORING_RECVSEND_POLL_FIRST`: seldom is there anything at once when a receive is asked for.
const RECEIVE_LATER: u16 = 1;

/// `IORING_RECV_MULTISHOT`
const RECEIVE_AGAIN: u16 = 1 << 1;

/// The eventfd is silenced while we look anyway. The kernel sets "there is work" and then reads "silent"; x86 keeps that
/// order, others need not, and would lose a wake-up.
const MAY_MUTE: bool = cfg!(any(target_arch = "x86_64", target_arch = "x86"));

/// Why there is no ring.
#[derive(Debug, Error)]
#[error("{call} failed")]
pub struct Forbidden {
    /// What was tried.
    pub call: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl Forbidden {
    fn during(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { call, source }
    }
}

pub(super) struct Raw {
    ring: IoUring,
    memory: Memory,
    eventfd: Rc<OwnedFd>,
    /// Pushed when the submission queue was full.
    backlog: VecDeque<squeue::Entry>,
    in_flight: usize,
    ours: Box<[bool]>,
    /// Buffers that the kernel has.
    offered: usize,
    /// Buffers that it has never had.
    reserve: Range<u16>,
}

/// What the kernel says about something that was pushed.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) tag: u64,
    pub(super) result: Result<u32, Errno>,
    /// Ours from now on.
    pub(super) buffer: Option<u16>,
    /// It goes on: more completions will come.
    pub(super) more: bool,
}

impl Raw {
    /// With `buffers` (a power of two) of `size` bytes.
    pub(super) fn open(entries: u32, buffers: u16, size: u32) -> Result<Self, Forbidden> {
        let setup = |defer: bool| {
            let mut builder = IoUring::builder();
            builder.setup_clamp().setup_cqsize(4 * entries).setup_submit_all().setup_coop_taskrun();
            builder.setup_taskrun_flag();
            if defer {
                builder.setup_single_issuer().setup_defer_taskrun();
            }
            builder.build(entries)
        };
        // Kernels before 6.1 do not know deferred task work.
        let ring = match setup(true) {
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => setup(false),
            result => result,
        };
        let ring = ring.map_err(Forbidden::during("io_uring_setup"))?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let eventfd = eventfd(0, flags).map_err(|error| Forbidden::during("eventfd")(error.into()))?;
        ring.submitter()
            .register_eventfd(eventfd.as_raw_fd())
            .map_err(Forbidden::during("registering an eventfd with io_uring"))?;
        let memory = Memory::new(buffers, size);
        #[allow(unsafe_code, reason = "registers memory with the kernel")]
        // SAFETY: invariant 1: the entries are `buffers` long and outlive the ring, or are leaked.
        let registered = unsafe {
            let entries = memory.entries.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(entries, buffers, GROUP, 0)
        };
        registered.map_err(Forbidden::during("registering a ring of buffers with io_uring"))?;
        let ours = vec![true; usize::from(buffers)].into_boxed_slice();
        let (eventfd, backlog) = (Rc::new(eventfd), VecDeque::new());
        let reserve = 0..buffers;
        let mut this = Self { ring, memory, eventfd, backlog, in_flight: 0, ours, offered: 0, reserve };
        this.offer_more(FIRST);
        Ok(this)
    }

    /// Receives twice with one request: older kernels make rings, but can't do that. Dropping the ring at the end cancels the
    /// request, whose socket is closed by then; the kernel has its own hold on it.
    pub(super) fn rehearse(mut self) -> Result<(), Forbidden> {
        let failed = Forbidden::during("receiving with io_uring");
        let (mut here, there) = UnixStream::pair().map_err(Forbidden::during("socketpair"))?;
        let mut attempt = || {
            self.receive(there.as_fd(), 0);
            for length in 1..=2 {
                here.write_all(&[0; 2][..length])?;
                self.enter()?;
                let Some(completion) = self.next() else { return Err(io::Error::from(io::ErrorKind::Unsupported)) };
                let received = completion.result?;
                if received as usize != length || completion.buffer.is_none() || !completion.more {
                    return Err(io::ErrorKind::Unsupported.into());
                }
            }
            Ok(())
        };
        attempt().map_err(failed)
    }

    /// Becomes readable, edge by edge, when there is work and it is not [muted](Self::mute). It need not be read.
    pub(super) fn eventfd(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.eventfd)
    }

    /// Receives until told otherwise, each time into a buffer of its own.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, tag: u64) {
        let receive = opcode::Recv::new(Fd(socket.as_raw_fd()), std::ptr::null_mut(), 0);
        let receive = receive.ioprio(RECEIVE_LATER | RECEIVE_AGAIN).buf_group(GROUP).build();
        self.push(receive.flags(squeue::Flags::BUFFER_SELECT), tag);
    }

    /// Sends a part of a buffer, which has to stay ours until the completion. With `more` the kernel keeps what fills no
    /// segment until more comes, or FIN.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, buffer: u16, part: Range<u32>, more: bool, tag: u64) {
        let Some((from, length)) = self.part(buffer, part) else { return };
        // The kernel adds MSG_NOSIGNAL.
        let flags = if more { SendFlags::MORE } else { SendFlags::empty() };
        let send = opcode::Send::new(Fd(socket.as_raw_fd()), from, length).flags(flags.bits() as i32);
        self.push(send.build(), tag);
    }

    /// Cancels what has a tag.
    pub(super) fn cancel(&mut self, victim: u64, tag: u64) {
        self.push(opcode::AsyncCancel::new(victim).build(), tag);
    }

    /// A copy of a part of a buffer that is ours.
    pub(super) fn copy_out(&self, buffer: u16, part: Range<u32>, into: &mut Vec<u8>) {
        let Some((from, length)) = self.part(buffer, part) else { return };
        #[allow(unsafe_code, reason = "the buffers are memory that the kernel writes")]
        // SAFETY: `part` has checked that it is inside of `Memory`, which lives as long as `self`, and that the buffer is ours:
        // the kernel does not write to it meanwhile (invariant 3), and the reference ends with this call. The memory was
        // zeroed when it was made, so all of it is initialized.
        into.extend_from_slice(unsafe { std::slice::from_raw_parts(from, length as usize) });
    }

    /// Lets the kernel receive into a buffer again.
    pub(super) fn give_back(&mut self, buffer: u16) {
        let Some(ours) = self.ours.get_mut(usize::from(buffer)) else { return };
        debug_assert!(*ours, "a buffer is given back twice");
        if std::mem::replace(ours, false) {
            self.offered += 1;
            self.memory.offer(buffer);
        }
    }

    /// Buffers that it has never had, so that they take no memory.
    #[cfg(test)]
    pub(super) fn untouched(&self) -> usize {
        self.reserve.len()
    }

    /// Buffers with nothing in them. The kernel need not have them yet: it is given more when it is out of them.
    pub(super) fn free(&self) -> usize {
        self.offered + self.reserve.len()
    }

    fn offer_more(&mut self, count: usize) {
        for _ in 0..count {
            let Some(buffer) = self.reserve.next() else { return };
            self.give_back(buffer);
        }
    }

    /// Whether [`Self::enter`] or [`Self::next`] has something to do.
    pub(super) fn has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        let to_enter = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        to_enter || !self.backlog.is_empty() || !self.ring.completion().is_empty()
    }

    /// Submits what was pushed, and lets the kernel do the work that it has put off.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        loop {
            self.submit_backlog();
            let count = self.ring.submission().len();
            #[allow(unsafe_code, reason = "the crate's safe calls do not ask for events without waiting for one")]
            // SAFETY: the count is the queue's; there is no argument.
            let entered = unsafe {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                self.ring.submitter().enter::<()>(count, 0, EnterFlags::GETEVENTS.bits(), None)
            };
            match entered {
                Ok(_) if self.backlog.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    // Completions have to be taken first, or there is no memory just now: it is still to be done.
                    Some(Errno::BUSY | Errno::AGAIN) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
    }

    /// The next completion.
    pub(super) fn next(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        let more = cqueue::more(entry.flags());
        if !more {
            self.in_flight -= 1;
        }
        let buffer = cqueue::buffer_select(entry.flags()).filter(|&buffer| usize::from(buffer) < self.ours.len());
        if let Some(buffer) = buffer {
            self.ours[usize::from(buffer)] = true;
            self.offered -= 1;
        }
        let result = u32::try_from(entry.result()).map_err(|_| Errno::from_raw_os_error(-entry.result()));
        // Of those that went without at one time only the first one sees it.
        if result == Err(Errno::NOBUFS) && self.offered == 0 {
            // Twice as many as ever.
            self.offer_more(self.ours.len() - self.reserve.len());
        }
        Some(Completion { tag: entry.user_data(), result, buffer, more })
    }

    /// The eventfd is silent from now on.
    pub(super) fn mute(&mut self) {
        if MAY_MUTE {
            self.ring.completion().disable_eventfd();
        }
    }

    /// The eventfd tells again; afterwards one has to look whether there [is work](Self::has_work) already.
    pub(super) fn unmute(&mut self) {
        if MAY_MUTE {
            self.ring.completion().enable_eventfd();
            fence(Ordering::SeqCst);
        }
    }

    /// Where a part of a buffer that is ours is.
    fn part(&self, buffer: u16, part: Range<u32>) -> Option<(*const u8, u32)> {
        let is_ours = self.ours.get(usize::from(buffer)).copied().unwrap_or(false);
        let is_inside = part.start < part.end && part.end <= self.memory.size;
        debug_assert!(is_ours && is_inside, "{buffer} {part:?}");
        (is_ours && is_inside)
            .then(|| (self.memory.buffer(buffer).wrapping_add(part.start as usize), part.end - part.start))
    }

    fn push(&mut self, entry: squeue::Entry, tag: u64) {
        self.in_flight += 1;
        self.backlog.push_back(entry.user_data(tag));
        if self.backlog.len() == 1 {
            self.submit_backlog();
        }
    }

    fn submit_backlog(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            #[allow(unsafe_code, reason = "what is pushed is the kernel's to read and write")]
            // SAFETY: invariant 1: every address in an entry is one of `part`.
            let pushed = unsafe { queue.push(entry) };
            if pushed.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // All that is in flight waits for sockets, and ends when it is cancelled.
        for _ in 0..1000 {
            if self.in_flight == 0 {
                return;
            }
            if self.backlog.is_empty() {
                let all = io_uring::types::CancelBuilder::any().all();
                self.push(opcode::AsyncCancel2::new(all).build(), u64::MAX);
            }
            if self.enter().is_err() {
                break;
            }
            while self.next().is_some() {}
        }
        self.memory.is_leaked = self.in_flight > 0;
    }
}

/// The ring of buffers and the buffers.
struct Memory {
    entries: NonNull<BufRingEntry>,
    buffers: NonNull<u8>,
    count: u16,
    size: u32,
    tail: u16,
    is_leaked: bool,
}

impl Memory {
    fn new(count: u16, size: u32) -> Self {
        assert!(count.is_power_of_two() && size > 0);
        let allocate = |layout: Layout| {
            #[allow(unsafe_code, reason = "memory without a Rust owner, because the kernel writes to it")]
            // SAFETY: neither layout is of size 0.
            let memory = unsafe { alloc_zeroed(layout) };
            NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
        };
        let (entries, buffers) = Self::layouts(count, size);
        Self { entries: allocate(entries).cast(), buffers: allocate(buffers), count, size, tail: 0, is_leaked: false }
    }

    fn layouts(count: u16, size: u32) -> (Layout, Layout) {
        let of = |size, align| Layout::from_size_align(size, align).expect("a size far below isize::MAX");
        // Buffers are aligned as `malloc` does it: then nothing is touched, and takes memory, before it is used.
        let align = align_of::<u128>();
        // The kernel wants whole pages for the ring, however large they are here.
        (of(usize::from(count) * size_of::<BufRingEntry>(), page_size()), of(usize::from(count) * size as usize, align))
    }

    fn buffer(&self, buffer: u16) -> *const u8 {
        debug_assert!(buffer < self.count);
        self.buffers.as_ptr().wrapping_add(usize::from(buffer) * self.size as usize)
    }

    /// Adds a buffer at the tail. It must not be in the ring.
    fn offer(&mut self, buffer: u16) {
        let (at, address) = (usize::from(self.tail & (self.count - 1)), self.buffer(buffer) as u64);
        self.tail = self.tail.wrapping_add(1);
        #[allow(unsafe_code, reason = "the ring of buffers is memory that the kernel reads")]
        // SAFETY: `at` is below `count`. The kernel reads entries before the tail only, and as no buffer is in the ring twice it
        // has read the one that was here: nothing else reads or writes this entry while the reference lives. The kernel does
        // read the tail meanwhile. It is in the first entry's reserved field (io_uring_register_buf_ring(3)), which the
        // setters leave alone, and is written as an atomic.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(at);
            entry.set_addr(address);
            entry.set_len(self.size);
            entry.set_bid(buffer);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            // Release: the kernel that sees the tail sees the entry.
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.is_leaked {
            return;
        }
        let (entries, buffers) = Self::layouts(self.count, self.size);
        #[allow(unsafe_code, reason = "see `new`")]
        // SAFETY: allocated in `new` with these layouts; invariant 1: the kernel does not use it any more. (It has pinned
        // the pages of the ring of buffers by itself, if the ring is closed after this.)
        unsafe {
            dealloc(self.entries.as_ptr().cast(), entries);
            dealloc(self.buffers.as_ptr(), buffers);
        }
    }
}
