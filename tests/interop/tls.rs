//! TLS passes through: the handshake is between the client and the backend, whose certificate the client sees.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Conversation;
use crate::support::{HeldPort, Process, Rig, command, program, run, until};

/// `openssl s_server -rev`: sends each line back reversed. It serves one connection after the other.
struct Server {
    process: Process,
    port: HeldPort,
    certificate: PathBuf,
    _directory: tempfile::TempDir,
}

impl Server {
    async fn start(openssl: &Path, name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |file: &str| directory.path().join(file).to_str().unwrap().to_owned();
        let (key, certificate) = (path("key.pem"), path("certificate.pem"));
        let (subject, names) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
        let request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let rest = ["-days", "2", "-subj", &subject, "-addext", &names, "-keyout", &key, "-out", &certificate];
        run(openssl, &[&request[..], &rest].concat(), b"").await.good();
        let port = HeldPort::new();
        let mut command = command(openssl);
        command.args(["s_server", "-rev", "-accept", &port.address().to_string(), "-key", &key, "-cert", &certificate]);
        let mut process = Process::start(command, &directory.path().join("log"));
        until("s_server listens", || {
            process.check_runs();
            let ready = process.log().contains("ACCEPT");
            async move { ready.then_some(()) }
        })
        .await;
        Self { process, port, certificate: certificate.into(), _directory: directory }
    }
}

/// `s_client`, which trusts these certificates and no other, and ends if what it meets is none of them.
fn client(openssl: &Path, front: SocketAddr, trusted: &Path) -> Conversation {
    let mut command = command(openssl);
    command.args([
        "s_client",
        "-quiet",
        "-no_ign_eof",
        "-verify_quiet",
        "-verify_return_error",
        "-connect",
        &front.to_string(),
    ]);
    command.arg("-CAfile").arg(trusted).stderr(std::process::Stdio::null());
    Conversation::start(command)
}

#[tokio::test]
async fn tls_passes_through_and_a_server_killed_in_the_middle_is_not_missed() {
    let Some(openssl) = program("openssl") else { return };
    let names = ["one.test", "two.test"];
    let (mut one, mut two) = tokio::join!(Server::start(&openssl, names[0]), Server::start(&openssl, names[1]));
    let ids = [&one, &two].map(|server| server.port.address().to_string());
    // No probes: a server that takes one connection at a time would spend it on them.
    let rig = Rig::with_backends(&[&ids[0], &ids[1]], "check = { kind = \"none\" }").await;
    for id in &ids {
        rig.until_standing(id, "up").await;
    }

    // The certificate that comes is the backend's own, to the letter, in turn.
    let front = rig.front().to_string();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let shown = run(&openssl, &["s_client", "-showcerts", "-connect", &front], b"").await.out;
        let wanted = [&one, &two].map(|server| fs::read_to_string(&server.certificate).unwrap());
        seen.push(wanted.iter().position(|certificate| shown.contains(certificate.trim())).unwrap_or_else(|| {
            panic!("neither certificate: {shown}");
        }));
    }
    assert!(seen == [0, 1, 0, 1] || seen == [1, 0, 1, 0], "{seen:?}");

    // A client that trusts another certificate fails, so the balancer has not ended the TLS.
    let stranger = Server::start(&openssl, names[0]).await;
    let ended = client(&openssl, rig.front(), &stranger.certificate).end().await;
    assert!(!ended.success());

    // A session with data both ways, and its server dies.
    let both = tempfile::NamedTempFile::new().unwrap();
    let certificates = [&one, &two].map(|server| fs::read_to_string(&server.certificate).unwrap());
    fs::write(both.path(), certificates.concat()).unwrap();
    let mut first = client(&openssl, rig.front(), both.path());
    talk(&mut first, 300).await;
    let on_one = rig.backend(&ids[0]).await.unwrap()["sessions"] == 1;
    assert_eq!(rig.backend(&ids[usize::from(on_one)]).await.unwrap()["sessions"], 0);
    let (victim, survivor) = if on_one { (&mut one, &two) } else { (&mut two, &one) };
    victim.process.kill();
    assert_eq!(first.hear().await, None, "its client hears the end");
    for _ in 0..5 {
        let mut next = client(&openssl, rig.front(), &survivor.certificate);
        talk(&mut next, 3).await;
        next.end().await;
    }
    rig.until_no_sessions().await;
    rig.stop().await;
}

async fn talk(client: &mut Conversation, lines: usize) {
    for number in 0..lines {
        let line = format!("line {number} {}", "abc".repeat(number));
        let reversed: String = line.chars().rev().collect();
        assert_eq!(client.ask(&line).await, reversed);
    }
}
