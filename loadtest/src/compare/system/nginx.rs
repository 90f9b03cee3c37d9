//! nginx with its stream module. It has no active checks, only `max_fails`: its row is a little cheaper for that.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Row, Setting};

pub(super) fn command(binary: &Path, module: Option<&Path>, setting: &Setting<'_>) -> io::Result<Command> {
    let path = setting.write("nginx.conf", &config(module, setting))?;
    let mut command = Command::new(binary);
    command.arg("-p").arg(setting.directory).arg("-c").arg(path).arg("-e").arg(setting.other_log());
    command.stdout(Stdio::null()).stderr(Setting::file(&setting.other_log())?);
    Ok(command)
}

/// Whether the stream module is there: built in (`Some(None)`), or a file to load (`Some(Some(path))`).
pub(super) fn stream_module(binary: &Path) -> Option<Option<PathBuf>> {
    let output = Command::new(binary).arg("-V").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut words = text.split_whitespace();
    if words.clone().any(|word| word == "--with-stream") {
        return Some(None);
    }
    let place = words.find_map(|word| word.strip_prefix("--modules-path="))?;
    let module = Path::new(place).join("ngx_stream_module.so");
    module.exists().then_some(Some(module))
}

fn config(module: Option<&Path>, setting: &Setting<'_>) -> String {
    let Setting { front, backend, threads, sessions, row, directory } = setting;
    let load = module.map(|path| format!("load_module {};\n", path.display())).unwrap_or_default();
    let log = match row {
        Row::Defaults => format!(
            "log_format session '$remote_addr [$time_iso8601] $protocol $status $bytes_sent $bytes_received \
             $session_time $upstream_addr $upstream_connect_time';\n    access_log {} session;",
            setting.session_log().display()
        ),
        Row::LogsOff => "access_log off;".into(),
    };
    // A session takes two connections of a worker, and all sessions may come to one worker.
    let connections = 2 * sessions + 64;
    let directory = directory.display();
    format!(
        r"{load}daemon off;
worker_processes {threads};
pid {directory}/nginx.pid;
error_log {directory}/other.log error;

events {{
    worker_connections {connections};
}}

stream {{
    {log}
    upstream back {{
        server {backend} max_fails=3 fail_timeout=10s;
    }}
    server {{
        listen {front} backlog=4096;
        proxy_pass back;
        proxy_connect_timeout 1s;
        proxy_timeout 1h;
    }}
}}
"
    )
}
