//! PostgreSQL: two servers that know nothing of each other behind one pool.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::{Conversation, port};
use crate::console::Console;
use crate::support::{CommandOutput, HeldPort, Process, Rig, command, programs, run, until};

const CHECK: &str = r#"
check = { kind = "script", interval = "200ms", fast_interval = "50ms", timeout = "2s", steps = [
  { send_hex = "00000008 04d2162f" },  # "do you speak TLS?", which needs no login
  { expect = "N" },
] }
"#;

/// The user `nobody`, because PostgreSQL refuses to run as root.
pub(super) const UNPRIVILEGED: u32 = 65534;

pub(super) struct Server {
    process: Process,
    pub(super) port: HeldPort,
    postgres: PathBuf,
    pub(super) directory: tempfile::TempDir,
}

impl Server {
    pub(super) async fn start(initdb: &Path, postgres: &Path) -> Self {
        Self::start_with(initdb, postgres, async |_| String::new()).await
    }

    /// `prepare` is given the directory of its data, and says what is added to its settings.
    pub(super) async fn start_with(
        initdb: &Path,
        postgres: &Path,
        prepare: impl AsyncFnOnce(PathBuf) -> String,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
            chown(directory.path(), Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        }
        let mut init = unprivileged(initdb, directory.path());
        init.args(["--no-sync", "--auth=trust", "--username=test", "--encoding=UTF8", "--no-locale", "-D", "data"]);
        let init = tokio::process::Command::from(init).kill_on_drop(true).output().await.unwrap();
        CommandOutput::from(init).good();
        let data = directory.path().join("data");
        let settings = prepare(data.clone()).await;
        let mut file = fs::File::options().append(true).open(data.join("postgresql.conf")).unwrap();
        file.write_all(settings.as_bytes()).unwrap();
        let port = HeldPort::new();
        let process = Self::spawn(postgres, directory.path(), port.address());
        let mut this = Self { process, port, postgres: postgres.to_owned(), directory };
        this.until_ready().await;
        this
    }

    fn spawn(postgres: &Path, directory: &Path, address: SocketAddr) -> Process {
        let mut command = unprivileged(postgres, directory);
        command.args(["-D", "data", "-k"]).arg(directory).args(["-h", "127.0.0.1", "-p", &port(address)]);
        // No segment of shared memory outlives a kill; 64 connections are enough.
        for setting in ["fsync=off", "dynamic_shared_memory_type=mmap", "max_connections=64", "autovacuum=off"] {
            command.args(["-c", setting]);
        }
        Process::start(command, &directory.join("log"))
    }

    /// Again, after it was killed: the same data on the same port.
    async fn restart(&mut self) {
        self.process = Self::spawn(&self.postgres, self.directory.path(), self.port.address());
        self.until_ready().await;
    }

    async fn until_ready(&mut self) {
        let (process, directory) = (&mut self.process, self.directory.path());
        until("PostgreSQL is ready", || {
            process.check_runs();
            // Its first line is the pid, so that the file of one that was killed is none; its last line is the word.
            let state = fs::read_to_string(directory.join("data/postmaster.pid")).unwrap_or_default();
            let is_own = state.lines().next() == Some(&process.pid().to_string());
            let ready = is_own && state.lines().nth(7).is_some_and(|word| word.trim() == "ready");
            async move { ready.then_some(()) }
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // At once, but so that it gives back what the kernel keeps for it.
        self.process.ask(Signal::QUIT, Duration::from_secs(5));
    }
}

fn unprivileged(program: &Path, directory: &Path) -> Command {
    let mut command = command(program);
    command.current_dir(directory);
    if rustix::process::geteuid().is_root() {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    command
}

/// `psql` through an address; what it prints is what the server says and nothing else.
async fn sql(psql: &Path, address: SocketAddr, text: &str) -> CommandOutput {
    let url = url(address);
    run(psql, &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text, &url], b"").await
}

fn url(address: SocketAddr) -> String {
    format!("postgresql://test@{address}/postgres?sslmode=disable&connect_timeout=15")
}

async fn bench(pgbench: &Path, address: SocketAddr, seconds: &str) -> CommandOutput {
    run(pgbench, &["-n", "-c", "8", "-j", "2", "-T", seconds, &url(address)], b"").await
}

#[tokio::test]
async fn postgresql_with_a_server_killed_under_pgbench() {
    let Some([initdb, postgres, psql, pgbench]) = programs(["initdb", "postgres", "psql", "pgbench"]) else { return };
    let (one, two) = tokio::join!(Server::start(&initdb, &postgres), Server::start(&initdb, &postgres));
    let mut servers = [one, two];
    let ids = servers.each_ref().map(|server| server.port.address().to_string());
    let rig = Rig::with_backends(&[&ids[0], &ids[1]], CHECK).await;
    for id in &ids {
        rig.until_standing(id, "up").await;
    }

    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(sql(&psql, rig.front(), "SELECT inet_server_port()").await.good().trim().to_owned());
    }
    for server in &servers {
        assert_eq!(seen.iter().filter(|&seen| *seen == port(server.port.address())).count(), 2, "{seen:?}");
        run(&pgbench, &["-i", "-q", &url(server.port.address())], b"").await.good();
    }
    let whole = bench(&pgbench, rig.front(), "5").await.good();
    assert!(whole.contains("number of failed transactions: 0 ") && processed(&whole) > 0, "{whole}");

    // A transaction that lasts through all that follows, on the server that lives.
    let mut psql_that_stays = command(&psql);
    psql_that_stays.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", &url(rig.front())]);
    let mut long = Conversation::start(psql_that_stays);
    let survivor = long.ask("SELECT inet_server_port();").await;
    long.say("CREATE TABLE kept (value int);").await;
    assert_eq!(long.ask("BEGIN; INSERT INTO kept VALUES (1) RETURNING value;").await, "1");
    let victim = usize::from(port(servers[0].port.address()) == survivor);

    let (program, front) = (pgbench.clone(), rig.front());
    let running = tokio::spawn(async move { bench(&program, front, "5").await });
    let before = bytes(&rig, &ids[victim]).await;
    until("pgbench runs on the victim", || async {
        let backend = rig.backend(&ids[victim]).await?;
        let busy = backend["sessions"].as_u64() == Some(4) && bytes(&rig, &ids[victim]).await > before + 50_000;
        busy.then_some(())
    })
    .await;
    servers[victim].process.kill();

    for _ in 0..30 {
        assert_eq!(sql(&psql, rig.front(), "SELECT inet_server_port()").await.good().trim(), survivor);
    }
    let reason = rig.backend(&ids[victim]).await.unwrap();
    assert!(["down", "ejected"].contains(&reason["standing"].as_str().unwrap()), "{reason}");
    let cut = running.await.unwrap();
    assert!(!cut.ok, "pgbench has lost half of its connections: {cut:?}");
    assert_eq!(cut.err.matches(" aborted in command ").count(), 4, "{cut:#?}");
    assert!(processed(&cut.out) > 0, "its other clients go on: {cut:#?}");
    let again = bench(&pgbench, rig.front(), "1").await.good();
    assert!(again.contains("number of failed transactions: 0 "), "{again}");

    assert_eq!(long.ask("INSERT INTO kept VALUES (2); COMMIT; SELECT sum(value) FROM kept;").await, "3");
    assert!(long.end().await.success());
    assert_eq!(sql(&psql, rig.front(), "SELECT count(*) FROM kept").await.good().trim(), "2");

    servers[victim].restart().await;
    rig.until_standing(&ids[victim], "up").await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(sql(&psql, rig.front(), "SELECT inet_server_port()").await.good().trim().to_owned());
    }
    assert!(seen.contains(&survivor) && seen.contains(&port(servers[victim].port.address())), "{seen:?}");
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// A server that recovers from an archive is starting until the archive has answered, however long that takes.
#[tokio::test]
async fn a_postgresql_that_starts_is_not_up_before_it_is_ready() {
    let Some([initdb, postgres, psql]) = programs(["initdb", "postgres", "psql"]) else { return };
    let mut server = Server::start(&initdb, &postgres).await;
    server.process.ask(Signal::INT, Duration::from_secs(20));
    let (data, go) = (server.directory.path().join("data"), server.directory.path().join("go"));
    fs::write(data.join("recovery.signal"), "").unwrap();
    fs::set_permissions(data.join("recovery.signal"), fs::Permissions::from_mode(0o644)).unwrap();
    let wait = format!("restore_command = 'until [ -e {} ]; do sleep 0.05; done; false'\n", go.display());
    let mut settings = fs::read_to_string(data.join("postgresql.conf")).unwrap();
    settings += &wait;
    fs::write(data.join("postgresql.conf"), settings).unwrap();
    server.process = Server::spawn(&postgres, server.directory.path(), server.port.address());

    let id = server.port.address().to_string();
    let check = "check = { kind = \"postgres\", interval = \"100ms\", fast_interval = \"50ms\", timeout = \"5s\" }";
    let rig = Rig::with_backends(&[&id], check).await;
    until("it says that it is starting", || {
        server.process.check_runs();
        async {
            let reason = rig.backend(&id).await?["last_probe"]["got"].as_str()?.to_owned();
            (reason == "57P03 \"the database system is starting up\"").then_some(())
        }
    })
    .await;
    // Its port is open: a check that only connects would have it up.
    assert!(tokio::net::TcpStream::connect(server.port.address()).await.is_ok());
    assert_eq!(rig.until_standing(&id, "down").await["last_probe"]["kind"], "postgres");

    fs::write(&go, "").unwrap();
    let up = rig.until_standing(&id, "up").await;
    let got = up["last_probe"]["got"].as_str().unwrap();
    assert!(got.starts_with("28000 ") || got == "ready" || got == "asks to authenticate", "{up}");
    assert_eq!(sql(&psql, rig.front(), "SELECT 1").await.good().trim(), "1");
    // Probes leave without a trace in its log but for the user that is not there.
    let log = server.process.log();
    assert!(!log.contains("could not receive data") && !log.contains("unexpected EOF"), "{log}");
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// Both ways.
async fn bytes(rig: &Rig, id: &str) -> u64 {
    let backend = rig.backend(id).await.unwrap();
    backend["bytes_to_backend"].as_u64().unwrap() + backend["bytes_to_client"].as_u64().unwrap()
}

pub(super) fn processed(report: &str) -> u64 {
    let line = report.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    line.and_then(|line| line.split('/').next()?.trim().parse().ok()).unwrap_or_default()
}

/// Twelve clients make a new connection for each transaction. The server takes four sessions at once, and is restarted. No client
/// gets an error; those that find no room wait.
#[tokio::test]
async fn a_restart_of_postgresql_gives_queued_clients_no_error() {
    let Some([initdb, postgres, pgbench]) = programs(["initdb", "postgres", "pgbench"]) else { return };
    let mut server = Server::start(&initdb, &postgres).await;
    run(&pgbench, &["-i", "-q", &url(server.port.address())], b"").await.good();
    let address = server.port.address();
    let console = Console::start(&format!(
        "[admin]\nbind = \"127.0.0.1:0\"\nsocket = \"admin.sock\"\n\
         [listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\
         [pools.web]\nbackends = [{{ id = \"db\", address = \"{address}\", max_sessions = 4 }}]\n\
         when_all_down = \"wait\"\nqueue = {{ max_length = 100, timeout = \"1m\" }}\n{CHECK}"
    ))
    .await;
    let front = console.program.front("front").await;
    let arguments = ["-n", "-C", "-c", "12", "-j", "12", "-t", "150"].map(str::to_owned);
    let url = url(front);
    let running = tokio::spawn(async move {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain([url.as_str()]).collect();
        run(&pgbench, &arguments, b"").await
    });
    until("some wait", || async { (queued(&console).await? > 4).then_some(()) }).await;

    console.good(&["drain", "db", "--wait", "--timeout", "30s"]).await;
    server.process.ask(Signal::INT, Duration::from_secs(20));
    until("all wait", || async { (queued(&console).await? == 12).then_some(()) }).await;
    server.restart().await;
    console.good(&["ready", "db"]).await;

    let report = running.await.unwrap().good();
    assert!(report.contains("number of failed transactions: 0 "), "{report}");
    assert_eq!(processed(&report), 12 * 150, "{report}");
    let ended: Vec<_> = console.program.log().into_iter().filter(|line| line.contains("session ended")).collect();
    assert!(ended.iter().all(|line| line.contains("outcome=\"completed\"")), "{ended:#?}");
}

/// `None` = it was asked too often.
async fn queued(console: &Console) -> Option<u64> {
    let status: serde_json::Value = serde_json::from_str(&console.get("/api/v1/status").await.unwrap().1).unwrap();
    status["pools"][0]["queued"].as_u64()
}

#[tokio::test]
async fn probes_leave_no_reset_in_its_log() {
    let Some([initdb, postgres]) = programs(["initdb", "postgres"]) else { return };
    let server = Server::start(&initdb, &postgres).await;
    // One that may log in, one that does not exist, and the beginning of a handshake alone.
    for check in ["kind = \"postgres\", user = \"test\"", "kind = \"postgres\"", "kind = \"tcp\", linger = true"] {
        super::checks::pass_often(server.port.address(), check).await;
    }
    let log = server.process.log();
    assert!(log.contains("role \"evenkeel\" does not exist") && !log.contains("reset by peer"), "{log}");
}
