//! What operators do, with live sessions: nothing new comes, what runs goes on, and it holds for as long as it should.

use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Console, config};
use crate::support::{Backend, exchange, ping, session, soon, until};

/// The names of the backends that answer new sessions.
async fn answers(console: &Console, sessions: usize) -> Vec<String> {
    let mut all = crate::support::answers(console.program.front("front").await, sessions).await;
    all.dedup();
    all
}

#[tokio::test]
async fn a_drained_backend_gets_no_new_sessions_and_old_ones_finish() {
    let (one, two) = (Backend::echo().await, Backend::answering("two").await);
    let console = Console::start(&config(&[("one", &one), ("two", &two)], "", "", "")).await;
    let front = console.program.front("front").await;
    console.good(&["disable", "two"]).await;
    let mut live = session(front).await;
    console.good(&["ready", "two"]).await;
    let out = console.good(&["drain", "one", "--note", "new kernel"]).await;
    assert!(out.starts_with("web/one: draining, weight 1, 1 sessions: by "), "{out}");
    assert!(out.ends_with(", until a restart: new kernel\n"), "{out}");
    assert_eq!(answers(&console, 20).await, ["two"]);
    ping(&mut live, b"still").await;

    // It waits for as long as there are sessions, and says how many.
    let said = console.says(&["drain", "one", "--wait", "--timeout", "1s"]).await;
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("1 sessions left"), "{said:?}");
    assert!(said.err.ends_with("evenkeel: 1 sessions are left after 1s\n"), "{said:?}");
    let mut waiting = console.command(&["drain", "one", "--wait"]).spawn().unwrap();
    let mut progress = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let first = soon("progress", progress.next_line()).await.unwrap().unwrap();
    assert!(first.starts_with("1 sessions left"), "{first}");
    ping(&mut live, b"still").await;
    live.shutdown().await.unwrap();
    assert_eq!(soon("the end", live.read(&mut [0; 8])).await.unwrap(), 0);
    assert_eq!(soon("the command's end", waiting.wait()).await.unwrap().code(), Some(0));

    console.good(&["ready", "one"]).await;
    assert_eq!(answers(&console, 20).await, ["?", "two"]);
}

#[tokio::test]
async fn a_waiting_drain_command_ends_when_the_drain_is_cancelled() {
    let one = Backend::echo().await;
    let console = Console::start(&config(&[("one", &one)], "", "", "")).await;
    let _live = session(console.program.front("front").await).await;
    let waiting = console.command(&["drain", "one", "--wait"]).spawn().unwrap();
    until("draining", || async { (console.backend("one").await["standing"] == "draining").then_some(()) }).await;
    console.good(&["ready", "one"]).await;
    let output = soon("the command's end", waiting.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("somebody made web/one ready again"), "{err}");
}

#[tokio::test]
async fn weights_and_whole_pools() {
    let (one, two) = (Backend::answering("one").await, Backend::answering("two").await);
    let console = Console::start(&config(&[("one", &one), ("two", &two)], "", "", "")).await;
    let out = console.good(&["weight", "two", "0", "--note", "slow disk"]).await;
    assert!(out.starts_with("web/two: up, weight 0 (until a restart), 0 sessions: "), "{out}");
    assert_eq!(answers(&console, 20).await, ["one"]);
    console.good(&["weight", "two", "3"]).await;
    let front = console.program.front("front").await;
    let mut count = 0;
    for _ in 0..40 {
        count += usize::from(exchange(front, b"?").await.unwrap() == b"two");
    }
    assert_eq!(count, 30, "three of four");
    console.good(&["weight", "two", "default"]).await;
    assert_eq!(console.backend("two").await["weight"], 1);

    console.good(&["drain", "--pool", "web"]).await;
    assert_eq!(exchange(front, b"").await.unwrap(), b"", "nobody is there to answer");
    console.good(&["ready", "two"]).await;
    assert_eq!(answers(&console, 10).await, ["two"]);
    console.good(&["ready", "--pool", "web"]).await;
    assert_eq!(answers(&console, 10).await, ["one", "two"]);
}

/// So many more probes have come.
async fn probed(backend: &Backend, times: usize) {
    let before = backend.connections();
    until("it is probed", || async { (backend.connections() >= before + times).then_some(()) }).await;
}

#[tokio::test]
async fn a_check_can_be_paused_and_resumed() {
    let (one, two) = (Backend::echo().await, Backend::echo().await);
    let directory = tempfile::tempdir().unwrap();
    let top = format!("state_dir = {:?}\n", directory.path().join("state"));
    let text = config(&[("one", &one), ("two", &two)], &top, "", "");
    let mut console = Console::start(&text).await;
    probed(&one, 2).await;
    let out = console.good(&["probe", "one", "pause", "--note", "new endpoint"]).await;
    assert!(out.contains("up, weight 1, 0 sessions: tcp connect "), "{out}");
    assert!(out.contains("; probes paused by ") && out.contains(": new endpoint"), "{out}");
    console.program.until_says("operator: probes paused by ").await;
    // One may just have been on its way; while another backend is probed ten times, none comes.
    probed(&two, 2).await;
    let count = one.connections();
    probed(&two, 10).await;
    assert_eq!(one.connections(), count);
    let backend = console.backend("one").await;
    assert_eq!(
        (&backend["operator_probe"]["value"], &backend["operator_probe"]["note"]),
        (&"paused".into(), &"new endpoint".into())
    );
    assert!(backend["reason"].as_str().unwrap().contains("probes paused by"), "{backend}");
    let out = console.good(&["explain", "one"]).await;
    assert!(out.contains("paused by ") && out.contains("what it found last holds: tcp connect"), "{out}");
    assert_eq!(console.says(&["probe", "one", "resume", "--for", "1h"]).await.code, Some(2));

    // It is kept: nothing is known of the backend then, and nothing is asked.
    console.program.signal(Signal::KILL);
    console.program.end().await;
    let program = crate::support::Program::start(&text, &[]);
    let socket = program.directory().join("admin.sock");
    let console = Console { program, socket };
    console.program.until_says("operators' orders are restored").await;
    until("it is there", || async {
        console.get("/api/v1/pools").await.ok().filter(|(status, _)| *status == 200).map(drop)
    })
    .await;
    let backend = console.backend("one").await;
    assert_eq!((&backend["standing"], &backend["operator_probe"]["value"]), (&"unproven".into(), &"paused".into()));
    let out = console.good(&["probe", "one", "resume"]).await;
    assert!(!out.contains("paused"), "{out}");
    until("up", || async { (console.backend("one").await["standing"] == "up").then_some(()) }).await;

    let out = console.good(&["probe", "one", "pause", "--for", "1s"]).await;
    assert!(out.contains(", until 20"), "{out}");
    console.program.until_says("operator: it is over: probes paused by ").await;
    probed(&one, 2).await;
}

#[tokio::test]
async fn a_temporary_override_ends_by_itself() {
    let (one, two) = (Backend::answering("one").await, Backend::answering("two").await);
    let console = Console::start(&config(&[("one", &one), ("two", &two)], "", "", "")).await;
    let out = console.good(&["drain", "one", "--for", "2s"]).await;
    assert!(out.contains(", until 20"), "{out}");
    until("up again", || async { (console.backend("one").await["standing"] == "up").then_some(()) }).await;
    assert!(console.backend("one").await["operator"].is_null());
    console.program.until_says("operator: it is over: drain by ").await;
    for (time, hint) in [("0s", "shorter than a second"), ("soon", "not a duration"), ("1000000h", "more than a year")]
    {
        let said = console.says(&["drain", "one", "--for", time]).await;
        assert_eq!(said.code, Some(2));
        assert!(said.err.contains(hint), "{said:?}");
    }
    let said = console.says(&["drain", "one", "--for", "1h", "--until-restart"]).await;
    assert_eq!(said.code, Some(2));
}

#[tokio::test]
async fn orders_survive_a_restart_in_state_dir() {
    let (one, two) = (Backend::answering("one").await, Backend::answering("two").await);
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let top = format!("state_dir = {state:?}\n");
    let text = config(&[("one", &one), ("two", &two)], &top, "", "");
    let mut console = Console::start(&text).await;
    let out = console.good(&["drain", "one"]).await;
    assert!(!out.contains("until"), "it holds until it is taken back: {out}");
    console.good(&["weight", "two", "7", "--for", "1h"]).await;
    assert_eq!(super::mode(&state), 0o700);
    // Not by a clean end: the machine lost power.
    console.program.signal(Signal::KILL);
    console.program.end().await;

    let mut console = Console::start(&text).await;
    console.program.until_says("operators' orders are restored").await;
    assert_eq!(answers(&console, 10).await, ["two"]);
    assert_eq!(console.backend("two").await["weight"], 7);
    let out = console.good(&["drain", "two", "--until-restart"]).await;
    assert!(out.contains("until a restart"), "{out}");
    console.good(&["ready", "one"]).await;
    console.program.signal(Signal::TERM);
    console.program.end().await;

    let mut console = Console::start(&text).await;
    assert_eq!(answers(&console, 20).await, ["one", "two"]);
    console.program.signal(Signal::KILL);
    console.program.end().await;

    // What can't be read is said, put aside, and no reason not to start.
    let file = state.join("operator.json");
    std::fs::write(&file, "{ \"version\": 9 }").unwrap();
    let console = Console::start(&text).await;
    console.program.until_says("no order of an operator is restored: it is of version 9").await;
    assert!(state.join("operator.json.unreadable").exists());
    assert_eq!(answers(&console, 20).await, ["one", "two"]);
    console.good(&["drain", "one"]).await;
    assert!(file.exists());
}

#[tokio::test]
async fn an_override_that_cannot_be_saved_applies_and_warns() {
    let one = Backend::answering("one").await;
    let console = Console::start(&config(&[("one", &one)], "state_dir = \"lb.toml\"\n", "", "")).await;
    let said = console.says(&["drain", "one"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.starts_with("evenkeel: warning: it holds, but is not kept across a restart: "), "{said:?}");
    assert_eq!(console.backend("one").await["standing"], "draining");
}

#[tokio::test]
async fn a_disabled_backend_keeps_its_sessions_and_comes_back_as_its_probes_say() {
    let one = Backend::echo().await;
    let console = Console::start(&config(&[("one", &one)], "", "", "")).await;
    let front = console.program.front("front").await;
    let mut live = session(front).await;
    console.good(&["disable", "one"]).await;
    assert_eq!(console.backend("one").await["standing"], "disabled");
    ping(&mut live, b"still").await;
    assert_eq!(exchange(front, b"").await.unwrap(), b"");
    one.stop().await;
    until("probed down", || async { (console.backend("one").await["facts"]["probe"] == "down").then_some(()) }).await;
    console.good(&["ready", "one"]).await;
    assert_eq!(console.backend("one").await["standing"], "down");
    tokio::time::timeout(Duration::from_secs(20), live.read(&mut [0; 8])).await.unwrap().ok();
}

#[tokio::test]
async fn sessions_are_listed_explained_and_closed_by_what_they_are() {
    let (one, two) = (Backend::echo().await, Backend::echo().await);
    let console = Console::start(&config(&[("one", &one), ("two", &two)], "", "", "")).await;
    let front = console.program.front("front").await;
    let mut live = Vec::new();
    for _ in 0..10 {
        live.push(session(front).await);
    }
    let list = |arguments: &'static [&'static str]| {
        let console = &console;
        async move {
            let out = console.good(&[&["sessions", "--json"], arguments].concat()).await;
            serde_json::from_str::<serde_json::Value>(&out).unwrap()
        }
    };
    let all = list(&[]).await;
    assert_eq!((&all["matched"], &all["all"]), (&10.into(), &10.into()));
    assert_eq!(list(&["--backend", "one"]).await["matched"], 5);
    assert_eq!(list(&["--backend", "one", "--client", "127.0.0.0/8", "--pool", "web"]).await["matched"], 5);
    assert_eq!(list(&["--client", "10.0.0.0/8"]).await["matched"], 0);
    assert_eq!(list(&["--age", "1h"]).await["matched"], 0);
    let few = list(&["--limit", "3", "--sort", "bytes"]).await;
    assert_eq!((few["sessions"].as_array().unwrap().len(), &few["matched"]), (3, &10.into()));
    let table = console.good(&["sessions", "--limit", "3"]).await;
    assert!(table.starts_with("SESSION  AGE  IDLE") && table.ends_with("and 7 more (--limit)\n"), "{table}");

    // One of them, which the test holds the other end of.
    let ours = live[3].local_addr().unwrap().to_string();
    live[3].write_all(&[b'x'; 1_000]).await.unwrap();
    soon("the echo", live[3].read_exact(&mut [0; 1_000])).await.unwrap();
    let found = console.good(&["sessions", "--json", "--client", &ours]).await;
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let id = found["sessions"][0]["id"].as_u64().unwrap().to_string();
    let explained: serde_json::Value = serde_json::from_str(&console.good(&["explain", "--json", &id]).await).unwrap();
    assert_eq!((&explained["to_backend"], &explained["to_client"]), (&1_001.into(), &1_001.into()));
    assert!(explained["tcp"]["client"]["rtt_ms"].as_f64().unwrap() > 0.0, "{explained}");
    assert!(explained["tcp"]["backend"]["congestion_window"].as_u64().unwrap() > 0, "{explained}");
    let local = explained["local"].as_str().unwrap().to_owned();
    assert!(local.starts_with("127.0.0.1:") && explained["failed_attempts"].is_null(), "{explained}");
    assert!(console.good(&["explain", &id]).await.contains(&format!(", from {local}\n")));
    assert!(console.good(&["sessions", "--client", &ours]).await.contains(&local));
    assert!(console.good(&["explain", &id]).await.contains("1001 bytes to the backend, 1001 to the client"));

    // It alone is closed, then those of a backend, and nothing without being said.
    console.good(&["close", &id]).await;
    assert!(soon("its end", live[3].read(&mut [0; 8])).await.is_err(), "a cut stream never reads as complete");
    until("nine are left", || async { (list(&[]).await["all"] == 9).then_some(()) }).await;
    assert_eq!(console.says(&["close", &id]).await.code, Some(3));
    assert_eq!(console.says(&["explain", &id]).await.code, Some(3));
    for arguments in [&["close"][..], &["close", "--all", "--pool", "web"], &["close", "x"]] {
        assert_eq!(console.says(arguments).await.code, Some(2), "{arguments:?}");
    }
    for body in
        ["{}", "{\"filter\":{}}", "{\"filter\":{\"pool\":\"web\"},\"all\":true}", "{\"filter\":{\"client\":\"x\"}}"]
    {
        assert_eq!(console.ask("POST", "/api/v1/sessions/close", body).await.unwrap().0, 400, "{body}");
    }
    assert_eq!(list(&[]).await["all"], 9);
    console.good(&["disable", "two", "--close", "--wait"]).await;
    until("those of the other are left", || async {
        let all = list(&[]).await;
        (all["all"] == list(&["--backend", "one"]).await["matched"]).then_some(())
    })
    .await;
    for arguments in [&["close", "--all"][..], &["close", "--pool", "web"], &["close", "--idle", "0s"]] {
        assert_eq!(console.says(arguments).await.code, Some(2), "no terminal to ask on: {arguments:?}");
    }
    console.good(&["close", "--all", "--yes"]).await;
    until("none is left", || async { (list(&[]).await["all"] == 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_rebalance_says_what_it_would_do_and_does_it() {
    let (one, two) = (Backend::echo().await, Backend::echo().await);
    let keys = "balance = \"least_connections\"\nrebalance = { max_per_second = 100, min_age = \"0s\" }\n";
    let console = Console::start(&config(&[("one", &one), ("two", &two)], "", "", keys)).await;
    let front = console.program.front("front").await;
    console.good(&["disable", "two"]).await;
    let mut live = Vec::new();
    for _ in 0..10 {
        live.push(session(front).await);
    }
    console.good(&["ready", "two"]).await;
    let dry = console.good(&["rebalance", "web", "--dry-run"]).await;
    let would = "pool web: it would close 5 sessions, 100 a second, prefers idle, none younger than 0s; done in 1s\n";
    assert!(dry.starts_with(would), "{dry}");
    assert!(dry.contains("one            10   5.0      5\n"), "{dry}");
    let explained = console.good(&["explain", "one"]).await;
    assert!(explained.contains("10 sessions, its part is 5.0, that is 5 over the threshold of 10 %"), "{explained}");
    let done = console.good(&["rebalance", "web", "--note", "after the deploy"]).await;
    assert!(done.starts_with("pool web: it closes 5 sessions, 100 a second"), "{done}");
    until("closed", || async { (console.backend("one").await["sessions"] == 5).then_some(()) }).await;
    let dry = console.good(&["rebalance", "web", "--dry-run"]).await;
    assert!(dry.contains("pool web"), "{dry}");
    // Not while anything is wrong: one can't be reached.
    drop(two);
    until("down", || async { (console.backend("two").await["standing"] == "down").then_some(()) }).await;
    let said = console.says(&["rebalance", "web"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("can't be rebalanced now: two is down"), "{said:?}");
}

#[tokio::test]
async fn where_clients_come_back_to_the_same_backend_a_rebalance_is_refused() {
    let one = Backend::echo().await;
    let console = Console::start(&config(&[("one", &one)], "", "", "balance = \"maglev\"")).await;
    for arguments in [&["rebalance", "web"][..], &["rebalance", "web", "--dry-run"]] {
        let said = console.says(arguments).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        let why = "can't be rebalanced with balance \"maglev\": a client that is closed comes back to the same backend";
        assert!(said.err.contains(why), "{said:?}");
    }
}
