use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use fastrand::Rng;

use super::hello::{HelloReader, Reading};
use super::*;
use crate::config::{Config, Listener, Route, ServerName};
use crate::seeds::seeds;

/// A file with a listener that has these routes. The pools are called `a` to `e`; `rest` is the listener's own.
fn file(routes: &str, rest: bool) -> Config {
    let pools: String =
        ["a", "b", "c", "d", "e"].map(|name| format!("[pools.{name}]\nbackends = [\"127.0.0.1:1\"]\n")).concat();
    let rest = if rest { "pool = \"e\"\n" } else { "" };
    let text = format!("[listeners.l]\nbind = \"127.0.0.1:0\"\n{rest}routes = [\n{routes}\n]\n{pools}");
    config::parse(&text, "test.toml", &|_| None).unwrap_or_else(|error| panic!("{error}"))
}

fn listener(routes: &str, rest: bool) -> Listener {
    file(routes, rest).listeners.remove(0)
}

fn config_of(listener: &Listener) -> Config {
    Config { listeners: vec![listener.clone()], ..file("{ tls = true, pool = \"a\" }", true) }
}

fn routes(listener: &Listener) -> Routes<String> {
    Routes::new(listener, |name| Some(name.to_owned())).unwrap()
}

fn hello(name: Option<&str>, alpn: &[&str]) -> ClientHello {
    ClientHello { server_name: name.map(Into::into), alpn: alpn.iter().map(|name| name.as_bytes().into()).collect() }
}

fn at(text: &str) -> SocketAddr {
    SocketAddr::new(text.parse().unwrap(), 4_000)
}

/// A client that has sent nothing yet.
const SILENT: ClientFacts<'_> = ClientFacts {
    hello: Hello::Open,
    is_all: false,
    ..ClientFacts::of(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4_000))
};

/// Where a session goes: the pool, or why it goes nowhere.
fn pool(decision: Decision<&String>) -> &str {
    match decision {
        Decision::Pool(pool, _) => pool,
        Decision::Refused(why) => why.name(),
        Decision::NeedsBytes => "needs bytes",
    }
}

#[test]
fn the_first_rule_that_holds_decides() {
    let listener = listener(
        r#"{ sni = ["db.example.com", "*.shop.example.com"], pool = "a" },
           { alpn = ["postgresql", "h2"], pool = "b" },
           { from = ["10.0.0.0/8", "2001:db8::/32"], pool = "c" },
           { starts_with = ["SSH-", "GET "], pool = "d" },"#,
        true,
    );
    let routes = routes(&listener);
    let read = |name, alpn: &[&str], address| {
        let hello = hello(name, alpn);
        let facts = ClientFacts { hello: Hello::Read(&hello), first_bytes: b"\x16", address: at(address), ..SILENT };
        pool(routes.decide(&facts)).to_owned()
    };
    for (name, alpn, address, wanted) in [
        (Some("db.example.com"), &["h2"][..], "10.0.0.1", "a"),
        (Some("eu.shop.example.com"), &[], "192.0.2.1", "a"),
        (Some("shop.example.com"), &["http/1.1", "h2"], "192.0.2.1", "b"),
        (Some("a.eu.shop.example.com"), &[], "::ffff:10.9.9.9", "c"),
        (None, &["http/1.1"], "2001:db8::1", "c"),
        (None, &[], "192.0.2.1", "e"),
        (Some("example.com"), &["H2"], "2001:db9::1", "e"),
    ] {
        assert_eq!(read(name, alpn, address), wanted, "{name:?} {alpn:?} {address}");
    }
    let silent = |is_all| pool(routes.decide(&ClientFacts { is_all, ..SILENT })).to_owned();
    assert_eq!((silent(false).as_str(), silent(true).as_str()), ("needs bytes", "e"));
    let plain = |bytes, is_all| {
        let facts = ClientFacts { hello: Hello::None, first_bytes: bytes, is_all, ..SILENT };
        pool(routes.decide(&facts)).to_owned()
    };
    assert_eq!((plain(b"S", false).as_str(), plain(b"S", true).as_str()), ("needs bytes", "e"));
    assert_eq!((plain(b"SSH-2.0", false).as_str(), plain(b"SX", false).as_str()), ("d", "e"));
}

#[test]
fn without_a_rule_that_holds_it_is_refused() {
    let listener = listener(r#"{ tls = true, pool = "a" }"#, false);
    let facts = ClientFacts { is_all: true, ..SILENT };
    assert_eq!(routes(&listener).decide(&facts), Decision::Refused(Refusal::NoRoute));
    assert_eq!(routes(&listener).only(), None);
}

#[test]
fn conditions_of_one_route_have_to_hold_together() {
    let listener = listener(
        r#"{ sni = "a.b", from = "10.0.0.0/8", alpn = "h2", pool = "a" }, { tls = false, from = "10.0.0.0/8", pool = "b" }"#,
        true,
    );
    let routes = routes(&listener);
    // Its address rules both out: nothing to wait for.
    assert_eq!(pool(routes.decide(&SILENT)), "e");
    let near = ClientFacts { address: at("10.0.0.1"), ..SILENT };
    assert_eq!(pool(routes.decide(&near)), "needs bytes");
    assert_eq!(pool(routes.decide(&ClientFacts { hello: Hello::None, ..near })), "b");
    for (name, alpn, wanted) in [("a.b", "h2", "a"), ("a.b", "h3", "e"), ("a.c", "h2", "e")] {
        let hello = hello(Some(name), &[alpn]);
        assert_eq!(pool(routes.decide(&ClientFacts { hello: Hello::Read(&hello), ..near })), wanted, "{name} {alpn}");
    }
}

#[test]
fn a_split_gives_each_pool_its_part() {
    const CLIENTS: u32 = 100_000;
    let listener_of = |split: &str, hash: &str| listener(&format!("{{ split = {split}{hash} }}"), false);
    let counts = |listener: &Listener| {
        let (routes, mut rng, mut counts) = (routes(listener), Rng::with_seed(7), [0_u32; 3]);
        for client in 0..CLIENTS {
            let address = SocketAddr::new(IpAddr::V4((0x0a00_0000 + client).into()), 1);
            let facts = ClientFacts { address, lot: rng.u64(..), ..SILENT };
            counts[usize::from(pool(routes.decide(&facts)).as_bytes()[0] - b'a')] += 1;
        }
        counts
    };
    for hash in ["", ", hash = \"client_address\""] {
        let [a, b, c] = counts(&listener_of("{ a = 95, b = 5, c = 0 }", hash));
        assert!((94_000..96_000).contains(&a) && a + b == CLIENTS && c == 0, "{a} {b} {c}");
    }
    assert_eq!(counts(&listener_of("{ a = 0, b = 1 }", "")), [0, CLIENTS, 0]);
}

/// The same client, the same pool; with other shares only the difference moves.
#[test]
fn a_split_by_hash_keeps_clients() {
    let listener_of = |split: &str| listener(&format!("{{ split = {split}, hash = \"client_address\" }}"), false);
    let (before, after) = (routes(&listener_of("{ a = 95, b = 5 }")), routes(&listener_of("{ a = 90, b = 10 }")));
    let mut moved = 0;
    for client in 0..10_000_u32 {
        let at = |port, lot| ClientFacts { address: SocketAddr::new(IpAddr::V4(client.into()), port), lot, ..SILENT };
        let first = pool(before.decide(&at(1, 1))).to_owned();
        assert_eq!(pool(before.decide(&at(2, u64::MAX))), first);
        moved += u32::from(pool(after.decide(&at(1, 1))) != first);
    }
    assert!((400..600).contains(&moved), "{moved} of 10,000 moved");
}

/// A naive reading of the rules, one after the other, each list from its begin to its end.
fn naive(listener: &Listener, client: &ClientFacts<'_>) -> Option<usize> {
    let holds = |route: &Route| -> Option<bool> {
        let mut parts = Vec::new();
        if !route.from.is_empty() {
            parts.push(Some(route.from.iter().any(|network| network.contains(client.address.ip()))));
        }
        let is_hello = match client.hello {
            Hello::Open => client.is_all.then_some(None),
            Hello::None => Some(None),
            Hello::Read(hello) => Some(Some(hello)),
        };
        let by_hello = |holds: &dyn Fn(Option<&ClientHello>) -> bool| is_hello.map(holds);
        if !route.sni.is_empty() {
            let named = |name: &str| {
                route.sni.iter().any(|wanted| match wanted {
                    ServerName::Exact(exact) => exact == name,
                    ServerName::Wildcard(parent) => name
                        .strip_suffix(parent.as_str())
                        .and_then(|rest| rest.strip_suffix('.'))
                        .is_some_and(|label| !label.contains('.')),
                })
            };
            parts.push(by_hello(&|hello| hello.and_then(|hello| hello.server_name.as_deref()).is_some_and(named)));
        }
        if !route.alpn.is_empty() {
            let offers = |hello: &ClientHello| {
                hello.alpn.iter().any(|offered| route.alpn.iter().any(|wanted| wanted.as_bytes() == &**offered))
            };
            parts.push(by_hello(&|hello| hello.is_some_and(offers)));
        }
        if let Some(tls) = route.tls {
            parts.push(by_hello(&|hello| hello.is_some() == tls));
        }
        let (bytes, mut prefixes) = (client.first_bytes, route.prefixes().peekable());
        if prefixes.peek().is_some() {
            let (mut begins, mut may_begin) = (false, false);
            for prefix in prefixes {
                begins |= bytes.len() >= prefix.len() && bytes[..prefix.len()] == *prefix;
                may_begin |= !client.is_all && bytes.len() < prefix.len() && prefix[..bytes.len()] == *bytes;
            }
            parts.push(if begins {
                Some(true)
            } else if may_begin {
                None
            } else {
                Some(false)
            });
        }
        match parts.contains(&Some(false)) {
            true => Some(false),
            false if parts.contains(&None) => None,
            false => Some(true),
        }
    };
    for (number, route) in listener.routes.iter().enumerate() {
        match holds(route) {
            Some(false) => {}
            Some(true) => return Some(number),
            None => return Some(usize::MAX),
        }
    }
    None
}

/// Random rules out of a few values, so that they overlap.
fn random_listener(rng: &mut Rng) -> Listener {
    let mut text = String::new();
    for _ in 0..rng.usize(1..12) {
        let mut keys = Vec::new();
        let some = |rng: &mut Rng, key: &str, of: &[&str]| {
            let mut of = of.to_vec();
            rng.shuffle(&mut of);
            let values: Vec<_> =
                of[..rng.usize(1..=of.len().min(3))].iter().map(|value| format!("\"{value}\"")).collect();
            format!("{key} = [{}]", values.join(", "))
        };
        if rng.u8(..3) == 0 {
            keys.push(some(rng, "sni", &["a.x", "b.x", "*.x", "x", "a.b.x", "*.b.x", "*.y"]));
        }
        if rng.u8(..3) == 0 {
            keys.push(some(
                rng,
                "from",
                &["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "2001:db8::/32", "::/0"],
            ));
        }
        if rng.u8(..4) == 0 {
            keys.push(some(rng, "alpn", &["h2", "h3", "postgresql"]));
        }
        let is_tls = keys.iter().any(|key| !key.starts_with("from"));
        if rng.u8(..5) == 0 {
            let prefixes: &[&str] =
                if is_tls { &["1603", "160301", "16"] } else { &["53", "5353482d", "1603", "53534d"] };
            keys.push(some(rng, "starts_with_hex", prefixes));
        } else if rng.u8(..5) == 0 {
            keys.push(format!("tls = {}", is_tls || rng.bool()));
        }
        keys.push(match (keys.is_empty(), rng.u8(..4)) {
            (true, _) | (_, 0) => "split = { a = 3, b = 1 }".to_owned(),
            _ => format!("pool = \"{}\"", ["a", "b", "c", "d"][rng.usize(..4)]),
        });
        text += &format!("{{ {} }},\n", keys.join(", "));
    }
    listener(&text, rng.bool())
}

fn random_hello(rng: &mut Rng) -> ClientHello {
    let names = [None, Some("a.x"), Some("c.x"), Some("x"), Some("a.b.x"), Some("q.b.x"), Some("a.y"), Some("z")];
    hello(names[rng.usize(..names.len())], &["h2", "h3", "postgresql", "http/1.1"][rng.usize(..4)..])
}

fn random_client<'a>(rng: &mut Rng, of: &'a ClientHello) -> ClientFacts<'a> {
    const ADDRESSES: [&str; 6] = ["10.1.2.3", "10.1.2.4", "10.9.9.9", "192.0.2.1", "2001:db8::1", "::ffff:10.1.2.3"];
    let bytes = [&b"SSH-2.0"[..], b"SS", b"", b"\x16", b"\x16\x03\x01", b"\x16\x03\x03", b"x"][rng.usize(..7)];
    let hello = match bytes.first() {
        Some(0x16) => [Hello::Open, Hello::None, Hello::Read(of)][rng.usize(..3)],
        Some(_) => Hello::None,
        None => Hello::Open,
    };
    let address = at(ADDRESSES[rng.usize(..ADDRESSES.len())]);
    ClientFacts { first_bytes: bytes, hello, is_all: rng.bool(), lot: rng.u64(..), ..ClientFacts::of(address) }
}

#[test]
fn the_index_decides_as_the_rules_read_one_by_one() {
    for seed in seeds(100, 200) {
        let mut rng = Rng::with_seed(seed);
        let listener = random_listener(&mut rng);
        let routes = routes(&listener);
        for _ in 0..200 {
            let of = random_hello(&mut rng);
            let client = random_client(&mut rng, &of);
            let decided = match routes.decide(&client) {
                Decision::Pool(_, route) => route,
                Decision::Refused(_) => None,
                Decision::NeedsBytes => Some(usize::MAX),
            };
            assert_eq!(decided, naive(&listener, &client), "SEED={seed} {client:?}\n{:#?}", listener.routes);
            let allowed: Vec<&str> = match decided.and_then(|number| listener.routes.get(number)) {
                Some(route) => route.target.pools().filter(|(_, share)| *share > 0).map(|(pool, _)| pool).collect(),
                None => vec!["e", "no_route", "needs bytes"],
            };
            assert!(allowed.contains(&pool(routes.decide(&client))), "SEED={seed}");
        }
    }
}

/// What `check` says about a hidden route is true for whatever client comes.
#[test]
fn a_route_that_check_calls_hidden_gets_no_session() {
    let mut found = 0;
    for seed in seeds(150, 200) {
        let mut rng = Rng::with_seed(seed);
        let listener = random_listener(&mut rng);
        let warnings = config_of(&listener).warnings();
        let hidden =
            |number: usize| warnings.iter().any(|line| line.contains(&format!("routes[{number}] gets no session")));
        let is_rest_hidden = warnings.iter().any(|line| line.contains("pool e gets no session"));
        let routes = routes(&listener);
        for _ in 0..200 {
            let of = random_hello(&mut rng);
            match routes.decide(&random_client(&mut rng, &of)) {
                Decision::Pool(_, Some(number)) => {
                    assert!(!hidden(number), "SEED={seed} {number} {warnings:#?} {:#?}", listener.routes);
                }
                Decision::Pool(_, None) => assert!(!is_rest_hidden, "SEED={seed} {warnings:#?} {:#?}", listener.routes),
                Decision::Refused(_) | Decision::NeedsBytes => {}
            }
        }
        found += (0..listener.routes.len()).filter(|number| hidden(*number)).count();
    }
    assert!(found > 50, "only {found} hidden routes were tried");
}

/// However the bytes are cut, the decision is the same; and once one is made without waiting, more bytes do not change it.
#[test]
fn a_decision_does_not_depend_on_the_pieces() {
    let hellos: [&[u8]; 4] =
        [b"SSH-2.0-x\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", b""];
    for seed in seeds(50, 100) {
        let mut rng = Rng::with_seed(seed);
        let listener = random_listener(&mut rng);
        let routes = routes(&listener);
        for bytes in hellos {
            let whole = decided_after(&routes, bytes, &[bytes.len()]);
            let cuts: Vec<usize> = (0..=bytes.len()).filter(|_| rng.bool()).chain([bytes.len()]).collect();
            assert_eq!(decided_after(&routes, bytes, &cuts), whole, "SEED={seed} {bytes:?} {cuts:?}");
            let each: Vec<usize> = (0..=bytes.len()).collect();
            assert_eq!(decided_after(&routes, bytes, &each), whole, "SEED={seed} {bytes:?}");
        }
    }
}

/// The route of a client whose bytes arrive up to each of these places, and then FIN.
fn decided_after(routes: &Routes<String>, bytes: &[u8], cuts: &[usize]) -> Option<Option<usize>> {
    let (mut reader, mut hello) = (HelloReader::default(), Reading::NeedMore);
    let steps = cuts.iter().map(|cut| (*cut, false)).chain([(bytes.len(), true)]);
    for (cut, is_all) in steps {
        if hello == Reading::NeedMore {
            hello = reader.read(&bytes[..cut]);
        }
        let state = match &hello {
            Reading::NeedMore => Hello::Open,
            Reading::NotHello => Hello::None,
            Reading::Hello(hello) => Hello::Read(hello),
        };
        let facts = ClientFacts { hello: state, first_bytes: &bytes[..cut], is_all, ..SILENT };
        match routes.decide(&facts) {
            Decision::Pool(_, route) => return Some(route),
            Decision::Refused(_) => return None,
            Decision::NeedsBytes => assert!(!is_all, "it waits for what does not come"),
        }
    }
    unreachable!("the last step decides");
}

/// Not a measurement: a scan of all rules would take thousands of times as long as one look-up.
#[test]
fn ten_thousand_names_cost_what_one_costs() {
    let names =
        |count: usize| (0..count).map(|i| format!("{{ sni = \"n{i}.example\", pool = \"a\" }},\n")).collect::<String>();
    let took = |count: usize| {
        let routes = routes(&listener(&names(count), true));
        let known = hello(Some(&format!("n{}.example", count - 1)), &[]);
        let unknown = hello(Some("else.example"), &[]);
        (0..5)
            .map(|_| {
                let began = Instant::now();
                for hello in [&known, &unknown].into_iter().cycle().take(2_000) {
                    std::hint::black_box(routes.decide(&ClientFacts {
                        hello: Hello::Read(hello),
                        first_bytes: b"\x16",
                        ..SILENT
                    }));
                }
                began.elapsed()
            })
            .min()
            .unwrap()
    };
    let (one, many) = (took(1), took(10_000));
    assert!(many < 20 * one, "{one:?} with one name, {many:?} with 10,000");
}
