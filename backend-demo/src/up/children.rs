//! The members that `up` starts. They are processes, so that one can be killed; none is started again.
//!
//! Standard input of each is a pipe, and a member ends when the pipe closes, so it never outlives this process. Each has its own
//! process group, so Ctrl-C on the terminal does not reach it, and the balancer can drain first.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use backend_demo::note;

use super::registry_url::RegistryUrl;

/// Limit for opening a database and a port on a busy machine.
const START: Duration = Duration::from_secs(20);
/// Limit for being in the registry.
const REGISTER: Duration = Duration::from_secs(10);
/// Limit for deregistering and finishing sessions; then the member is killed.
const END: Duration = Duration::from_secs(10);

/// A member that was started; it may have ended.
pub(super) struct MemberProcess {
    pub(super) id: String,
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
}

pub(super) struct Children {
    started: Vec<MemberProcess>,
    watches: TaskTracker,
    end: CancellationToken,
}

impl Children {
    pub(super) fn new() -> Self {
        Self { started: Vec::new(), watches: TaskTracker::new(), end: CancellationToken::new() }
    }

    pub(super) fn started(&self) -> &[MemberProcess] {
        &self.started
    }

    /// Starts a member of `web` and waits until it listens.
    pub(super) async fn start(&mut self, id: &str, registry: &RegistryUrl, data: &Path) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("can't find this program to start members")?;
        let mut child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--name", "web", "--exit-with-stdin"])
            .args(["--id", id, registry.option(), registry.url(), "--database"])
            .arg(data.join(format!("{id}.sqlite")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {id}"))?;
        let (pid, output) = (child.id().unwrap_or_default(), child.stdout.take());
        // Before the wait below, so that the member is ended properly if the wait fails.
        self.watches.spawn(watch(id.to_owned(), pid, child, self.end.clone()));
        let line = timeout(START, first_line(output)).await;
        let line = line
            .with_context(|| format!("{id} does not start"))?
            .with_context(|| format!("can't read the output of {id}"))?;
        let address = line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next()?.parse().ok());
        let Some(address) = address else { bail!("{id} has ended at once") };
        self.started.push(MemberProcess { id: id.to_owned(), address, pid });
        Ok(())
    }

    /// Waits until the registry has all members, so that the balancer finds all of them at once. Gives up after [`REGISTER`],
    /// because the demo also works without a registry.
    pub(super) async fn await_registered(&self, registry: &RegistryUrl) -> anyhow::Result<()> {
        let all = async {
            loop {
                if let Ok(listed) = registry.members().await
                    && self.started.iter().all(|child| listed.contains(&child.id))
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(REGISTER, all).await.is_err() {
            note(format_args!("not all members are in {} yet", registry.url()));
        }
        Ok(())
    }

    pub(super) async fn end(self) {
        self.end.cancel();
        self.watches.close();
        self.watches.wait().await;
    }
}

/// The first line, which is also the last; empty if there is none.
async fn first_line(output: Option<ChildStdout>) -> std::io::Result<String> {
    let mut line = String::new();
    if let Some(output) = output {
        BufReader::new(output).read_line(&mut line).await?;
    }
    Ok(line)
}

async fn watch(id: String, pid: u32, mut child: Child, end: CancellationToken) {
    // Taken, because `wait` would close it.
    let input = child.stdin.take();
    tokio::select! {
        ended = child.wait() => match ended {
            Ok(status) => return note(format_args!("{id} (pid {pid}) has ended: {status}")),
            Err(error) => return note(format_args!("can't watch {id} (pid {pid}): {error}")),
        },
        () = end.cancelled() => {}
    }
    drop(input);
    if timeout(END, child.wait()).await.is_err() {
        note(format_args!("{id} (pid {pid}) does not end and is killed"));
        if let Err(error) = child.kill().await {
            note(format_args!("can't kill {id} (pid {pid}): {error}"));
        }
    }
}
