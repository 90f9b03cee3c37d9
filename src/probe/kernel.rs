//! System calls that neither tokio nor rustix offers; the door to libc.
//! Called by `connect` and `reaper`.

use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd;

use tokio::net::TcpSocket;

/// Leaves the choice of the local port to connect(2), also with a bound address (ip(7)).
#[allow(unsafe_code, reason = "setsockopt(2) takes a pointer")]
pub(super) fn bind_address_no_port(socket: &TcpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = size_of_val(&on) as libc::socklen_t;
    let (level, name) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel reads `size` bytes from a local that
    // has just that size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A child that has ended and was not waited for. It stays in that state (waitid(2), `WNOWAIT`). 0 = there is none.
#[allow(unsafe_code, reason = "waitid(2) writes through a pointer")]
pub(super) fn ended_child() -> io::Result<i32> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: zeros are a valid `siginfo_t`; the kernel writes one into a local that has its size, or leaves the zeros. For
    // a child, and for the zeros, `si_pid` is the field that is set.
    unsafe {
        let mut info: libc::siginfo_t = zeroed();
        match libc::waitid(libc::P_ALL, 0, &raw mut info, options) {
            0 => Ok(info.si_pid()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
