//! The API: its document says what there is, its events what happens.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{Console, config};
use crate::support::{Backend, session, soon, until};

#[tokio::test]
async fn every_path_of_the_api_document_exists_and_answers_as_documented() {
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("a/b c", &backend)], "", "", "")).await;
    let document: Value = serde_json::from_str(&console.get("/api/v1/openapi.json").await.unwrap().1).unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let real = path.replace("{pool}", "web").replace("{backend}", "a/b%20c").replace("{listener}", "front");
        let real = if real.ends_with("/route") { real + "?from=10.0.0.1" } else { real };
        for method in methods.as_object().unwrap().keys() {
            if path.ends_with("/events") || path.contains("{id}") {
                continue;
            }
            let (status, body) = console.ask(&method.to_uppercase(), &real, "").await.unwrap();
            let wanted = if method == "get" { 200 } else { 415 };
            assert_eq!(status, wanted, "{method} {real}: {body}");
        }
        let (status, body) = console.ask("DELETE", &real, "{}").await.unwrap();
        assert_eq!(status, 405, "{real}: {body}");
    }
    // Encoded or not, it is the same backend.
    for path in ["/api/v1/backends/web/a/b%20c", "/api/v1/backends/web/a%2Fb%20c"] {
        let (status, body) = console.get(path).await.unwrap();
        assert_eq!(status, 200, "{path}: {body}");
    }
    for path in ["/api/v1/backends/web/none", "/api/v1/backends/none/a", "/api/v1/pools/none"] {
        let (status, body) = console.get(path).await.unwrap();
        assert_eq!(status, 404);
        assert!(body.contains("there is no "), "{body}");
    }
}

#[tokio::test]
async fn events_arrive_at_once_and_a_slow_reader_is_told_what_it_missed() {
    let (one, two) = (Backend::echo().await, Backend::echo().await);
    let console = Console::start(&config(&[("one", &one), ("two", &two)], "", "", "")).await;
    let next = config(&[("one", &one), ("two", &two)], "max_connections = 9", "", "");
    let mut following = console.command(&["events", "--json", "--count", "100"]).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    // It follows once it shows something: the same order again and again, until it does.
    let first = soon("an event", async {
        loop {
            console.good(&["drain", "one"]).await;
            let line = tokio::time::timeout(std::time::Duration::from_millis(500), lines.next_line()).await;
            if let Ok(line) = line {
                return line.unwrap().unwrap();
            }
            console.good(&["ready", "one"]).await;
        }
    })
    .await;
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&first["pool"], &first["backend"]), (&"web".into(), &"one".into()));
    two.stop().await;
    let mut names = Vec::new();
    let has = |names: &[(String, String)], name: &str| names.iter().any(|(known, _)| known == name);
    while !has(&names, "all_down") {
        let line = soon("an event", lines.next_line()).await.unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        names.push((event["event"].as_str().unwrap().to_owned(), event["to"].as_str().unwrap_or("").to_owned()));
    }
    assert!(names.contains(&("standing".to_owned(), "down".to_owned())), "{names:?}");
    assert!(names.contains(&("all_down".to_owned(), String::new())), "{names:?}");
    std::fs::write(console.program.directory().join("lb.toml"), next).unwrap();
    let reload = soon("the reload", async {
        loop {
            let event: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
            if event["event"] == "reload" {
                return event["says"].clone();
            }
        }
    });
    assert_eq!(reload.await, "applied: generation 2");
    soon("the end", following.kill()).await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_of_events_loses_some_and_is_told() {
    let one = Backend::echo().await;
    let crowd: Vec<_> = (1..=250).map(|n| format!("\"127.1.0.{n}:1\"")).collect();
    let more = format!("[pools.crowd]\nbackends = [{}]\ncheck = {{ kind = \"none\" }}\n", crowd.join(", "));
    let console = Console::start(&config(&[("one", &one)], "", "", &more)).await;
    let mut slow = UnixStream::connect(&console.socket).await.unwrap();
    slow.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(soon("a greeting", slow.read(&mut [0; 64])).await.unwrap() > 0);
    // It does not read: its socket fills up, then its queue. Nothing waits for it.
    for _ in 0..10 {
        for body in ["{\"operator\":\"drain\"}", "{\"operator\":\"ready\"}"] {
            assert_eq!(console.ask("PATCH", "/api/v1/pools/crowd", body).await.unwrap().0, 200);
        }
    }
    let (mut seen, mut buffer) = (String::new(), vec![0; 65_536]);
    soon("the word on what was lost", async {
        while !seen.contains("event: lost\ndata: {\"lost\":") {
            let n = slow.read(&mut buffer).await.unwrap();
            assert!(n > 0);
            seen += &String::from_utf8_lossy(&buffer[..n]);
        }
    })
    .await;
}

#[tokio::test]
async fn the_log_level_can_be_raised_for_a_time() {
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("a", &backend)], "", "", "")).await;
    assert_eq!(console.good(&["log-level"]).await, "info\n");
    assert_eq!(console.good(&["log-level", "warn,evenkeel::probe=debug"]).await, "warn,evenkeel::probe=debug\n");
    assert_eq!(console.good(&["log-level", "debug", "--for", "1s"]).await, "debug\n");
    until("the former level", || async {
        (console.good(&["log-level"]).await == "warn,evenkeel::probe=debug\n").then_some(())
    })
    .await;
    let said = console.says(&["log-level", "debgu"]).await;
    assert_eq!(said.code, Some(2));
    assert_eq!(said.err, "evenkeel: `level`: \"debgu\" is no level; did you mean `debug`?\n");
    console.good(&["log-level", "info"]).await;
    console.good(&["drain", "a"]).await;
    console.program.until_says("operator: drain by ").await;
}

#[tokio::test]
async fn reload_reads_the_file_and_reports_the_result() {
    let backend = Backend::echo().await;
    let text = |limit: &str| {
        let top = format!("reload.watch = false\n{limit}");
        config(&[("a", &backend)], &top, "admin_token = \"secret\"\n", "")
    };
    let console = Console::start(&text("max_connections = 5")).await;
    let mut live = session(console.program.front("front").await).await;
    assert_eq!(console.good(&["reload"]).await, "unchanged, generation 1\n");
    let write = |text: &str| std::fs::write(console.program.directory().join("lb.toml"), text).unwrap();

    write(&text("max_connections = 6").replace("workers = 2", "workers = 7"));
    let said = console.good(&["reload"]).await;
    assert_eq!(said, "applied, generation 2\nmax_connections: 5 -> 6\nworkers: 2 -> 7\nworkers takes a restart\n");
    let effective = console.good(&["config"]).await;
    assert!(effective.contains("\"max_connections\": 6") && !effective.contains("secret"), "{effective}");

    write(&text("max_connections = 0"));
    // Where the balancer is can't be read from such a file.
    let said = console.says(&["--admin", "./admin.sock", "reload"]).await;
    assert_eq!((said.code, &*said.out), (Some(2), ""));
    assert!(said.err.contains("lb.toml:3:19: `max_connections = 0`"), "{}", said.err);
    let checked = console.says(&["check"]).await;
    assert_eq!(said.err, checked.err, "the words of `check`");

    let answer: Value =
        serde_json::from_str(&console.good(&["--admin", "./admin.sock", "config", "--json"]).await).unwrap();
    assert_eq!((&answer["generation"], &answer["last_reload"]["result"]), (&json!(2), &json!("refused")));
    live.write_all(b"still").await.unwrap();
    let mut back = [0; 5];
    soon("an echo", live.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"still");
}
