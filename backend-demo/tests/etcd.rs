//! Members that register with etcd: with a gateway that fails as it is told, and the whole demo on a real etcd, where one is
//! installed.

#[path = "support/http.rs"]
mod http;
#[path = "support/up.rs"]
mod up;

use std::{collections::BTreeSet, io::Write as _, net::SocketAddr, process::Stdio, time::Duration};

use backend_demo::{
    gateway::{Gateway, GatewayFault},
    serve::{MemberServer, Options},
};
use http::{LIMIT, get, until};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::ChildStderr,
    time::timeout,
};
use up::{Up, demo, send};

const KEY: &str = "/services/web/web-1";

fn options(gateway: &Gateway) -> Options {
    Options { etcd: Some(gateway.url()), ttl: Duration::from_secs(1), ..Options::new("web", "web-1") }
}

async fn until_there(gateway: &Gateway, is_there: bool) {
    until("the key", || gateway.value(KEY).is_some() == is_there).await;
}

#[tokio::test]
async fn a_member_has_a_key_as_long_as_it_runs() {
    let gateway = Gateway::start().await.expect("a gateway");
    let member = MemberServer::start(options(&gateway)).await.expect("a member");
    until_there(&gateway, true).await;
    assert_eq!(gateway.value(KEY), Some(member.address().to_string()));
    // Longer than its lease would last alone.
    until("it keeps its lease alive", || gateway.asked("/v3/lease/keepalive") >= 5).await;
    assert!(gateway.value(KEY).is_some());
    assert_eq!(gateway.asked("/v3/lease/grant"), 1);
    timeout(LIMIT, member.stop()).await.expect("in time");
    assert_eq!(gateway.value(KEY), None, "the lease is revoked");
    assert_eq!(gateway.asked("/v3/lease/revoke"), 1);
}

#[tokio::test]
async fn a_member_registers_again_when_its_key_is_lost() {
    let gateway = Gateway::start().await.expect("a gateway");
    let member = MemberServer::start(options(&gateway)).await.expect("a member");
    until_there(&gateway, true).await;
    for lose in [Gateway::lose_data, Gateway::expire_leases] {
        lose(&gateway);
        until_there(&gateway, true).await;
    }
    // It does not answer for longer than the lease lasts.
    gateway.inject(Some(GatewayFault::Hang));
    until_there(&gateway, false).await;
    gateway.inject(None);
    until_there(&gateway, true).await;
    gateway.inject(Some(GatewayFault::Proxy));
    timeout(LIMIT, member.stop()).await.expect("a registry that refuses does not hold up the end");
}

#[tokio::test]
async fn a_member_logs_in() {
    let gateway = Gateway::start().await.expect("a gateway");
    gateway.require_user("web", "se:cret");
    let member = MemberServer::start(Options { etcd_user: Some("web:se:cret".to_owned()), ..options(&gateway) });
    let member = member.await.expect("a member");
    until_there(&gateway, true).await;
    gateway.expire_tokens();
    gateway.lose_data();
    until_there(&gateway, true).await;
    member.stop().await;
    assert_eq!(gateway.value(KEY), None);
}

#[tokio::test]
async fn a_member_on_all_addresses_is_refused() {
    let gateway = Gateway::start().await.expect("a gateway");
    let all = SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = MemberServer::start(Options { listen: all, ..options(&gateway) }).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("--listen")));
}

/// What it says on the way: that a keepalive fails, that it is forgotten, that it is registered again.
#[tokio::test]
async fn a_member_says_what_becomes_of_its_key() {
    let gateway = Gateway::start().await.expect("a gateway");
    let url = gateway.url();
    let mut member = demo(&["serve", "--id", "web-1", "--ttl", "1s", "--etcd", &url]);
    let mut member = member.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a process");
    let mut said = BufReader::new(member.stderr.take().expect("a pipe")).lines();
    hears(&mut said, &format!("web-1: registered with {url}")).await;
    gateway.inject(Some(GatewayFault::NoLeader));
    hears(&mut said, &format!("web-1: not registered with {url}, trying on: etcdserver: request timed out")).await;
    gateway.inject(None);
    hears(&mut said, &format!("web-1: registered with {url}")).await;
    gateway.expire_leases();
    hears(&mut said, &format!("web-1: forgotten by {url}, registering again")).await;
    until_there(&gateway, true).await;
    send("TERM", member.id().expect("it runs")).await;
    timeout(LIMIT, member.wait()).await.expect("in time").expect("a status");
    assert_eq!(gateway.value(KEY), None);
}

async fn hears(said: &mut Lines<BufReader<ChildStderr>>, wanted: &str) {
    let hears = async {
        loop {
            let line = said.next_line().await.expect("readable").expect("a line");
            if line == wanted {
                return;
            }
        }
    };
    timeout(LIMIT, hears).await.unwrap_or_else(|_| panic!("does not say {wanted:?}"));
}

/// Whether a real etcd is there. If not, the test has to return, except where all programs have to be there.
fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|place| place.join("etcd").is_file()) {
        return true;
    }
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    assert!(
        !is("EVENKEEL_INTEROP", "required") && !is("CI", "true"),
        "etcd is not installed (tests/run.sh installs it)"
    );
    let _written = std::io::stderr().write_all(b"\nskipped: etcd is not installed (tests/run.sh installs it)\n");
    false
}

const LB: &str = r#"
[admin]
bind = "127.0.0.1:0"
socket = "admin.sock"
[log]
level = "warn"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
consul = { service = "web" }
check = { kind = "http", path = "/health", interval = "200ms", fast_interval = "50ms" }
"#;

impl Up {
    /// Which members answer 90 requests; none may fail.
    async fn answering(&self) -> BTreeSet<String> {
        self.ask(90).await.into_keys().collect()
    }

    async fn until_standing(&self, id: &str, standing: &str) {
        let admin = self.address("admin");
        let waits = async {
            loop {
                let pools = get(admin, "/api/v1/pools").await.json();
                let mut backends = pools["pools"][0]["backends"].as_array().expect("backends").iter();
                if backends.any(|backend| backend["id"] == id && backend["standing"] == standing) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, waits).await.unwrap_or_else(|_| panic!("{id} is not {standing}"));
    }
}

fn ids(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// A member is killed, then etcd, then another member while there is none.
#[tokio::test]
async fn the_demo_runs_on_a_real_etcd() {
    if !is_installed() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut up = Up::start(directory.path(), LB, &["--registry", "etcd"]).await;
    assert_eq!(up.answering().await, ids(&["web-1", "web-2", "web-3"]));
    let rest = &up.said["registry"];
    assert!(rest.contains("etcd"), "{rest}");

    // The probes see it at once, and its key is gone with its lease.
    send("KILL", up.pid("web-2")).await;
    assert_eq!(up.answering().await, ids(&["web-1", "web-3"]));
    up.until_standing("web-2", "removed").await;

    let added =
        demo(&["serve", "--name", "web", "--id", "web-4", "--etcd", &format!("http://{}", up.address("registry"))])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a process");
    up.until_standing("web-4", "up").await;
    assert_eq!(up.answering().await, ids(&["web-1", "web-3", "web-4"]));

    send("KILL", up.pid("registry")).await;
    assert_eq!(up.answering().await, ids(&["web-1", "web-3", "web-4"]));
    send("KILL", added.id().expect("it runs")).await;
    assert_eq!(up.answering().await, ids(&["web-1", "web-3"]));
    up.until_standing("web-4", "down").await;

    send("INT", up.process.id().expect("it runs")).await;
    let status = timeout(LIMIT * 2, up.process.wait()).await.expect("in time").expect("a status");
    assert_eq!(status.code(), Some(0));
}
