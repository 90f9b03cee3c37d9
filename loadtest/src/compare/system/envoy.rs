//! Envoy's TCP proxy. Its access log is written in batches by a thread of its own.

use std::io;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{Row, Setting};
use crate::envoy;

pub(super) fn command(binary: &Path, setting: &Setting<'_>) -> io::Result<Command> {
    let path = setting.write("envoy.json", &config(setting))?;
    let mut command = Command::new(binary);
    command.arg("--config-path").arg(path).args(["--concurrency", &setting.threads.to_string()]);
    // Without hot restart there is no shared memory with a fixed name, so that others may run beside it.
    command.args(["--disable-hot-restart", "--log-level", "warning"]);
    command.stdout(Setting::file(&setting.other_log())?).stderr(Setting::file(&setting.other_log())?);
    Ok(command)
}

fn config(setting: &Setting<'_>) -> String {
    let Setting { front, backend, sessions, row, .. } = setting;
    let log = match row {
        Row::Defaults => json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": setting.session_log(),
            },
        }]),
        Row::LogsOff => json!([]),
    };
    let proxy = json!({"idle_timeout": "3600s", "access_log": log});
    let cluster = json!({
        // The default of 1,024 would refuse the idle connections.
        "circuit_breakers": {"thresholds": [{"max_connections": sessions, "max_pending_requests": sessions}]},
        "health_checks": [{
            "timeout": "1s",
            "interval": "2s",
            "healthy_threshold": 2,
            "unhealthy_threshold": 3,
            "tcp_health_check": {},
        }],
    });
    envoy::config(*front, &[*backend], proxy, cluster)
}
