//! The real program where io_uring is forbidden, as containers' default seccomp profiles do it: one system call that
//! fails with EPERM, also as root.

use tokio::process::Command;

use crate::support::{Backend, Program, exchange, forbid_io_uring, get, has_io_uring};

fn config(backend: &Backend, relay: &str) -> String {
    format!(
        "workers = 2\nadmin.bind = \"127.0.0.1:0\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\nbackends = [\"{}\"]\n{relay}\ncheck = {{ kind = \"none\" }}\n",
        backend.address()
    )
}

#[tokio::test]
async fn auto_runs_without_io_uring_and_logs_one_line_below_warn() {
    let backend = Backend::echo().await;
    for relay in ["", "relay = \"auto\""] {
        let mut program = Program::start_as(&config(&backend, relay), forbid);
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
        // The file itself is worth warnings: one backend, no check.
        let complaints = log.iter().filter(|line| line.contains("WARN") || line.contains("ERROR"));
        assert!(complaints.clone().all(|line| line.contains("[pools.back]")), "{log:#?}");
    }
}

#[tokio::test]
async fn relay_io_uring_is_an_error_with_pool_cause_and_remedy_if_it_is_forbidden() {
    let backend = Backend::echo().await;
    let mut program = Program::start_as(&config(&backend, "relay = \"io_uring\""), forbid);
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
async fn io_uring_is_used_if_it_is_allowed() {
    if !has_io_uring() {
        return;
    }
    let backend = Backend::echo().await;
    for relay in ["", "relay = \"io_uring\""] {
        let program = Program::start_as(&config(&backend, relay), |_| {});
        let front = program.front("front").await;
        assert_eq!(exchange(front, b"hello").await.unwrap(), b"hello");
        let chosen = program.until_says("relay chosen").await;
        for part in ["auto=\"io_uring and splice\"", "io_uring=\"the kernel allows it\""] {
            assert!(chosen.contains(part), "{chosen}");
        }
    }
}

#[allow(unsafe_code, reason = "the filter is installed between fork and exec")]
fn forbid(command: &mut Command) {
    // SAFETY: `forbid_io_uring` says that it may be called there.
    unsafe { command.pre_exec(forbid_io_uring) };
}
