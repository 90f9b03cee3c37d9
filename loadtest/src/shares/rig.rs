//! Backends that say their numbers, a balancer in front of them, and clients with an address each.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::harness::process::ProcessGroup;

/// For a start, and for one client.
const PATIENCE: Duration = Duration::from_secs(20);

/// The first client's address; the others follow it. All of 127/8 is this machine.
const FIRST_CLIENT: u32 = Ipv4Addr::new(127, 1, 0, 1).to_bits();

pub(super) struct Backends(Vec<SocketAddr>);

impl Backends {
    pub(super) async fn start(count: usize) -> anyhow::Result<Self> {
        let mut addresses = Vec::new();
        for number in 0..count {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.push(listener.local_addr()?);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, number as u8));
                }
            });
        }
        Ok(Self(addresses))
    }

    /// Entries of `backends`.
    pub(super) fn entries(&self, weights: &[u16], cap: Option<u32>) -> Vec<String> {
        let cap = cap.map_or_else(String::new, |cap| format!(", max_sessions = {cap}"));
        let entry = |(number, (address, weight)): (usize, (&SocketAddr, &u16))| {
            format!("{{ address = \"{address}\", id = \"backend-{number}\", weight = {weight}{cap} }}")
        };
        self.0.iter().zip(weights).enumerate().map(entry).collect()
    }
}

/// Says its number, and waits until the client has finished.
async fn serve(mut stream: TcpStream, number: u8) {
    // A client that is gone has an error of its own.
    let _ = stream.write_all(&[number]).await;
    let _ = stream.read(&mut [0]).await;
}

pub(super) struct Balancer {
    front: SocketAddr,
    _process: ProcessGroup,
}

impl Balancer {
    pub(super) async fn start(
        program: &Path,
        scratch: &Path,
        policy: &str,
        entries: &[String],
    ) -> anyhow::Result<Self> {
        let front = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let directory = tempfile::tempdir_in(scratch)?.keep();
        let config = format!(
            "[admin]\nbind = \"127.0.0.1:0\"\n[log]\nsessions = false\n[listeners.front]\nbind = \"{front}\"\npool = \"back\"\n\
             [pools.back]\nbalance = \"{policy}\"\ncheck = {{ kind = \"none\" }}\nbackends = [{}]\n",
            entries.join(", ")
        );
        let path = directory.join("lb.toml");
        std::fs::write(&path, config)?;
        let mut command = Command::new(program);
        // Its admin socket goes there, and not to a place where commands look for the one of this machine.
        command.arg("--config").arg(&path).arg("run").env("RUNTIME_DIRECTORY", &directory);
        command.stdin(Stdio::null()).stderr(std::fs::File::create(directory.join("log"))?);
        let mut balancer = Self { front, _process: ProcessGroup::start(command)? };
        let start = Instant::now();
        while meet(front, 0).await.is_err() {
            if start.elapsed() > PATIENCE || balancer._process.ended()?.is_some() {
                bail!("evenkeel does not serve: {}", std::fs::read_to_string(directory.join("log"))?);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(balancer)
    }

    /// The backend that each of these clients meets; `held` sessions are open at a time.
    pub(super) async fn met_by(&self, clients: Range<u64>, held: usize) -> anyhow::Result<Vec<u8>> {
        let mut met = Vec::new();
        let mut open = Vec::new();
        for client in clients {
            let (stream, backend) =
                meet(self.front, client as u32).await.with_context(|| format!("client {client}"))?;
            met.push(backend);
            open.push(stream);
            if open.len() >= held {
                close(open.drain(..)).await?;
            }
        }
        close(open.into_iter()).await?;
        Ok(met)
    }
}

/// A session of this client, and the number of its backend.
async fn meet(front: SocketAddr, client: u32) -> anyhow::Result<(TcpStream, u8)> {
    let met = async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::from_bits(FIRST_CLIENT + client), 0).into())?;
        let mut stream = socket.connect(front).await?;
        let backend = stream.read_u8().await?;
        anyhow::Ok((stream, backend))
    };
    timeout(PATIENCE, met).await.context("no backend says its number")?
}

/// Until each of them has ended.
async fn close(open: impl Iterator<Item = TcpStream>) -> anyhow::Result<()> {
    for mut stream in open {
        stream.shutdown().await?;
        timeout(PATIENCE, stream.read(&mut [0])).await.context("a session does not end")??;
    }
    Ok(())
}
