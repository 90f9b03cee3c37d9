//! A real etcd: what the articles write into it, users, TLS, a cluster that loses members, and one that loses its data.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support::{
    Backend, CommandOutput, HeldPort, Process, Rig, answers, command, exchange, output_of, program, programs, until,
};

const FAILING: &str = "evenkeel_discovery_failing{pool=\"back\",source=\"etcd\"}";

/// A member of a cluster, with its data.
struct Member {
    program: PathBuf,
    process: Process,
    name: String,
    client: HeldPort,
    cluster: String,
    peer: HeldPort,
    directory: tempfile::TempDir,
    tls: Vec<String>,
}

impl Member {
    /// A cluster of one.
    async fn alone(etcd: &Path, tls: &[String]) -> Self {
        let mut all = Self::cluster(etcd, 1, tls);
        let mut member = all.remove(0);
        member.until_ready().await;
        member
    }

    fn cluster(etcd: &Path, size: usize, tls: &[String]) -> Vec<Self> {
        let ports: Vec<_> = (0..size).map(|_| (HeldPort::new(), HeldPort::new())).collect();
        let entry =
            |(number, (_, peer)): (usize, &(HeldPort, HeldPort))| format!("m{number}=http://{}", peer.address());
        let cluster = ports.iter().enumerate().map(entry).collect::<Vec<_>>().join(",");
        let member = |(number, (client, peer))| Self::start(etcd, format!("m{number}"), client, peer, &cluster, tls);
        ports.into_iter().enumerate().map(member).collect()
    }

    fn start(etcd: &Path, name: String, client: HeldPort, peer: HeldPort, cluster: &str, tls: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (program, cluster, tls) = (etcd.to_owned(), cluster.to_owned(), tls.to_vec());
        let process = Self::spawn(&program, &name, &client, &peer, &cluster, directory.path(), &tls);
        Self { program, process, name, client, cluster, peer, directory, tls }
    }

    fn spawn(
        program: &Path,
        name: &str,
        client: &HeldPort,
        peer: &HeldPort,
        cluster: &str,
        directory: &Path,
        tls: &[String],
    ) -> Process {
        let scheme = if tls.is_empty() { "http" } else { "https" };
        let (url, peer_url) = (format!("{scheme}://{}", client.address()), format!("http://{}", peer.address()));
        let mut command = command(program);
        command.args(["--name", name, "--data-dir"]).arg(directory.join("data"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", cluster]);
        command.args(tls);
        Process::start(command, &directory.join("log"))
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_empty() { "http" } else { "https" };
        format!("{scheme}://{}", self.client.address())
    }

    async fn until_ready(&mut self) {
        let process = &mut self.process;
        until("etcd is ready", || {
            process.check_runs();
            let ready = process.log().contains("ready to serve client requests");
            async move { ready.then_some(()) }
        })
        .await;
    }

    /// After a kill; with its data, or without.
    fn restart(&mut self, with_data: bool) {
        self.process.kill();
        if !with_data {
            std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
        }
        let Self { program, name, client, peer, cluster, directory, tls, .. } = self;
        self.process = Self::spawn(program, name, client, peer, cluster, directory.path(), tls);
    }
}

/// `etcdctl ARGUMENTS`
struct Ctl {
    program: PathBuf,
    endpoints: String,
}

impl Ctl {
    fn new(program: &Path, endpoints: String) -> Self {
        Self { program: program.to_owned(), endpoints }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = command(&self.program);
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", &self.endpoints);
        // Longer than an election takes.
        command.args(["--command-timeout", "15s"]).args(arguments);
        command
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::from(self.command(arguments));
        command.kill_on_drop(true);
        CommandOutput::good(output_of(command).await)
    }

    /// Sets a key, as soon as there is a leader for it.
    async fn put(&self, key: &str, value: &str) {
        until(&format!("{key} is put"), || async {
            let mut command = Command::from(self.command(&["put", key, value]));
            command.kill_on_drop(true);
            output_of(command).await.ok.then_some(())
        })
        .await;
    }

    /// The articles' service: it grants itself a lease of 10 s, puts a key without a value, and keeps the lease alive.
    async fn register(&self, key: &str, log: &Path) -> Process {
        let granted = self.run(&["lease", "grant", "10"]).await;
        let lease = granted.split_whitespace().nth(1).unwrap().to_owned();
        self.run(&["put", "--lease", &lease, key, ""]).await;
        Process::start(self.command(&["lease", "keep-alive", &lease]), log)
    }
}

fn config(endpoints: &[String], prefix: &str, etcd: &str) -> String {
    format!(
        "[etcd]\nendpoints = {endpoints:?}\n{etcd}[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\netcd = {{ prefix = \"{prefix}\" }}\n\
         check = {{ interval = \"100ms\", fast_interval = \"20ms\", timeout = \"10s\" }}\n"
    )
}

#[tokio::test]
async fn what_the_articles_write_is_a_pool() {
    let Some([etcd, etcdctl]) = programs(["etcd", "etcdctl"]) else { return };
    let member = Member::alone(&etcd, &[]).await;
    let ctl = Ctl::new(&etcdctl, member.url());
    let logs = tempfile::tempdir().unwrap();
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    let key = |backend: &Backend| format!("/test-service/web/{}", backend.address());
    let mut kept_a = ctl.register(&key(&a), &logs.path().join("a")).await;
    let rig = Rig::start(&config(&[member.url()], "/test-service/web/", "")).await;
    let (id_a, id_b) = (a.address().to_string(), b.address().to_string());
    rig.until_standing(&id_a, "up").await;
    let _kept_b = ctl.register(&key(&b), &logs.path().join("b")).await;
    rig.until_standing(&id_b, "up").await;
    assert_eq!(answers(rig.front(), 4).await, ["a", "a", "b", "b"]);

    // Its process is gone, and 10 s later its key: the instance itself still works, so that only the registry says so.
    kept_a.kill();
    rig.until_standing(&id_a, "removed").await;
    assert_eq!(answers(rig.front(), 4).await, ["b"; 4]);
    rig.stop().await;
}

#[tokio::test]
async fn the_data_are_kept_or_lost_and_clients_do_not_notice() {
    let Some([etcd, etcdctl]) = programs(["etcd", "etcdctl"]) else { return };
    let mut member = Member::alone(&etcd, &[]).await;
    let ctl = Ctl::new(&etcdctl, member.url());
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    for (id, backend) in [("a", &a), ("b", &b)] {
        ctl.run(&["put", &format!("/s/{id}"), &backend.address().to_string()]).await;
    }
    let rig = Rig::start(&config(&[member.url()], "/s/", "")).await;
    rig.until_standing("a", "up").await;
    rig.until_standing("b", "up").await;
    for with_data in [true, false] {
        member.process.kill();
        rig.until_metric(FAILING, 1.0).await;
        assert_eq!(answers(rig.front(), 4).await, ["a", "a", "b", "b"]);
        member.restart(with_data);
        rig.until_metric(FAILING, 0.0).await;
        assert_eq!(answers(rig.front(), 4).await, ["a", "a", "b", "b"], "with its data: {with_data}");
    }
    // The lost keys are held; those that come again are obeyed.
    let held = rig.backend("a").await.unwrap();
    assert_eq!(held["facts"]["guard"], "held", "{held}");
    ctl.put("/s/a", &a.address().to_string()).await;
    until("a is listed again", || async {
        rig.backend("a").await.filter(|backend| backend["facts"]["guard"] == "none")
    })
    .await;
    ctl.run(&["del", "/s/a"]).await;
    // Long before a new hold could end: the registry is calm again, but for what it has lost.
    until("a is gone or held", || async {
        rig.backend("a").await.filter(|b| b["standing"] == "removed" || b["facts"]["guard"] == "held")
    })
    .await;
    rig.stop().await;
}

#[tokio::test]
async fn a_cluster_loses_members_and_a_majority() {
    let Some([etcd, etcdctl]) = programs(["etcd", "etcdctl"]) else { return };
    let mut members = Member::cluster(&etcd, 3, &[]);
    for member in &mut members {
        member.until_ready().await;
    }
    let urls: Vec<_> = members.iter().map(Member::url).collect();
    let ctl = Ctl::new(&etcdctl, urls[2].clone());
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    ctl.put("/s/a", &a.address().to_string()).await;
    let rig = Rig::start(&config(&urls, "/s/", "")).await;
    rig.until_standing("a", "up").await;

    // The member that is asked; the next one is, without trouble.
    members[0].process.kill();
    let errors = "evenkeel_discovery_errors_total";
    ctl.put("/s/b", &b.address().to_string()).await;
    rig.until_standing("b", "up").await;
    assert_eq!(rig.metric(&format!("{errors}{{pool=\"back\",source=\"etcd\",reason=\"no_leader\"}}")).await, 0.0);

    // One of three has no leader: that is trouble and not silence.
    members[1].process.kill();
    rig.until_metric(FAILING, 1.0).await;
    assert_eq!(answers(rig.front(), 4).await, ["a", "a", "b", "b"]);
    members[1].restart(true);
    rig.until_metric(FAILING, 0.0).await;
    assert!(!exchange(rig.front(), b"?").await.unwrap().is_empty());
    rig.stop().await;
}

/// `openssl ARGUMENTS`, in a directory.
async fn openssl(program: &Path, directory: &Path, arguments: &str) {
    let mut command = Command::from(command(program));
    command.current_dir(directory).args(arguments.split(' ')).kill_on_drop(true);
    output_of(command).await.good();
}

#[tokio::test]
async fn users_and_certificates() {
    let Some([etcd, etcdctl]) = programs(["etcd", "etcdctl"]) else { return };
    let Some(tool) = program("openssl") else { return };
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(at("ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&tool, directory.path(), &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2")).await;
    for name in ["server", "client"] {
        openssl(&tool, directory.path(), &format!("req {key} -keyout {name}.key -out {name}.csr -subj /O={name}"))
            .await;
        let sign = format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext");
        openssl(&tool, directory.path(), &format!("{sign} -out {name}.pem")).await;
    }
    let (ca, cert, cert_key) = (at("ca.pem"), at("server.pem"), at("server.key"));
    let server = ["--cert-file", &cert, "--key-file", &cert_key, "--client-cert-auth", "--trusted-ca-file", &ca];
    // Tokens are over after a second, so that many are asked for.
    let server = [&server[..], &["--auth-token-ttl", "1"]].concat();
    let member = Member::alone(&etcd, &server.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()).await;
    let ctl = Ctl::new(&etcdctl, member.url());
    let (client, client_key) = (at("client.pem"), at("client.key"));
    let shown = ["--cacert", &ca, "--cert", &client, "--key", &client_key];
    let run = async |arguments: &str| {
        ctl.run(&[&shown[..], &arguments.split(' ').collect::<Vec<_>>()].concat()).await;
    };
    let backend = Backend::answering("a").await;
    run(&format!("put /s/a {}", backend.address())).await;
    for step in [
        "user add root:r00t",
        "user add balancer:s3cr3t",
        "role add reads",
        "role grant-permission reads read --prefix=true /s/",
        "user grant-role balancer reads",
        "user grant-role root root",
        "auth enable",
    ] {
        run(step).await;
    }

    let files = format!("ca_file = \"{ca}\"\ncert_file = \"{client}\"\nkey_file = \"{client_key}\"\n");
    let user = "user = \"balancer\"\npassword = \"s3cr3t\"\n";
    let rig = Rig::start(&config(&[member.url()], "/s/", &format!("{files}{user}"))).await;
    rig.until_standing("a", "up").await;
    let second = Backend::answering("b").await;
    run(&format!("--user root:r00t put /s/b {}", second.address())).await;
    rig.until_standing("b", "up").await;
    assert_eq!(answers(rig.front(), 4).await, ["a", "a", "b", "b"]);
    assert_eq!(rig.metric(FAILING).await, 0.0);
    rig.stop().await;

    // Without the user, without the right, without the certificate.
    for (prefix, etcd, reason) in [
        ("/s/", files.clone(), "forbidden"),
        ("/other/", format!("{files}{user}"), "forbidden"),
        ("/s/", format!("{files}user = \"balancer\"\npassword = \"wrong\"\n"), "forbidden"),
        ("/s/", format!("ca_file = \"{ca}\"\n{user}"), "broken"),
    ] {
        let rig = Rig::start(&config(&[member.url()], prefix, &etcd)).await;
        rig.until_metric(FAILING, 1.0).await;
        let errors = |reason: &str| {
            format!("evenkeel_discovery_errors_total{{pool=\"back\",source=\"etcd\",reason=\"{reason}\"}}")
        };
        // TLS 1.3 tells a client that its certificate is missing after the handshake, or in it.
        let connect = if reason == "broken" { rig.metric(&errors("connect")).await } else { 0.0 };
        let seen = rig.metric(&errors(reason)).await + connect;
        assert!(seen >= 1.0, "{prefix} {etcd}: {}", rig.metrics().await);
        rig.stop().await;
    }
}
