//! Postfix behind a pool with `send_proxy`: it refuses a client that does not say where it comes from, be it a probe.

use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::{HeldPort, Process, Rig, command, program, soon, until};

const DAEMONS: &str = "/usr/lib/postfix/sbin";

/// Its configuration, queue and log in a directory of its own; it ends when this is dropped.
struct Postfix {
    process: Process,
    held: HeldPort,
    directory: tempfile::TempDir,
}

impl Postfix {
    /// Waits until it listens.
    async fn start(postconf: &Path) -> Self {
        let (directory, held) = (tempfile::tempdir().unwrap(), HeldPort::new());
        let root = directory.path();
        let user = command(postconf).args(["-dh", "mail_owner"]).output().unwrap().stdout;
        let (user, group) = ids(String::from_utf8(user).unwrap().trim());
        // Its processes give up being root, and must get there all the same.
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["config", "queue", "queue/pid"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        for name in ["data", "queue/private", "queue/public"] {
            std::fs::create_dir(root.join(name)).unwrap();
            chown(root.join(name), Some(user), Some(group)).unwrap();
        }
        let main = format!(
            "compatibility_level = 3.6\ndaemon_directory = {DAEMONS}\n\
             queue_directory = {root}/queue\ndata_directory = {root}/data\n\
             maillog_file = {root}/mail.log\nmaillog_file_prefixes = {root}\n\
             inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmyhostname = mail.test\nmydestination =\nmynetworks = 127.0.0.1\n\
             alias_maps =\nlocal_recipient_maps =\nsmtpd_peername_lookup = no\nsmtpd_client_connection_count_limit = 0\n\
             smtpd_upstream_proxy_protocol = haproxy\n",
            root = root.display()
        );
        let services = format!("{} inet n - n - - smtpd\npostlog unix-dgram n - n - 1 postlogd\n", held.address());
        std::fs::write(root.join("config/main.cf"), main).unwrap();
        std::fs::write(root.join("config/master.cf"), services).unwrap();
        let mut master = command(&Path::new(DAEMONS).join("master"));
        // In the foreground.
        master.arg("-c").arg(root.join("config")).arg("-d").current_dir(root);
        let process = Process::start(master, &root.join("output"));
        let mut this = Self { process, held, directory };
        until("Postfix listens", || {
            this.process.check_runs();
            let address = this.held.address();
            async move { TcpStream::connect(address).await.ok() }
        })
        .await;
        this
    }

    fn address(&self) -> SocketAddr {
        self.held.address()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("mail.log")).unwrap_or_default()
    }
}

/// The numbers of a user and its group.
fn ids(user: &str) -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.split(':').next() == Some(user)).expect(user);
    let fields: Vec<&str> = line.split(':').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

/// The first line that the server says to a client that begins so.
async fn greeting(address: SocketAddr, begin: &str) -> String {
    let mut stream = BufReader::new(soon("a connect", TcpStream::connect(address)).await.unwrap());
    stream.write_all(begin.as_bytes()).await.unwrap();
    let mut line = String::new();
    soon("a greeting", stream.read_line(&mut line)).await.unwrap();
    line
}

#[tokio::test]
async fn probes_say_their_own_addresses_to_postfix_which_refuses_unknown_ones() {
    let Some(postconf) = program("postconf") else { return };
    if !rustix::process::geteuid().is_root() {
        // Its master runs as root, and as nothing else.
        eprintln!("skipped: Postfix can only be started by root");
        return;
    }
    let postfix = Postfix::start(&postconf).await;
    let refused = greeting(postfix.address(), "PROXY UNKNOWN\r\n").await;
    assert!(refused.starts_with("421 "), "{refused}");
    until("it says why", || async { postfix.log().contains("missing protocol type: PROXY UNKNOWN").then_some(()) })
        .await;

    for version in ["v1", "v2"] {
        for check in ["kind = \"script\", steps = [{ expect_regex = \"^220 \" }]", "kind = \"smtp\""] {
            let rig = Rig::with_backends(
                &[&postfix.address().to_string()],
                &format!("check = {{ {check}, fast_interval = \"50ms\" }}\nsend_proxy = \"{version}\"\n"),
            )
            .await;
            rig.until_standing(&postfix.address().to_string(), "up").await;
            // A client, whose address is passed on.
            let hello = greeting(rig.front(), "").await;
            assert!(hello.starts_with("220 mail.test "), "{version}, {check}: {hello}");
            rig.stop().await;
        }
    }
    // Of all headers only the one that was written here was not understood. What came and left without one was waiting for its start.
    let log = postfix.log();
    let complaints: Vec<_> =
        log.lines().filter(|line| line.contains("haproxy read") && !line.ends_with(": EOF")).collect();
    assert_eq!(complaints.len(), 1, "{log}");
}
