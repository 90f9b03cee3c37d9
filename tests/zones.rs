//! Zones: backends in the balancer's own zone come first, and the others get what those can't carry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use backend_demo::registry::Definition;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Backend, Program, Registry, Rig, answers, exchange, free_port, get_json, until};

const CHECK: &str =
    "check = { interval = \"50ms\", fast_interval = \"20ms\", timeout = \"500ms\", rise = 1, fall = 1 }";

/// A pool with these backends: an address and a zone each, which may be empty.
fn config(zone: &str, backends: &[(&Backend, &str)]) -> String {
    let one = |(backend, zone): &(&Backend, &str)| match *zone {
        "" => format!("\"{}\"", backend.address()),
        zone => format!("{{ address = \"{}\", zone = \"{zone}\" }}", backend.address()),
    };
    let backends: Vec<_> = backends.iter().map(one).collect();
    format!(
        "{zone}\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nbackends = [{}]\n{CHECK}\n",
        backends.join(", ")
    )
}

async fn until_up(rig: &Rig, backends: &[&Backend]) {
    for backend in backends {
        rig.until_standing(&backend.address().to_string(), "up").await;
    }
}

/// How many of 20 sessions each of them gets.
async fn shares<const N: usize>(rig: &Rig, names: [&str; N]) -> [usize; N] {
    let all = answers(rig.front(), 20).await;
    names.map(|name| all.iter().filter(|answer| *answer == name).count())
}

#[tokio::test]
async fn the_own_zone_comes_first_and_what_it_cannot_carry_leaves() {
    let (near, dying) = (Backend::answering("near").await, Backend::answering("dying").await);
    let (far, nowhere) = (Backend::answering("far").await, Backend::answering("nowhere").await);
    let all = [(&near, "a"), (&dying, "a"), (&far, "b"), (&nowhere, "")];
    let rig = Rig::start(&config("zone = \"a\"", &all)).await;
    until_up(&rig, &[&near, &dying, &far, &nowhere]).await;
    assert_eq!(shares(&rig, ["near", "dying", "far", "nowhere"]).await, [10, 10, 0, 0]);
    let of = |name: &str, zone: &str| format!("evenkeel_pool_zone_{name}{{pool=\"back\",zone=\"{zone}\"}}");
    for (zone, up) in [("a", 2.0), ("b", 1.0), ("", 1.0)] {
        assert_eq!(
            (rig.metric(&of("up_backends", zone)).await, rig.metric(&of("eligible_backends", zone)).await),
            (up, up)
        );
    }
    let pools = rig.pools().await;
    assert_eq!(pools["pools"][0]["tiers"], serde_json::json!([{ "priority": 0, "percent": 100, "elsewhere": 0 }]));
    assert_eq!(get_json(rig.admin(), "/api/v1/status").await["zone"], "a");
    let id = dying.address().to_string();
    dying.stop().await;
    rig.until_standing(&id, "down").await;
    // 1 of 2 × 1.4.
    assert_eq!(rig.metric("evenkeel_pool_zone_elsewhere_load_ratio{pool=\"back\"}").await, 0.3);
    assert_eq!(rig.metric("evenkeel_pool_tier_load_ratio{pool=\"back\",tier=\"0\"}").await, 1.0);
    assert_eq!(shares(&rig, ["near", "far", "nowhere"]).await, [14, 3, 3]);
    assert_eq!(rig.metric(&of("up_backends", "a")).await, 1.0);
    rig.stop().await;
}

/// A failed connect goes on to the other zone, as to the next tier.
#[tokio::test]
async fn a_session_spills_over_the_zones() {
    let far = Backend::answering("far").await;
    let text = format!(
        "zone = \"a\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\ncheck = {{ kind = \"none\", fall = 100 }}\n\
         backends = [{{ address = \"{}\", zone = \"a\" }}, {{ address = \"{}\", zone = \"b\" }}]\n",
        free_port(),
        far.address()
    );
    let rig = Rig::start(&text).await;
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"far");
    rig.reload(&format!("{text}spill = []\nconnect = {{ deadline = \"300ms\" }}\n")).await.unwrap();
    let answer = exchange(rig.front(), b"?").await;
    assert!(answer.as_ref().is_ok_and(Vec::is_empty) || answer.is_err(), "{answer:?}");
    rig.stop().await;
}

/// The balancer's zone and those of backends change live; what was said before does not stay. Without a zone, as ever.
#[tokio::test]
async fn zones_change_live() {
    let (one, two) = (Backend::answering("one").await, Backend::answering("two").await);
    let rig = Rig::start(&config("", &[(&one, "a"), (&two, "b")])).await;
    until_up(&rig, &[&one, &two]).await;
    let shares = || shares(&rig, ["one", "two"]);
    assert_eq!(shares().await, [10, 10]);
    rig.reload(&config("zone = \"b\"", &[(&one, "a"), (&two, "b")])).await.unwrap();
    assert_eq!(shares().await, [0, 20]);
    // Both of them moved.
    rig.reload(&config("zone = \"b\"", &[(&one, "b"), (&two, "a")])).await.unwrap();
    until("one alone", || async { (shares().await == [20, 0]).then_some(()) }).await;
    rig.reload(&config("zone = \"b\"", &[(&one, "c"), (&two, "")])).await.unwrap();
    until("both", || async { (shares().await == [10, 10]).then_some(()) }).await;
    rig.reload(&config("", &[(&one, "b"), (&two, "a")])).await.unwrap();
    until("both", || async { (shares().await == [10, 10]).then_some(()) }).await;
    rig.stop().await;
}

/// From the metadata of instances, also when it changes.
#[tokio::test]
async fn consul_says_the_zones_of_instances() {
    let registry = Registry::new().await;
    let (one, two) = (Backend::answering("one").await, Backend::answering("two").await);
    let register = |id: &str, backend: &Backend, key: &str, zone: &str| {
        let address = backend.address();
        let plain = Definition::new("web", id, &address.ip().to_string(), address.port());
        registry.register(Definition { meta: [(key.to_owned(), zone.to_owned())].into(), ..plain });
    };
    register("one", &one, "zone", "a");
    register("two", &two, "evenkeel_zone", "b");
    let rig = Rig::start(&format!("zone = \"b\"\n{}", registry.config("", CHECK))).await;
    let zone = |id: &'static str| {
        let (rig, id) = (&rig, registry.id(id));
        async move { rig.until_standing(&id, "up").await["zone"].clone() }
    };
    assert_eq!((zone("one").await, zone("two").await), ("a".into(), "b".into()));
    assert_eq!(shares(&rig, ["one", "two"]).await, [0, 20]);
    register("two", &two, "zone", "a");
    register("one", &one, "zone", "b");
    until("one alone", || async { (shares(&rig, ["one", "two"]).await == [20, 0]).then_some(()) }).await;
    rig.stop().await;
}

/// The balancer's own, from the agent: an agent that refuses is not fatal, and is asked again.
#[tokio::test]
async fn the_agent_says_our_zone_as_soon_as_it_may() {
    let (one, two) = (Backend::answering("one").await, Backend::answering("two").await);
    let allowed = Arc::new(AtomicUsize::new(0));
    let agent = Backend::serving({
        let allowed = Arc::clone(&allowed);
        move |mut stream| {
            let answer = match allowed.load(SeqCst) {
                0 => "HTTP/1.1 403 Forbidden\r\nContent-Length: 17\r\nConnection: close\r\n\r\nPermission denied"
                    .to_owned(),
                _ => {
                    let body = r#"{"Config":{"NodeName":"n"},"Meta":{"consul-version":"1.22","az":"b"}}"#;
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
                }
            };
            async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    request.push(byte);
                }
                assert!(request.starts_with(b"GET /v1/agent/self"), "{}", request.escape_ascii());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    let zone = format!(
        "admin.bind = \"127.0.0.1:0\"\nconsul.address = \"http://{}\"\nzone = {{ consul = \"az\" }}",
        agent.address()
    );
    let program = Program::start(&config(&zone, &[(&one, "a"), (&two, "b")]), &[]);
    program.until_says("the agent does not say the zone of this balancer: its token may not read the agent").await;
    let front = program.front("front").await;
    let all = answers(front, 4).await;
    assert!(all.contains(&"one".to_owned()) && all.contains(&"two".to_owned()), "as without zones: {all:?}");
    allowed.store(1, SeqCst);
    program.until_says("this balancer is in a zone: backends there come first").await;
    assert_eq!(answers(front, 4).await, ["two"; 4]);

    let status = program.good("", &["status"]).await;
    assert!(status.contains(", zone b\n"), "{status}");
    let backends = program.good("", &["backends"]).await;
    assert!(backends.contains("ADDRESS") && backends.contains("ZONE"), "{backends}");
    let explained = program.good("", &["explain", &format!("back/{}", one.address())]).await;
    assert!(explained.contains("it is in zone a, this balancer in b"), "{explained}");
    assert!(
        explained.contains("priority 0 outside our zone b, whose tier gets 0 % of the new sessions"),
        "{explained}"
    );
    program.stop().await;
}
