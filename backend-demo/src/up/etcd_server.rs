//! An etcd of the demo's own, where one is installed: one member, on the loopback, with its data in the demo's directory.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// Limit for its first answer on a busy machine.
const START: Duration = Duration::from_secs(20);

/// Where etcd listens by default.
const USUAL: u16 = 2379;

/// It is killed when it is dropped: its data are the demo's.
pub(super) struct EtcdServer {
    child: Child,
    address: SocketAddr,
}

impl EtcdServer {
    /// Starts it, and waits until it answers.
    pub(super) async fn start(data: &Path) -> anyhow::Result<Self> {
        let program = installed().context("etcd is not installed; on Debian: apt-get install etcd-server")?;
        let (address, peers) = (free_port(USUAL)?, free_port(0)?);
        let (url, peer_url) = (format!("http://{address}"), format!("http://{peers}"));
        let log = std::fs::File::create(data.join("etcd.log")).context("can't write etcd's log")?;
        let child = Command::new(&program)
            .args(["--name", "demo", "--data-dir"])
            .arg(data.join("etcd"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("demo={peer_url}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("can't write etcd's log")?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {}", program.display()))?;
        let mut this = Self { child, address };
        let client = etcd::Client::new(&etcd::Settings::new(this.url()))?;
        let answers = async {
            while client.check(Duration::from_secs(1)).await.is_err() {
                if let Some(status) = this.child.try_wait()? {
                    bail!("etcd has ended, {status}; its log is {}", data.join("etcd.log").display());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        timeout(START, answers).await.context("etcd does not answer")??;
        Ok(this)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    pub(super) async fn stop(mut self) {
        let _killed = self.child.kill().await;
    }
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|place| place.join("etcd")).find(|program| program.is_file())
}

/// That port if it is free, or another one. etcd can't be told to take any.
fn free_port(wanted: u16) -> std::io::Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bind(wanted).or_else(|_| bind(0))?.local_addr()
}
