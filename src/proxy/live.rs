//! The live sessions of one worker: what is known about each, and the way to end it.
//! Written by sessions, read by `server` and `admin`.
//! A session locks its own entry when it begins, connects and ends, and never for a byte.

#[cfg(test)]
mod tests;
mod view;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use slab::Slab;

use super::forced_end::ForcedEnd;
use super::listener::Listener;
use super::option::{TcpView, tcp_view};
use super::socket::TcpFd;
use crate::metrics::Direction;
use crate::pool::{Backend, ByteCell, Lease, Pool};
pub use view::{LegView, Phase, RoutedBy, SessionKey, SessionRef, SessionView};

/// Sessions visited under one lock of a few microseconds; then the worker may begin and end some.
const VISIT_BATCH: usize = 256;

/// The live sessions of one worker. The lock is taken by its worker at the begin and end of a session, and by readers and by
/// `cut` for a batch at a time.
#[derive(Debug)]
pub(super) struct SessionList {
    worker: u32,
    inner: Mutex<ListState>,
}

#[derive(Debug, Default)]
struct ListState {
    live: Slab<Arc<Live>>,
    /// Ends every session, also later ones.
    all: Option<ForcedEnd>,
}

/// What is known about a session while it lives.
#[derive(Debug)]
pub(super) struct Live {
    key: SessionKey,
    pub(super) listener: Arc<Listener>,
    pub(super) peer: SocketAddr,
    pub(super) began: Instant,
    /// A [`ForcedEnd`], written under the lock of `state`, and read without it. Release and acquire: a session that reads it
    /// also sees that it was counted. A session that reads it too early is woken to read it again.
    cut: AtomicU8,
    /// A [`Phase`]. Relaxed: only for readers.
    phase: AtomicU8,
    state: Mutex<LiveState>,
}

/// What changes during a session.
#[derive(Debug)]
struct LiveState {
    /// The pool that it is routed to; `None` = it has no route yet.
    pool: Option<Arc<Pool>>,
    /// The pool that it was routed to, if a fallback of that serves it.
    fallback_of: Option<Arc<Pool>>,
    waiting: Option<Waker>,
    /// What few sessions have.
    rare: Option<Box<RareState>>,
    leg: Option<Leg>,
    failed_attempts: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct RareState {
    /// `None` = the peer's address.
    client: Option<SocketAddr>,
    routed_by: Option<RoutedBy>,
}

impl LiveState {
    /// A backend of this pool serves it. The first time that this is a fallback, it is counted.
    fn serve(&mut self, pool: &Arc<Pool>) {
        if self.pool.as_ref().is_some_and(|serving| Arc::ptr_eq(serving, pool)) {
            return;
        }
        let Some(serving_so_far) = self.pool.replace(Arc::clone(pool)) else { return };
        if let Some(routed) = &self.fallback_of {
            self.fallback_of = Some(Arc::clone(routed)).filter(|routed| !Arc::ptr_eq(routed, pool));
        } else {
            serving_so_far.fell_back();
            self.fallback_of = Some(serving_so_far);
        }
    }

    fn client(&self) -> Option<SocketAddr> {
        self.rare.as_ref()?.client
    }
}

#[derive(Debug)]
struct Leg {
    backend: Arc<Backend>,
    address: SocketAddr,
    local: Option<SocketAddr>,
    bytes: ByteCell,
    /// The client's socket and the backend's, while they are certainly open.
    ends: Option<[RawFd; 2]>,
}

impl Leg {
    fn view(&self) -> LegView {
        LegView {
            backend: Arc::clone(&self.backend),
            address: self.address,
            local: self.local,
            connected: self.bytes.since(),
            last_activity: self.bytes.last_activity(),
            to_backend: self.bytes.of_session(Direction::ToBackend),
            to_client: self.bytes.of_session(Direction::ToClient),
            finished: Direction::ALL.map(|direction| self.bytes.has_finished(direction)),
            throttled: Direction::ALL.map(|direction| self.bytes.was_throttled(direction)),
        }
    }
}

impl SessionList {
    pub(super) fn new(worker: usize) -> Self {
        Self { worker: worker as u32, inner: Mutex::default() }
    }

    pub(super) fn enlist(
        &self,
        id: u64,
        (listener, pool): (Arc<Listener>, Option<Arc<Pool>>),
        peer: SocketAddr,
        began: Instant,
    ) -> Arc<Live> {
        let mut inner = self.lock();
        let cut = inner.all.map_or(0, |cut| cut as u8);
        let place = inner.live.vacant_entry();
        let key = SessionKey { id, worker: self.worker, place: place.key() as u32 };
        let phase = AtomicU8::new(Phase::Identifying as u8);
        let state = Mutex::new(LiveState {
            pool,
            fallback_of: None,
            waiting: None,
            rare: None,
            leg: None,
            failed_attempts: None,
        });
        let live = Live { key, listener, peer, began, cut: AtomicU8::new(cut), phase, state };
        Arc::clone(place.insert(Arc::new(live)))
    }

    /// Removes the session at this place.
    pub(super) fn remove(&self, place: u32) {
        let live = self.lock().live.try_remove(place as usize);
        // Not under the lock: this may be the last reference to a listener and its pool.
        drop(live);
    }

    /// Ends every session. `note` gets the pool of each that was not told before, if it has one, just before the session is
    /// told.
    pub(super) fn cut_all(&self, cut: ForcedEnd, note: &mut impl FnMut(Option<&Pool>)) {
        // Before the others are told, so that no new session is missed.
        self.lock().all = Some(cut);
        self.each(|live| {
            live.tell(cut, &mut *note);
        });
    }

    /// Wakes the sessions of a pool, so that they read their limits again.
    pub(super) fn wake(&self, pool: &Arc<Pool>) {
        self.each(|live| {
            let state = live.lock();
            if state.pool.as_ref().is_some_and(|its| Arc::ptr_eq(its, pool))
                && let Some(waiting) = &state.waiting
            {
                waiting.wake_by_ref();
            }
        });
    }

    /// Ends a session. Returns whether it still lived and was not told before; then `note` was called just before it was
    /// told.
    pub(super) fn cut(&self, key: SessionKey, cut: ForcedEnd, note: impl FnOnce(Option<&Pool>)) -> bool {
        let live = self.lock().live.get(key.place as usize).map(Arc::clone);
        live.is_some_and(|live| live.key == key && live.tell(cut, note))
    }

    pub(super) fn view(&self, all: &mut Vec<SessionView>) {
        self.each(|live| all.push(live.view()));
    }

    /// What the kernel knows about a session's connections, the client's first.
    pub(super) fn tcp(&self, key: SessionKey) -> Option<[TcpView; 2]> {
        let live = self.lock().live.get(key.place as usize).map(Arc::clone)?;
        (live.key == key).then(|| live.tcp())?
    }

    pub(super) fn visit(&self, look: &mut impl FnMut(SessionRef<'_>)) {
        self.each(|live| live.visit(&mut *look));
    }

    /// Visits one session, if it still lives.
    pub(super) fn visit_one(&self, key: SessionKey, look: impl FnOnce(SessionRef<'_>)) {
        let live = self.lock().live.get(key.place as usize).map(Arc::clone);
        if let Some(live) = live.filter(|live| live.key == key) {
            live.visit(look);
        }
    }

    fn each(&self, mut act: impl FnMut(&Live)) {
        let mut batch = Vec::with_capacity(VISIT_BATCH);
        let mut from = 0;
        loop {
            {
                let inner = self.lock();
                let places = from..inner.live.capacity().min(from + VISIT_BATCH);
                if places.is_empty() {
                    return;
                }
                from = places.end;
                batch.extend(places.filter_map(|place| inner.live.get(place)).map(Arc::clone));
            }
            batch.drain(..).for_each(|live| act(&live));
        }
    }

    fn lock(&self) -> MutexGuard<'_, ListState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    pub(super) fn id(&self) -> u64 {
        self.key.id
    }

    /// Its place on its worker's list.
    pub(super) fn place(&self) -> u32 {
        self.key.place
    }

    /// The client's address.
    pub(super) fn client(&self) -> SocketAddr {
        self.lock().client().unwrap_or(self.peer)
    }

    /// Its backend side, once it is connected.
    pub(super) fn leg(&self) -> Option<LegView> {
        self.lock().leg.as_ref().map(Leg::view)
    }

    pub(super) fn identified(&self, client: SocketAddr) {
        if client != self.peer {
            self.lock().rare.get_or_insert_default().client = Some(client);
        }
        self.phase(Phase::Connecting);
    }

    /// Notes the pool that it is routed to, and by what, if its listener has routes.
    pub(super) fn routed(&self, pool: &Arc<Pool>, by: Option<RoutedBy>) {
        let mut state = self.lock();
        if !state.pool.as_ref().is_some_and(|known| Arc::ptr_eq(known, pool)) {
            state.pool = Some(Arc::clone(pool));
        }
        if by.is_some() {
            state.rare.get_or_insert_default().routed_by = by;
        }
    }

    /// Calls `look` with its pool. The session's lock is held: `look` must be short.
    pub(super) fn in_pool<R>(&self, look: impl FnOnce(Option<&Pool>) -> R) -> R {
        look(self.lock().pool.as_deref())
    }

    /// What its route was decided by.
    pub(super) fn routed_by(&self) -> Option<RoutedBy> {
        self.lock().rare.as_ref()?.routed_by.clone()
    }

    /// The pool that it was routed to, if a fallback of that serves it.
    pub(super) fn fallback_of(&self) -> Option<Arc<Pool>> {
        self.lock().fallback_of.clone()
    }

    /// Notes how far it has come.
    pub(super) fn phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub(super) fn reached(&self, lease: &Lease, local: Option<SocketAddr>, bytes: &ByteCell) {
        let (backend, address) = (Arc::clone(lease.backend()), lease.address());
        let mut state = self.lock();
        state.serve(lease.pool());
        state.leg = Some(Leg { backend, address, local, bytes: bytes.clone(), ends: None });
        drop(state);
        self.phase(Phase::Relaying);
    }

    /// Notes the backends that failed it.
    pub(super) fn note_failed_attempts(&self, failed: String) {
        self.lock().failed_attempts = Some(failed.into());
    }

    pub(super) fn failed_attempts(&self) -> Option<Box<str>> {
        self.lock().failed_attempts.clone()
    }

    /// From now on the kernel may be asked about these sockets. Call it with `None` before they are closed.
    pub(super) fn show_ends(&self, ends: Option<[&TcpFd; 2]>) {
        if let Some(leg) = &mut self.lock().leg {
            leg.ends = ends.map(|ends| ends.map(AsRawFd::as_raw_fd));
        }
    }

    /// What the kernel knows about the client's connection and the backend's.
    fn tcp(&self) -> Option<[TcpView; 2]> {
        let state = self.lock();
        let [client, backend] = state.leg.as_ref()?.ends?.map(|fd| {
            #[allow(unsafe_code, reason = "the sockets belong to another thread, which can't lend them")]
            // SAFETY: `ends` come from a `TcpFd` each (`show_ends`), and the session takes them away from here before it
            // closes them. That needs the lock, which is held for longer than what is borrowed here.
            unsafe {
                BorrowedFd::borrow_raw(fd)
            }
        });
        Some([tcp_view(client).ok()?, tcp_view(backend).ok()?])
    }

    /// Resolves when the session is to end. It locks once for each task that polls it; there is one.
    ///
    /// # Cancel safety
    /// Safe: the end stays wanted.
    pub(super) fn cut(&self) -> impl Future<Output = ForcedEnd> + Unpin {
        // Wakers are compared by address, as `Waker::will_wake` does for wakers of one runtime.
        let mut waits_for = ptr::null();
        poll_fn(move |cx| {
            if waits_for != cx.waker().data() {
                // Under the same lock as `tell`: either `tell` finds the waker, or the end is found below.
                self.lock().waiting = Some(cx.waker().clone());
                waits_for = cx.waker().data();
            }
            ForcedEnd::from_number(self.cut.load(Acquire)).map_or(Poll::Pending, Poll::Ready)
        })
    }

    /// Tells a session to end. `note` comes first, so that the session is counted before its end can be seen.
    fn tell(&self, cut: ForcedEnd, note: impl FnOnce(Option<&Pool>)) -> bool {
        let mut state = self.lock();
        if self.cut.load(Acquire) != 0 {
            return false;
        }
        note(state.pool.as_deref());
        self.cut.store(cut as u8, Release);
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        true
    }

    fn visit(&self, look: impl FnOnce(SessionRef<'_>)) {
        let state = self.lock();
        look(SessionRef {
            key: self.key,
            listener: &self.listener,
            pool: state.pool.as_deref(),
            fallback_of: state.fallback_of.as_ref(),
            backend: state.leg.as_ref().map(|leg| (&leg.backend, leg.address)),
            began: self.began,
            idle_since: state.leg.as_ref().map_or(self.began, |leg| leg.bytes.last_activity()),
            is_ending: self.cut.load(Acquire) != 0,
        });
    }

    fn view(&self) -> SessionView {
        let state = self.lock();
        let leg = state.leg.as_ref().map(Leg::view);
        let phase = Phase::ALL.get(usize::from(self.phase.load(Relaxed))).copied().unwrap_or(Phase::Relaying);
        let is_half_closed = leg.as_ref().is_some_and(|leg| leg.finished[0] != leg.finished[1]);
        SessionView {
            key: self.key,
            listener: Arc::clone(&self.listener),
            pool: state.pool.clone(),
            fallback_of: state.fallback_of.clone(),
            routed_by: state.rare.as_ref().and_then(|rare| rare.routed_by.clone()),
            client: state.client().unwrap_or(self.peer),
            peer: self.peer,
            phase: if is_half_closed { Phase::HalfClosed } else { phase },
            began: self.began,
            leg,
            failed_attempts: state.failed_attempts.clone(),
            cut: ForcedEnd::from_number(self.cut.load(Acquire)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LiveState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
