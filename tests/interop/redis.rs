//! Redis: short commands, pipelines, and a subscription that stays.

use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::checks::Watched;
use super::port;
use crate::support::{CommandOutput, HeldPort, Process, Rig, command, program, programs, run, soon, until};

const CHECK: &str = r#"
check = { kind = "script", interval = "200ms", fast_interval = "50ms", timeout = "2s", steps = [
  { send = "PING\r\n" },
  { expect = "+PONG\r\n" },
] }
"#;

struct Server {
    process: Process,
    port: HeldPort,
    _directory: tempfile::TempDir,
}

impl Server {
    async fn start(redis: &Path) -> Self {
        Self::start_on(redis, HeldPort::new()).await
    }

    async fn start_on(redis: &Path, port: HeldPort) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = command(redis);
        command.current_dir(directory.path());
        command.args(["--bind", "127.0.0.1", "--port", &port.address().port().to_string(), "--daemonize", "no"]);
        command.args(["--save", "", "--appendonly", "no", "--loglevel", "verbose"]);
        let mut process = Process::start(command, &directory.path().join("log"));
        until("Redis is ready", || {
            process.check_runs();
            let ready = process.log().contains("Ready to accept connections");
            async move { ready.then_some(()) }
        })
        .await;
        Self { process, port, _directory: directory }
    }
}

#[tokio::test]
async fn redis_with_a_server_killed_under_redis_benchmark() {
    let Some([redis, cli, benchmark]) = programs(["redis-server", "redis-cli", "redis-benchmark"]) else { return };
    let (mut victim, survivor) = tokio::join!(Server::start(&redis), Server::start(&redis));
    let (gone, stays) = (victim.port.address().to_string(), survivor.port.address().to_string());
    let rig = Rig::with_backends(&[&gone, &stays], CHECK).await;
    for id in [&gone, &stays] {
        let backend = rig.until_standing(id, "up").await;
        assert_eq!(backend["last_probe"]["kind"], "script", "{backend}");
    }
    let front = port(rig.front());
    let ask = |words: &'static [&'static str]| {
        let (cli, front) = (cli.clone(), front.clone());
        async move { run(&cli, &[&["-h", "127.0.0.1", "-p", &front, "-e"], words].concat(), b"").await }
    };
    assert_eq!(ask(&["PING"]).await.good(), "PONG\n");
    let mut ports = Vec::new();
    for _ in 0..4 {
        ports.push(ask(&["CONFIG", "GET", "port"]).await.good());
    }
    for server in [&victim, &survivor] {
        assert_eq!(ports.iter().filter(|answer| answer.contains(&port(server.port.address()))).count(), 2, "{ports:?}");
    }

    let done = bench(&benchmark, rig.front(), &["-n", "5000", "-t", "set,get,lrange_100"]).await.good();
    assert!(done.contains("GET: ") && done.contains("requests per second"), "{done}");
    bench(&benchmark, rig.front(), &["-n", "20000", "-t", "set,get", "-P", "16", "-d", "2000", "-r", "100"])
        .await
        .good();

    let (program, address) = (benchmark.clone(), rig.front());
    // Endless: killing the server is what ends it.
    let endless = ["-n", "100000000", "-t", "set", "-d", "100"];
    let running = tokio::spawn(async move { bench(&program, address, &endless).await });
    let before = rig.backend(&gone).await.unwrap()["bytes_to_client"].as_u64().unwrap();
    until("redis-benchmark runs on the victim", || async {
        let backend = rig.backend(&gone).await?;
        let busy = backend["sessions"].as_u64()? >= 10 && backend["bytes_to_client"].as_u64()? > before + 1000;
        busy.then_some(())
    })
    .await;
    victim.process.kill();
    for _ in 0..30 {
        let answer = ask(&["CONFIG", "GET", "port"]).await.good();
        assert!(answer.contains(&port(survivor.port.address())), "{answer}");
    }
    let cut = running.await.unwrap();
    assert!(!cut.ok && cut.err.starts_with("Error: "), "{cut:?}");
    bench(&benchmark, rig.front(), &["-n", "2000", "-t", "ping"]).await.good();
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// The server that takes writes is the one that is up.
#[tokio::test]
async fn writes_follow_the_master_through_a_failover() {
    let Some([redis, cli]) = programs(["redis-server", "redis-cli"]) else { return };
    let (mut first, second) = tokio::join!(Server::start(&redis), Server::start(&redis));
    let (one, two) = (first.port.address(), second.port.address());
    let ask = |to: SocketAddr, words: &'static str| {
        let (cli, to) = (cli.clone(), port(to));
        async move {
            let words: Vec<&str> = ["-h", "127.0.0.1", "-p", &to, "-e"].into_iter().chain(words.split(' ')).collect();
            run(&cli, &words, b"").await.good()
        }
    };
    let follow = async |follower: SocketAddr, leader: SocketAddr| {
        let (cli, leader) = (cli.clone(), port(leader));
        let to = port(follower);
        let words = ["-h", "127.0.0.1", "-p", &to, "-e", "REPLICAOF", "127.0.0.1", &leader];
        run(&cli, &words, b"").await.good();
    };
    follow(two, one).await;
    let (gone, next) = (one.to_string(), two.to_string());
    let check = "check = { kind = \"redis\", role = \"master\", interval = \"100ms\", fast_interval = \"50ms\" }";
    let rig = Rig::with_backends(&[&gone, &next], check).await;
    assert_eq!(rig.until_standing(&gone, "up").await["reason"], "redis ROLE: master (1st pass)");
    let reason = rig.until_standing(&next, "down").await["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("redis ROLE: replica, wanted master"), "{reason}");
    for _ in 0..4 {
        assert_eq!(ask(rig.front(), "SET written before").await, "OK\n");
    }

    first.process.kill();
    rig.until_standing(&gone, "down").await;
    ask(two, "REPLICAOF NO ONE").await;
    rig.until_standing(&next, "up").await;
    for _ in 0..4 {
        assert_eq!(ask(rig.front(), "SET written after").await, "OK\n");
    }
    assert_eq!(ask(two, "GET written").await, "after\n");

    // The old master starts as a master, because it does not know the new one yet. Then it follows it.
    let again = Server::start_on(&redis, first.port).await;
    follow(again.port.address(), two).await;
    until("the old master is a replica for the check, too", || async {
        let backend = rig.backend(&gone).await?;
        (backend["standing"] == "down" && backend["last_probe"]["got"] == "replica").then_some(())
    })
    .await;
    for _ in 0..4 {
        assert_eq!(ask(rig.front(), "SET written last").await, "OK\n");
    }
    assert_eq!(ask(two, "GET written").await, "last\n");
    rig.stop().await;
}

/// What is behind a password is up for a check without one, and has a role for a check with it.
#[tokio::test]
async fn redis_behind_a_password() {
    let Some([redis, cli]) = programs(["redis-server", "redis-cli"]) else { return };
    let server = Server::start(&redis).await;
    let address = server.port.address();
    run(&cli, &["-p", &port(address), "CONFIG", "SET", "requirepass", "s3cret"], b"").await.good();
    for (more, passed, got) in [
        ("", true, "\"-NOAUTH"),
        (", role = \"master\"", false, "\"-NOAUTH"),
        (", role = \"master\", password = \"s3cret\"", true, "master"),
        (", role = \"master\", username = \"default\", password = \"s3cret\"", true, "master"),
        (", password = \"wrong\"", false, "\"-WRONGPASS"),
    ] {
        let result = Watched::new(address, &format!("check = {{ kind = \"redis\"{more} }}")).next().await;
        assert_eq!(result.passed, passed, "{more}: {result}");
        assert!(result.got.starts_with(got) && !result.to_string().contains("s3cret"), "{more}: {result}");
    }
}

/// With 20 connections; it ends with an error as soon as one of them breaks.
async fn bench(program: &Path, address: SocketAddr, more: &[&str]) -> CommandOutput {
    run(program, &[&["-h", "127.0.0.1", "-p", &port(address), "-q", "-c", "20"], more].concat(), b"").await
}

/// One backend: publisher and subscriber have to meet.
#[tokio::test]
async fn redis_messages_reach_a_subscriber_that_stays_until_its_server_is_killed() {
    let Some([redis, cli]) = programs(["redis-server", "redis-cli"]) else { return };
    let mut server = Server::start(&redis).await;
    let id = server.port.address().to_string();
    let rig = Rig::with_backends(&[&id], CHECK).await;
    rig.until_standing(&id, "up").await;

    let mut subscriber = TcpStream::connect(rig.front()).await.unwrap();
    subscriber.write_all(b"SUBSCRIBE news\r\n").await.unwrap();
    expect(&mut subscriber, b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n").await;
    let text = |number: usize| format!("{number}:{}", "x".repeat(number * 7));
    let publish: String = (0..300).map(|number| format!("PUBLISH news {}\n", text(number))).collect();
    let front = port(rig.front());
    let published = run(&cli, &["-h", "127.0.0.1", "-p", &front, "-e"], publish.as_bytes()).await.good();
    assert_eq!(published, "1\n".repeat(300));
    for number in 0..300 {
        let text = text(number);
        let wanted = format!("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n${}\r\n{text}\r\n", text.len());
        expect(&mut subscriber, wanted.as_bytes()).await;
    }

    server.process.kill();
    let end = soon("the subscriber hears of it", subscriber.read(&mut [0; 16])).await;
    assert!(matches!(end, Ok(0)) || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    drop(subscriber);
    rig.until_standing(&id, "down").await;
    assert!(!run(&cli, &["-h", "127.0.0.1", "-p", &front, "-e", "PING"], b"").await.ok);
    rig.until_no_sessions().await;
    rig.stop().await;
}

async fn expect(stream: &mut TcpStream, wanted: &[u8]) {
    let mut got = vec![0; wanted.len()];
    soon("a message", stream.read_exact(&mut got)).await.unwrap();
    assert_eq!(got.escape_ascii().to_string(), wanted.escape_ascii().to_string());
}

#[tokio::test]
async fn probes_leave_no_reset_in_its_log() {
    let Some(redis) = program("redis-server") else { return };
    let server = Server::start(&redis).await;
    for check in ["kind = \"redis\"", "kind = \"redis\", role = \"master\"", "kind = \"tcp\", linger = true"] {
        super::checks::pass_often(server.port.address(), check).await;
    }
    let log = server.process.log();
    assert!(log.contains("Accepted 127.0.0.1:") && !log.contains("reset by peer"), "{log}");
}
