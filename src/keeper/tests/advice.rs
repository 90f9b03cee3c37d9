use super::*;
use crate::health::{Advice, Wish};

fn address(bench: &Bench, id: &str) -> SocketAddr {
    bench.members.member(id).endpoint.address
}

#[test]
fn advice_is_kept_until_the_next_and_for_its_address_alone() {
    let mut bench = Bench::up("", &["a", "b"]);
    let (drain, id) = (Advice { weight: Some(50), wish: Wish::Drain, max_sessions: None }, Arc::from("a"));
    assert_eq!(bench.members.member("a").advice, Advice::default());
    let here = address(&bench, "a");
    bench.members.advise(bench.now, &id, here, drain);
    assert_eq!(bench.members.member("a").advice, drain);
    assert_eq!(bench.members.member("b").advice, Advice::default());

    bench.members.advise(bench.now, &id, "192.0.2.1:1".parse().unwrap(), Advice::default());
    assert_eq!(bench.members.member("a").advice, drain, "news of an address that it no longer has");
    bench.members.advise(bench.now, &Arc::from("who"), here, Advice::default());

    bench.set(&["b"]);
    bench.set(&["a", "b"]);
    assert_eq!(bench.members.member("a").advice, Advice::default(), "it begins again");
}
