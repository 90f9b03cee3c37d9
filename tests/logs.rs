//! Log lines: their fields, which lines there are, and that no session waits for them.

use std::net::SocketAddr;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::{Backend, Program, exchange, free_port, get, soon, until};

const NO_CHECK: &str = "check = { kind = \"none\" }";

fn config(backend: SocketAddr, check: &str, log: &str) -> String {
    format!(
        "workers = 2\n[admin]\nbind = \"127.0.0.1:0\"\n[log]\n{log}\n\
         [listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\nbackends = [{{ address = \"{backend}\", id = \"one\" }}]\n{check}\n"
    )
}

/// The part of a text line that does not change, and what does as `…`.
fn settled(line: &str) -> String {
    let words = line.split(' ').skip(1).filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((key @ ("client" | "address" | "local" | "session"), _)) => format!("{key}=…"),
        Some((key, _)) if key.ends_with("_ms") => format!("{key}=…"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_session_is_one_line_of_text_without_colours() {
    let backend = Backend::answering("hello").await;
    let program = Program::start(&config(backend.address(), NO_CHECK, ""), &[]);
    let front = program.front("front").await;
    for _ in 0..3 {
        assert_eq!(exchange(front, b"ping").await.unwrap(), b"hello");
    }
    let log = program.stop().await;
    let ends: Vec<_> = log.iter().filter(|line| line.contains("session ended")).collect();
    assert_eq!(ends.len(), 3);
    assert!(!log.iter().any(|line| line.contains('\u{1b}')), "{log:#?}");
    assert_eq!(
        settled(ends[0]),
        "INFO session ended session=… listener=front pool=back client=… backend=one address=… local=… outcome=\"completed\" \
         attempts=1 connected_ms=… first_byte_ms=… total_ms=… to_backend=4 to_client=5"
    );
    let time = ends[0].split(' ').next().unwrap();
    assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
}

#[tokio::test]
async fn every_json_line_parses_and_a_session_has_every_field() {
    let (seen, mut see) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::serving(move |mut stream| {
        let seen = seen.clone();
        async move {
            let peer = stream.peer_addr().unwrap();
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                seen.send(peer).unwrap();
                stream.write_all(b"hello").await.unwrap();
            }
        }
    })
    .await;
    // A warning at the start, changes of standing, and the stop are JSON, too.
    let check = "check = { fall = 1, interval = \"100ms\" }";
    let program = Program::start(&config(backend.address(), check, "format = \"json\""), &[]);
    let listening = program.until_says("\"listening\"").await;
    let listening: Value = serde_json::from_str(&listening).unwrap();
    let front: SocketAddr = listening["addresses"].as_str().unwrap().trim_matches(['[', ']']).parse().unwrap();
    program.until_says("settled").await;
    let mut client = std::net::TcpStream::connect(front).unwrap();
    let address = client.local_addr().unwrap();
    tokio::task::spawn_blocking(move || {
        std::io::Write::write_all(&mut client, b"ping").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        std::io::Read::read_to_end(&mut client, &mut Vec::new()).unwrap();
    })
    .await
    .unwrap();
    let backend_address = backend.address().to_string();
    backend.stop().await;
    program.until_says("\"from\":\"up\"").await;
    // No backend: fewer fields.
    assert_eq!(exchange(front, b"").await.unwrap(), b"");
    let log = program.stop().await;

    let local = see.recv().await.unwrap().to_string();
    let lines: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let ends: Vec<_> = lines.iter().filter(|line| line["message"] == "session ended").collect();
    let [served, refused] = ends[..] else { panic!("{ends:#?}") };
    for (field, value) in [
        ("level", "INFO"),
        ("listener", "front"),
        ("pool", "back"),
        ("client", &address.to_string()),
        ("backend", "one"),
        ("address", &backend_address),
        ("local", &local),
        ("outcome", "completed"),
    ] {
        assert_eq!(served[field], value, "{field}");
    }
    for (field, value) in [("session", 1), ("attempts", 1), ("to_backend", 4), ("to_client", 5)] {
        assert_eq!(served[field], value, "{field}");
    }
    for field in ["connected_ms", "first_byte_ms", "total_ms"] {
        assert!(served[field].as_f64().unwrap() > 0.0, "{field}: {served}");
    }
    assert_eq!((&refused["outcome"], &refused["attempts"]), (&Value::from("no_backend"), &Value::from(0)));
    assert!(refused.get("backend").is_none() && refused.get("connected_ms").is_none(), "{refused}");
}

#[tokio::test]
async fn a_change_of_standing_is_one_line_with_its_reason() {
    let address = free_port();
    let check = "check = { kind = \"http\", path = \"/health\", interval = \"50ms\", fast_interval = \"20ms\" }";
    let program = Program::start(&config(address, check, ""), &[]);
    program.until_says("no backend is up").await;
    let backend = Backend::on(address, |mut stream| async move {
        use tokio::io::AsyncWriteExt;
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    })
    .await;
    program.until_says("a backend is up again").await;
    // Many more probes, and no line about them.
    let so_far = backend.connections();
    until("more probes", || async { (backend.connections() > so_far + 5).then_some(()) }).await;
    let log = program.stop().await;
    let changes: Vec<_> = log.iter().filter(|line| line.contains(" from=")).map(|line| settled(line)).collect();
    assert_eq!(
        changes,
        [
            format!(
                "INFO down: http connect {address}: refused (1st failure) pool=back backend=one address=… from=\"unproven\""
            ),
            "INFO up: http GET /health: status 200 (2nd pass) pool=back backend=one address=… from=\"down\"".to_owned(),
        ]
    );
}

#[tokio::test]
async fn sessions_and_levels_can_be_turned_off() {
    let backend = Backend::answering("hello").await;
    for (log, wanted) in [("sessions = false", true), ("level = \"warn\"", false), ("level = \"off\"", false)] {
        let front = free_port();
        let text =
            config(backend.address(), NO_CHECK, log).replacen("127.0.0.1:0\"\npool", &format!("{front}\"\npool"), 1);
        let program = Program::start(&text, &[]);
        let answer = until("an answer", || async { exchange(front, b"ping").await.ok() }).await;
        assert_eq!(answer, b"hello");
        let lines = program.stop().await;
        assert!(!lines.iter().any(|line| line.contains("session ended")), "{lines:#?}");
        assert_eq!(lines.iter().any(|line| line.contains(" INFO ")), wanted, "{lines:#?}");
        assert_eq!(lines.is_empty(), log.contains("off"), "{lines:#?}");
    }
}

/// Three sessions: one that is served, one that connects and leaves, one whose first backend refuses; which of them have a
/// line is what `log.sessions` says.
#[tokio::test]
async fn sessions_that_went_well_and_empty_ones_can_be_left_out() {
    let backend = Backend::answering("hello").await;
    let served = ["completed to_client=5", "completed to_client=0", "no_backend to_client=0"];
    for (log, wanted) in [
        ("true", &served[..]),
        ("\"all\"", &served[..]),
        ("{ skip_empty = true }", &served[..1]),
        ("\"failed\"", &served[2..]),
        ("{ outcome = \"failed\" }", &served[2..]),
        ("{ outcome = \"failed\", skip_empty = true }", &[]),
        ("{ outcome = \"none\" }", &[]),
        ("false", &[]),
    ] {
        let none = format!(
            "[listeners.none]\nbind = \"127.0.0.1:0\"\npool = \"none\"\n\
             [pools.none]\nbackends = [{{ address = \"127.0.0.1:1\", weight = 0 }}]\n{NO_CHECK}\n"
        );
        let program = Program::start(&(config(backend.address(), NO_CHECK, &format!("sessions = {log}")) + &none), &[]);
        let (front, none) = (program.front("front").await, program.front("none").await);
        assert_eq!(exchange(front, b"ping").await.unwrap(), b"hello");
        let mut port_check = soon("a connect", TcpStream::connect(front)).await.unwrap();
        port_check.shutdown().await.unwrap();
        soon("the end", port_check.read_to_end(&mut Vec::new())).await.unwrap();
        let mut refused = soon("a connect", TcpStream::connect(none)).await.unwrap();
        assert_eq!(soon("a refusal", refused.read(&mut [0])).await.unwrap(), 0);
        let lines = program.stop().await;
        let mut ended: Vec<_> = lines.iter().filter(|line| line.contains("session ended")).collect();
        // In the order of their begin: two workers may end the last two in any.
        ended.sort_by_key(|line| {
            line.split("session=").nth(1).unwrap().split(' ').next().unwrap().parse::<u32>().unwrap()
        });
        let said = |line: &String| {
            let field = |name: &str| line.split(&format!("{name}=")).nth(1).unwrap().split_whitespace().next().unwrap();
            format!("{} to_client={}", field("outcome").trim_matches('"'), field("to_client"))
        };
        assert_eq!(ended.iter().map(|line| said(line)).collect::<Vec<_>>(), wanted, "{log}: {lines:#?}");
    }
}

/// Its stdout and stderr are one pipe without a reader, as with a log collector that hangs.
#[tokio::test]
async fn a_sleeping_log_reader_delays_neither_sessions_nor_the_stop() {
    let backend = Backend::answering("hello").await;
    let (front, admin, empty) = (free_port(), free_port(), free_port());
    let more = format!(
        "[listeners.empty]\nbind = \"{empty}\"\npool = \"empty\"\n\
         [pools.empty]\nbackends = [{{ address = \"127.0.0.1:1\", weight = 0 }}]\n{NO_CHECK}\n"
    );
    let text = config(backend.address(), NO_CHECK, "")
        .replacen("127.0.0.1:0\"\npool", &format!("{front}\"\npool"), 1)
        .replacen("127.0.0.1:0", &admin.to_string(), 1)
        + &more;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("lb.toml"), text).unwrap();
    let (unread, pipe) = std::io::pipe().unwrap();
    let mut command = Command::new(Program::PATH);
    command.current_dir(directory.path()).stdin(Stdio::null()).stdout(pipe.try_clone().unwrap()).stderr(pipe);
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    drop(command);
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();

    until("an answer", || async { exchange(front, b"ping").await.ok() }).await;
    let dropped = || async {
        let metrics = get(admin, "/metrics").await.unwrap().1;
        let line = metrics.lines().find_map(|line| line.strip_prefix("evenkeel_log_lines_dropped_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(dropped().await, 0);
    // A line each, of a front without a backend: the cheapest sessions that there are.
    let enough = 16_384 + 64 * 1024 / 100;
    let mut clients = JoinSet::new();
    for _ in 0..32 {
        clients.spawn(async move {
            for _ in 0..enough / 32 + 1 {
                let mut stream = soon("a connect", TcpStream::connect(empty)).await.unwrap();
                assert_eq!(soon("a refusal", stream.read(&mut [0])).await.unwrap(), 0);
                // Nothing of it stays in the kernel.
                stream.set_zero_linger().unwrap();
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    until("lines are dropped", || async { (dropped().await > 0).then_some(()) }).await;
    let before = dropped().await;
    for _ in 0..50 {
        assert_eq!(exchange(front, b"ping").await.unwrap(), b"hello");
    }
    assert!(dropped().await >= before + 50);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(soon("the end", child.wait()).await.unwrap().code(), Some(0));
    drop(unread);
}

/// The backends that failed a session before it was served, or at the end, and the limit that ended the search.
#[tokio::test]
async fn a_log_line_names_the_backends_that_failed_and_the_reason_that_ended_the_search() {
    let (one, two, backend) = (free_port(), free_port(), Backend::answering("hello").await);
    let config = |backends: &str, more: &str| {
        format!(
            "admin.bind = \"off\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
             backends = [{backends}]\ncheck = {{ kind = \"none\" }}\noutliers = {{ mode = \"off\" }}\n{more}\n"
        )
    };
    let dead =
        format!("{{ address = \"{one}\", id = \"one\" }}, {{ address = \"{two}\", id = \"two\", priority = 1 }}");
    let backup = format!("{dead}, {{ address = \"{}\", id = \"three\", priority = 2 }}", backend.address());
    let program = Program::start(&config(&backup, ""), &[]);
    assert_eq!(exchange(program.front("front").await, b"?").await.unwrap(), b"hello");
    let line = program.until_says("session ended").await;
    assert!(line.contains("backend=three ") && line.contains("attempts=3 "), "{line}");
    assert!(line.contains(" failed_attempts=\"one: refused, two: refused\" "), "{line}");
    program.stop().await;

    let connect = |keys: &str| format!("connect = {{ retry_delay = \"1ms\", {keys} }}");
    for (keys, says) in [
        ("attempts = 4", "all were tried, and connect.attempts is reached"),
        ("attempts = 1000, retry_budget = 10000, deadline = \"5ms\"", "connect.deadline"),
        ("attempts = 1000, deadline = \"300ms\"", "connect.deadline ended the wait for connect.retry_budget"),
    ] {
        let program = Program::start(&config(&dead, &connect(keys)), &[]);
        assert_eq!(exchange(program.front("front").await, b"").await.unwrap(), b"");
        let line = program.until_says("session ended").await;
        assert!(line.contains("outcome=\"connect_failed\"") && line.contains(says), "{keys}: {line}");
        assert!(line.contains(" failed_attempts=\"one: refused"), "{line}");
        program.stop().await;
    }
    // Time alone.
    let program = Program::start(&config(&dead, "connect = { attempts = 1000, deadline = \"150ms\" }"), &[]);
    assert_eq!(exchange(program.front("front").await, b"").await.unwrap(), b"");
    let line = program.until_says("session ended").await;
    assert!(line.contains("; connect.deadline is over\""), "{line}");
    program.stop().await;
}

/// With `replay` too: the backend that did not answer, and why no other was tried.
#[tokio::test]
async fn a_log_line_names_the_backend_that_did_not_answer() {
    let bad = Backend::serving(|mut stream| async move {
        let _ = stream.read(&mut [0; 8]).await;
    })
    .await;
    let good = Backend::answering("hello").await;
    let start = |spill: &str| {
        let text = format!(
            "admin.bind = \"off\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
             backends = [{{ address = \"{}\", id = \"bad\" }}, {{ address = \"{}\", id = \"good\", backup = true }}]\n\
             check = {{ kind = \"none\" }}\noutliers = {{ mode = \"off\" }}\nreplay = \"until_response\"\n{spill}\n",
            bad.address(),
            good.address()
        );
        Program::start(&text, &[])
    };
    for (spill, answer) in [("", &b"hello"[..]), ("spill = []", b"")] {
        let program = start(spill);
        let mut client = TcpStream::connect(program.front("front").await).await.unwrap();
        client.write_all(b"?").await.unwrap();
        let mut got = Vec::new();
        let _ = soon("an end", client.read_to_end(&mut got)).await;
        drop(client);
        assert_eq!(got, answer);
        let line = program.until_says("session ended").await;
        assert!(line.contains(" failed_attempts=\"bad: closed before its first byte\" "), "{line}");
        let says = " not_replayed=\"no other backend may be tried\"";
        assert_eq!((line.contains(says), line.contains("replays=1")), (!spill.is_empty(), spill.is_empty()), "{line}");
        program.stop().await;
    }
}

#[tokio::test]
async fn the_level_that_the_file_offers_shows_what_each_probe_found() {
    let backend = Backend::echo().await;
    let program = Program::start(&config(backend.address(), "", "level = \"info,evenkeel::probe=debug\""), &[]);
    let line = program.until_says("DEBUG").await;
    assert!(line.contains(&backend.address().to_string()) && line.contains("passed=true"), "{line}");
    program.stop().await;
}

/// stderr on a full disk: the log can't say it, so `status` and the metrics do.
#[tokio::test]
async fn a_full_disk_under_the_log_is_named() {
    let backend = Backend::answering("hello").await;
    let admin = free_port();
    let text = config(backend.address(), NO_CHECK, "").replacen("127.0.0.1:0", &admin.to_string(), 1);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {} run 2>/dev/full", Program::PATH)]);
    let program = Program::start_by(&text, command);
    let line = until("trouble with the log", || async {
        let status: Value = serde_json::from_str(&get(admin, "/api/v1/status").await.ok()?.1).ok()?;
        status["troubles"].as_array()?.first()?.as_str().map(str::to_owned)
    })
    .await;
    assert!(line.starts_with("the log can't be written for ") && line.contains("No space left on device"), "{line}");
    let metrics = get(admin, "/metrics").await.unwrap().1;
    assert!(metrics.contains("evenkeel_troubles 1\n") && !metrics.contains("log_lines_dropped_total 0\n"), "{metrics}");
    program.stop().await;
}

#[tokio::test]
async fn a_value_of_a_proxy_header_that_does_not_fit_is_named() {
    let backend = Backend::answering("hello").await;
    let more = format!("{NO_CHECK}\nsend_proxy = {{ version = \"v2\", unique_id = true }}");
    let text = config(backend.address(), &more, "")
        .replace("pool = \"back\"\n", "pool = \"back\"\naccept_proxy = { from = [\"127.0.0.1\"] }\n");
    let program = Program::start(&text, &[]);
    let mut client = TcpStream::connect(program.front("front").await).await.unwrap();
    // As long as a header may be, so that there is no room for the id.
    let value = [&[0xe0, 0x0f, 0xe1][..], &[b'x'; 0x0fe1]].concat();
    let addresses = [127, 0, 0, 1, 127, 0, 0, 1, 0, 80, 0, 80];
    let length = u16::try_from(addresses.len() + value.len()).unwrap().to_be_bytes();
    let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length, &addresses, &value].concat();
    assert_eq!(header.len(), 4_096);
    client.write_all(&header).await.unwrap();
    let line = program.until_says("values of the PROXY header are left out").await;
    assert!(line.contains(" WARN ") && line.contains("pool=back") && line.contains("types=\"0xe0\""), "{line}");
    drop(client);
    program.stop().await;
}

/// As on a board without a battery; with TLS, whose certificates have times.
#[tokio::test]
async fn a_wall_clock_before_1970_does_no_harm() {
    let Some(_faketime) = crate::support::program("faketime") else { return };
    let mut libraries = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| {
        let path = entry.path();
        path.join("faketime/libfaketimeMT.so.1")
    });
    let library = libraries.find(|path| path.exists()).expect("it comes with faketime");
    let backend = Backend::answering("hello").await;
    let check = "check = { kind = \"http\", tls = true, interval = \"100ms\" }";
    let program = Program::start_as(&config(backend.address(), check, ""), |command| {
        let fake = [("FAKETIME", "@1960-01-01 00:00:00"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        command.env("LD_PRELOAD", &library).envs(fake);
    });
    let admin = program.admin().await;
    program.until_says("down: ").await;
    for (path, wanted) in [("/live", 200), ("/metrics", 503), ("/api/v1/status", 503)] {
        let (status, body) = soon(path, get(admin, path)).await.unwrap();
        assert_eq!(status, wanted, "{path}: {body}");
        assert!(wanted == 200 || body.contains("the wall clock of this machine is before 1970"), "{body}");
    }
    let log = program.stop().await;
    assert!(!log.iter().any(|line| line.contains("panic")), "{log:#?}");
}
