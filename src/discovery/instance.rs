//! PURE. What a source names, before its host is an address, and how the endpoints follow from it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::names::NameState;
use crate::config::Host;
use crate::endpoint::{Endpoint, Registry, Rejected, Rejections};

/// An [`Endpoint`] whose host may still be a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) id: Arc<str>,
    pub(super) host: Host,
    /// All addresses of what its host is an address of, where the source knows them; else empty.
    pub(super) candidates: Vec<IpAddr>,
    pub(super) port: u16,
    pub(super) weight: u16,
    pub(super) priority: u8,
    pub(super) zone: Option<Arc<str>>,
    pub(super) position: u32,
    pub(super) max_sessions: Option<u32>,
    pub(super) registry: Registry,
    pub(super) note: Option<Arc<str>>,
}

/// What can be made of a list of instances now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Assembled {
    /// Those with an address.
    pub(super) endpoints: Vec<Endpoint>,
    /// Those whose name has never been resolved, and those that are ourselves.
    pub(super) rejected: Rejections,
    /// Some are neither an endpoint nor ourselves: they may have an address later.
    pub(super) unknown: bool,
}

/// An instance whose name has no address (yet) stays where the endpoint was that it had, if it had one. `ours` says why an
/// address is none for an instance.
pub(super) fn assemble<'a>(
    instances: &[Instance],
    known: impl Fn(&str) -> NameState<'a>,
    before: impl Fn(&str) -> Option<&'a Endpoint>,
    ours: impl Fn(SocketAddr) -> Option<String>,
) -> Assembled {
    let mut assembled = Assembled::default();
    for instance in instances {
        let (mut endpoint, why) = match &instance.host {
            Host::Ip(ip) => (Some(instance.at(*ip, &instance.candidates)), None),
            Host::Name(name) => match known(name) {
                NameState::Addresses(ips) => (ips.first().map(|first| instance.at(*first, ips)), None),
                NameState::Pending => (before(&instance.id).map(|before| instance.as_before(before)), None),
                NameState::Failed(why) => {
                    let before = before(&instance.id).map(|before| instance.as_before(before));
                    (before, Some(format!("can't resolve {name}: {why}")))
                }
            },
        };
        let why = match &mut endpoint {
            Some(endpoint) => without_ours(endpoint, &ours),
            None => {
                assembled.unknown = true;
                why
            }
        };
        if let Some(why) = why {
            assembled.rejected.push(|| Rejected { id: instance.id.to_string(), why });
        } else {
            assembled.endpoints.extend(endpoint);
        }
    }
    assembled
}

/// Takes our own addresses from the candidates; why there is none left, if so.
fn without_ours(endpoint: &mut Endpoint, ours: impl Fn(SocketAddr) -> Option<String>) -> Option<String> {
    let why = ours(endpoint.address);
    if endpoint.candidates.iter().any(|address| ours(*address).is_some()) {
        endpoint.candidates = endpoint.candidates.iter().copied().filter(|address| ours(*address).is_none()).collect();
    }
    match (why, endpoint.candidates.first()) {
        (Some(_), Some(other)) => endpoint.address = *other,
        (why, _) => return why,
    }
    None
}

impl Instance {
    /// `candidates` are the addresses of its name; none where it has no name.
    fn at(&self, ip: IpAddr, candidates: &[IpAddr]) -> Endpoint {
        Endpoint {
            id: Arc::clone(&self.id),
            address: SocketAddr::new(ip, self.port),
            candidates: candidates.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect(),
            weight: self.weight,
            priority: self.priority,
            zone: self.zone.clone(),
            position: self.position,
            max_sessions: self.max_sessions,
            registry: self.registry,
            note: self.note.clone(),
        }
    }

    fn as_before(&self, before: &Endpoint) -> Endpoint {
        let ips: Vec<_> = before.candidates.iter().map(SocketAddr::ip).collect();
        self.at(before.address.ip(), &ips)
    }

    /// Its host, if that is a name.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Ip(_) => None,
            Host::Name(name) => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: &str, name: &str) -> Instance {
        Instance {
            id: id.into(),
            host: Host::Name(name.to_owned()),
            candidates: Vec::new(),
            port: 80,
            weight: 1,
            priority: 0,
            zone: None,
            position: 0,
            max_sessions: None,
            registry: Registry::Passing,
            note: None,
        }
    }

    #[test]
    fn a_name_without_an_address_keeps_the_last_one() {
        let old: IpAddr = "10.0.0.1".parse().unwrap();
        let instances = [named("kept", "gone"), named("bad", "gone"), named("new", "slow"), named("good", "good")];
        let good: [IpAddr; 1] = ["10.0.0.9".parse().unwrap()];
        let known = |name: &str| match name {
            "gone" => NameState::Failed("nothing there"),
            "slow" => NameState::Pending,
            _ => NameState::Addresses(&good),
        };
        let kept = named("kept", "gone").at(old, &[old]);
        let before = |id: &str| (id == "kept").then_some(&kept);
        let assembled = assemble(&instances, known, before, |_| None);
        let ids: Vec<_> = assembled.endpoints.iter().map(|endpoint| (&*endpoint.id, endpoint.address.ip())).collect();
        assert_eq!(ids, [("kept", old), ("good", "10.0.0.9".parse().unwrap())]);
        let why = "can't resolve gone: nothing there".to_owned();
        assert_eq!(*assembled.rejected, [Rejected { id: "bad".to_owned(), why }]);
    }

    #[test]
    fn an_instance_that_is_ourselves_is_rejected_and_one_of_its_addresses_left_out() {
        let ips: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let known = |name: &str| NameState::Addresses(if name == "one" { &ips[..1] } else { &ips });
        let written = Instance { host: Host::Ip(ips[0]), ..named("written", "") };
        let instances = [named("one", "one"), named("two", "two"), written];
        let ours = |address: SocketAddr| (address.ip() == ips[0]).then(|| "ours".to_owned());
        let assembled = assemble(&instances, known, |_| None, ours);
        let [endpoint] = &assembled.endpoints[..] else { panic!("{assembled:?}") };
        let left = SocketAddr::new(ips[1], 80);
        assert_eq!((&*endpoint.id, endpoint.address, &*endpoint.candidates), ("two", left, &[left][..]));
        let rejected: Vec<_> = assembled.rejected.iter().map(|rejected| (&*rejected.id, &*rejected.why)).collect();
        assert_eq!(rejected, [("one", "ours"), ("written", "ours")]);
        assert!(!assembled.unknown);
    }
}
