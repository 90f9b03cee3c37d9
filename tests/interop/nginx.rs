//! nginx as an HTTP backend, curl as the client: keep-alive, large bodies both ways, a check that reads the answer.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::port;
use crate::support::{HeldPort, Process, Rig, command, get, programs, run, until};

const CHECK: &str = r#"
check = { kind = "http", path = "/health", status = "200", body = "healthy", interval = "100ms", fast_interval = "20ms", timeout = "1s" }
"#;

struct Server {
    process: Process,
    port: HeldPort,
    directory: tempfile::TempDir,
}

impl Server {
    /// Serves its directory, answers `/who` with its port, and keeps uploads to `/kept`.
    async fn start(nginx: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let port = HeldPort::new();
        let address = port.address();
        let root = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let config = format!(
            r#"
{root}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr info;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_max_body_size 64m;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen {address};
    root {root_path};
    location = /health {{ return 200 "healthy\n"; }}
    location = /who {{ return 200 "{port} $connection_requests\n"; }}
    location /slow/ {{ alias {root_path}/; limit_rate 1m; }}
    location = /kept {{ client_body_in_file_only on; proxy_pass http://{address}/health; }}
  }}
}}
"#,
            root_path = path.display(),
            port = address.port(),
        );
        fs::write(path.join("nginx.conf"), config).unwrap();
        let mut command = command(nginx);
        command.current_dir(path).arg("-p").arg(path).arg("-c").arg(path.join("nginx.conf")).args(["-e", "stderr"]);
        let mut process = Process::start(command, &path.join("log"));
        until("nginx answers", || {
            process.check_runs();
            async { get(address, "/health").await.ok() }
        })
        .await;
        Self { process, port, directory }
    }
}

/// Like a file of any kind: incompressible, and every position is another.
fn payload(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

fn sha256(openssl: &Path, file: &Path) -> impl Future<Output = String> {
    let (openssl, file) = (openssl.to_owned(), file.to_str().unwrap().to_owned());
    async move { run(&openssl, &["dgst", "-sha256", "-r", &file], b"").await.good()[..64].to_owned() }
}

struct Curl {
    program: PathBuf,
    front: SocketAddr,
}

impl Curl {
    async fn run(&self, arguments: &[&str]) -> crate::support::CommandOutput {
        run(&self.program, &[&["-q", "-s", "-S", "-f", "--max-time", "30"], arguments].concat(), b"").await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.front)
    }
}

#[tokio::test]
async fn nginx_with_a_server_killed_under_downloads() {
    let Some([nginx, curl, openssl]) = programs(["nginx", "curl", "openssl"]) else { return };
    let (mut one, mut two) = tokio::join!(Server::start(&nginx), Server::start(&nginx));
    let ids = [&one, &two].map(|server| server.port.address().to_string());
    let rig = Rig::with_backends(&[&ids[0], &ids[1]], CHECK).await;
    for id in &ids {
        rig.until_standing(id, "up").await;
    }
    let curl = Curl { program: curl, front: rig.front() };

    // Keep-alive: five requests on one connection are one session, on one backend.
    let accepted = rig.metric("evenkeel_listener_accepted_total{listener=\"front\"}").await;
    let who = curl.url("/who");
    let answers = curl.run(&[&who, &who, &who, &who, &who]).await.good();
    let (ports, counts): (Vec<&str>, Vec<&str>) = answers.lines().map(|line| line.split_once(' ').unwrap()).unzip();
    assert_eq!(counts, ["1", "2", "3", "4", "5"]);
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    assert_eq!(rig.metric("evenkeel_listener_accepted_total{listener=\"front\"}").await, accepted + 1.0);
    let other = curl.run(&[&who]).await.good();
    assert!(!other.starts_with(ports[0]), "round robin: {other}");

    // 16 MiB down from each, and up to each.
    let big = payload(16 << 20);
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    fs::write(&source, &big).unwrap();
    let wanted = sha256(&openssl, &source).await;
    for server in [&one, &two] {
        fs::write(server.directory.path().join("big"), &big).unwrap();
    }
    for number in 0..2 {
        let target = scratch.path().join(format!("down-{number}"));
        curl.run(&["-o", target.to_str().unwrap(), &curl.url("/big")]).await.good();
        assert_eq!(sha256(&openssl, &target).await, wanted, "download {number}");
        let body = format!("@{}", source.display());
        let answer = curl.run(&["-H", "Expect:", "--data-binary", &body, &curl.url("/kept")]).await.good();
        assert_eq!(answer, "healthy\n");
    }
    let kept: Vec<PathBuf> =
        [&one, &two].iter().flat_map(|server| files(&server.directory.path().join("body"))).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    for file in kept {
        assert_eq!(sha256(&openssl, &file).await, wanted, "upload {}", file.display());
    }

    // Two downloads that take a while, one from each; one of the servers is killed, the other one's client gets all of it.
    let started: Vec<_> = (0..2)
        .map(|number| {
            let target = scratch.path().join(format!("slow-{number}")).to_str().unwrap().to_owned();
            let curl = Curl { program: curl.program.clone(), front: curl.front };
            tokio::spawn(async move {
                let said = curl.run(&["-r", "0-3000000", "-o", &target, &curl.url("/slow/big")]).await;
                (said, fs::read(&target).unwrap_or_default())
            })
        })
        .collect();
    until("both download", || async {
        for id in &ids {
            (rig.backend(id).await?["sessions"] == 1).then_some(())?;
        }
        fs::metadata(scratch.path().join("slow-0")).ok()?;
        fs::metadata(scratch.path().join("slow-1")).ok()
    })
    .await;
    one.process.kill();
    for _ in 0..30 {
        let answer = curl.run(&[&who]).await.good();
        assert!(answer.starts_with(&port(two.port.address())), "{answer}");
    }
    let mut whole = 0;
    for download in started {
        let (said, got) = download.await.unwrap();
        assert!(big.starts_with(&got), "a cut stream is a prefix");
        assert_eq!(said.ok, got.len() == 3_000_001, "cut at {}: {said:?}", got.len());
        whole += usize::from(said.ok);
    }
    assert_eq!(whole, 1, "the killed server's client notices, the other's does not");
    rig.until_standing(&ids[0], "down").await;

    // A server that stops normally is like a killed one: the next request gets an error.
    two.process.ask(Signal::QUIT, Duration::from_secs(10));
    rig.until_standing(&ids[1], "down").await;
    assert!(!curl.run(&[&who]).await.ok);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// What `/health` says counts, not that it answers.
#[tokio::test]
async fn nginx_that_answers_something_else_is_down() {
    let Some(nginx) = crate::support::program("nginx") else { return };
    let server = Server::start(&nginx).await;
    let id = server.port.address().to_string();
    let check = CHECK.replace("\"healthy\"", "\"very well\"");
    let rig = Rig::with_backends(&[&id], &check).await;
    let backend = rig.until_standing(&id, "down").await;
    let reason = backend["reason"].as_str().unwrap();
    assert!(reason.contains("GET /health") && reason.contains("very well"), "{reason}");
    rig.stop().await;
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found
}

#[tokio::test]
async fn probes_leave_no_reset_in_its_log() {
    let Some([nginx]) = programs(["nginx"]) else { return };
    let server = Server::start(&nginx).await;
    for check in ["kind = \"http\", path = \"/health\"", "kind = \"http\", path = \"/health\", body = \"healthy\""] {
        super::checks::pass_often(server.port.address(), check).await;
    }
    let log = server.process.log();
    assert!(!log.contains("reset by peer") && !log.contains("prematurely"), "{log}");
}
