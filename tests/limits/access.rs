//! `allow` and `deny`: who may connect, IPv4 and IPv6, behind a proxy; lists in files, which change while it runs.

use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Backend, Program, Rig, exchange, get_json, soon, until};

pub(super) const PROXIES: &str = "accept_proxy = { from = [\"127.0.0.1\"], timeout = \"1h\" }";

/// A listener with these keys in front of a backend.
pub(super) fn front(bind: &str, keys: &str, backend: &Backend) -> String {
    format!(
        "[listeners.front]\nbind = \"{bind}:0\"\npool = \"back\"\n{keys}\n\
         [pools.back]\nbackends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\n",
        backend.address()
    )
}

/// A backend that says "served" first of all.
pub(super) async fn greeting() -> Backend {
    Backend::serving(|mut stream| async move {
        let _ = stream.write_all(b"served").await;
        let _ = stream.shutdown().await;
        while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
    })
    .await
}

/// What a client that says nothing gets from a front: it connects from this address.
pub(super) async fn from(address: [u8; 4], front: SocketAddr) -> std::io::Result<Vec<u8>> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    heard(soon("a connect", socket.connect(front)).await?).await
}

/// What comes until the end. A client that waits for FIN before its own reads a plain close as one.
pub(super) async fn heard(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    soon("an end", stream.read_to_end(&mut all)).await.map(|_| all)
}

/// The same behind a proxy that names this client.
pub(super) async fn named(client: &str, front: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = soon("a connect", TcpStream::connect(front)).await?;
    let (family, server) = if client.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "198.51.100.1") };
    stream.write_all(format!("PROXY {family} {client} {server} 4711 443\r\n").as_bytes()).await?;
    heard(stream).await
}

pub(super) async fn served(rig: &Rig, reason: &str) -> f64 {
    rig.metric(&format!("evenkeel_refusals_total{{listener=\"front\",reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn a_client_that_is_denied_is_closed_before_a_backend_hears_of_it() {
    let backend = greeting().await;
    let rig = Rig::start(&front(
        "127.0.0.1",
        "deny = [\"127.0.0.0/24\", \"127.0.0.7/32\"]\nallow = [\"127.0.0.9\"]",
        &backend,
    ))
    .await;
    for address in [[127, 0, 0, 1], [127, 0, 0, 7], [127, 0, 1, 1]] {
        // An ordinary close without a byte.
        assert_eq!(from(address, rig.front()).await.unwrap(), b"", "{address:?}");
    }
    assert_eq!(backend.connections(), 0);
    assert_eq!(from([127, 0, 0, 9], rig.front()).await.unwrap(), b"served");
    rig.until_no_sessions().await;
    assert_eq!(served(&rig, "denied").await, 3.0);
    rig.stop().await;
}

#[tokio::test]
async fn ipv4_that_comes_in_on_an_ipv6_socket_is_ipv4() {
    let backend = greeting().await;
    let rig = Rig::start(&front("[::]", "deny = [\"127.0.0.2\", \"::/0\"]", &backend)).await;
    let port = rig.front().port();
    assert_eq!(from([127, 0, 0, 2], ([127, 0, 0, 1], port).into()).await.unwrap(), b"");
    assert_eq!(from([127, 0, 0, 1], ([127, 0, 0, 1], port).into()).await.unwrap(), b"served");
    let six = TcpStream::connect(("::1", port)).await.unwrap();
    assert_eq!(heard(six).await.unwrap(), b"");
    assert_eq!(served(&rig, "denied").await, 2.0);
    rig.stop().await;
}

#[tokio::test]
async fn behind_a_proxy_its_client_counts() {
    let backend = greeting().await;
    let keys = format!("{PROXIES}\nallow = [\"192.0.2.0/24\", \"2001:db8:1::/48\"]\ndeny = [\"192.0.2.128/25\"]");
    let rig = Rig::start(&front("127.0.0.1", &keys, &backend)).await;
    for (client, answer) in [
        ("192.0.2.1", "served"),
        ("192.0.2.129", ""),
        ("198.51.100.7", ""),
        ("2001:db8:1::5", "served"),
        ("2001:db8:2::5", ""),
        ("::ffff:192.0.2.1", "served"),
    ] {
        assert_eq!(named(client, rig.front()).await.unwrap(), answer.as_bytes(), "{client}");
    }
    // A peer that may not name a client is the client, and is refused before it says anything.
    assert_eq!(from([127, 0, 0, 2], rig.front()).await.unwrap(), b"");
    assert_eq!(served(&rig, "denied").await, 4.0);
    rig.stop().await;
}

/// As careful programs write a file.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_list_in_a_file_is_applied_when_it_changes_and_a_bad_line_is_refused() {
    let backend = greeting().await;
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("deny.txt");
    std::fs::write(&list, "# no client\n").unwrap();
    let keys = format!("deny = {{ file = {list:?} }}");
    let program =
        Program::start(&format!("admin.bind = \"127.0.0.1:0\"\n{}", front("127.0.0.1", &keys, &backend)), &[]);
    let front = program.front("front").await;
    assert_eq!(exchange(front, b"").await.unwrap(), b"served");

    replace(&list, "10.0.0.0/8\n127.0.0.1 # us\n");
    let line = format!("changed: {}: networks: 2 new, 0 gone, 0 kept", list.display());
    program.until_says(&line).await;
    assert_eq!(exchange(front, b"").await.unwrap(), b"");

    replace(&list, "10.0.0.0/8\n10.0.0.1/8\n");
    let place = format!("{}:2: ", list.display());
    let said = program.until_says(&place).await;
    assert!(said.contains("what runs goes on") && said.contains("bits set behind the prefix"), "{said}");
    assert_eq!(exchange(front, b"").await.unwrap(), b"", "what ran goes on");
    let config = get_json(program.admin().await, "/api/v1/config").await;
    assert_eq!((&config["generation"], &config["last_reload"]["result"]), (&2.into(), &"refused".into()));

    std::fs::write(&list, "10.0.0.0/8\n").unwrap();
    until("served again", || async { (exchange(front, b"").await.ok()? == b"served").then_some(()) }).await;
    // The new one was not read as a change when it was applied.
    assert_eq!(get_json(program.admin().await, "/api/v1/config").await["reloads"]["unchanged"], 0);
}

#[tokio::test]
async fn a_new_file_of_a_new_configuration_is_watched_and_one_that_mends_it_lets_it_in() {
    let backend = greeting().await;
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("first.txt"), directory.path().join("second.txt"));
    std::fs::write(&first, "127.0.0.7\n").unwrap();
    std::fs::write(&second, "127.0.0.8\n").unwrap();
    let text = |keys: &str| format!("admin.bind = \"127.0.0.1:0\"\n{}", front("127.0.0.1", keys, &backend));
    let program = Program::start(&text(&format!("deny = {{ file = {first:?} }}")), &[]);
    let address = program.front("front").await;
    // The same network in both lists: refused, with both places.
    let keys = format!("deny = {{ file = {first:?} }}\nallow = {{ file = {second:?} }}");
    std::fs::write(&second, "127.0.0.1\n127.0.0.7\n").unwrap();
    replace(&program.directory().join("lb.toml"), &text(&keys));
    let said = program.until_says("the new configuration is refused").await;
    let both =
        format!("{}:1: `allow` of listener `front` has 127.0.0.7/32, too ({}:2)", first.display(), second.display());
    assert!(said.contains(&both), "{said}");
    // A change of the list that is watched is another try for the refused configuration.
    replace(&first, "127.0.0.9\n");
    program.until_says("allow: none -> ").await;
    assert_eq!(from([127, 0, 0, 9], address).await.unwrap(), b"");
    // The list that came with it is watched now.
    replace(&second, "127.0.0.7\n");
    until("denied", || async { (exchange(address, b"").await.ok()? == b"").then_some(()) }).await;
    assert_eq!(from([127, 0, 0, 7], address).await.unwrap(), b"served");
}

#[tokio::test]
async fn check_and_a_start_refuse_a_list_that_can_not_be_used() {
    let backend = greeting().await;
    for (list, content, expected) in [
        ("deny", Some("10.0.0.0/8\nnonsense\n"), "list.txt:2: \"nonsense\": no network and no IP address"),
        ("deny", None, "cannot read list.txt"),
        ("allow", Some("# none yet\n"), "has no network: it would let no client in"),
    ] {
        for command in ["check", "run"] {
            let directory = tempfile::tempdir().unwrap();
            let text = front("127.0.0.1", &format!("{list} = {{ file = \"list.txt\" }}"), &backend);
            let text = format!("admin.bind = \"127.0.0.1:0\"\n{text}");
            std::fs::write(directory.path().join("lb.toml"), text).unwrap();
            if let Some(content) = content {
                std::fs::write(directory.path().join("list.txt"), content).unwrap();
            }
            let mut process = tokio::process::Command::new(Program::PATH);
            let output = soon(command, process.arg(command).current_dir(directory.path()).output()).await.unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(2) && said.contains(expected), "{command}: {said}");
        }
    }
}

/// A client that has a session keeps it.
#[tokio::test]
async fn a_reload_that_denies_a_client_leaves_its_session() {
    let backend = Backend::echo().await;
    let rig = Rig::start(&front("127.0.0.1", "", &backend)).await;
    let mut stream = soon("a connect", TcpStream::connect(rig.front())).await.unwrap();
    stream.write_all(b"a").await.unwrap();
    assert_eq!(soon("an echo", stream.read_u8()).await.unwrap(), b'a');
    rig.reload(&front("127.0.0.1", "deny = [\"127.0.0.0/8\"]", &backend)).await.unwrap();
    assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"");
    stream.write_all(b"b").await.unwrap();
    assert_eq!(soon("an echo", stream.read_u8()).await.unwrap(), b'b');
    drop(stream);
    rig.stop().await;
}
