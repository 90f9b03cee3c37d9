//! Socket options that neither socket2 nor rustix knows. The door to libc.

use std::io;
use std::os::fd::AsRawFd;
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

#[allow(unsafe_code, reason = "setsockopt(2) takes a pointer")]
fn set(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel reads `size` bytes from a local that
    // has just that size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
