//! The real program and its file: SIGHUP, a rename, a ConfigMap's links, files that are refused.

use std::net::SocketAddr;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use super::{Live, file};
use crate::support::{Backend, Program, exchange, get, until};

const ADMIN: &str = "admin.bind = \"127.0.0.1:0\"\n";

async fn config(program: &Program) -> Value {
    serde_json::from_str(&get(program.admin().await, "/api/v1/config").await.unwrap().1).unwrap()
}

async fn until_generation(program: &Program, wanted: u64) {
    until(&format!("generation {wanted}"), || async { (config(program).await["generation"] == wanted).then_some(()) })
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
    assert_eq!(config(&program).await["reloads"]["unchanged"], 0);
}

#[tokio::test]
async fn a_bad_file_is_refused_with_the_words_of_check_and_what_runs_goes_on() {
    let backend = Backend::echo().await;
    let program = Program::start(&with(backend.address(), ""), &[]);
    let (front, path) = (program.front("front").await, program.directory().join("lb.toml"));
    let mut live = Live::new(front).await;
    replace(&path, &with(backend.address(), "max_conections = 5"));
    let said = program.until_says("the new configuration is refused, what runs goes on").await;
    assert!(said.contains("the configuration is not valid"), "{said}");
    let after = config(&program).await;
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
async fn a_config_map_that_is_swapped_is_applied() {
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
async fn the_level_of_the_log_changes() {
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
