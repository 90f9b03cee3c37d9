//! The real program where io_uring is forbidden, as containers' default seccomp profiles do it: one system call that
//! fails with EPERM, whoever runs.

use std::io;

use tokio::process::Command;

use crate::support::{Backend, Program, exchange, get};

fn config(backend: &Backend, relay: &str) -> String {
    format!(
        "workers = 2\nadmin.bind = \"127.0.0.1:0\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\nbackends = [\"{}\"]\n{relay}\ncheck = {{ kind = \"none\" }}\n",
        backend.address()
    )
}

#[tokio::test]
async fn auto_does_without_and_says_so_in_one_line_that_is_no_warning() {
    let backend = Backend::echo().await;
    for relay in ["", "relay = \"auto\""] {
        let mut program = Program::start_as(&config(&backend, relay), forbid_io_uring);
        let front = program.front("front").await;
        for size in [64, 16_384, 200_000] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            assert!(exchange(front, &bytes).await.unwrap() == bytes);
        }
        let (_, metrics) = get(program.admin().await, "/metrics").await.unwrap();
        assert!(metrics.contains("evenkeel_relay_ring_sessions 0"), "{metrics}");
        program.signal(rustix::process::Signal::TERM);
        assert_eq!(program.end().await.code(), Some(0), "{:#?}", program.log());
        let log = program.log();
        let chosen: Vec<_> = log.iter().filter(|line| line.contains("relay chosen")).collect();
        let [chosen] = chosen[..] else { panic!("{log:#?}") };
        for part in ["INFO", "auto=\"copy and splice\"", "io_uring_setup failed", "os error 1"] {
            assert!(chosen.contains(part), "{chosen}");
        }
        assert!(!log.iter().any(|line| line.contains("WARN") || line.contains("ERROR")), "{log:#?}");
    }
}

#[tokio::test]
async fn where_it_is_written_it_is_an_error_with_the_pool_the_cause_and_the_remedy() {
    let backend = Backend::echo().await;
    let mut program = Program::start_as(&config(&backend, "relay = \"io_uring\""), forbid_io_uring);
    assert_eq!(program.end().await.code(), Some(1), "{:#?}", program.log());
    let log = program.log().join("\n");
    for part in [
        "evenkeel: ",
        "pool `back` has relay = \"io_uring\"",
        "kernel.io_uring_disabled",
        "seccomp",
        "io_uring_setup failed",
        "Operation not permitted",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("listening"), "{log}");
}

/// The same start without the filter, so that the tests above mean something.
#[tokio::test]
async fn where_it_is_allowed_it_is_used() {
    let backend = Backend::echo().await;
    let program = Program::start_as(&config(&backend, "relay = \"io_uring\""), |_| {});
    let front = program.front("front").await;
    assert_eq!(exchange(front, b"hello").await.unwrap(), b"hello");
    let chosen = program.until_says("relay chosen").await;
    assert!(chosen.contains("io_uring=\"the kernel allows it\""), "{chosen}");
}

/// In the child, io_uring_setup(2) fails with EPERM.
#[allow(unsafe_code, reason = "seccomp filters are installed between fork and exec")]
fn forbid_io_uring(command: &mut Command) {
    const fn step(code: u32, jump_true: u8, jump_false: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: jump_true, jf: jump_false, k }
    }
    const PROGRAM: [libc::sock_filter; 4] = [
        // The number of the call is the first field of `seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = || {
        let mut program = PROGRAM;
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: plain system calls with numbers and a pointer to a filter on this stack, of the length that it says; the
        // kernel copies it.
        let results = unsafe {
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter),
            ]
        };
        if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only these two system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(install) };
}
