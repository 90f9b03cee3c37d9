//! Evenkeel: the shipped defaults but for the intervals that all systems have.

use std::path::Path;
use std::process::{Command, Stdio};

use super::super::fault::Check;
use super::{Setting, Variant};

/// Whether this binary takes that variant: asked of its own `check`, so that older and newer ones can be tested.
pub(super) fn supports(binary: &Path, variant: Variant) -> Result<(), String> {
    let try_it = || {
        let directory = tempfile::tempdir()?;
        // Two of them: a backend that is the listener itself is refused.
        let (front, backend) = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
        let setting = Setting { front, backends: &[backend], check: Check::Script, directory: directory.path() };
        std::fs::write(directory.path().join("lb.toml"), config(variant, &setting))?;
        // What it says gets into the report, where no path of this machine belongs.
        let mut command = Command::new(binary);
        command.args(["--config", "lb.toml", "check"]).current_dir(directory.path()).stdin(Stdio::null()).output()
    };
    let output = try_it().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let words: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
    Err(format!("this binary does not accept its configuration: {}", words.join(" ")))
}

pub(super) fn config(variant: Variant, setting: &Setting<'_>) -> String {
    let Setting { front, backends, check, .. } = setting;
    let backends: Vec<_> = backends.iter().map(|address| format!("\"{address}\"")).collect();
    let backends = backends.join(", ");
    let more = match variant {
        Variant::Plain => "",
        Variant::FirstByte => "timeouts.first_byte = \"1s\"\n",
        Variant::Replay => "timeouts.first_byte = \"1s\"\nreplay = \"until_response\"\n",
    };
    let check = match check {
        Check::Tcp => "kind = \"tcp\"",
        Check::Script => "kind = \"script\"\nsteps = [{ send = \"PING\\r\\n\" }, { expect = \"PONG\" }]",
    };
    // `connect`, `rise` and `fall` are the defaults.
    format!(
        r#"[listeners.front]
bind = "{front}"
pool = "back"

[pools.back]
backends = [{backends}]
{more}
[pools.back.check]
{check}
interval = "1s"
fast_interval = "300ms"
down_interval = "300ms"
timeout = "500ms"
"#
    )
}
