//! The real program and its file: SIGHUP, a rename, a ConfigMap's links, files that are refused.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use super::{Live, file};
use crate::support::{Backend, Program, exchange, get, get_json, until};

const ADMIN: &str = "admin.bind = \"127.0.0.1:0\"\n";

async fn until_generation(program: &Program, wanted: u64) {
    until(&format!("generation {wanted}"), || async {
        (get_json(program.admin().await, "/api/v1/config").await["generation"] == wanted).then_some(())
    })
    .await;
}

fn with(backend: SocketAddr, more: &str) -> String {
    format!("{ADMIN}{}", file(&[backend], more, ""))
}

/// As careful programs write a file: another one, renamed into its place.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_file_that_is_written_or_replaced_is_applied_and_one_that_is_touched_is_not() {
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    let program = Program::start(&with(a.address(), ""), &[]);
    let (front, path) = (program.front("front").await, program.directory().join("lb.toml"));
    assert_eq!(exchange(front, b"?").await.unwrap(), b"a");
    replace(&path, &with(b.address(), ""));
    until_generation(&program, 2).await;
    until("the other backend", || async { (exchange(front, b"?").await.ok()? == b"b").then_some(()) }).await;
    std::fs::write(&path, with(b.address(), "max_connections = 5")).unwrap();
    until_generation(&program, 3).await;
    // What says the same is not even read as a change; what says something else after it is.
    std::fs::write(&path, with(b.address(), "max_connections = 5")).unwrap();
    replace(&path, &with(b.address(), "max_connections = 6"));
    until_generation(&program, 4).await;
    // The log says what became of the file, key by key.
    program.until_says("max_connections: 5 -> 6").await;
    assert_eq!(get_json(program.admin().await, "/api/v1/config").await["reloads"]["unchanged"], 0);
}

#[tokio::test]
async fn a_bad_file_is_refused_with_the_errors_of_check_and_the_old_config_runs_on() {
    let backend = Backend::echo().await;
    let program = Program::start(&with(backend.address(), ""), &[]);
    let (front, path) = (program.front("front").await, program.directory().join("lb.toml"));
    let mut live = Live::new(front).await;
    replace(&path, &with(backend.address(), "max_conections = 5"));
    let said = program.until_says("the new configuration is refused, what runs goes on").await;
    assert!(said.contains("the configuration is not valid"), "{said}");
    let after = get_json(program.admin().await, "/api/v1/config").await;
    let error = after["last_reload"]["error"].as_str().unwrap();
    let check = tokio::process::Command::new(Program::PATH)
        .args(["check", "--config", "lb.toml"])
        .current_dir(program.directory())
        .output()
        .await
        .unwrap();
    assert_eq!(check.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&check.stderr).trim(), format!("evenkeel: {error}").trim());
    assert!(error.contains("max_conections") && error.contains("did you mean"), "{error}");
    assert_eq!((&after["generation"], &after["last_reload"]["result"]), (&1.into(), &"refused".into()));
    let metrics = get(program.admin().await, "/metrics").await.unwrap().1;
    assert!(metrics.contains("evenkeel_config_last_reload_successful 0\n"));
    live.goes_on().await;
    // Gone is no change; back and good, it is one.
    std::fs::remove_file(&path).unwrap();
    live.goes_on().await;
    std::fs::write(&path, with(backend.address(), "max_connections = 5")).unwrap();
    until_generation(&program, 2).await;
    live.goes_on().await;
}

#[tokio::test]
async fn a_swapped_config_map_is_applied() {
    let backend = Backend::echo().await;
    let mounted = tempfile::tempdir().unwrap();
    let version = |number: u32, more: &str| {
        let directory = mounted.path().join(format!("..version_{number}"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("lb.toml"), with(backend.address(), more)).unwrap();
        let link = mounted.path().join("..data_tmp");
        std::os::unix::fs::symlink(format!("..version_{number}"), &link).unwrap();
        std::fs::rename(link, mounted.path().join("..data")).unwrap();
        if number > 1 {
            std::fs::remove_dir_all(mounted.path().join(format!("..version_{}", number - 1))).unwrap();
        }
    };
    version(1, "");
    std::os::unix::fs::symlink("..data/lb.toml", mounted.path().join("lb.toml")).unwrap();
    let path = mounted.path().join("lb.toml");
    let program = Program::start("", &["run", "--config", path.to_str().unwrap()]);
    let mut live = Live::new(program.front("front").await).await;
    for number in 2..5 {
        version(number, &format!("max_connections = {number}"));
        until_generation(&program, u64::from(number)).await;
        live.goes_on().await;
    }
    // Those about the pool are about the pool.
    let warned = |line: &String| line.contains(" WARN ") && !line.contains("[pools.back]");
    assert!(!program.log().iter().any(warned), "{:#?}", program.log());
}

/// As git-sync does it: the directory of the file is a link, which is swapped; then the file is written slowly, and its
/// directory is moved away and replaced.
#[tokio::test]
async fn a_swapped_directory_is_noticed_and_half_a_file_is_not_applied() {
    let backend = Backend::echo().await;
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let version = |number: u32| {
        let directory = at(&format!("v{number}"));
        std::fs::create_dir(&directory).unwrap();
        let text = with(backend.address(), &format!("max_connections = {number}"));
        std::fs::write(directory.join("lb.toml"), text).unwrap();
    };
    let swap = |number: u32| {
        std::os::unix::fs::symlink(format!("v{number}"), at("tmp")).unwrap();
        std::fs::rename(at("tmp"), at("current")).unwrap();
    };
    version(1);
    swap(1);
    let path = at("current/lb.toml");
    let program = Program::start("", &["run", "--config", path.to_str().unwrap()]);
    let mut live = Live::new(program.front("front").await).await;
    for number in 2..4 {
        version(number);
        swap(number);
        until_generation(&program, number.into()).await;
    }
    // Valid so far, and without the listener.
    let text = with(backend.address(), "max_connections = 4");
    let (first, rest) = text.split_once("[listeners.front]").unwrap();
    let mut writer = std::fs::File::create(&path).unwrap();
    writer.write_all(first.as_bytes()).unwrap();
    for _ in 0..8 {
        std::fs::write(at("v3/log"), "a line\n").unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!(get_json(program.admin().await, "/api/v1/config").await["generation"], 3);
    }
    writer.write_all(format!("[listeners.front]{rest}").as_bytes()).unwrap();
    drop(writer);
    until_generation(&program, 4).await;
    version(5);
    std::fs::rename(at("v3"), at("old")).unwrap();
    std::fs::rename(at("v5"), at("v3")).unwrap();
    until_generation(&program, 5).await;
    live.goes_on().await;
    assert!(!program.log().iter().any(|line| line.contains("refused")), "{:#?}", program.log());
}

#[tokio::test]
async fn a_refused_file_is_shown_until_a_good_one_is_applied() {
    let backend = Backend::echo().await;
    let program = Program::start(&with(backend.address(), ""), &[]);
    program.front("front").await;
    let path = program.directory().join("lb.toml");
    let admin = program.admin().await;
    let troubles = || async {
        let status: Value = get_json(admin, "/api/v1/status").await;
        status["troubles"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(troubles().await, Vec::<String>::new());
    replace(&path, &with(backend.address(), "max_conections = 5"));
    let shown = until("the refusal", || async { troubles().await.into_iter().next() }).await;
    assert!(shown.starts_with("lb.toml:5:1: "), "{shown}");
    assert!(shown.contains(", refused ") && shown.ends_with(" ago; generation 1 is in effect"), "{shown}");
    let said = tokio::process::Command::new(Program::PATH)
        .args(["status", "--admin", &format!("http://{admin}")])
        .output()
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("lb.toml:5:1: "), "{said:?}");
    let metrics = get(admin, "/metrics").await.unwrap().1;
    assert!(metrics.contains("evenkeel_troubles 1\n"), "{metrics}");
    // As it was before: no difference, and mended.
    replace(&path, &with(backend.address(), ""));
    until("nothing is wrong", || async { troubles().await.is_empty().then_some(()) }).await;
    let metrics = get(admin, "/metrics").await.unwrap().1;
    assert!(metrics.contains("evenkeel_troubles 0\n"), "{metrics}");
    std::fs::remove_file(&path).unwrap();
    let shown = until("the file is away", || async { troubles().await.into_iter().next() }).await;
    assert!(shown.starts_with("lb.toml: it has not been there for "), "{shown}");
}

#[tokio::test]
async fn a_fifo_instead_of_the_file_is_refused_and_delays_no_signal() {
    let backend = Backend::echo().await;
    let mut program = Program::start(&with(backend.address(), ""), &[]);
    let mut live = Live::new(program.front("front").await).await;
    let path = program.directory().join("lb.toml");
    std::fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    program.signal(Signal::HUP);
    program.until_says("it is a FIFO or a pipe; it must be a regular file").await;
    live.goes_on().await;
    drop(live);
    program.signal(Signal::TERM);
    assert_eq!(program.end().await.code(), Some(0));
}

#[tokio::test]
async fn without_the_watch_only_a_hangup_reads_the_file() {
    let backend = Backend::echo().await;
    let off = |more: &str| format!("reload.watch = false\n{}", with(backend.address(), more));
    let program = Program::start(&off(""), &[]);
    program.front("front").await;
    let path = program.directory().join("lb.toml");
    replace(&path, &off("max_connections = 5"));
    program.signal(Signal::HUP);
    until_generation(&program, 2).await;
    // On from now on: the next change needs no signal.
    replace(&path, &with(backend.address(), "max_connections = 6"));
    program.signal(Signal::HUP);
    until_generation(&program, 3).await;
    replace(&path, &with(backend.address(), "max_connections = 7"));
    until_generation(&program, 4).await;
    let reads = program.log().iter().filter(|line| line.contains("SIGHUP: reading the file")).count();
    assert_eq!(reads, 2, "{:#?}", program.log());
}

#[tokio::test]
async fn a_reload_changes_the_log_level() {
    let backend = Backend::echo().await;
    let at = |level: &str| format!("log.level = \"{level}\"\n{}", with(backend.address(), ""));
    let program = Program::start(&at("info"), &[]);
    let (front, path) = (program.front("front").await, program.directory().join("lb.toml"));
    drop(Live::new(front).await);
    program.until_says("session ended").await;
    replace(&path, &at("warn"));
    until_generation(&program, 2).await;
    let before = program.log().len();
    drop(Live::new(front).await);
    replace(&path, &at("info"));
    until_generation(&program, 3).await;
    let said = || program.log()[before..].iter().filter(|line| line.contains("session ended")).count();
    drop(Live::new(front).await);
    until("the last session's line", || async { (said() > 0).then_some(()) }).await;
    assert_eq!(said(), 1, "{:#?}", program.log());
}
