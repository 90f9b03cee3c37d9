//! A backend with a host name that has moved to another address: the sessions at the old address depend on the standing of that
//! address, and all others stay.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::discovery::names::with_hosts;
use crate::support::{Last, MODES, Program, get, last, soon, until};

struct Scene {
    program: Program,
    /// `None` = nothing listens there any more.
    first: Option<TcpListener>,
    second: TcpListener,
    _directory: tempfile::TempDir,
}

fn configuration(port: u16, mode: &str, more: &str) -> String {
    format!(
        "admin.bind = \"127.0.0.1:0\"\nlisteners.front = {{ bind = \"127.0.0.1:0\", pool = \"back\" }}\n[pools.back]\n\
         backends = [\"db.test:{port}\"]\nresolve.refresh = \"1h\"\ncheck = {{ kind = \"tcp\", interval = \"100ms\", fall = 2 }}\n\
         {mode}\n{more}\n"
    )
}

impl Scene {
    /// `db.test` is at two addresses, and the first is in use. `None` = it can't be tried here.
    async fn new(mode: (&str, &str), more: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let hosts = directory.path().join("hosts");
        std::fs::write(&hosts, "127.0.9.1 db.test\n127.0.9.2 db.test\n").unwrap();
        let first = TcpListener::bind("127.0.9.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("127.0.9.2", port)).await.unwrap();
        let program = Program::start_by(&configuration(port, mode.1, more), with_hosts(&hosts)?);
        let address = first.local_addr().unwrap();
        let scene = Self { program, first: Some(first), second, _directory: directory };
        scene.until_at(address).await;
        Some(scene)
    }

    async fn backend(&self) -> Value {
        let (_, body) = get(self.program.admin().await, "/api/v1/pools").await.unwrap();
        serde_json::from_str::<Value>(&body).unwrap()["pools"][0]["backends"][0].clone()
    }

    async fn until_at(&self, address: SocketAddr) {
        until("it is up there", || async {
            let backend = self.backend().await;
            (backend["address"] == address.to_string() && backend["standing"] == "up").then_some(())
        })
        .await;
    }

    /// A client's end and a backend's, with a byte moved each way.
    async fn session(&self) -> [TcpStream; 2] {
        let at = self.first.as_ref().unwrap_or(&self.second);
        let mut client = TcpStream::connect(self.program.front("front").await).await.unwrap();
        client.write_all(b"?").await.unwrap();
        let backend = soon("a session", async {
            loop {
                // Probes say nothing.
                let mut stream = at.accept().await.unwrap().0;
                if stream.read_exact(&mut [0]).await.is_ok() {
                    break stream;
                }
            }
        })
        .await;
        let mut ends = [client, backend];
        ping(&mut ends).await;
        ends
    }

    /// What `plan` says of sessions, with these keys of the pool instead.
    async fn plan(&self, more: &str) -> String {
        let port = self.second.local_addr().unwrap().port();
        std::fs::write(self.program.directory().join("next.toml"), configuration(port, "", more)).unwrap();
        let admin = format!("http://{}", self.program.admin().await);
        let mut plan = tokio::process::Command::new(Program::PATH);
        plan.args(["plan", "--config", "next.toml", "--admin", &admin]).current_dir(self.program.directory());
        String::from_utf8(plan.output().await.unwrap().stdout).unwrap()
    }
}

async fn ping([client, backend]: &mut [TcpStream; 2]) {
    soon("a byte each way", async {
        client.write_all(b"!").await.unwrap();
        backend.read_exact(&mut [0]).await.unwrap();
        backend.write_all(b"!").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
    })
    .await;
}

async fn are_reset([client, backend]: &mut [TcpStream; 2]) {
    let ends = soon("the end", async { (last(client).await, last(backend).await) }).await;
    assert_eq!(ends, (Last::Reset, Last::Reset));
}

/// Whether its check or a session that fails there makes it leave.
#[tokio::test]
async fn sessions_at_a_dead_address_go_by_on_down_and_only_they() {
    for (&mode, by_session) in MODES.into_iter().flat_map(|mode| [(mode, false), (mode, true)]) {
        let Some(mut scene) = Scene::new(mode, "on_down = \"close\"").await else { return };
        let mut old = scene.session().await;
        scene.first = None;
        let mut new = match by_session {
            true => Some(scene.session().await),
            false => None,
        };
        scene.until_at(scene.second.local_addr().unwrap()).await;
        are_reset(&mut old).await;
        let mut later = scene.session().await;
        // The task that closes has looked again by then, and found nothing more to close.
        scene.program.until_says("closing is over").await;
        for ends in new.iter_mut().chain([&mut later]) {
            ping(ends).await;
        }
        scene.program.until_says("outcome=\"backend_down\"").await;
        assert_eq!(scene.backend().await["elsewhere"], Value::Null);
    }
}

/// By default they stay; `plan` tells what another policy would do, and then that happens.
#[tokio::test]
async fn the_plan_for_a_dead_address_is_carried_out() {
    let Some(mut scene) = Scene::new(MODES[0], "").await else { return };
    let mut old = scene.session().await;
    let there = scene.first.take().unwrap().local_addr().unwrap();
    scene.until_at(scene.second.local_addr().unwrap()).await;
    let mut new = scene.session().await;
    let elsewhere = scene.backend().await["elsewhere"].clone();
    assert_eq!(elsewhere, serde_json::json!([{ "address": there.to_string(), "standing": "down", "sessions": 1 }]));
    for ends in [&mut old, &mut new] {
        ping(ends).await;
    }
    for (more, wanted) in [
        ("on_down = { drain = \"1h\" }", "1 kept, 1 drained, 0 closed"),
        ("on_removed = \"close\"", "2 kept, 0 drained, 0 closed"),
        ("on_down = \"close\"", "1 kept, 0 drained, 1 closed"),
    ] {
        let planned = scene.plan(more).await;
        assert!(planned.contains(&format!("all live sessions: {wanted}")), "{planned}");
    }
    std::fs::rename(scene.program.directory().join("next.toml"), scene.program.directory().join("lb.toml")).unwrap();
    are_reset(&mut old).await;
    ping(&mut new).await;
}
