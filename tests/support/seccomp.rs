//! What containers' default seccomp profiles do to io_uring: its first system call fails with EPERM, also for root.

use std::io::{self, Write};
use std::sync::LazyLock;

/// In this thread, and in the threads and programs that it starts, io_uring_setup(2) fails with EPERM from now on. May be
/// called between fork and exec: two system calls, no memory, no lock.
#[allow(unsafe_code, reason = "no crate here installs seccomp filters")]
pub fn forbid_io_uring() -> io::Result<()> {
    const fn step(code: u32, jump_true: u8, jump_false: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: jump_true, jf: jump_false, k }
    }
    let mut program = [
        // The number of the call is the first field of `seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: numbers, and a pointer to a filter on this stack of the length that it says; the kernel copies it.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter),
        ]
    };
    if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether io_uring can be had where the tests run; in a default container it can't. What needs it is then left out, with a
/// word that the test harness does not swallow.
pub fn has_io_uring() -> bool {
    static ALLOWED: LazyLock<bool> = LazyLock::new(|| {
        let tried = evenkeel::proxy::try_ring();
        if let Err(error) = &tried {
            let _ =
                writeln!(io::stderr(), "SKIPPED: no io_uring here ({error}: {}), tests go without it", error.source);
        }
        tried.is_ok()
    });
    *ALLOWED
}
