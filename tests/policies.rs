//! Policies and what ties a client to a backend, seen from outside: `hash` by what the client connected to and by a value of its
//! PROXY header, `sticky`, `least_time` and `first`.

use std::time::Duration;

use evenkeel::proxy_protocol::{Addresses, Header, Tlv, write_v2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Backend, Program, Rig, soon};

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// A rig of backends that say their names; `front` is more of the listener, `pool` of the pool.
async fn rig(front: &str, pool: &str) -> (Rig, Vec<Backend>) {
    let (mut backends, mut entries) = (Vec::new(), Vec::new());
    for name in NAMES {
        let backend = Backend::serving(move |mut stream| async move {
            let _ = stream.write_all(name.as_bytes()).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        entries.push(format!("{{ address = \"{}\", id = \"{name}\" }}", backend.address()));
        backends.push(backend);
    }
    let text = format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n{front}\n[pools.back]\ncheck = {{ kind = \"none\" }}\n\
         backends = [{}]\n{pool}\n",
        entries.join(", ")
    );
    (Rig::start(&text).await, backends)
}

/// Whom a client meets that says this first.
async fn met(rig: &Rig, first: &[u8]) -> char {
    soon("a greeting", async {
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        client.write_all(first).await.unwrap();
        char::from(client.read_u8().await.unwrap())
    })
    .await
}

fn header(client: &str, destination: &str, tlvs: &[(u8, &str)]) -> Vec<u8> {
    let addresses = Addresses::between(client.parse().unwrap(), destination.parse().unwrap());
    let tlvs = tlvs.iter().map(|(kind, value)| Tlv { kind: *kind, value: value.as_bytes().to_vec() });
    write_v2(&Header::Proxy { addresses: Some(addresses), tlvs: tlvs.collect() }, false)
}

/// Whom ten clients meet of each of these groups; all of a group have to meet the same, and not all groups do.
async fn assert_groups_stay_together(rig: &Rig, group: impl Fn(u8, u8) -> Vec<u8>) {
    let mut firsts = Vec::new();
    for number in 0..10 {
        let first = met(rig, &group(number, 0)).await;
        for member in 1..4 {
            assert_eq!(met(rig, &group(number, member)).await, first, "group {number}");
        }
        firsts.push(first);
    }
    firsts.sort_unstable();
    firsts.dedup();
    assert!(firsts.len() > 2, "{firsts:?}");
}

#[tokio::test]
async fn hash_by_destination_is_what_the_header_says_or_the_own_address() {
    for policy in ["maglev", "ring_hash"] {
        let front = "accept_proxy = { from = [\"127.0.0.1\"], required = false, timeout = \"100ms\" }";
        let (rig, _backends) = rig(front, &format!("balance = \"{policy}\"\nhash = \"destination\"")).await;
        assert_groups_stay_together(&rig, |group, member| {
            let (client, port) = (format!("[2001:db8::{member}]:4{member}"), 5_000 + u16::from(group));
            header(&client, &format!("[2001:db8:1::7]:{port}"), &[])
        })
        .await;
        // Without a header it is this balancer's own end: what a header that names it says.
        let own = met(&rig, b"").await;
        assert_eq!(met(&rig, b"").await, own, "another port of the client makes no difference");
        assert_eq!(met(&rig, &header("192.0.2.9:1", &rig.front().to_string(), &[])).await, own);
        rig.until_no_sessions().await;
        rig.stop().await;
    }
}

#[tokio::test]
async fn hash_by_a_value_of_the_header_or_by_the_client_without_it() {
    let front = "accept_proxy = { from = [\"127.0.0.1\"] }";
    let (rig, _backends) = rig(front, "balance = \"maglev\"\nhash = { by = \"proxy_tlv\", tlv = 0xE4 }").await;
    assert_groups_stay_together(&rig, |group, member| {
        let tenant = format!("tenant-{group}");
        header(&format!("192.0.2.{member}:4"), "192.0.2.7:443", &[(0xE5, "x"), (0xE4, &tenant)])
    })
    .await;
    assert_groups_stay_together(&rig, |group, member| {
        let other = format!("{member}");
        header(&format!("192.0.2.{group}:4{member}"), "192.0.2.7:443", &[(0xE5, &other)])
    })
    .await;
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// A ClientHello that asks for this name, and no more of it than a balancer has to read.
fn hello(name: &str) -> Vec<u8> {
    let counted = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let entry = [&[0][..], &counted(name.as_bytes())].concat();
    let server_name = [&[0, 0][..], &counted(&counted(&entry))].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &counted(&server_name)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let handshake = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &counted(&handshake)].concat()
}

/// The listener has no route: the pool's `hash` alone has it read the name, which may come in pieces. What has no name is hashed
/// by its address.
#[tokio::test]
async fn hash_by_server_name_reads_it_although_no_route_does() {
    let (rig, _backends) = rig("sniff = { timeout = \"200ms\" }", "balance = \"ring_hash\"\nhash = \"sni\"").await;
    assert_groups_stay_together(&rig, |group, member| {
        let name = format!("shop-{group}.example.com");
        hello(&if member % 2 == 0 { name } else { name.to_uppercase() })
    })
    .await;
    let whole = hello("shop-3.example.com");
    let wanted = met(&rig, &whole).await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    for piece in whole.chunks(20) {
        client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(char::from(client.read_u8().await.unwrap()), wanted);
    drop(client);
    let unnamed = met(&rig, b"SSH-2.0-x").await;
    assert_eq!(met(&rig, b"GET / HTTP/1.0").await, unnamed);
    assert_eq!(met(&rig, b"").await, unnamed, "nothing within sniff.timeout");
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// The first four backends of [`rig`], as a process.
async fn program(pool: &str) -> (Program, Vec<Backend>, String) {
    let (mut backends, mut entries) = (Vec::new(), Vec::new());
    for name in &NAMES[..4] {
        let backend = Backend::answering(name).await;
        entries.push(format!("{{ address = \"{}\", id = \"{name}\" }}", backend.address()));
        backends.push(backend);
    }
    let text = format!(
        "[admin]\nbind = \"127.0.0.1:0\"\nadmin_token = \"t\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\ncheck = {{ kind = \"none\" }}\nbackends = [{}]\n{pool}\n",
        entries.join(", ")
    );
    (Program::start(&text, &[]), backends, text)
}

/// Whom the client of this address meets.
async fn met_by(program: &Program, last: u8) -> String {
    let front = program.front("front").await;
    soon("an answer", async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 1, last], 0).into()).unwrap();
        let mut client = socket.connect(front).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.shutdown().await.unwrap();
        let mut name = String::new();
        client.read_to_string(&mut name).await.unwrap();
        name
    })
    .await
}

/// Through a reload to another policy, until a command forgets it.
#[tokio::test]
async fn a_sticky_pool_remembers_its_clients() {
    let (program, _backends, text) = program("balance = \"round_robin\"\nsticky = { ttl = \"30m\", max = 1000 }").await;
    let mut first = Vec::new();
    for client in 1..=8 {
        first.push(met_by(&program, client).await);
    }
    std::fs::write(program.directory().join("lb.toml"), text.replace("round_robin", "random")).unwrap();
    program.good("t", &["reload"]).await;
    for _ in 0..3 {
        for client in (1..=8).rev() {
            assert_eq!(met_by(&program, client).await, first[usize::from(client) - 1]);
        }
    }
    let shown = program.good("t", &["sticky", "back"]).await;
    assert!(shown.contains("127.0.1.8") && shown.contains("8 clients are remembered"), "{shown}");
    let json: serde_json::Value =
        serde_json::from_str(&program.good("t", &["--json", "sticky", "back"]).await).unwrap();
    let of_5 = json["clients"].as_array().unwrap().iter().find(|known| known["client"] == "127.0.1.5").unwrap();
    assert_eq!(of_5["backend"], first[4]);
    let cleared = program.good("t", &["sticky", "back", "--clear-client", "127.0.1.5"]).await;
    assert_eq!(cleared, "pool back: 1 clients are forgotten\n");
    assert_eq!(program.good("t", &["sticky", "back", "--clear"]).await, "pool back: 7 clients are forgotten\n");
    let explained = program.good("t", &["explain", "back/a"]).await;
    assert!(explained.contains("policy") && explained.contains("sticky"), "{explained}");
    program.stop().await;
}

#[tokio::test]
async fn least_time_goes_to_the_fast_one() {
    let answers = |name: &'static str, after: Duration| {
        Backend::serving(move |mut stream| async move {
            let _ = stream.read(&mut [0]).await;
            tokio::time::sleep(after).await;
            let _ = stream.write_all(name.as_bytes()).await;
        })
    };
    let (fast, slow) = (answers("fast", Duration::ZERO).await, answers("slow", Duration::from_millis(100)).await);
    let backends = [&slow, &fast].map(|backend| backend.address().to_string());
    let rig = Rig::with_backends(&[&backends[0], &backends[1]], "balance = \"least_time\"").await;
    let mut slow = 0;
    for _ in 0..60 {
        let answer = crate::support::exchange(rig.front(), b"x").await.unwrap();
        slow += usize::from(answer == b"slow");
    }
    // It is measured once, and then it is not worth it.
    assert!((1..=4).contains(&slow), "{slow} of 60");
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// In the order of the list, and in the other order after a reload that turns it round.
#[tokio::test]
async fn first_fills_the_backends_as_they_are_written() {
    let (rig, backends) = rig("", "balance = \"first\"\nbackend_max_sessions = 2").await;
    let mut held = Vec::new();
    for wanted in ["a", "a", "b", "b", "c"] {
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), wanted.as_bytes()[0]);
        held.push(client);
    }
    drop(held);
    rig.until_no_sessions().await;
    let entries: Vec<_> = backends
        .iter()
        .zip(NAMES)
        .rev()
        .map(|(backend, name)| format!("{{ address = \"{}\", id = \"{name}\" }}", backend.address()))
        .collect();
    let text = format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\ncheck = {{ kind = \"none\" }}\n\
         backends = [{}]\nbalance = \"first\"\nbackend_max_sessions = 2\n",
        entries.join(", ")
    );
    rig.reload(&text).await.unwrap();
    crate::support::until("the new order", || async { (met(&rig, b"").await == 'h').then_some(()) }).await;
    rig.until_no_sessions().await;
    rig.stop().await;
}
