//! The static follower.

use super::*;
use crate::config::{Host, HostPort, StaticBackend};

fn backend(host: &str, weight: u16) -> StaticBackend {
    let host = host.parse().map_or_else(|_| Host::Name(host.to_owned()), Host::Ip);
    let address = HostPort { host, port: 80 };
    StaticBackend {
        id: address.to_string(),
        address,
        weight,
        priority: 0,
        zone: None,
        max_sessions: None,
        position: None,
    }
}

fn follow(names: Resolver, backends: Vec<StaticBackend>) -> Running {
    Running::start(&mut Discovery::with(names, no_fronts(), quick()), &Source::Static(backends))
}

#[tokio::test]
async fn addresses_are_sent_at_once() {
    let mut running = follow(nameless(), vec![backend("10.0.0.1", 3), backend("fd00::1", 0)]);
    assert_eq!(running.set().await, ["10.0.0.1:80 10.0.0.1:80 3 passing", "[fd00::1]:80 [fd00::1]:80 0 passing"]);
    running.status(|view| view.last_success.is_some() && view.rejected.is_empty()).await;
    assert!(running.updates.try_recv().is_err());
}

#[tokio::test]
async fn a_resolver_that_hangs_or_fails_keeps_nobody_waiting() {
    let names = resolver(|name| match name {
        "slow" => None,
        "good" => Some(Ok(vec!["10.0.0.2".parse().unwrap()])),
        _ => Some(Err(io::Error::other("no such name"))),
    });
    let backends = ["slow", "bad", "10.0.0.1", "good"].map(|host| backend(host, 1)).to_vec();
    let mut running = follow(names, backends);
    assert_eq!(running.set().await, ["10.0.0.1:80 10.0.0.1:80 1 passing"]);
    assert_eq!(running.set().await, ["10.0.0.1:80 10.0.0.1:80 1 passing", "good:80 10.0.0.2:80 1 passing"]);
    let view = running.status(|view| !view.rejected.is_empty() && view.error.is_some()).await;
    assert_eq!(view.rejected[0].id, "bad:80");
    assert_eq!(view.rejected[0].why, "can't resolve bad: no such name");
    assert_eq!(view.error.unwrap().2, "bad: no such name");
}

#[tokio::test]
async fn no_address_at_all_is_not_an_empty_set() {
    let mut running = follow(resolver(|_| Some(Ok(Vec::new()))), vec![backend("void", 1)]);
    let view = running.status(|view| view.errors.get("resolve").is_some_and(|errors| errors.count > 1)).await;
    assert!(view.last_success.is_none());
    assert_eq!(view.error.unwrap().2, "void: no address");
    assert!(running.updates.try_recv().is_err());
}

#[tokio::test]
async fn what_is_ourselves_is_rejected_whenever_we_begin_to_listen_there() {
    let (listening, fronts) = fronts_at(&["0.0.0.0:81"]);
    let mut discovery = Discovery::with(resolver(|_| Some(Ok(vec!["127.0.0.1".parse().unwrap()]))), fronts, quick());
    let source = Source::Static(vec![backend("127.0.0.1", 1), backend("::ffff:127.0.0.1", 1), backend("name", 1)]);
    let mut running = Running::start(&mut discovery, &source);
    while running.update().await.endpoints.len() < 3 {}
    // A reload adds a listener.
    listening.send_replace(super::fronts(&["0.0.0.0:81", "0.0.0.0:80"]));
    assert_eq!(running.set().await, Vec::<String>::new());
    let view = running.status(|view| view.rejected.len() == 3).await;
    let why = "127.0.0.1:80 is our own listener `web` (0.0.0.0:80): its sessions would go round in a circle";
    assert_eq!((view.rejected[0].id.as_str(), view.rejected[0].why.as_str()), ("127.0.0.1:80", why));
    // And another one takes it away again.
    listening.send_replace(super::fronts(&["0.0.0.0:81"]));
    assert_eq!(running.update().await.endpoints.len(), 3);
    running.status(|view| view.rejected.is_empty()).await;
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let mut running = follow(nameless(), vec![backend("10.0.0.1", 1)]);
    running.set().await;
    running.updates.close();
    soon("end", &mut running.task).await.unwrap();
}
