//! Evenkeel. Its session log goes to stderr.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Row, Setting};

/// Values of the pool's key `relay`, besides running without it.
pub(super) const RELAYS: [&str; 3] = ["copy", "splice", "io_uring"];

pub(super) fn command(binary: &Path, relay: Option<&str>, setting: &Setting<'_>) -> io::Result<Command> {
    let path = setting.write("lb.toml", &config(relay, setting))?;
    let mut command = Command::new(binary);
    command.arg("--config").arg(path).arg("run");
    command.stdout(Setting::file(&setting.other_log())?).stderr(Setting::file(&setting.session_log())?);
    Ok(command)
}

/// Whether this binary takes that value: asked of its own `check`, so that older and newer ones can be compared.
pub(super) fn supports(binary: &Path, relay: &str) -> io::Result<bool> {
    let directory = tempfile::tempdir()?;
    // Two of them: a backend that is the listener itself is refused.
    let (front, backend) = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
    let setting = Setting { front, backend, threads: 1, sessions: 1, row: Row::LogsOff, directory: directory.path() };
    let path = directory.path().join("lb.toml");
    fs::write(&path, config(Some(relay), &setting))?;
    let mut command = Command::new(binary);
    command.arg("--config").arg(path).arg("check").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status()?.success())
}

fn config(relay: Option<&str>, setting: &Setting<'_>) -> String {
    let Setting { front, backend, threads, sessions, row, .. } = setting;
    let relay = relay.map(|relay| format!("relay = \"{relay}\"\n")).unwrap_or_default();
    let log = *row == Row::Defaults;
    format!(
        r#"workers = {threads}
max_connections = {sessions}

[listeners.front]
bind = "{front}"
pool = "back"

[pools.back]
backends = ["{backend}"]
{relay}timeouts.idle = "1h"
connect.timeout = "1s"
check = {{ kind = "tcp", interval = "2s", timeout = "1s", rise = 2, fall = 3 }}

[admin]
bind = "127.0.0.1:0"

[log]
sessions = {log}
"#
    )
}
