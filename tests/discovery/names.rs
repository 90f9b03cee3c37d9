//! Backends by name, in the real program, with its own `/etc/hosts`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::support::{Backend, Program, exchange, get, until};

/// What mounts the file over `/etc/hosts`, for whatever it runs. `None` = it may not here: the test has to return.
pub(crate) fn with_hosts(file: &Path) -> Option<Command> {
    let may = |flags: &str| {
        let mut tried = std::process::Command::new("unshare");
        tried
            .args([flags, "mount", "--bind", "/etc/hosts", "/etc/hosts"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let Some(flags) = ["-m", "-rm"].into_iter().find(|flags| may(flags)) else {
        std::io::stderr().write_all(b"\nskipped: no mount namespace may be made here\n").unwrap();
        return None;
    };
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    command.args([flags, "sh", "-c", script]).arg(file).arg(Program::PATH);
    Some(command)
}

fn configuration(host: &str, port: u16, more: &str) -> String {
    format!(
        "admin.bind = \"127.0.0.1:0\"\nlisteners.front = {{ bind = \"127.0.0.1:0\", pool = \"back\" }}\n\
         [pools.back]\nbackends = [\"{host}:{port}\"]\nresolve.refresh = \"1h\"\n{more}\n"
    )
}

async fn address_in_use(program: &Program) -> String {
    let (_, body) = get(program.admin().await, "/api/v1/pools").await.unwrap();
    let pools: Value = serde_json::from_str(&body).unwrap();
    pools["pools"][0]["backends"][0]["address"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_dead_first_address_of_a_name_delays_no_session() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    let backend = Backend::answering("a").await;
    let port = backend.address().port();
    let checks = ["", "check.kind = \"none\"", "check.kind = \"none\"\noutliers.mode = \"off\""];
    for (first, check) in ["::1", "127.0.0.7"].into_iter().flat_map(|first| checks.map(|check| (first, check))) {
        std::fs::write(&hosts, format!("{first} localhost\n127.0.0.1 localhost\n")).unwrap();
        let Some(command) = with_hosts(&hosts) else { return };
        let program = Program::start_by(&configuration("localhost", port, check), command);
        // The first client of all: it waits for the first verdict and is served.
        assert_eq!(exchange(program.front("front").await, b"?").await.unwrap(), b"a", "{first} {check}");
        assert_eq!(address_in_use(&program).await, format!("127.0.0.1:{port}"));
    }
}

#[tokio::test]
async fn a_changed_dns_address_is_used_when_the_old_one_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    let old = Backend::answering("old").await;
    let port = old.address().port();
    std::fs::write(&hosts, "127.0.0.1 db.test\n").unwrap();
    let Some(command) = with_hosts(&hosts) else { return };
    let program = Program::start_by(&configuration("db.test", port, ""), command);
    let front = program.front("front").await;
    assert_eq!(exchange(front, b"?").await.unwrap(), b"old");

    // In place: it is the file that is mounted.
    std::fs::write(&hosts, "127.0.0.9 db.test\n").unwrap();
    let new = Backend::on(SocketAddr::from(([127, 0, 0, 9], port)), |mut stream| async move {
        let mut request = [0; 16];
        if stream.read(&mut request).await.is_ok_and(|n| n > 0) {
            let _ = stream.write_all(b"new").await;
        }
    })
    .await;
    old.stop().await;
    // The next look-up in turn is in an hour.
    until("served at the new address", || async {
        exchange(front, b"?").await.ok().filter(|answer| answer == b"new").map(drop)
    })
    .await;
    assert_eq!(address_in_use(&program).await, new.address().to_string());
}
