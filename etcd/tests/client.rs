//! The client against a gateway that fails as it is told.

use std::time::Duration;

use backend_demo::gateway::{Gateway, GatewayFault};
use etcd::{Client, Error, Event, Settings, Watch};

const PATIENCE: Duration = Duration::from_millis(500);
/// For what has to come.
const SOON: Duration = Duration::from_secs(20);

async fn gateway() -> Gateway {
    Gateway::start().await.expect("a gateway")
}

fn client(settings: Settings) -> Client {
    Client::with_patience(&settings, PATIENCE).expect("a client")
}

fn at(gateways: &[&Gateway]) -> Settings {
    Settings { endpoints: gateways.iter().map(|gateway| gateway.url()).collect(), ..Settings::default() }
}

async fn next(watch: &mut Watch) -> Result<Vec<Event>, Error> {
    let changes = tokio::time::timeout(SOON, watch.next()).await.expect("a message in time")?;
    Ok(changes.events)
}

fn shown(events: &[Event]) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let one = |event: &Event| match event {
        Event::Put(pair) => format!("{}={}", text(&pair.key), text(&pair.value)),
        Event::Delete { key } => format!("-{}", text(key)),
    };
    events.iter().map(one).collect()
}

#[tokio::test]
async fn a_range_and_what_happens_after_it() {
    let gateway = gateway().await;
    let client = client(at(&[&gateway]));
    assert!(client.range(b"/s/").await.unwrap().pairs.is_empty());
    gateway.put("/s/a", "1");
    gateway.put("/s/b", "");
    gateway.put("/t/c", "3");
    let range = client.range(b"/s/").await.unwrap();
    let pairs: Vec<_> = range.pairs.iter().map(|pair| (pair.key.as_slice(), pair.value.as_slice())).collect();
    assert_eq!(pairs, [(&b"/s/a"[..], &b"1"[..]), (b"/s/b", b"")]);
    let mut watch = client.watch(b"/s/", range.header.revision + 1).await.unwrap();
    assert_eq!(watch.header(), range.header);
    gateway.put("/s/a", "2");
    assert_eq!(shown(&next(&mut watch).await.unwrap()), ["/s/a=2"]);
    gateway.put("/t/c", "4");
    gateway.delete("/s/b");
    assert_eq!(shown(&next(&mut watch).await.unwrap()), ["-/s/b"]);
    // From an earlier revision it tells what has been.
    let mut again = client.watch(b"/s/", range.header.revision + 1).await.unwrap();
    assert_eq!(shown(&next(&mut again).await.unwrap()), ["/s/a=2", "-/s/b"]);
    gateway.compact();
    let mut late = client.watch(b"/s/", range.header.revision + 1).await.unwrap();
    assert!(matches!(next(&mut late).await, Err(Error::Compacted { .. })));
    gateway.cut();
    assert!(matches!(next(&mut watch).await, Err(Error::Broken(_))));
}

#[tokio::test]
async fn every_fault_is_an_error_and_none_an_empty_range() {
    let gateway = gateway().await;
    gateway.put("/s/a", "1");
    let client = client(at(&[&gateway]));
    for (fault, kind) in [
        (GatewayFault::Hang, "timeout"),
        (GatewayFault::NoLeader, "no_leader"),
        (GatewayFault::Garbage, "decode"),
        (GatewayFault::EmptyObject, "decode"),
        (GatewayFault::Proxy, "server_error"),
        (GatewayFault::Cut, "broken"),
        (GatewayFault::Huge, "too_large"),
        (GatewayFault::Forbidden, "forbidden"),
    ] {
        gateway.inject(Some(fault));
        let error = client.range(b"/s/").await.expect_err("a fault");
        assert_eq!(error.kind(), kind, "{fault:?}: {error:?}");
        // That the user may not read one key says nothing about the cluster.
        assert_eq!(client.check(PATIENCE).await.is_ok(), fault == GatewayFault::Forbidden, "{fault:?}");
        gateway.inject(None);
        assert_eq!(client.range(b"/s/").await.unwrap().pairs.len(), 1);
        client.check(SOON).await.unwrap();
    }
}

#[tokio::test]
async fn endpoints_in_turn() {
    let (first, second) = (gateway().await, gateway().await);
    second.put("/s/a", "1");
    let client = client(at(&[&first, &second]));
    assert!(client.range(b"/s/").await.unwrap().pairs.is_empty());
    for fault in [GatewayFault::Hang, GatewayFault::NoLeader, GatewayFault::Garbage, GatewayFault::Proxy] {
        client.leave(1);
        assert_eq!(client.endpoint(), 0);
        first.inject(Some(fault));
        assert_eq!(client.range(b"/s/").await.unwrap().pairs.len(), 1, "{fault:?}");
        first.inject(None);
        // It stays with the one that is good.
        assert_eq!((client.endpoint(), client.range(b"/s/").await.unwrap().pairs.len()), (1, 1));
    }
    // A refusal is an answer.
    second.inject(Some(GatewayFault::Forbidden));
    assert_eq!(client.range(b"/s/").await.unwrap_err().kind(), "forbidden");
    assert_eq!(client.endpoint(), 1);
    first.inject(Some(GatewayFault::Proxy));
    second.inject(Some(GatewayFault::Proxy));
    assert_eq!(client.range(b"/s/").await.unwrap_err().kind(), "server_error");
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_when_it_is_over() {
    let gateway = gateway().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "secret\n").expect("written");
    let settings = Settings {
        user: Some("me".to_owned()),
        password: Some("not looked at".to_owned()),
        password_file: Some(file.path().to_owned()),
        ..at(&[&gateway])
    };
    let client = client(settings);
    // Without users nothing is asked for, and a user does no harm.
    client.range(b"/s/").await.unwrap();
    gateway.require_user("me", "secret");
    let logins = || gateway.asked("/v3/auth/authenticate");
    let before = logins();
    let many = (0..20).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.range(b"/s/").await })
    });
    for asked in many.collect::<Vec<_>>() {
        asked.await.expect("no panic").unwrap();
    }
    assert_eq!(logins(), before + 1, "many learn at one moment that they need one");
    for _ in 0..3 {
        gateway.expire_tokens();
        client.range(b"/s/").await.unwrap();
        gateway.expire_tokens();
        client.watch(b"/s/", 1).await.unwrap();
    }
    assert_eq!(logins(), before + 7);
    // The password has changed; its file is read again.
    gateway.require_user("me", "new");
    gateway.expire_tokens();
    let error = client.range(b"/s/").await.unwrap_err();
    assert_eq!(error.kind(), "forbidden");
    assert!(!format!("{error} {error:?}").contains("secret"));
    std::fs::write(file.path(), "new").expect("written");
    client.range(b"/s/").await.unwrap();
    drop(file);
    gateway.expire_tokens();
    assert!(matches!(client.range(b"/s/").await, Err(Error::PasswordFile { .. })));
}

#[tokio::test]
async fn leases() {
    let gateway = gateway().await;
    let client = client(at(&[&gateway]));
    let lease = client.grant(60).await.unwrap();
    client.put(b"/s/a", b"1", Some(lease)).await.unwrap();
    client.put(b"/s/b", b"2", None).await.unwrap();
    client.keep_alive(lease).await.unwrap();
    client.revoke(lease).await.unwrap();
    assert_eq!((gateway.value("/s/a"), gateway.value("/s/b")), (None, Some("2".to_owned())));
    for gone in [client.keep_alive(lease).await, client.revoke(lease).await, client.put(b"x", b"", Some(lease)).await] {
        assert!(gone.unwrap_err().is_not_found());
    }
    client.delete(b"/s/b").await.unwrap();
    client.delete(b"/s/b").await.unwrap();
    assert_eq!(gateway.value("/s/b"), None);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for settings in [Settings::default(), Settings::new("127.0.0.1:2379"), Settings::new("http://u:hunter2@a:1")] {
        let error = Client::new(&settings).expect_err("it can't work");
        assert_eq!(error.kind(), "config");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
