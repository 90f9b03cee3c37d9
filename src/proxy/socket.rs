//! A TCP socket as the data plane needs it: readiness by the worker's own event loop, I/O by plain system calls through
//! `&self`, and a close that can be made a reset. The door to socket2 and rustix for the data plane.
//!
//! Not `tokio::net::TcpStream`: its `try_read` leaves the readiness set after a short read (one more system call per
//! message), its `poll_read` wants `&mut`, and a relay has to wait for errors while it reads.

mod failure;
mod listening;
#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell};
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, getpeername, recv, send};
use rustix::pipe::{SpliceFlags, splice};
use socket2::{Domain, Protocol, SockRef, Socket as Raw, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::option;
use crate::config::{Keepalive, TcpOptions};
pub(super) use failure::{accept_failure, broken, connect_failure};
pub(super) use listening::{Acceptor, plain};
pub(crate) use listening::{adopt, change, listen, local_address, takes_ipv4};

const SPLICE: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// One connected, or connecting, TCP socket. Dropping it resets the connection, so that a stream that was cut, be it by a
/// panic, never reads as complete; see [`Self::may_close`]. Shared by those that still have business with the descriptor:
/// it is closed when the last of them is done.
#[derive(Debug)]
pub(crate) struct TcpFd {
    fd: OwnedFd,
    may_close: Cell<bool>,
}

impl TcpFd {
    /// Says that nothing more will be written.
    pub(super) fn send_fin(&self) -> io::Result<()> {
        SockRef::from(&self.fd).shutdown(Shutdown::Write)
    }

    /// From now on dropping it is an ordinary close: what was written still arrives, then FIN. (The kernel makes a reset
    /// of it by itself if bytes from the peer have not been read.)
    pub(super) fn may_close(&self) {
        self.may_close.set(true);
    }

    /// Whether there is something to read or an error, or room to write: now, whatever the event loop knows.
    pub(super) fn is_ready(&self, to_read: bool, to_write: bool) -> bool {
        let wanted = [(to_read, PollFlags::IN), (to_write, PollFlags::OUT)];
        let wanted = wanted.into_iter().filter(|(is, _)| *is).fold(PollFlags::empty(), |all, (_, flag)| all | flag);
        let mut polled = [PollFd::new(self, wanted)];
        // A look, no wait.
        let looked = poll(&mut polled, Some(&Timespec::default()));
        looked.is_ok() && polled[0].revents().intersects(wanted | PollFlags::ERR)
    }

    /// When the kernel last got on with what it holds for the peer; `None` = it does not, or can't tell.
    pub(super) fn last_delivery(&self, now: Instant) -> Option<Instant> {
        option::since_delivery(self).ok()?.and_then(|ago| now.checked_sub(ago))
    }

    /// Whether its receive buffer has the size that the configuration says; also if that can't be told.
    pub(super) fn has_fixed_receive_buffer(&self) -> bool {
        option::has_fixed_receive_buffer(self).unwrap_or(true)
    }

    /// Bounds what the kernel takes in from the peer before it is read; whether it does. See [`option::bound_received`].
    pub(super) fn bound_received(&self, bytes: u32) -> bool {
        option::bound_received(self, bytes).unwrap_or(false)
    }

    /// Bounds what the kernel takes from us beyond what is on its way; `None` = as the system has it.
    pub(super) fn bound_unsent(&self, bytes: Option<u32>) -> io::Result<()> {
        option::bound_unsent(self, bytes)
    }

    /// Bytes that the peer has not acknowledged; 0 if that can't be told.
    pub(super) fn unacknowledged(&self) -> u32 {
        option::unacknowledged(self).unwrap_or(0)
    }

    /// How long the path from the peer and back is; nothing if that can't be told.
    pub(super) fn round_trip(&self) -> Duration {
        option::round_trip(self).unwrap_or_default()
    }

    /// Has the kernel ask now and then whether a quiet peer is still there.
    pub(super) fn keep_alive(&self, keepalive: Keepalive) -> io::Result<()> {
        keep_alive(&SockRef::from(&self.fd), keepalive)
    }
}

impl AsFd for TcpFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for TcpFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for TcpFd {
    fn drop(&mut self) {
        if !self.may_close.get() {
            // It can only fail for a socket that is no socket.
            let _ = SockRef::from(&self.fd).set_linger(Some(Duration::ZERO));
        }
    }
}

/// A [`TcpFd`] socket that is part of the current thread's event loop from the first wait on: a session that is over before
/// it waits for a socket, or that spends its life on the ring, does not pay for that.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp_fd: Rc<TcpFd>,
    watched: OnceCell<AsyncFd<Rc<TcpFd>>>,
}

impl Socket {
    /// Takes over a connected, non-blocking socket.
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { tcp_fd: Rc::new(TcpFd { fd, may_close: Cell::new(false) }), watched: OnceCell::new() }
    }

    /// Registers it with the event loop, if it is not yet. Every wait does so by itself, but can't tell a failure of it
    /// from one of the connection.
    pub(super) fn watch(&self) -> io::Result<&AsyncFd<Rc<TcpFd>>> {
        if let Some(watched) = self.watched.get() {
            return Ok(watched);
        }
        // Priority: urgent data, which says that a short read need not be the last one.
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let watched = watch(Rc::clone(&self.tcp_fd), interest)?;
        Ok(self.watched.get_or_init(|| watched))
    }

    /// Takes it out of the event loop.
    pub(super) fn unwatch(&mut self) {
        self.watched.take();
    }

    /// The socket itself.
    pub(super) fn tcp_fd(&self) -> &Rc<TcpFd> {
        &self.tcp_fd
    }

    /// Connects, from `source` if there is one; keepalive is [not set yet](TcpFd::keep_alive). A caller that has bytes to send at
    /// once says so: they complete the handshake, which is a packet and, for the backend, a wake-up less.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket; the peer sees a reset or nothing at all.
    pub(super) async fn connect(
        address: SocketAddr,
        source: Option<IpAddr>,
        options: &TcpOptions,
        has_bytes: bool,
    ) -> io::Result<Self> {
        let raw = Raw::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        apply(&raw, address, &TcpOptions { keepalive: None, ..*options })?;
        if has_bytes {
            option::acknowledge_with_data(&raw)?;
        }
        if let Some(source) = source {
            // The port is chosen at connect, when the kernel knows the whole pair: else each source has 28,000 ports for
            // all backends together.
            option::bind_address_no_port(&raw)?;
            raw.bind(&SocketAddr::new(source, 0).into())?;
        }
        let in_progress = match raw.connect(&address.into()) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => true,
            Err(error) => return Err(error),
        };
        let socket = Self::new(raw.into());
        // On this machine, and so for a sidecar, the handshake is over when connect(2) returns: nothing to wait for.
        if in_progress && getpeername(socket.tcp_fd()).is_err() {
            // Keep the readiness: the socket is writable if it is connected.
            socket.watch()?.writable().await?.retain_ready();
            if let Some(error) = socket.raw().take_error()? {
                return Err(error);
            }
        }
        // On a loopback address, a connect to a free port of the ephemeral range may meet itself.
        if address.ip().is_loopback() && met_itself(&socket.raw(), address)? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(socket)
    }

    /// Reads what there is, up to the size of `buffer`; 0 = FIN. An urgent byte (RFC 6093) is skipped.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let watched = self.watch()?;
        loop {
            let mut readiness = ready!(watched.poll_read_ready(cx))?;
            match recv(self.tcp_fd(), &mut *buffer, RecvFlags::empty()) {
                Ok((read, _)) => {
                    // Less than was asked for: nothing is left, more comes with a new edge. FIN and errors stay set. Only
                    // before an urgent byte a read ends early.
                    if 0 < read && read < buffer.len() && !has_urgent(watched) {
                        readiness.clear_ready();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(rustix::io::Errno::AGAIN) => {
                    readiness.clear_ready();
                    forget_urgent(watched);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// How many of the bytes that wait to be read fit in `buffer`; they stay where they are. 0 = FIN.
    pub(super) fn poll_peek(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut readiness = ready!(self.watch()?.poll_read_ready(cx))?;
            match recv(self.tcp_fd(), &mut *buffer, RecvFlags::PEEK) {
                Ok((waiting, _)) => return Poll::Ready(Ok(waiting)),
                Err(rustix::io::Errno::AGAIN) => readiness.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Whether there may be something to read.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch()?.poll_read_ready(cx).map_ok(|_| ())
    }

    /// Writes what fits.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut readiness = ready!(self.watch()?.poll_write_ready(cx))?;
            match send(self.tcp_fd(), bytes, SendFlags::NOSIGNAL) {
                Ok(written) => {
                    if written < bytes.len() {
                        readiness.clear_ready();
                    }
                    return Poll::Ready(Ok(written));
                }
                Err(rustix::io::Errno::AGAIN) => readiness.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Moves what there is, up to `most`, into an empty pipe; 0 = FIN, or an urgent byte: splice(2) does not get past one,
    /// and calls it dry while the connection is open and FIN afterwards. [`Self::poll_read`] tells which.
    pub(super) fn poll_splice_to(&self, cx: &mut Context<'_>, pipe: &OwnedFd, most: usize) -> Poll<io::Result<usize>> {
        let watched = self.watch()?;
        loop {
            let mut readiness = ready!(watched.poll_read_ready(cx))?;
            match splice(self.tcp_fd(), None, pipe, None, most, SPLICE) {
                Ok(read) => return Poll::Ready(Ok(read)),
                Err(rustix::io::Errno::AGAIN) if has_urgent(watched) => return Poll::Ready(Ok(0)),
                Err(rustix::io::Errno::AGAIN) => readiness.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Takes what fits, up to `most`, out of a pipe that holds as much.
    pub(super) fn poll_splice_from(
        &self,
        cx: &mut Context<'_>,
        pipe: &OwnedFd,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut readiness = ready!(self.watch()?.poll_write_ready(cx))?;
            match splice(pipe, None, self.tcp_fd(), None, most, SPLICE) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(rustix::io::Errno::AGAIN) => readiness.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Waits until the kernel reports an error of the connection: a reset, also one that comes after FIN and that a read
    /// would show as 0, or the end of keepalive's or `TCP_USER_TIMEOUT`'s patience.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn error(&self) -> io::Error {
        loop {
            let watched = match self.watch() {
                Ok(watched) => watched,
                Err(error) => return error,
            };
            let mut readiness = match watched.ready(Interest::ERROR).await {
                Ok(readiness) => readiness,
                Err(error) => return error,
            };
            match self.raw().take_error() {
                Ok(Some(error)) | Err(error) => return error,
                Ok(None) => readiness.clear_ready(),
            }
        }
    }

    /// Reads what waits, up to the size of `buffer`, whatever the event loop knows; `None` = nothing, or FIN, which the next
    /// read shows again.
    pub(super) fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match recv(self.tcp_fd(), buffer, RecvFlags::DONTWAIT) {
            Ok((read, _)) => Ok((read > 0).then_some(read)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what fits, whatever the event loop knows.
    pub(super) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match send(self.tcp_fd(), bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            result => Ok(result?),
        }
    }

    /// Whether the peer has neither finished nor broken the connection, as far as the kernel knows. Bytes may wait.
    pub(super) fn is_alive(&self) -> bool {
        match recv(self.tcp_fd(), &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((waiting, _)) => waiting > 0,
            Err(error) => error == rustix::io::Errno::AGAIN,
        }
    }

    /// Its own end: what a client connected to.
    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        local_address(self.tcp_fd())
    }

    /// As [`TcpFd::send_fin`].
    pub(super) fn send_fin(&self) -> io::Result<()> {
        self.tcp_fd().send_fin()
    }

    fn raw(&self) -> SockRef<'_> {
        SockRef::from(self.tcp_fd())
    }
}

/// Whether the loop has told of urgent data, or of FIN. Costs no system call.
fn has_urgent(watched: &AsyncFd<Rc<TcpFd>>) -> bool {
    watched.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
}

/// All that had arrived has been read, and the urgent byte with it. Another one comes with an edge of its own.
fn forget_urgent(watched: &AsyncFd<Rc<TcpFd>>) {
    let _ = watched.try_io(Interest::PRIORITY, |_| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}

fn met_itself(raw: &Raw, dialled: SocketAddr) -> io::Result<bool> {
    Ok(raw.local_addr()?.as_socket() == Some(dialled))
}

/// Owners of a descriptor that neither close nor replace it as long as they live, whatever is done to them through a shared
/// reference. Sealed: implemented here, for shared owners of an [`OwnedFd`] alone.
pub(super) trait Stable: AsRawFd {}

impl Stable for Rc<TcpFd> {}
impl Stable for Rc<OwnedFd> {}
impl Stable for std::sync::Arc<OwnedFd> {}

/// Registers a descriptor with the current thread's event loop.
#[allow(unsafe_code, reason = "tokio asks for a promise about the descriptor that its owners keep by themselves")]
pub(super) fn watch<F: Stable>(fd: F, interest: Interest) -> io::Result<AsyncFd<F>> {
    // SAFETY: `Stable`: the descriptor is open and stays the same as long as the `AsyncFd` has its owner, and the `AsyncFd`
    // deregisters it before it lets the owner go.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(registered?)
}

fn keep_alive(raw: &Raw, keepalive: Keepalive) -> io::Result<()> {
    let times =
        TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval).with_retries(keepalive.count);
    raw.set_tcp_keepalive(&times)
}

fn apply(raw: &Raw, address: SocketAddr, options: &TcpOptions) -> io::Result<()> {
    if options.nodelay {
        raw.set_tcp_nodelay(true)?;
    }
    if let Some(keepalive) = options.keepalive {
        keep_alive(raw, keepalive)?;
    }
    if options.user_timeout.is_some() {
        raw.set_tcp_user_timeout(options.user_timeout)?;
    }
    // Before connect and listen: the window scale is settled with the handshake.
    if let Some(size) = options.receive_buffer {
        raw.set_recv_buffer_size(size as usize)?;
    }
    if let Some(size) = options.send_buffer {
        raw.set_send_buffer_size(size as usize)?;
    }
    if let Some(dscp) = options.dscp {
        // The code point is the upper six bits of the byte; the lower two are the kernel's, for congestion.
        let class = u32::from(dscp) << 2;
        if address.is_ipv6() {
            raw.set_tclass_v6(class)?;
        }
        // Also of an IPv6 socket that talks IPv4, as a dual-stack listener does.
        if address.is_ipv4() || address.ip().is_unspecified() {
            raw.set_tos_v4(class)?;
        }
    }
    Ok(())
}
