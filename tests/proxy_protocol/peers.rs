//! HAProxy and nginx, where they are installed.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::support::{free_port, until};

/// A program that runs until this is dropped.
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    _child: Child,
    _directory: tempfile::TempDir,
}

/// `None`, said aloud, if it is not installed, unless it has to be.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian puts servers where the PATH of ordinary users does not reach.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places.map(|place| place.join(name)).find(|file| file.is_file());
    let needed = std::env::var("CI").is_ok_and(|ci| ci == "true")
        || std::env::var("EVENKEEL_INTEROP").is_ok_and(|wish| wish == "required");
    assert!(found.is_some() || !needed, "{name} is not installed (Debian: haproxy, nginx, libnginx-mod-stream)");
    if found.is_none() {
        // Not by a macro, whose output a passing test would keep to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {name} is not installed; its PROXY protocol was not tried");
    }
    found
}

/// HAProxy with these lines in one section, in which `ADDRESS` is where it listens.
pub async fn haproxy(program: &Path, section: &str) -> Peer {
    let head = "defaults\n timeout connect 10s\n timeout client 10s\n timeout server 10s\n\n";
    start(program, "haproxy.cfg", &format!("{head}{section}\n"), |command, file| {
        command.arg("-db").arg("-f").arg(file);
    })
    .await
}

/// nginx with one stream server, in which `ADDRESS` is where it listens.
pub async fn nginx(program: &Path, server: &str) -> Peer {
    let said = std::process::Command::new(program).arg("-V").output().unwrap().stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    let module = said.split_whitespace().find_map(|word| word.strip_prefix("--modules-path="));
    let load = match module.map(|path| Path::new(path).join("ngx_stream_module.so")) {
        Some(module) if module.is_file() => format!("load_module {};\n", module.display()),
        _ => String::new(),
    };
    let text = format!(
        "{load}daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         stream {{ server {{ {server} }} }}\n"
    );
    start(program, "nginx.conf", &text, |command, file| {
        command.arg("-p").arg(file.parent().unwrap()).arg("-e").arg("stderr").arg("-c").arg(file);
    })
    .await
}

async fn start(program: &Path, name: &str, text: &str, prepare: impl Fn(&mut Command, &Path)) -> Peer {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(name);
    // Neither program tells which port it got for 0, so a free one is tried; another program may take it first.
    for _ in 0..5 {
        let address = free_port();
        std::fs::write(&file, text.replace("ADDRESS", &address.to_string())).unwrap();
        let mut command = Command::new(program);
        prepare(&mut command, &file);
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let runs = until("it listens, or gives up", || {
            let ended = child.try_wait().unwrap().is_some();
            async move {
                if ended {
                    return Some(false);
                }
                TcpStream::connect(address).await.is_ok().then_some(true)
            }
        })
        .await;
        if runs {
            return Peer { address, _child: child, _directory: directory };
        }
    }
    let log = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    panic!("{} does not start: {log}\n{text}", program.display());
}
