//! Socket options that neither socket2 nor rustix knows. The door to libc.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
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
fn set(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel reads `size` bytes from a local that
    // has just that size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel knows about a connection (tcp(7), `TCP_INFO`).
#[derive(Clone, Copy, Debug)]
pub struct TcpView {
    /// Smoothed round trip, and its mean deviation.
    pub rtt: Duration,
    /// See there.
    pub rtt_deviation: Duration,
    /// Segments sent again so far.
    pub retransmits: u32,
    /// Segments sent and not yet acknowledged.
    pub unacknowledged: u32,
    /// Segments believed to be lost.
    pub lost: u32,
    /// Segments that may be on their way.
    pub congestion_window: u32,
    /// Bytes that nobody has read.
    pub receive_queue: u32,
    /// Bytes that the other side has not acknowledged.
    pub send_queue: u32,
}

/// How long ago the peer last took on some of what was sent to it; `None` = it takes nothing now. Keepalive, and asking a
/// peer whose window is closed, are no progress: neither sends data. Repeating what is not acknowledged is none either.
pub(super) fn since_delivery(fd: RawFd) -> io::Result<Option<Duration>> {
    let info = tcp_info(fd)?;
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
fn tcp_info(fd: RawFd) -> io::Result<libc::tcp_info> {
    // SAFETY: all-zero bytes are a valid `tcp_info`: it holds integers alone.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into a local of just that size; a descriptor that is not a socket is
    // an error.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut size) };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// Asks the kernel about a connected socket, whose owner must keep it open meanwhile: else it may be about another one.
#[allow(unsafe_code, reason = "ioctl(2) takes a pointer")]
pub(super) fn tcp_view(fd: RawFd) -> io::Result<TcpView> {
    let info = tcp_info(fd)?;
    let queue = |request| {
        let mut bytes: libc::c_int = 0;
        // SAFETY: both requests write one int.
        let result = unsafe { libc::ioctl(fd, request, &raw mut bytes) };
        if result == 0 { u32::try_from(bytes).unwrap_or(0) } else { 0 }
    };
    Ok(TcpView {
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        rtt_deviation: Duration::from_micros(info.tcpi_rttvar.into()),
        retransmits: info.tcpi_total_retrans,
        unacknowledged: info.tcpi_unacked,
        lost: info.tcpi_lost,
        congestion_window: info.tcpi_snd_cwnd,
        receive_queue: queue(libc::FIONREAD),
        send_queue: queue(libc::TIOCOUTQ),
    })
}
