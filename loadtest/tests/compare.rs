//! `loadtest compare` as a program, with the systems that are installed. No test of speed.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const BOUND: Duration = Duration::from_secs(60);

/// Without `CARGO` in the environment, so that Evenkeel is not built.
fn compare(line: &str, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.arg("compare").arg("--out").arg(out).args(line.split_whitespace());
    command.env_remove("CARGO").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn said(output: &Output) -> String {
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_installed_system_runs_in_every_case_and_row() {
    let out = tempfile::tempdir().unwrap();
    let results = out.path().join("RESULTS.md");
    let line = "--quick --duration 100ms --idle-connections 40 --threads 1 --scenarios ping-64,upload,churn,mixed,idle";
    let output = compare(line, out.path()).arg("--write-results").arg(&results).output().unwrap();
    let json: Value = serde_json::from_slice(&fs::read(out.path().join("compare.json")).unwrap()).unwrap();
    assert_eq!(json["rounds_done"], 1, "{}", said(&output));

    let cells = json["cells"].as_array().unwrap();
    for cell in cells {
        assert_eq!(cell["measure"]["mismatches"], 0, "{cell}");
        assert!(cell["measure"]["sessions"].as_u64().unwrap() > 0, "{cell}");
    }
    for system in json["systems"].as_array().unwrap() {
        let name = system["name"].as_str().unwrap();
        let failed = json["missing"].as_array().unwrap().iter().any(|line| line.as_str().unwrap().starts_with(name));
        if failed || name.ends_with("-splice") {
            continue;
        }
        let mine = cells.iter().filter(|cell| cell["system"] == name).count();
        // `direct` runs once in each case except idle, the others twice in each.
        assert_eq!(mine, if name == "direct" { 4 } else { 5 * 2 }, "{name}: {}", said(&output));
        let in_table = text(&output.stdout).lines().any(|line| line.trim_start().starts_with(name));
        assert!(in_table, "{name} is not in the table:\n{}", said(&output));
    }
    let page = fs::read_to_string(out.path().join("compare.html")).unwrap();
    assert!(page.contains("64 B ping-pong × 64") && page.contains("<svg"), "the page has no charts");
    assert!(fs::read_to_string(results).unwrap().contains("| direct |"));
}

#[test]
fn a_program_that_does_not_serve_is_reported_and_the_others_run() {
    let out = tempfile::tempdir().unwrap();
    let fake = out.path().join("fake");
    fs::write(&fake, "#!/bin/sh\n[ \"$1\" = -v ] && echo 'fake 9.9.9' && exit\necho no luck today >&2\nexit 3\n")
        .unwrap();
    fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let line = "--quick --duration 50ms --scenarios ping-1 --systems haproxy --logs off --threads 1 --haproxy";
    let output = compare(line, out.path()).arg(&fake).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = text(&output.stderr);
    assert!(told.contains("haproxy: ping-1") && told.contains("no luck today"), "{told}");
    assert!(text(&output.stdout).contains("direct"), "{}", said(&output));
}

#[test]
fn a_signal_ends_the_started_systems() {
    let out = tempfile::tempdir().unwrap();
    let marker = out.path().join("pid");
    let fake = out.path().join("fake");
    // It serves nothing, keeps running, and has a child.
    let script = "[ \"$1\" = -v ] && echo 'fake 9.9.9' && exit\nsleep 60 &\n";
    let script = format!("#!/bin/sh\n{script}echo $$ $! > {0}.new && mv {0}.new {0}\nwait\n", marker.display());
    fs::write(&fake, script).unwrap();
    fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let line = "--quick --duration 50ms --scenarios idle --systems haproxy --threads 1 --haproxy";
    let mut command = compare(line, out.path());
    let mut child = command.arg(&fake).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the system was started", || marker.exists());
    let pids = fs::read_to_string(&marker).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let alive = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    wait_until("they are gone", || !pids.split_whitespace().any(alive));
}

#[test]
fn bad_usage_is_reported() {
    let out = tempfile::tempdir().unwrap();
    let output = compare("--systems nonesuch", out.path()).output().unwrap();
    assert!(!output.status.success() && text(&output.stderr).contains("there are direct"), "{}", said(&output));
    let output = compare("--scenarios nonesuch", out.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < BOUND, "waited too long until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
