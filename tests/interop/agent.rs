//! One agent, asked by HAProxy and by us: both have to conclude the same.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use evenkeel::health::AdvisedWeight::Percent;
use evenkeel::health::{Advice, AgentWish};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::checks::Watched;
use crate::support::{Backend, Process, command, program, until};

/// What HAProxy makes of the agent: status, weight of 100, limit of sessions.
#[derive(Debug, PartialEq)]
struct BackendView {
    status: String,
    weight: String,
    limit: String,
}

struct HaProxy {
    process: Process,
    directory: tempfile::TempDir,
}

impl HaProxy {
    fn start(haproxy: &Path, backend: SocketAddr, agent: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let config = format!(
            "global\n stats socket {path}/socket mode 600 level user\n\
             defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n timeout check 5s\n\
             listen front\n bind unix@{path}/front\n server one {backend} weight 100 check inter 50ms \
             agent-check agent-port {} agent-inter 50ms\n",
            agent.port()
        );
        std::fs::write(directory.path().join("config"), config).unwrap();
        let mut command = command(haproxy);
        command.args(["-db", "-f"]).arg(directory.path().join("config"));
        let process = Process::start(command, &directory.path().join("log"));
        Self { process, directory }
    }

    async fn view(&self) -> Option<BackendView> {
        let mut socket = UnixStream::connect(self.directory.path().join("socket")).await.ok()?;
        socket.write_all(b"show stat\n").await.ok()?;
        let mut table = String::new();
        socket.read_to_string(&mut table).await.ok()?;
        let mut lines = table.lines().map(|line| line.trim_start_matches("# ").split(',').collect::<Vec<_>>());
        let names = lines.next()?;
        let row = lines.find(|row| row.get(1) == Some(&"one"))?;
        let column = |name: &str| Some((*row.get(names.iter().position(|known| *known == name)?)?).to_owned());
        Some(BackendView { status: column("status")?, weight: column("weight")?, limit: column("slim")? })
    }
}

#[tokio::test]
async fn haproxy_and_we_understand_an_agent_alike() {
    let Some(haproxy) = program("haproxy") else { return };
    let said = Arc::new(Mutex::new("up\n"));
    let backend = Backend::echo().await;
    let words = Arc::clone(&said);
    let agent = Backend::serving(move |mut stream| {
        let text = *words.lock().unwrap();
        async move {
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut [0; 16]).await;
        }
    })
    .await;
    let mut peer = HaProxy::start(&haproxy, backend.address(), agent.address());
    let ours = format!("agent = {{ port = {}, interval = \"50ms\" }}", agent.address().port());
    let mut ours = Watched::new(backend.address(), &ours);

    let ready = Advice::default();
    for (words, advice, status, weight, limit) in [
        ("up\n", ready, "UP", "100", ""),
        ("50%\n", Advice { weight: Some(Percent(50)), ..ready }, "UP", "50", ""),
        ("drain\n", Advice { weight: Some(Percent(50)), wish: AgentWish::Drain, ..ready }, "DRAIN (agent)", "50", ""),
        ("up\n", Advice { weight: Some(Percent(50)), wish: AgentWish::Drain, ..ready }, "DRAIN (agent)", "50", ""),
        ("ready 100%\r\n", Advice { weight: Some(Percent(100)), ..ready }, "UP", "100", ""),
        (
            "maint # by hand\n",
            Advice { weight: Some(Percent(100)), wish: AgentWish::Maintenance, ..ready },
            "MAINT",
            "100",
            "",
        ),
        ("READY, up,30%\n", Advice { weight: Some(Percent(30)), ..ready }, "UP", "30", ""),
        ("down\n", Advice { weight: Some(Percent(30)), wish: AgentWish::Down, ..ready }, "DOWN (agent)", "30", ""),
        ("ready\n", Advice { weight: Some(Percent(30)), wish: AgentWish::Down, ..ready }, "DOWN (agent)", "30", ""),
        ("up\tmaxconn:20\n", Advice { weight: Some(Percent(30)), max_sessions: Some(20), ..ready }, "UP", "30", "20"),
        (
            "stopped # gone\n",
            Advice { weight: Some(Percent(30)), wish: AgentWish::Down, max_sessions: Some(20) },
            "DOWN (agent)",
            "30",
            "20",
        ),
        (
            "fail",
            Advice { weight: Some(Percent(30)), wish: AgentWish::Down, max_sessions: Some(20) },
            "DOWN (agent)",
            "30",
            "20",
        ),
        ("nonsense up\n", Advice { weight: Some(Percent(30)), max_sessions: Some(20), ..ready }, "UP", "30", "20"),
    ] {
        *said.lock().unwrap() = words;
        loop {
            let result = ours.next().await;
            if result.advice == Some(advice)
                && result.got == format!("\"{}\"", words.trim_end().as_bytes().escape_ascii())
            {
                break;
            }
        }
        let wanted = BackendView { status: status.to_owned(), weight: weight.to_owned(), limit: limit.to_owned() };
        peer.process.check_runs();
        let peer = &peer;
        until(&format!("HAProxy agrees on {words:?}: {wanted:?}"), || async {
            peer.view().await.filter(|view| *view == wanted).map(drop)
        })
        .await;
    }

    // An agent that is gone changes nothing, for either.
    *said.lock().unwrap() = "up drain\n";
    until("both drain", || async { peer.view().await.filter(|view| view.status == "DRAIN (agent)").map(drop) }).await;
    while ours.next().await.advice.unwrap().wish != AgentWish::Drain {}
    drop(agent);
    while !ours.next().await.got.contains("refused") {}
    assert_eq!(ours.next().await.advice.unwrap().wish, AgentWish::Drain);
    assert_eq!(peer.view().await.unwrap().status, "DRAIN (agent)");
}
