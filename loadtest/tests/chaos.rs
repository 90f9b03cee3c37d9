//! `loadtest chaos` as a program: it measures one fault and leaves nothing behind. No test of speed.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(90);

/// Evenkeel's program, or `None` if this test can't run here. Prints the reason, also when the test passes.
fn evenkeel() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_loadtest")).with_file_name("evenkeel");
    let ip = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].iter().any(|path| Path::new(path).exists());
    let (why, is_missing) = if !geteuid().is_root() {
        ("this is not root", false)
    } else if !ip {
        ("`ip` is not installed (tests/run.sh installs what is missing)", true)
    } else if !netns_works() {
        ("network namespaces can't be made here", false)
    } else if !beside.exists() {
        ("evenkeel is not built (cargo build)", true)
    } else {
        return Some(beside);
    };
    let required = std::env::var("EVENKEEL_INTEROP").is_ok_and(|value| value == "required");
    assert!(!(is_missing && required), "{why}");
    std::io::stderr().write_all(format!("\nskipped: loadtest chaos: {why}\n").as_bytes()).unwrap();
    None
}

fn netns_works() -> bool {
    let name = format!("evenkeel-test-{}", std::process::id());
    let ip =
        |word: &str| Command::new("ip").args(["netns", word, &name]).output().is_ok_and(|out| out.status.success());
    ip("add") && ip("del")
}

fn chaos(evenkeel: &Path, out: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["chaos", "--systems", "evenkeel", "--rate", "50", "--long-lived", "4"]);
    command.args(line.split_whitespace()).arg("--out").arg(out).arg("--evenkeel").arg(evenkeel);
    command.env_remove("CARGO").stdin(Stdio::null());
    command
}

/// The namespaces and directories of a process in shared places.
fn traces(of: u32) -> Vec<String> {
    let prefix = format!("evenkeel-chaos-{of}-");
    let places = ["/run/netns", "/dev/shm", "/tmp"].iter().filter_map(|place| fs::read_dir(place).ok());
    let names = places.flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// Starts a run with a cell of ten minutes, and waits until the cell has begun.
fn under_way(evenkeel: &Path, out: &Path) -> Child {
    let mut command = chaos(evenkeel, out, "--faults kill --seconds 600");
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !traces(child.id()).iter().any(|name| name.ends_with("-b3")) {
        assert!(start.elapsed() < BOUND, "no namespaces");
        thread::sleep(Duration::from_millis(10));
    }
    child
}

fn ended(child: &mut Child, signal: Signal) -> Option<i32> {
    kill_process(Pid::from_child(child), signal).unwrap();
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if start.elapsed() > BOUND {
            let _ = child.kill();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_fault_is_measured_and_no_end_of_a_run_leaves_anything_behind() {
    let Some(evenkeel) = evenkeel() else { return };
    let out = tempfile::tempdir().unwrap();

    let mut interrupted = under_way(&evenkeel, out.path());
    assert_eq!(ended(&mut interrupted, Signal::INT), Some(130));
    assert_eq!(traces(interrupted.id()), [""; 0]);

    // A killed run can't clean up; the next run does.
    let mut killed = under_way(&evenkeel, out.path());
    assert_eq!(ended(&mut killed, Signal::KILL), None);

    let results = out.path().join("RESULTS.md");
    fs::write(&results, "# Somebody else's page\n").unwrap();
    let mut command = chaos(&evenkeel, out.path(), "--faults kill --seconds 2");
    let run =
        command.arg("--write-results").arg(&results).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = run.id();
    let output = run.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n");
    assert!(output.status.success(), "{said}");
    assert_eq!([traces(pid), traces(killed.id())].concat(), [""; 0], "{said}");

    let json: Value = serde_json::from_slice(&fs::read(out.path().join("chaos.json")).unwrap()).unwrap();
    let counts = &json["cells"][0]["counts"];
    assert_eq!((&counts["offered"], &counts["wrong"]), (&100.into(), &0.into()), "{said}");
    assert!(counts["messages"].as_u64().unwrap() > 0, "{said}");
    assert!(said.contains("kill -9") && said.contains("back after recovery"), "{said}");
    let page = fs::read_to_string(results).unwrap();
    assert!(page.starts_with("# Somebody else's page\n") && page.contains("## When things fail (chaos)"), "{page}");
}
