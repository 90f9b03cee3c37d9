//! Backends that are our own listeners: rejected with a reason, wherever they come from.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::process::Command;

use crate::support::{Backend, Program, Registry, Rig, exchange, get, until};

fn pool(source: &str, front: &str) -> String {
    format!(
        "[listeners.front]\nbind = \"{front}\"\npool = \"back\"\n[pools.back]\n{source}\n\
         check = {{ interval = \"50ms\" }}\n"
    )
}

/// Waits until that many of the first pool's instances are rejected.
async fn rejected(rig: &Rig, count: usize) -> Vec<Value> {
    until("rejected instances", || async {
        let rejected = rig.pools().await["pools"][0]["source"]["rejected"].as_array()?.clone();
        (rejected.len() == count).then_some(rejected)
    })
    .await
}

/// There is no backend, and a client that tries takes no place.
async fn nobody_serves(rig: &Rig) {
    assert_eq!(exchange(rig.front(), b"?").await.unwrap_or_default(), b"");
    rig.until_no_sessions().await;
    // It, and those that the test had before.
    assert!(rig.metric("evenkeel_listener_connections_total{listener=\"front\"}").await <= 2.0);
}

#[tokio::test]
async fn our_own_listener_in_a_file_is_not_used_as_a_backend() {
    let backend = Backend::answering("a").await;
    for front in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        let rig = Rig::start(&pool(&format!("backends = [\"{}\"]", backend.address()), front)).await;
        let port = rig.front().port();
        // A port 0 is none that the file could be compared with.
        let mut hosts = vec!["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0"];
        if front == "0.0.0.0:0" {
            hosts.push("127.0.0.77");
        }
        let backends: Vec<_> = hosts.iter().map(|host| format!("{host}:{port}")).collect();
        rig.reload(&pool(&format!("backends = {backends:?}"), front)).await.unwrap();
        let all = rejected(&rig, hosts.len()).await;
        let why = all[0]["why"].as_str().unwrap();
        assert!(why.contains("is our own listener `front`"), "{why}");
        nobody_serves(&rig).await;
        rig.stop().await;
    }
}

#[tokio::test]
async fn our_own_listener_in_the_registry_is_not_used_as_a_backend() {
    let registry = Registry::new().await;
    let backend = Backend::answering("a").await;
    registry.add("web", "a", backend.address());
    let source = format!("consul = {{ address = \"{}\", service = \"web\" }}", registry.url());
    let rig = Rig::start(&pool(&source, "0.0.0.0:0")).await;
    until("served", || async { (exchange(rig.front(), b"?").await.ok()? == b"a").then_some(()) }).await;
    registry.add("web", "b", SocketAddr::from(([127, 0, 0, 1], rig.front().port())));
    let all = rejected(&rig, 1).await;
    assert!(all[0]["id"].as_str().unwrap().ends_with("/b"), "{all:?}");
    // The other one goes on.
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"a");
}

/// `explain` of such an instance, and of its pool, says that it was rejected and why.
#[tokio::test]
async fn explain_says_that_an_instance_was_rejected_and_why() {
    let backend = Backend::answering("a").await;
    let text = |more: &str| {
        let source = format!("backends = [\"{}\"{more}]", backend.address());
        format!("admin.bind = \"127.0.0.1:0\"\n{}", pool(&source, "127.0.0.1:0"))
    };
    let program = Program::start(&text(""), &[]);
    let front = program.front("front").await;
    let ours = format!(", {{ id = \"ours\", address = \"{front}\" }}");
    std::fs::write(program.directory().join("next.toml"), text(&ours)).unwrap();
    std::fs::rename(program.directory().join("next.toml"), program.directory().join("lb.toml")).unwrap();
    let admin = format!("http://{}", program.admin().await);
    let explain = async |arguments: &[&str]| {
        let mut command = Command::new(Program::PATH);
        command.arg("explain").args(arguments).args(["--admin", &admin]).current_dir(program.directory());
        let output = command.output().await.unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    let why = "is our own listener `front`";
    let said = until("it is rejected", || explain(&["ours"])).await;
    assert!(said.starts_with("ours in pool back is no backend: it was rejected\n") && said.contains(why), "{said}");
    assert_eq!(explain(&["back/ours"]).await.as_ref(), Some(&said));
    let json = explain(&["ours", "--json"]).await.unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["rejected"].as_str().unwrap().contains(why), "{json}");

    let said = explain(&["back"]).await.unwrap();
    assert!(said.starts_with("pool back: 1 of 1 backends are up, 0 sessions, 0 wait\n"), "{said}");
    assert!(said.contains("1 instances are no backends: they were rejected\n"), "{said}");
    assert!(said.lines().any(|line| line.starts_with("ours ") && line.contains(why)), "{said}");
    assert_eq!(explain(&["nothing"]).await, None);
}

#[tokio::test]
async fn a_reload_removes_a_backend_at_an_address_that_we_now_listen_on() {
    let backend = Backend::answering("a").await;
    let address = backend.address();
    let text = pool(&format!("backends = [\"localhost:{}\"]", address.port()), "127.0.0.1:0");
    let rig = Rig::start(&text).await;
    rig.until_standing(&format!("localhost:{}", address.port()), "up").await;
    backend.stop().await;
    let more = format!("[listeners.more]\nbind = \"{address}\"\npool = \"back\"\n");
    rig.reload(&(text.clone() + &more)).await.unwrap();
    rejected(&rig, 1).await;
    // It is remembered as a backend, and says why it is none.
    let path = format!("/api/v1/backends/back/localhost:{}", address.port());
    until("it says so", || async {
        let explained = get(rig.admin(), &path).await.unwrap().1;
        explained.contains("it is named, and was rejected: ").then_some(())
    })
    .await;
    rig.reload(&text).await.unwrap();
    rejected(&rig, 0).await;
}

/// A machine with an address beside those of `lo`, in its own network namespace.
#[tokio::test]
async fn a_wildcard_listener_covers_every_address_of_the_machine() {
    let script =
        "ip link set lo up && ip address add 10.77.0.1/32 dev lo && ip address add fd77::1/128 dev lo && exec \"$@\"";
    let within = |arguments: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(["-n", "sh", "-c", script, "sh"]).args(arguments);
        command
    };
    if !within(&["true"]).output().is_ok_and(|output| output.status.success()) {
        use std::io::Write as _;
        std::io::stderr().write_all(b"\nskipped: no network namespace may be made here\n").unwrap();
        return;
    }
    let text = "admin.bind = \"off\"\n[listeners.front]\nbind = [\"0.0.0.0:80\", \"[::]:81\"]\npool = \"back\"\n\
                [pools.back]\nbackends = [\"10.77.0.1:80\", \"10.77.0.1:81\", \"[fd77::1]:81\", \"10.77.0.1:82\", \"10.77.0.2:80\"]\n";
    let program = Program::start_by(text, Command::from(within(&[Program::PATH])));
    let line = program.until_says("instances that can't be used are left out").await;
    assert!(line.contains("rejected=3"), "{line}");
    assert!(
        line.contains("the first is 10.77.0.1:80: 10.77.0.1:80 is our own listener `front` (0.0.0.0:80)"),
        "{line}"
    );

    let mut check = within(&[Program::PATH, "check"]);
    let output = check.current_dir(program.directory()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("its sessions would go round in a circle; it is left out").count(), 3, "{said}");
}
