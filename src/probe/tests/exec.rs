//! Programs as checks: their verdicts, and that nothing of them stays.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use super::*;
use crate::config::{ExecCheck, RunAs};

fn running(program: &str, arguments: &[&str]) -> CheckKind {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    CheckKind::Exec(ExecCheck { program: program.into(), arguments, run_as: None, no_new_privs: true })
}

fn shell(script: &str) -> CheckKind {
    running("/bin/sh", &["-c", script])
}

fn somewhere() -> SocketAddr {
    "192.0.2.7:5432".parse().unwrap()
}

#[tokio::test]
async fn the_exit_status_decides() {
    let result = first(somewhere(), &rare(shell("exit 0"))).await;
    assert_eq!((result.passed, result.to_string().as_str()), (true, "exec run /bin/sh: exit status 0"));
    let result = first(somewhere(), &rare(shell("echo no disk >&2; exit 3"))).await;
    let text = r#"exec run /bin/sh: exit status 3, said "no disk", wanted exit status 0"#;
    assert_eq!((result.passed, result.to_string().as_str()), (false, text));
    let result = first(somewhere(), &rare(shell("kill -9 $$"))).await;
    assert_eq!(result.got, "ended by signal 9");
}

#[tokio::test]
async fn it_is_told_whom_it_is_about_and_nothing_else() {
    let script = "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^PATH= -e ^OLDPWD= | sort | tr '\\n' ' '";
    let result = first(somewhere(), &Check { timeout: PATIENCE, ..rare(shell(script)) }).await;
    let told = "EVENKEEL_ADDRESS=192.0.2.7:5432 EVENKEEL_HOST=192.0.2.7 EVENKEEL_PORT=5432 EVENKEEL_TIMEOUT=20";
    assert_eq!(result.got, format!("exit status 0, said \"{told}\""));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_not_the_backends_fault() {
    let kind = running("/no/such/program", &[]);
    let prober = Prober::new();
    let (_subscription, mut reports) = subscribe(&prober, somewhere(), &check(kind));
    eventually("it is counted", || prober.stats().local_errors >= 2).await;
    assert!(reports.try_recv().is_err());
}

#[tokio::test]
async fn what_it_prints_is_bounded_and_does_not_hold_it_up() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789012345678901234567; i=$((i+1)); done; exit 4";
    let result = first(somewhere(), &rare(shell(script))).await;
    assert!(result.got.starts_with("exit status 4, said \"0123") && result.got.len() < 200, "{result}");
}

/// The pids that a script wrote into a file, one a line.
fn pids(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Neither running nor a zombie.
fn gone(pid: &str) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn when_its_time_is_up_the_whole_group_is_killed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = format!("echo $$ > {0}; sleep 600 & echo $! >> {0}; echo waiting; wait", file.path().display());
    let check = Check { timeout: Duration::from_secs(2), ..rare(shell(&script)) };
    let result = first(somewhere(), &check).await;
    assert_eq!(result.got, "timeout after 2s, came \"waiting\\n\"");
    let pids = pids(file.path());
    assert_eq!(pids.len(), 2);
    eventually("both are gone", || pids.iter().all(|pid| gone(pid))).await;
}

#[tokio::test]
async fn what_it_leaves_behind_is_killed_and_not_waited_for() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = format!("sleep 600 & echo $! > {}; exit 0", file.path().display());
    let result = first(somewhere(), &rare(shell(&script))).await;
    assert!(result.passed, "{result}");
    let pids = pids(file.path());
    assert_eq!(pids.len(), 1);
    eventually("it is gone", || gone(&pids[0])).await;
}

#[tokio::test]
async fn who_closes_its_output_is_waited_for() {
    let result = first(somewhere(), &rare(shell("exec >&- 2>&-; sleep 0.05; exit 5"))).await;
    assert_eq!(result.got, "exit status 5");
}

#[tokio::test]
async fn a_subscription_that_ends_takes_the_program_along() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = format!("sleep 600 & echo $! >> {0}; echo $$ >> {0}; wait", file.path().display());
    let (subscription, _reports) = subscribe(&Prober::new(), somewhere(), &rare(shell(&script)));
    eventually("both run", || pids(file.path()).len() == 2).await;
    drop(subscription);
    let pids = pids(file.path());
    eventually("both are gone", || pids.iter().all(|pid| gone(pid))).await;
}

#[tokio::test]
async fn it_inherits_no_descriptor() {
    let held = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty()).unwrap();
    super::super::exec::mark_inherited();
    let script = format!("[ -e /proc/self/fd/{} ] && exit 1; exit 0", held.as_raw_fd());
    let result = first(somewhere(), &rare(shell(&script))).await;
    assert!(result.passed, "{result}");
}

#[tokio::test]
async fn it_gains_no_rights_unless_it_may() {
    let script = "grep NoNewPrivs /proc/self/status | tr -s '\\t' ' '";
    let kind = shell(script);
    assert_eq!(first(somewhere(), &rare(kind.clone())).await.got, "exit status 0, said \"NoNewPrivs: 1\"");
    let CheckKind::Exec(exec) = kind else { unreachable!() };
    let free = CheckKind::Exec(ExecCheck { no_new_privs: false, ..exec });
    assert_eq!(first(somewhere(), &rare(free)).await.got, "exit status 0, said \"NoNewPrivs: 0\"");
}

#[tokio::test]
async fn it_runs_as_another_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may run a program as another user");
        return;
    }
    let CheckKind::Exec(exec) = shell("id -u; id -g; id -G") else { unreachable!() };
    for (user, group, said) in [("65533", Some("65532"), r"65533\n65532\n65532"), ("root", None, r"0\n0\n0")] {
        let run_as = Some(RunAs { user: user.to_owned(), group: group.map(str::to_owned) });
        let result = first(somewhere(), &rare(CheckKind::Exec(ExecCheck { run_as, ..exec.clone() }))).await;
        assert_eq!(result.got, format!("exit status 0, said \"{said}\""));
    }
}
