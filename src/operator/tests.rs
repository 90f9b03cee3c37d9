//! Orders, their order and their ends.

use super::*;

fn command(what: Wanted) -> Override<Wanted> {
    Override { value: what, by: "root".into(), note: None, at: SystemTime::UNIX_EPOCH, lasting: Lasting::Kept }
}

fn backend(id: &str, value: Operator) -> Wanted {
    Wanted::Backend(id.into(), value)
}

#[test]
fn a_backends_own_order_goes_before_the_pools() {
    let mut overrides = Overrides::default();
    overrides.obey(command(Wanted::Pool(Operator::Drain)));
    assert_eq!((overrides.fact("a"), overrides.fact("new")), (Operator::Drain, Operator::Drain));
    overrides.obey(command(backend("a", Operator::Disabled)));
    overrides.obey(command(backend("b", Operator::Ready)));
    assert_eq!((overrides.fact("a"), overrides.fact("b")), (Operator::Disabled, Operator::Ready));
    overrides.obey(command(Wanted::Pool(Operator::Ready)));
    assert_eq!((overrides.fact("a"), overrides.fact("new")), (Operator::Disabled, Operator::Ready));
    overrides.obey(command(Wanted::Pool(Operator::Drain)));
    assert_eq!(overrides.fact("b"), Operator::Drain, "the exception was one to the former order");
}

#[test]
fn ready_leaves_nothing_behind() {
    let mut overrides = Overrides::default();
    overrides.obey(command(backend("a", Operator::Drain)));
    overrides.obey(command(Wanted::Weight("a".into(), Some(3))));
    overrides.obey(command(backend("a", Operator::Ready)));
    assert_eq!(overrides.weight("a").unwrap().value, 3);
    overrides.obey(command(Wanted::Weight("a".into(), None)));
    overrides.obey(command(Wanted::Probe("a".into(), ProbeSwitch::Paused)));
    assert!(overrides.pause("a").is_some() && overrides.pause("b").is_none());
    overrides.obey(command(Wanted::Probe("a".into(), ProbeSwitch::Running)));
    assert!(overrides.is_empty());
}

#[test]
fn what_is_for_a_time_ends_then_and_not_before() {
    let (now, wall) = (Instant::now(), SystemTime::UNIX_EPOCH);
    let hour = Duration::from_secs(3_600);
    let lasting = Lasting::for_so_long(hour, now, wall).unwrap();
    let mut overrides = Overrides::default();
    overrides.obey(Override { lasting, ..command(Wanted::Pool(Operator::Drain)) });
    overrides.obey(command(backend("b", Operator::Ready)));
    overrides.obey(Override { lasting, ..command(Wanted::Weight("a".into(), Some(0))) });
    overrides.obey(Override { lasting, ..command(Wanted::Probe("a".into(), ProbeSwitch::Paused)) });
    assert_eq!(overrides.next_end(), Some(now + hour));
    assert!(overrides.expire(now + hour - Duration::from_nanos(1)).is_empty());
    let ended = overrides.expire(now + hour);
    assert_eq!(ended.len(), 3);
    assert_eq!(ended[2].1, "probes paused by root at 1970-01-01T00:00:00Z, until 1970-01-01T01:00:00Z");
    assert_eq!(ended[0].1, "drain by root at 1970-01-01T00:00:00Z, until 1970-01-01T01:00:00Z");
    assert!(overrides.is_empty(), "the exception to the pool's order is pointless without it: {overrides:?}");
    assert_eq!(overrides.next_end(), None);
}

#[test]
fn who_left_for_good_is_forgotten() {
    let start = SystemTime::UNIX_EPOCH;
    let mut overrides = Overrides::default();
    overrides.obey(command(backend("a", Operator::Drain)));
    overrides.obey(command(backend("b", Operator::Drain)));
    assert!(overrides.presence("a", false, start));
    assert!(!overrides.presence("a", false, start + REMEMBERED));
    assert!(overrides.presence("b", false, start + REMEMBERED));
    assert_eq!(overrides.fact("a"), Operator::Drain);
    assert!(overrides.presence("b", true, start + REMEMBERED + Duration::from_secs(1)));
    assert_eq!((overrides.fact("a"), overrides.fact("b")), (Operator::Ready, Operator::Drain));
}

#[test]
fn a_file_brings_back_what_is_kept_and_has_not_ended() {
    let (now, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    let mut overrides = Overrides::default();
    overrides.obey(Override { note: Some("ü \"quoted\"".into()), ..command(backend("dev/a", Operator::Drain)) });
    overrides.obey(Override { lasting: Lasting::Restart, ..command(backend("b", Operator::Disabled)) });
    let lasting = Lasting::for_so_long(Duration::from_secs(60), now, wall).unwrap();
    overrides.obey(Override { lasting, ..command(Wanted::Weight("c".into(), Some(0))) });
    overrides
        .obey(Override { note: Some("rebuild".into()), ..command(Wanted::Probe("d".into(), ProbeSwitch::Paused)) });
    let text = file::write([("p", &overrides), ("empty", &Overrides::default())].into_iter());
    let at = |seconds| file::read(&text, now, wall + Duration::from_secs(seconds)).unwrap();

    let soon = &at(59)["p"];
    assert_eq!(soon.order("dev/a"), overrides.order("dev/a"));
    assert_eq!(soon.pause("d"), overrides.pause("d"));
    assert_eq!((soon.fact("b"), soon.weight("c").unwrap().value), (Operator::Ready, 0));
    assert_eq!(soon.next_end(), Some(now + Duration::from_secs(1)));
    assert_eq!(at(60)["p"].weight("c").map(|order| order.value), Some(0), "not before its end");
    assert!(at(61)["p"].weight("c").is_none());
    assert_eq!(at(0).len(), 1);
}

#[test]
fn another_version_and_garbage_are_told_apart() {
    let read = |text: &str| file::read(text, Instant::now(), SystemTime::now()).unwrap_err().to_string();
    assert_eq!(read("{\"version\":2,\"anything\":[]}"), "it is of version 2, this program reads version 1");
    for text in ["", "{", "[]", "{\"version\":1}", "{\"version\":1,\"pools\":{\"p\":{\"x\":1}}}", "\u{0}"] {
        assert_eq!(read(text), "it is not what evenkeel writes", "{text}");
    }
}

#[test]
fn a_clock_that_is_wrong_ends_nothing() {
    let far = Duration::from_secs(1 << 40);
    for (at, wanted) in [
        (SystemTime::UNIX_EPOCH - far, "1970-01-01T00:00:00Z"),
        (SystemTime::UNIX_EPOCH, "1970-01-01T00:00:00Z"),
        (SystemTime::UNIX_EPOCH + far, "9999-12-31T23:59:59Z"),
    ] {
        let order = Override { value: 1, by: "root".into(), note: None, at, lasting: Lasting::Kept };
        assert_eq!(order.to_string(), format!("by root at {wanted}"));
    }
}
