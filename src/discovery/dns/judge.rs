//! PURE. From the answers of DNS to instances: tiers of priorities, shares of weights, one instance for each answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::message::{Answer, AnswerData};
use crate::config::{Host, HostPort, TIERS};
use crate::discovery::instance::Instance;
use crate::discovery::outside::{bounded, identity, usable};
use crate::endpoint::{Registry, Rejected, Rejections};

/// Of a target that are used, as of a name in a list.
const MOST_ADDRESSES: usize = 32;

/// How much more a weight is than 0, where both are in one tier.
const BEYOND_ZERO: u16 = 100;

/// An answer about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Srv {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) target: String,
}

/// What a list of answers comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// There is no such service, says the one that must know (RFC 2782: the target is `.`).
    None,
    /// Each once.
    At(Vec<Srv>),
}

/// The addresses of targets, in an order that does not change with that of the answers.
pub(super) type Addresses = BTreeMap<String, Vec<IpAddr>>;

pub(super) fn service(answers: &[Answer]) -> Service {
    let srv = |answer: &Answer| match &answer.data {
        AnswerData::Srv { priority, weight, port, target } => {
            Some(Srv { priority: *priority, weight: *weight, port: *port, target: target.clone() })
        }
        AnswerData::Address(_) | AnswerData::Alias => None,
    };
    let mut all: Vec<Srv> = answers.iter().filter_map(srv).collect();
    if !all.is_empty() && all.iter().all(|srv| srv.target.is_empty()) {
        return Service::None;
    }
    all.retain(|srv| !srv.target.is_empty());
    // Of two answers about one target and port the better one counts, in whatever order they come.
    all.sort_by(|a, b| {
        let key = |srv: &Srv| (srv.target.clone(), srv.port, srv.priority, u16::MAX - srv.weight);
        key(a).cmp(&key(b))
    });
    all.dedup_by(|later, first| later.target == first.target && later.port == first.port);
    Service::At(all)
}

/// The addresses among these answers that are of one of the names, and can be an instance's.
pub(super) fn addresses<'a>(answers: impl IntoIterator<Item = &'a Answer>, of: impl Fn(&str) -> bool) -> Addresses {
    let mut all: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for answer in answers {
        if let AnswerData::Address(ip) = answer.data
            && of(&answer.name)
            && usable(ip).is_ok()
        {
            all.entry(answer.name.clone()).or_default().insert(ip);
        }
    }
    all.into_iter().map(|(name, ips)| (name, ips.into_iter().take(MOST_ADDRESSES).collect())).collect()
}

/// One for each answer whose target has an address.
pub(super) fn of_service(
    all: &[Srv],
    addresses: &Addresses,
    why: &BTreeMap<String, String>,
) -> (Vec<Instance>, Rejections) {
    let priorities: BTreeSet<u16> = all.iter().map(|srv| srv.priority).collect();
    let (mut instances, mut refused) = (Vec::with_capacity(all.len()), Rejections::default());
    for srv in all {
        let tier = priorities.iter().position(|priority| *priority == srv.priority).unwrap_or(0);
        let id = format!("{}:{}", srv.target, srv.port);
        match instance(srv, &id, addresses.get(&srv.target).map_or(&[], Vec::as_slice)) {
            Ok(instance) => instances.push(Instance {
                weight: share(srv, all),
                priority: u8::try_from(tier.min(TIERS - 1)).unwrap_or(0),
                ..instance
            }),
            Err(refusal) => {
                let refusal = why.get(&srv.target).cloned().unwrap_or(refusal);
                refused.push(|| Rejected { id: bounded(&id), why: refusal });
            }
        }
    }
    (instances, refused)
}

fn instance(srv: &Srv, id: &str, ips: &[IpAddr]) -> Result<Instance, String> {
    HostPort::parse(id)?;
    let first = ips.first().ok_or("its target has no address")?;
    Ok(of_address(identity(id)?, *first, ips, srv.port))
}

/// One for each address of the name itself.
pub(super) fn of_name(ips: &BTreeSet<IpAddr>, port: u16) -> Vec<Instance> {
    let id = |ip: IpAddr| std::net::SocketAddr::new(ip, port).to_string().as_str().into();
    ips.iter().map(|ip| of_address(id(*ip), *ip, &[], port)).collect()
}

fn of_address(id: std::sync::Arc<str>, ip: IpAddr, candidates: &[IpAddr], port: u16) -> Instance {
    Instance {
        id,
        host: Host::Ip(ip),
        candidates: candidates.to_vec(),
        port,
        weight: 1,
        position: 0,
        priority: 0,
        zone: None,
        max_sessions: None,
        registry: Registry::Passing,
        note: None,
    }
}

/// A weight of 0 is "a very small chance" beside others (RFC 2782), and nothing special where all have it.
fn share(srv: &Srv, all: &[Srv]) -> u16 {
    let in_tier = || all.iter().filter(|other| other.priority == srv.priority).map(|other| other.weight);
    let (least, most) = (in_tier().min().unwrap_or(0), in_tier().max().unwrap_or(0));
    match (least, most) {
        (_, 0) => 1,
        (0, most) => (srv.weight * BEYOND_ZERO.min(u16::MAX / most)).max(1),
        _ => srv.weight,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(priority: u16, weight: u16, target: &str) -> Answer {
        let data = AnswerData::Srv { priority, weight, port: 80, target: target.to_owned() };
        Answer { name: "_pg._tcp.example".to_owned(), ttl: 60, data }
    }

    fn shown(answers: &[Answer]) -> Vec<String> {
        let Service::At(all) = service(answers) else { return vec!["none".to_owned()] };
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let known = all.iter().map(|srv| (srv.target.clone(), vec![ip])).collect();
        let (instances, refused) = of_service(&all, &known, &BTreeMap::new());
        let instances = instances.iter().map(|i| format!("{} {} {}", i.id, i.priority, i.weight));
        instances.chain(refused.iter().map(|refused| format!("{}: {}", refused.id, refused.why))).collect()
    }

    #[test]
    fn priorities_are_tiers_in_their_order() {
        let answers = [srv(300, 1, "c"), srv(5, 1, "a"), srv(20, 1, "b"), srv(5, 1, "d")];
        assert_eq!(shown(&answers), ["a:80 0 1", "b:80 1 1", "c:80 2 1", "d:80 0 1"]);
        let many: Vec<_> = (0..20).map(|n| srv(n * 7, 1, &format!("t{n:02}"))).collect();
        let tiers: Vec<usize> =
            shown(&many).iter().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
        let wanted: Vec<usize> = (0..20).map(|n| n.min(TIERS - 1)).collect();
        assert_eq!(tiers, wanted);
    }

    #[test]
    fn a_weight_of_zero_is_the_smallest_share_and_all_zeros_are_equal() {
        assert_eq!(shown(&[srv(1, 0, "a"), srv(1, 0, "b")]), ["a:80 0 1", "b:80 0 1"]);
        assert_eq!(shown(&[srv(1, 0, "a"), srv(1, 1, "b"), srv(1, 3, "c")]), ["a:80 0 1", "b:80 0 100", "c:80 0 300"]);
        assert_eq!(shown(&[srv(1, 0, "a"), srv(1, 65_535, "b")]), ["a:80 0 1", "b:80 0 65535"]);
        assert_eq!(shown(&[srv(1, 0, "a"), srv(1, 2000, "b")]), ["a:80 0 1", "b:80 0 64000"]);
        // Each tier by itself.
        assert_eq!(shown(&[srv(1, 0, "a"), srv(2, 7, "b")]), ["a:80 0 1", "b:80 1 7"]);
    }

    #[test]
    fn no_service_is_not_the_same_as_no_answer() {
        assert_eq!(service(&[srv(0, 0, "")]), Service::None);
        assert_eq!(service(&[]), Service::At(Vec::new()));
        // Beside others it is a slip.
        assert_eq!(shown(&[srv(0, 0, ""), srv(1, 1, "a")]), ["a:80 0 1"]);
    }

    #[test]
    fn of_two_answers_about_one_place_the_better_one_counts() {
        for answers in [[srv(2, 9, "a"), srv(1, 3, "a")], [srv(1, 3, "a"), srv(2, 9, "a")]] {
            assert_eq!(shown(&answers), ["a:80 0 3"]);
        }
        assert_eq!(shown(&[srv(1, 3, "a"), srv(1, 5, "a")]), ["a:80 0 5"]);
    }

    #[test]
    fn what_has_no_address_or_no_name_is_refused() {
        let all = [("a", 80), ("b", 0), ("a b", 80)].map(|(target, port)| Srv {
            priority: 1,
            weight: 1,
            port,
            target: target.to_owned(),
        });
        let why = BTreeMap::from([("a".to_owned(), "no answer".to_owned())]);
        let (instances, refused) = of_service(&all, &Addresses::new(), &why);
        assert!(instances.is_empty());
        let refused: Vec<_> = refused.iter().map(|refused| (&*refused.id, &*refused.why)).collect();
        let no_name = "\"a b\" is neither an IP address nor a host name";
        assert_eq!(refused, [("a:80", "no answer"), ("b:0", "\"0\" is not a port"), ("a b:80", no_name)]);
    }

    #[test]
    fn only_addresses_of_the_names_that_were_asked_for_count() {
        let at = |name: &str, ip: &str| Answer {
            name: name.to_owned(),
            ttl: 1,
            data: AnswerData::Address(ip.parse().unwrap()),
        };
        let answers =
            [at("a", "10.0.0.2"), at("evil", "10.6.6.6"), at("a", "0.0.0.0"), at("a", "fd00::1"), at("a", "10.0.0.1")];
        let found = addresses(&answers, |name| name == "a");
        let ips = ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|ip| ip.parse().unwrap()).to_vec();
        assert_eq!(found, Addresses::from([("a".to_owned(), ips)]));
    }
}
