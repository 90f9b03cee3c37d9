use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const CHILD: &str = "EVENKEEL_TEST_PROBE_WITHOUT_FDS";

/// In a process of its own, as the limit is everybody's.
#[test]
fn a_process_without_fds_blames_no_backend() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "probe::tests::local::without_fds", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn without_fds() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let backend = Backend::silent().await;
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..before }).unwrap();
    let prober = Prober::new();
    let (_subscription, mut reports) = subscribe(&prober, backend.address, &check(CheckKind::Tcp));
    eventually("several attempts", || prober.stats().local_errors >= 4).await;
    assert!(reports.try_recv().is_err(), "nothing is known about the backend");
    assert_eq!(prober.stats().running, 1);

    setrlimit(Resource::Nofile, before).unwrap();
    let report = next(&mut reports).await;
    assert!(report.result.passed && report.streak == 1);
}
