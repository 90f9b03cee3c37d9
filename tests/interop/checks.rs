//! Health checks against the servers that they are for. The role of a Redis server and a PostgreSQL server that starts are
//! with those; HAProxy's view of an agent is in `agent`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use evenkeel::config;
use evenkeel::health::{ProbeReport, ProbeResult};
use evenkeel::probe::{Prober, Subscription};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Conversation, port};
use crate::support::{HeldPort, Process, command, fixture, program, soon, until};

/// The keys of a check that probes often.
const OFTEN: &str = "interval = \"50ms\", fast_interval = \"50ms\", timeout = \"5s\"";

/// A probe of its own and its reports.
pub(super) struct Watched {
    reports: UnboundedReceiver<ProbeReport>,
    _subscription: Subscription,
}

impl Watched {
    /// `keys` are those of `check`, or of `agent` if `as_agent`.
    pub(super) fn new(address: SocketAddr, table: &str) -> Self {
        let text = format!(
            "[listeners.l]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n[pools.p]\nbackends = [\"{address}\"]\n{table}\n"
        );
        let config = config::parse(&text, "test.toml", &|_| None).unwrap_or_else(|error| panic!("{error}"));
        let pool = &config.pools[0];
        let (send, reports) = unbounded_channel();
        let sink = Box::new(move |report: &ProbeReport| drop(send.send(report.clone())));
        let check = pool.agent.as_ref().unwrap_or(&pool.check);
        Self { reports, _subscription: Prober::new().subscribe(address, check, sink) }
    }

    pub(super) async fn next(&mut self) -> Arc<ProbeResult> {
        soon("a report", self.reports.recv()).await.unwrap().result
    }

    /// The next result of this kind.
    pub(super) async fn until(&mut self, passed: bool) -> Arc<ProbeResult> {
        let wanted = async {
            loop {
                let result = self.next().await;
                if result.passed == passed {
                    return result;
                }
            }
        };
        soon(if passed { "a pass" } else { "a failure" }, wanted).await
    }
}

/// A check of this address passes a few times.
pub(super) async fn pass_often(address: SocketAddr, check: &str) {
    let mut watched = Watched::new(address, &format!("check = {{ {check}, {OFTEN} }}"));
    for _ in 0..8 {
        let result = watched.next().await;
        assert!(result.passed, "{result}");
    }
}

async fn judged(address: SocketAddr, check: &str) -> Arc<ProbeResult> {
    Watched::new(address, &format!("check = {{ {check}, timeout = \"10s\" }}")).next().await
}

#[tokio::test]
async fn memcached_is_asked_for_its_version() {
    let Some(memcached) = program("memcached") else { return };
    let (directory, held) = (tempfile::tempdir().unwrap(), HeldPort::new());
    let mut command = command(&memcached);
    command.args(["-l", "127.0.0.1", "-p", &port(held.address()), "-U", "0", "-u", "nobody"]);
    let mut process = Process::start(command, &directory.path().join("log"));
    let mut watched = Watched::new(held.address(), &format!("check = {{ kind = \"memcached\", {OFTEN} }}"));
    let result = watched.until(true).await;
    assert!(result.got.starts_with("\"VERSION 1."), "{result}");
    process.kill();
    assert_eq!(watched.until(false).await.to_string(), format!("memcached connect {}: refused", held.address()));
}

#[tokio::test]
async fn a_check_of_an_smtp_server_greets_and_quits() {
    let Some(python) = program("interop-python") else { return };
    let (directory, held) = (tempfile::tempdir().unwrap(), HeldPort::new());
    let mut command = command(&python);
    command.args(["-m", "aiosmtpd", "-n", "-d", "-l", &held.address().to_string()]).current_dir(directory.path());
    let process = Process::start(command, &directory.path().join("log"));
    let mut watched = Watched::new(held.address(), &format!("check = {{ kind = \"smtp\", {OFTEN} }}"));
    assert_eq!(watched.until(true).await.to_string(), r#"smtp step 3 of 3: "221 Bye\r\n""#);
    until("it was told to quit", || async { process.log().contains("QUIT").then_some(()) }).await;
}

#[tokio::test]
async fn mariadb_greets_and_says_when_it_is_full() {
    let Some(mariadbd) = program("mariadbd") else { return };
    let (directory, held) = (tempfile::tempdir().unwrap(), HeldPort::new());
    // A server without tables of privileges grants everything, and greets too.
    let data = directory.path().join("data");
    std::fs::create_dir_all(data.join("mysql")).unwrap();
    let mut command = command(&mariadbd);
    command.args(["--no-defaults", "--bind-address=127.0.0.1", "--max-connections=10", "--skip-grant-tables"]);
    if rustix::process::geteuid().is_root() {
        command.arg("--user=root");
    }
    command.arg(format!("--datadir={}", data.display()));
    command.arg(format!("--socket={}/socket", directory.path().display()));
    command.arg(format!("--port={}", port(held.address())));
    command.arg("--connect-timeout=600").arg("--log-warnings=9");
    let process = Process::start(command, &directory.path().join("log"));
    let mut watched = Watched::new(held.address(), &format!("check = {{ kind = \"mysql\", {OFTEN} }}"));
    let result = watched.until(true).await;
    assert!(result.got.contains("MariaDB"), "{result}");

    // A connection that has not logged in yet counts too.
    let mut clients = Vec::new();
    let full = async {
        loop {
            // New connections each time, as many as there are places: MariaDB closes those that do not log in.
            for _ in 0..15 {
                clients.push(tokio::net::TcpStream::connect(held.address()).await.unwrap());
            }
            for _ in 0..20 {
                let result = watched.next().await;
                if !result.passed {
                    return result;
                }
            }
        }
    };
    let result = soon("it is full", full).await;
    assert!(result.got.contains("Too many connections"), "{result}");
    drop(clients);
    watched.until(true).await;
    let log = process.log();
    assert!(!log.contains("reset by peer") && !log.contains("reading communication packets"), "{log}");
}

/// Serves `grpc.health.v1` on a port of its own; each line that it reads sets the health of `shop.Cart`.
const GRPC: &str = r"
import sys
from concurrent import futures
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
servicer = health.HealthServicer()
server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
credentials = None
if len(sys.argv) > 1:
    pem = [open(name, 'rb').read() for name in sys.argv[1:]]
    credentials = grpc.ssl_server_credentials([tuple(pem)])
    port = server.add_secure_port('127.0.0.1:0', credentials)
else:
    port = server.add_insecure_port('127.0.0.1:0')
server.start()
print(port, flush=True)
for line in sys.stdin:
    servicer.set('shop.Cart', health_pb2.HealthCheckResponse.ServingStatus.Value(line.strip()))
    print('set', flush=True)
";

async fn grpc(python: &Path, arguments: &[PathBuf]) -> (Conversation, SocketAddr) {
    let mut command = command(python);
    command.args(["-c", GRPC]).args(arguments);
    let mut server = Conversation::start(command);
    let port: u16 = server.hear().await.expect("a port").parse().unwrap();
    (server, ([127, 0, 0, 1], port).into())
}

#[tokio::test]
async fn grpcs_own_health_service() {
    let Some(python) = program("interop-python") else { return };
    let (mut server, address) = grpc(&python, &[]).await;
    assert_eq!(judged(address, "kind = \"grpc\"").await.to_string(), "grpc health: SERVING");
    let cart = "kind = \"grpc\", service = \"shop.Cart\"";
    let result = judged(address, cart).await;
    assert!(!result.passed && result.got.starts_with("the server does not know that service"), "{result}");
    for (status, passed) in [("SERVING", true), ("NOT_SERVING", false), ("SERVING", true)] {
        assert_eq!(server.ask(status).await, "set");
        let result = judged(address, cart).await;
        assert_eq!((result.passed, result.got.as_str()), (passed, status));
    }

    let (_sealed, address) = grpc(&python, &[fixture("key.pem"), fixture("certificate.pem")]).await;
    let trust = format!("kind = \"grpc\", tls = true, ca_file = {:?}", fixture("certificate.pem"));
    let result = judged(address, &format!("{trust}, server_name = \"backend.test\"")).await;
    assert!(result.passed && result.certificate.is_some(), "{result}");
    assert!(!judged(address, "kind = \"grpc\"").await.passed, "no HTTP/2 without TLS there");
}

/// `openssl s_server -www`: TLS and, on top, HTTP/1.0.
async fn s_server(openssl: &Path, certificate: &str) -> (Process, HeldPort, tempfile::TempDir) {
    let (directory, held) = (tempfile::tempdir().unwrap(), HeldPort::new());
    let mut command = command(openssl);
    command.args(["s_server", "-www", "-accept", &held.address().to_string()]);
    command.arg("-key").arg(fixture("key.pem")).arg("-cert").arg(fixture(certificate));
    let mut process = Process::start(command, &directory.path().join("log"));
    until("s_server listens", || {
        process.check_runs();
        let ready = process.log().contains("ACCEPT");
        async move { ready.then_some(()) }
    })
    .await;
    (process, held, directory)
}

#[tokio::test]
async fn openssls_certificates_are_judged() {
    let Some(openssl) = program("openssl") else { return };
    let ((_a, good, _b), (_c, expired, _d)) =
        tokio::join!(s_server(&openssl, "certificate.pem"), s_server(&openssl, "expired.pem"));
    let trust = |file: &str, name: &str| format!("ca_file = {:?}, server_name = \"{name}\"", fixture(file));
    let (own, old) = (trust("certificate.pem", "backend.test"), trust("expired.pem", "backend.test"));
    for (address, check, passed, got) in [
        (good.address(), format!("kind = \"tls\", {own}"), true, "TLS 1.3, certificate valid for"),
        (good.address(), format!("kind = \"http\", tls = true, {own}"), true, "status 200"),
        (good.address(), "kind = \"tls\", verify = false".to_owned(), true, "TLS 1.3"),
        (good.address(), "kind = \"tls\"".to_owned(), false, "certificate"),
        (
            good.address(),
            format!("kind = \"tls\", {}", trust("certificate.pem", "other.test")),
            false,
            "certificate is not for other.test",
        ),
        (expired.address(), format!("kind = \"tls\", {old}"), false, "certificate expired"),
        (expired.address(), "kind = \"tls\", verify = false".to_owned(), true, "TLS 1.3, certificate expired 2"),
    ] {
        let result = judged(address, &check).await;
        assert_eq!(result.passed, passed, "{check}: {result}");
        assert!(result.got.starts_with(got), "{check}: {result}");
    }
}
