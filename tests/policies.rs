//! What ties a client to a backend, seen from outside: `hash` by what the client connected to, and by a value of its PROXY
//! header.

use evenkeel::proxy_protocol::{Addresses, Header, Tlv, write_v2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, Rig, soon};

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
