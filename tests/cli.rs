//! The command line: the output of each command and its exit status.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Output, Stdio};

use insta::assert_snapshot;
use rustix::process::Signal;
use tokio::process::Command;

use crate::support::{CommandOutput, Program, exchange, free_port_of, get, output_of, soon};

const GOOD: &str = r#"
workers = 2
max_connections = 50
admin.bind = "127.0.0.1:0"
[listeners.web]
bind = ["127.0.0.1:0", "[::1]:0"]
pool = "web"
max_connections = 40
[pools.web]
backends = ["127.0.0.1:1", "127.0.0.1:2"]
check = { kind = "http", path = "/health" }
[pools.spare]
consul = { service = "spare", address = "http://127.0.0.1:8500" }
"#;

/// The command beside an `lb.toml` with this text, to its end.
async fn said_by(config: &str, mut command: Command) -> CommandOutput {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("lb.toml"), config).unwrap();
    std::fs::write(directory.path().join("other.toml"), GOOD.replace("50", "30").replace("40", "20")).unwrap();
    command.current_dir(directory.path()).env("RUNTIME_DIRECTORY", directory.path());
    command.stdin(Stdio::null()).kill_on_drop(true);
    output_of(command).await
}

async fn said(config: &str, arguments: &[&str]) -> CommandOutput {
    let mut command = Command::new(Program::PATH);
    command.args(arguments).env_remove("EVENKEEL_CONFIG");
    said_by(config, command).await
}

/// In a shell that first does something.
fn after(first: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{first}; exec \"$0\" \"$@\"")).arg(Program::PATH).args(arguments);
    command
}

#[tokio::test]
async fn check_says_what_would_run_and_what_is_risky() {
    let CommandOutput { code, out, err, .. } = said(GOOD, &["check"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_snapshot!(out, @r"
    workers: 2; at most 50 sessions
    admin: http://127.0.0.1:0
    listener web: 127.0.0.1:0, [::1]:0 -> pool web, at most 40 sessions
    pool spare: round_robin over consul service `spare` from http://127.0.0.1:8500, tcp check every 2s, rise 2, fall 3
    pool web: round_robin over 2 static backends, http check every 2s, rise 2, fall 3
    warning: [pools.spare]: no listener uses this pool; it is probed all the same
    lb.toml is valid
    ");
}

#[tokio::test]
async fn check_of_a_bad_file_is_an_error_with_the_place() {
    let bad = GOOD.replace("\"/health\"", "\"health\"").replace("pool = \"web\"", "pool = \"wep\"");
    for arguments in [&["check"][..], &["run"], &[]] {
        let CommandOutput { code, out, err, .. } = said(&bad, arguments).await;
        assert_eq!((code, out.as_str()), (Some(2), ""));
        assert_snapshot!("a_bad_file", err);
    }
}

#[tokio::test]
async fn an_unreadable_file_is_reported_once_with_the_cause() {
    for (arguments, wanted) in [
        (["--config", "none.toml"], "evenkeel: cannot read none.toml: No such file or directory (os error 2)\n"),
        (["--config", "."], "evenkeel: cannot read .: it is a directory; it must be a regular file\n"),
    ] {
        for command in ["check", "run"] {
            let CommandOutput { code, out, err, .. } = said(GOOD, &[&arguments[..], &[command]].concat()).await;
            assert_eq!((code, out.as_str(), err.as_str()), (Some(2), "", wanted));
        }
    }
}

#[tokio::test]
async fn wrong_arguments_are_exit_status_2() {
    let CommandOutput { code, out, err, .. } = said(GOOD, &["chekc"]).await;
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert_snapshot!(err, @r"
    evenkeel: unrecognized subcommand 'chekc'

      tip: a similar subcommand exists: 'check'

    Usage: evenkeel [OPTIONS] [COMMAND]

    For more information, try '--help'.
    ");
    for arguments in [&["--nope"][..], &["check", "more"], &["--config"]] {
        let CommandOutput { code, out, err, .. } = said(GOOD, arguments).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.starts_with("evenkeel: "), "{err}");
    }
}

#[tokio::test]
async fn version_and_help_go_to_stdout() {
    let CommandOutput { code, out, err, .. } = said("", &["--version"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, concat!("evenkeel ", env!("CARGO_PKG_VERSION"), "\n"));

    let CommandOutput { code, out, err, .. } = said("", &["--help"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_snapshot!("help", out);
}

#[tokio::test]
async fn the_file_is_config_or_else_the_environment_or_else_lb_toml() {
    let sessions = |said: CommandOutput| said.out.lines().next().unwrap().to_owned();
    let with_environment = |arguments: &[&str]| {
        let mut command = Command::new(Program::PATH);
        command.args(arguments).env("EVENKEEL_CONFIG", "other.toml");
        command
    };
    assert_eq!(sessions(said(GOOD, &["check"]).await), "workers: 2; at most 50 sessions");
    for arguments in [["--config", "other.toml", "check"], ["check", "--config", "other.toml"]] {
        assert_eq!(sessions(said(GOOD, &arguments).await), "workers: 2; at most 30 sessions");
    }
    let by_environment = said_by(GOOD, with_environment(&["check"])).await;
    assert_eq!(sessions(by_environment), "workers: 2; at most 30 sessions");
    let by_argument = said_by(GOOD, with_environment(&["check", "--config", "lb.toml"])).await;
    assert_eq!(sessions(by_argument), "workers: 2; at most 50 sessions");
}

#[tokio::test]
async fn without_a_command_it_runs_and_says_nothing_on_stdout() {
    for arguments in [&[][..], &["run"]] {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" >\"$OUT\"", Program::PATH]).args(arguments).env("OUT", &out);
        let mut program = Program::start_by(GOOD, command);
        assert_eq!(get(program.admin().await, "/live").await.unwrap(), (200, "live\n".to_owned()));
        program.signal(Signal::TERM);
        assert_eq!(program.end().await.code(), Some(0));
        assert_eq!(std::fs::read_to_string(out).unwrap(), "");
    }
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error_and_nothing_is_half_started() {
    let taken = TcpListener::bind("127.77.3.1:0").unwrap();
    let (address, other) = (taken.local_addr().unwrap(), free_port_of([127, 77, 3, 2]));
    let front = GOOD.replace("[\"127.0.0.1:0\", \"[::1]:0\"]", &format!("[\"{other}\", \"{address}\"]"));
    let admin = GOOD.replace("admin.bind = \"127.0.0.1:0\"", &format!("admin.bind = \"{address}\""));
    for (config, what) in [
        (front, format!("listener `web` can't listen on {address} (another program listens there)")),
        (admin, format!("the admin listener can't listen on {address} (another program listens there)")),
    ] {
        let CommandOutput { code, out, err, .. } = said(&config, &[]).await;
        assert_eq!((code, out.as_str()), (Some(1), ""));
        let errors: Vec<_> = err.lines().filter(|line| !line.contains(" WARN ")).collect();
        assert_eq!(errors, [format!("evenkeel: {what}: Address already in use (os error 98)")]);
    }
}

#[tokio::test]
async fn a_written_limit_that_the_hard_limit_cannot_hold_is_refused_with_the_numbers() {
    let own = GOOD.replace("max_connections = 50\n", "").replace("= 40", "= 73");
    for arguments in [&["check"][..], &["run"]] {
        let CommandOutput { code, out, err, .. } =
            said_by(&GOOD.replace("= 50", "= 73"), after("ulimit -n 528", arguments)).await;
        assert_eq!((code, out.as_str()), (Some(2), ""));
        let error = err.lines().find(|line| !line.contains(" WARN ")).unwrap();
        assert_eq!(
            error,
            "evenkeel: max_connections = 73 needs 530 open files (2 a session and 384 in reserve), but the hard limit is \
             528; write at most 72, or raise the limit (LimitNOFILE= in systemd, `ulimit -Hn` in a shell)"
        );

        let CommandOutput { code, err, .. } = said_by(&own, after("ulimit -n 528", arguments)).await;
        assert_eq!(code, Some(2));
        assert!(err.contains("evenkeel: listeners.web.max_connections = 73 needs 530 open files"), "{err}");
    }
    let CommandOutput { code, err, .. } = said_by(&own, after("ulimit -n 256", &["check"])).await;
    assert_eq!(code, Some(2));
    assert!(err.contains("the hard limit is 256"), "{err}");
}

#[tokio::test]
async fn an_unset_limit_is_what_the_hard_limit_holds_and_the_soft_one_is_raised() {
    let unset = GOOD.replace("max_connections = 50\n", "").replace("max_connections = 40\n", "");
    let mut program = Program::start_by(&unset, after("ulimit -Sn 64 && ulimit -Hn 528", &[]));
    let metrics = get(program.admin().await, "/metrics").await.unwrap().1;
    assert!(metrics.contains("\nevenkeel_max_connections 72\n"), "{metrics}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["528", "528"]);
    program.signal(Signal::TERM);
    assert_eq!(program.end().await.code(), Some(0));
}

/// Nothing panics because of where output goes.
#[tokio::test]
async fn a_closed_stdout_does_no_harm() {
    let broken = || {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        Stdio::from(write)
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, GOOD).unwrap();
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    for (argument, out, code) in
        [("check", broken(), 0), ("--help", broken(), 0), ("check", full(), 1), ("--version", full(), 1)]
    {
        let mut command = Command::new(Program::PATH);
        let child = command.arg(argument).env("EVENKEEL_CONFIG", &path).stdout(out).stderr(Stdio::piped()).spawn();
        let output = soon("the end", child.unwrap().wait_with_output()).await.unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{argument}: {err}");
        let wanted = ["", "evenkeel: stdout can't be written: No space left on device (os error 28)\n"];
        assert_eq!(err, wanted[usize::from(code == 1)]);
    }
    for err in [broken(), full(), stuck()] {
        let mut child = Command::new(Program::PATH).arg("--config=/none").stderr(err).spawn().unwrap();
        assert_eq!(soon("the end", child.wait()).await.unwrap().code(), Some(2));
    }
}

/// A full pipe without a reader. Its reading end stays open for as long as the tests run.
fn stuck() -> Stdio {
    let (read, mut write) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    while write.write_all(&[b'x'; 4096]).is_ok() {}
    while write.write_all(b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&write, false).unwrap();
    std::mem::forget(read);
    Stdio::from(write)
}

#[tokio::test]
async fn the_admin_listener_can_be_off() {
    let config = GOOD.replace("admin.bind = \"127.0.0.1:0\"", "admin.bind = \"off\"\nadmin.socket = \"off\"");
    let CommandOutput { out, .. } = said(&config, &["check"]).await;
    assert!(out.contains("\nadmin: off\n"), "{out}");
    let mut program = Program::start(&config, &[]);
    let front = program.front("web").await;
    // No backend is up, and sessions are refused: it works.
    assert_eq!(exchange(front, b"").await.unwrap(), b"");
    program.signal(Signal::TERM);
    assert_eq!(program.end().await.code(), Some(0));
    assert!(!program.log().iter().any(|line| line.contains("admin")), "{:#?}", program.log());
}
