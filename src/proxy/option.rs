//! Socket options that neither socket2 nor rustix knows. The door to libc.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::Socket;

/// Lets clients that came before send their first bytes with the SYN; `waiting` such connections at most (RFC 7413).
pub(super) fn fast_open(socket: &Socket, waiting: u32) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, i32::try_from(waiting).unwrap_or(i32::MAX))
}

/// Wakes the listener only once a client has sent something, or after `wait`, in whole seconds (tcp(7)).
pub(super) fn defer_accept(socket: &Socket, wait: Duration) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, i32::try_from(wait.as_secs()).unwrap_or(i32::MAX))
}

/// Leaves the choice of the local port to connect(2) although an address is bound (ip(7)).
pub(super) fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// To be asked before connect(2): the handshake is completed by the first bytes that are sent, and by a packet of its own only
/// if none are for some 200 ms (tcp(7), `TCP_QUICKACK`).
pub(super) fn acknowledge_with_data(socket: &Socket) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0)
}

#[allow(unsafe_code, reason = "setsockopt(2) takes a pointer")]
fn set(socket: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let size = size_of_val(&value) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads `size` bytes from a local of just that size.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[allow(unsafe_code, reason = "getsockopt(2) takes pointers")]
fn value(socket: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut size = size_of_val(&value) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `size` bytes into a local of just that size.
    let result = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut size) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// `SO_BUF_LOCK` (linux/asm-generic/socket.h; since 5.14): which buffers the kernel does not tune.
const SO_BUF_LOCK: i32 = 72;

/// `SOCK_RCVBUF_LOCK`: the receive buffer is one of them.
const LOCKED_RECEIVE: i32 = 2;

/// Whether the configuration has settled the size of the receive buffer, so that the kernel does not tune it.
pub(super) fn has_fixed_receive_buffer(socket: impl AsFd) -> io::Result<bool> {
    Ok(value(socket, libc::SOL_SOCKET, SO_BUF_LOCK)? & LOCKED_RECEIVE != 0)
}

/// Bounds what the kernel takes in from the peer before it is read. From then on the kernel does not tune it. Returns
/// whether it is bounded: if the kernel would not take in as much, its own tuning goes on.
///
/// The bound is one of memory, as large as so many bytes are expected to need; if they turn out to need less, up to twice as
/// many fit.
///
/// A smaller bound than before holds for what has not been offered yet: no window is taken back (RFC 9293, 3.8.6).
pub(super) fn bound_received(socket: impl AsFd, bytes: u32) -> io::Result<bool> {
    let (fd, wanted) = (socket.as_fd(), i32::try_from(bytes).unwrap_or(i32::MAX));
    let unlocked = value(fd, libc::SOL_SOCKET, SO_BUF_LOCK)? & !LOCKED_RECEIVE;
    set(fd, libc::SOL_SOCKET, SO_BUF_LOCK, unlocked)?;
    // To wait for so many bytes the kernel makes room for them. (SO_RCVBUF is bounded by net.core.rmem_max, which by default
    // is less than what the kernel's own tuning comes to.)
    set(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, wanted)?;
    let fits = value(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT)? == wanted;
    // What came meanwhile is told with this.
    set(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, if fits { wanted } else { i32::MAX })?;
    if fits {
        set(fd, libc::SOL_SOCKET, SO_BUF_LOCK, unlocked | LOCKED_RECEIVE)?;
    }
    Ok(fits)
}

/// Bounds what the kernel takes from us beyond what is on its way to the peer. `None` = as the system has it.
pub(super) fn bound_unsent(socket: impl AsFd, bytes: Option<u32>) -> io::Result<()> {
    let bytes = i32::try_from(bytes.unwrap_or(0)).unwrap_or(i32::MAX);
    set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

/// Bytes that the peer has not acknowledged.
pub(super) fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    queued(socket, libc::TIOCOUTQ)
}

/// Of the path from the peer: as it shows in what is received, or else in what is sent.
pub(super) fn round_trip(socket: impl AsFd) -> io::Result<Duration> {
    let info = tcp_info(socket)?;
    let microseconds = if info.tcpi_rcv_rtt > 0 { info.tcpi_rcv_rtt } else { info.tcpi_rtt };
    Ok(Duration::from_micros(microseconds.into()))
}

#[allow(unsafe_code, reason = "ioctl(2) takes a pointer")]
fn queued(socket: impl AsFd, request: libc::Ioctl) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD and TIOCOUTQ, the only requests, write one int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &raw mut bytes) };
    if result == 0 { Ok(u32::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel knows about a connection (tcp(7), `TCP_INFO`).
#[derive(Clone, Copy, Debug)]
pub struct TcpView {
    /// Round trip, smoothed.
    pub rtt: Duration,
    /// Its mean deviation.
    pub rtt_deviation: Duration,
    /// Segments sent again so far.
    pub retransmits: u32,
    /// Segments sent and not yet acknowledged.
    pub unacknowledged: u32,
    /// Segments believed to be lost.
    pub lost: u32,
    /// Segments that may be on their way.
    pub congestion_window: u32,
    /// Bytes that have not been read.
    pub receive_queue: u32,
    /// Bytes that the other side has not acknowledged.
    pub send_queue: u32,
}

/// How long ago the peer last took on some of what was sent to it; `None` = it takes nothing now. Keepalive, and asking a
/// peer whose window is closed, are no progress: neither sends data. Repeating what is not acknowledged is none either.
pub(super) fn since_delivery(socket: impl AsFd) -> io::Result<Option<Duration>> {
    let info = tcp_info(socket)?;
    if info.tcpi_retransmits > 0 {
        return Ok(None);
    }
    // With data on its way, what comes back acknowledges it.
    let on_its_way = info.tcpi_unacked > 0;
    let milliseconds =
        if on_its_way { info.tcpi_last_data_sent.min(info.tcpi_last_ack_recv) } else { info.tcpi_last_data_sent };
    Ok(Some(Duration::from_millis(milliseconds.into())))
}

#[allow(unsafe_code, reason = "getsockopt(2) takes pointers")]
fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: all-zero bytes are a valid `tcp_info`: it holds integers alone.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into a local of just that size; a descriptor that is not a socket is
    // an error.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut size) };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// Asks the kernel about a connected socket.
pub(super) fn tcp_view(socket: impl AsFd) -> io::Result<TcpView> {
    let (fd, info) = (socket.as_fd(), tcp_info(&socket)?);
    Ok(TcpView {
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        rtt_deviation: Duration::from_micros(info.tcpi_rttvar.into()),
        retransmits: info.tcpi_total_retrans,
        unacknowledged: info.tcpi_unacked,
        lost: info.tcpi_lost,
        congestion_window: info.tcpi_snd_cwnd,
        receive_queue: queued(fd, libc::FIONREAD).unwrap_or(0),
        send_queue: queued(fd, libc::TIOCOUTQ).unwrap_or(0),
    })
}
