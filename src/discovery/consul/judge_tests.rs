use consul::{Node, Service, Weights};

use super::*;
use crate::config::Host;

fn check(id: &str, status: CheckStatus, output: &str) -> HealthCheck {
    HealthCheck { check_id: id.to_owned(), status, output: output.to_owned(), ..HealthCheck::default() }
}

fn entry(checks: Vec<HealthCheck>) -> ServiceEntry {
    ServiceEntry {
        node: Node { node: "n1".to_owned(), address: "10.0.0.1".to_owned(), ..Node::default() },
        service: Service {
            id: "web-1".to_owned(),
            port: 80,
            weights: Weights { passing: 10, warning: 3 },
            ..Service::default()
        },
        checks,
    }
}

fn judged(checks: Vec<HealthCheck>, warning: Warning) -> (Registry, u16, String) {
    let instance = one(&entry(checks), warning).unwrap();
    (instance.registry, instance.weight, instance.note.as_deref().unwrap_or_default().to_owned())
}

#[test]
fn the_worst_check_decides_and_is_named() {
    use CheckStatus::{Critical, Passing};
    let warns = || check("disk", CheckStatus::Warning, "90%\nfull");
    let none = String::new();
    assert_eq!(judged(vec![], Warning::Serve), (Registry::Passing, 10, none.clone()));
    assert_eq!(judged(vec![check("a", Passing, "ok")], Warning::Serve), (Registry::Passing, 10, none));
    let checks = vec![check("a", Passing, ""), warns()];
    assert_eq!(judged(checks.clone(), Warning::Serve), (Registry::Warning, 3, "disk: 90%\\nfull".to_owned()));
    assert_eq!(judged(checks, Warning::Out), (Registry::Critical, 10, "disk: 90%\\nfull".to_owned()));
    let checks = vec![warns(), check("serfHealth", Critical, ""), check("b", Critical, "later")];
    assert_eq!(judged(checks, Warning::Serve), (Registry::Critical, 10, "serfHealth".to_owned()));
}

#[test]
fn a_critical_check_without_output_has_not_run() {
    use CheckStatus::{Critical, Passing, Warning as Warns};
    let waits = || check("a", Critical, "");
    let unknown = |weight| (Registry::Unknown, weight, "a".to_owned());
    assert_eq!(judged(vec![waits()], Warning::Serve), unknown(10));
    assert_eq!(judged(vec![check("b", Passing, ""), waits()], Warning::Out), unknown(10));
    assert_eq!(judged(vec![check("b", Warns, "90%"), waits()], Warning::Serve), unknown(3));
    // What has run and is critical decides, whatever has not.
    let refused = check("b", Critical, "refused");
    assert_eq!(judged(vec![waits(), refused], Warning::Serve), (Registry::Critical, 10, "b: refused".to_owned()));
    let warns = vec![check("b", Warns, "90%"), waits()];
    assert_eq!(judged(warns, Warning::Out), (Registry::Critical, 10, "b: 90%".to_owned()));
    // A program that prints an empty line has run.
    assert_eq!(judged(vec![check("a", Critical, "\n")], Warning::Serve).0, Registry::Critical);
}

#[test]
fn maintenance_goes_before_all_else() {
    for id in ["_node_maintenance", "_service_maintenance:web-1"] {
        let mut maintenance = check(id, CheckStatus::Critical, "");
        maintenance.name = "Service Maintenance Mode".to_owned();
        maintenance.notes = "new disk".to_owned();
        let checks = vec![check("a", CheckStatus::Critical, "refused"), maintenance];
        let wanted = "Service Maintenance Mode: new disk".to_owned();
        assert_eq!(judged(checks, Warning::Serve), (Registry::Maintenance, 10, wanted));
    }
    let other = vec![check("my_service_maintenance:web-1", CheckStatus::Passing, "")];
    assert_eq!(judged(other, Warning::Serve).0, Registry::Passing);
}

#[test]
fn weights_are_clamped_and_zero_is_zero() {
    for (weight, wanted) in [(0, 0), (-5, 0), (65_535, 65_535), (1 << 40, 65_535)] {
        let mut entry = entry(vec![]);
        entry.service.weights.passing = weight;
        assert_eq!(one(&entry, Warning::Serve).unwrap().weight, wanted);
    }
}

#[test]
fn addresses_names_and_neither() {
    let host_of = |address: &str| {
        let mut entry = entry(vec![]);
        entry.service.address = address.to_owned();
        one(&entry, Warning::Serve).map(|instance| instance.host)
    };
    let ip = |text: &str| Ok(Host::Ip(text.parse().unwrap()));
    assert_eq!(host_of(""), ip("10.0.0.1"));
    assert_eq!(host_of("fd00::1"), ip("fd00::1"));
    assert_eq!(host_of("[fd00::1]"), ip("fd00::1"));
    assert_eq!(host_of("web_1.example"), Ok(Host::Name("web_1.example".to_owned())));
    for address in [
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "a b",
        "0",
        "127.1",
        "[web]",
        "a..b",
        "-a",
        "10.0.0.1:80",
        "http://a",
        "fe80::1%eth0",
        &"a".repeat(300),
    ] {
        let why = host_of(address).unwrap_err();
        assert!(why.contains(&address[..address.len().min(20)]), "{why}");
    }
    let mut nowhere = entry(vec![]);
    nowhere.node.address.clear();
    assert!(one(&nowhere, Warning::Serve).is_err());
}

#[test]
fn what_cannot_be_used_is_told_apart() {
    let good = entry(vec![]);
    let (mut no_port, mut no_id) = (entry(vec![]), entry(vec![]));
    no_port.service.port = 0;
    no_port.service.id = "web-2".to_owned();
    no_id.service.id.clear();
    let undecoded = vec![RejectedEntry { id: "entry 3".to_owned(), why: "no\tsense".to_owned() }];
    let (instances, rejected) = all(&[good.clone(), no_port, good, no_id], &undecoded, Warning::Serve);
    assert_eq!(instances.iter().map(|instance| &*instance.id).collect::<Vec<_>>(), ["n1/web-1"]);
    let rejected: Vec<_> = rejected.iter().map(|rejected| (rejected.id.as_str(), rejected.why.as_str())).collect();
    assert_eq!(
        rejected,
        [
            ("entry 3", "no\\tsense"),
            ("n1/", "no node name or no service id"),
            ("n1/web-1", "another instance has the same node and service id"),
            ("n1/web-2", "no port"),
        ]
    );
}

#[test]
fn of_very_many_that_cannot_be_used_the_first_are_kept_and_all_are_counted() {
    let entries: Vec<_> = (0..1_000)
        .map(|place| {
            let mut bad = entry(vec![]);
            (bad.service.id, bad.service.port) = (format!("{place:04}"), 0);
            bad
        })
        .collect();
    let (_, rejected) = all(&entries, &[], Warning::Serve);
    assert_eq!((rejected.len(), rejected.count()), (Rejections::KEPT_LIMIT, 1_000));
    assert_eq!(rejected[0].id, "n1/0000", "the same ones each time");
}

#[test]
fn a_service_id_is_unique_per_node_only() {
    let (mut one, mut other) = (entry(vec![]), entry(vec![]));
    (one.node.node, other.node.node) = ("n1".to_owned(), "n2".to_owned());
    let (instances, rejected) = all(&[other, one], &[], Warning::Serve);
    assert_eq!(instances.iter().map(|instance| &*instance.id).collect::<Vec<_>>(), ["n1/web-1", "n2/web-1"]);
    assert_eq!(rejected.count(), 0);
}

#[test]
fn of_two_with_one_identity_it_is_always_the_same_one() {
    let (mut one, mut other) = (entry(vec![]), entry(vec![]));
    (one.service.address, other.service.address) = ("10.0.0.8".to_owned(), "10.0.0.9".to_owned());
    for entries in [[one.clone(), other.clone()], [other, one]] {
        let (instances, rejected) = all(&entries, &[], Warning::Serve);
        assert_eq!(instances[0].host, Host::Ip("10.0.0.8".parse().unwrap()));
        assert_eq!((instances.len(), rejected.len()), (1, 1));
    }
}

#[test]
fn no_identity_writes_log_lines() {
    for (node, service, why) in [
        ("n1", "a\n2026-01-01T00:00:00Z  INFO all is well", "a control character"),
        ("n\u{1b}[2J", "a", "a control character"),
        ("n1", &"x".repeat(600), "longer than 512 bytes"),
    ] {
        let mut bad = entry(vec![]);
        (bad.node.node, bad.service.id) = (node.to_owned(), service.to_owned());
        let (instances, rejected) = all(&[bad], &[], Warning::Serve);
        assert!(instances.is_empty());
        assert!(rejected[0].why.contains(why), "{}", rejected[0].why);
        assert!(!rejected[0].id.contains(char::is_control) && rejected[0].id.len() < 1000, "{}", rejected[0].id);
    }
    // Everything else that Consul takes is one.
    for id in ["a b", "\u{e4}/\u{f6}", "a\"b\\c", ".."] {
        let mut odd = entry(vec![]);
        odd.service.id = id.to_owned();
        assert_eq!(&*one(&odd, Warning::Serve).unwrap().id, format!("n1/{id}"));
    }
}

#[test]
fn notes_are_bounded() {
    let long = judged(vec![check("a", CheckStatus::Critical, &"\u{e4}\u{1b}".repeat(10_000))], Warning::Serve).2;
    assert!(long.ends_with('…') && long.chars().count() < 1000, "{}", long.len());
    assert!(!long.contains('\u{1b}'));
}
