//! dnsmasq: a thousand SRV records, which only TCP can carry; a server that dies and comes back with another list.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Backend, HeldPort, Process, Rig, command, exchange, program, until};

const COUNT: usize = 1000;

struct Server {
    process: Process,
    port: HeldPort,
    directory: TempDir,
}

impl Server {
    /// Nothing but what `records` says is known to it.
    async fn start(dnsmasq: &Path, port: HeldPort, records: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("conf");
        std::fs::write(&configuration, records).unwrap();
        let mut command = command(dnsmasq);
        command.args(["--keep-in-foreground", "--log-facility=-", "--no-resolv", "--no-hosts", "--bind-interfaces"]);
        command.args(["--listen-address=127.0.0.1", "--user=root", "--group=root", "--local-ttl=1", "--pid-file"]);
        command.arg(format!("--port={}", port.address().port()));
        command.arg(format!("--conf-file={}", configuration.display()));
        let mut process = Process::start(command, &directory.path().join("log"));
        until("dnsmasq is ready", || {
            process.check_runs();
            let ready = process.log().contains("started");
            async move { ready.then_some(()) }
        })
        .await;
        Self { process, port, directory }
    }
}

/// `web-0` is a backend at this port, the others are nowhere.
fn records(served: u16, numbers: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for number in numbers {
        let port = if number == 0 { served } else { 1 };
        let priority = if number == 0 { 10 } else { 20 };
        writeln!(text, "srv-host=_web._tcp.test.example,web-{number}.test.example,{port},{priority},{number}").unwrap();
        writeln!(text, "host-record=web-{number}.test.example,127.0.0.1").unwrap();
    }
    text
}

fn configuration(port: &HeldPort) -> String {
    format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\ncheck.kind = \"none\"\n\
         dns = {{ name = \"_web._tcp.test.example\", resolvers = [\"{}\"], timeout = \"1s\" }}\n",
        port.address()
    )
}

async fn ids(rig: &Rig) -> Vec<String> {
    let pools = rig.pools().await;
    let present = |backend: &&Value| backend["standing"] != "removed";
    let backends = pools["pools"][0]["backends"].as_array().unwrap().iter().filter(present);
    backends.map(|backend| backend["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_thousand_answers_over_tcp_and_a_server_that_dies() {
    let Some(dnsmasq) = program("dnsmasq") else { return };
    let backend = Backend::answering("a").await;
    let served = backend.address().port();
    let mut server = Server::start(&dnsmasq, HeldPort::new(), &records(served, 0..COUNT)).await;
    let rig = Rig::start(&configuration(&server.port)).await;
    until("all of them", || async { (ids(&rig).await.len() == COUNT).then_some(()) }).await;
    // The lowest priority is used first.
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"a");
    let first = rig.backend(&format!("web-0.test.example:{served}")).await.unwrap();
    assert_eq!((&first["priority"], &first["weight"]), (&0.into(), &1.into()));
    let other = rig.backend("web-7.test.example:1").await.unwrap();
    assert_eq!((&other["priority"], &other["weight"]), (&1.into(), &7.into()));

    server.process.kill();
    let failing = "evenkeel_discovery_failing{pool=\"back\",source=\"dns\"}";
    rig.until_metric(failing, 1.0).await;
    assert_eq!(ids(&rig).await.len(), COUNT);
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"a");

    let Server { process: _process, port, directory: _directory } = server;
    let _server = Server::start(&dnsmasq, port, &records(served, 0..COUNT - 1)).await;
    rig.until_metric(failing, 0.0).await;
    until("one less", || async { (ids(&rig).await.len() == COUNT - 1).then_some(()) }).await;
}

#[tokio::test]
async fn addresses_of_a_name_of_both_families() {
    let Some(dnsmasq) = program("dnsmasq") else { return };
    let backend = Backend::answering("a").await;
    let port = backend.address().port();
    let records = "host-record=web.test.example,127.0.0.1\nhost-record=web.test.example,127.0.0.7,::1\n";
    let server = Server::start(&dnsmasq, HeldPort::new(), records).await;
    let rig = Rig::start(
        &configuration(&server.port)
            .replace("\"_web._tcp.test.example\"", &format!("\"web.test.example\", type = \"a\", port = {port}")),
    )
    .await;
    let wanted = [format!("127.0.0.1:{port}"), format!("127.0.0.7:{port}"), format!("[::1]:{port}")];
    until("all of them", || async { (ids(&rig).await == wanted).then_some(()) }).await;
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"a");
}
