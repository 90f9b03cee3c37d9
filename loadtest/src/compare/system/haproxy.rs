//! HAProxy. One process with threads; its log goes to stdout, one write a line.

use std::io;
use std::path::Path;
use std::process::Command;

use super::{Row, Setting};

pub(super) fn command(binary: &Path, splice: bool, setting: &Setting<'_>) -> io::Result<Command> {
    let path = setting.write("haproxy.cfg", &config(splice, setting))?;
    let mut command = Command::new(binary);
    command.arg("-db").arg("-f").arg(path);
    command.stdout(Setting::file(&setting.session_log())?).stderr(Setting::file(&setting.other_log())?);
    Ok(command)
}

fn config(splice: bool, setting: &Setting<'_>) -> String {
    let Setting { front, backend, threads, sessions, row, .. } = setting;
    let (sink, log) = match row {
        Row::Defaults => ("    log stdout format raw local0 info\n", "    log global\n    option tcplog\n"),
        Row::LogsOff => ("", ""),
    };
    let splice = if splice { "    option splice-auto\n" } else { "" };
    format!(
        r"global
    nbthread {threads}
    maxconn {sessions}
{sink}
defaults
    mode tcp
{log}{splice}    timeout connect 1s
    timeout client 1h
    timeout server 1h

frontend front
    bind {front} backlog 4096
    maxconn {sessions}
    default_backend back

backend back
    server one {backend} check inter 2s rise 2 fall 3
"
    )
}
