//! PURE. What a source names, before its host is an address, and how the endpoints follow from it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::names::Known;
use crate::config::Host;
use crate::endpoint::{Endpoint, Registry, Rejected, Rejections};

/// An [`Endpoint`] whose host may still be a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) id: Arc<str>,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) weight: u16,
    pub(super) priority: u8,
    pub(super) max_sessions: Option<u32>,
    pub(super) registry: Registry,
    pub(super) note: Option<Arc<str>>,
}

/// What can be made of a list of instances now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Assembled {
    /// Those with an address.
    pub(super) endpoints: Vec<Endpoint>,
    /// Those whose name has never been resolved.
    pub(super) rejected: Rejections,
}

/// An instance whose name has no address (yet) stays where the endpoint was that it had, if it had one.
pub(super) fn assemble<'a>(
    instances: &[Instance],
    known: impl Fn(&str) -> Known<'a>,
    before: impl Fn(&str) -> Option<&'a Endpoint>,
) -> Assembled {
    let mut assembled = Assembled::default();
    for instance in instances {
        let why = match &instance.host {
            Host::Ip(ip) => {
                assembled.endpoints.push(instance.at(*ip, &[]));
                continue;
            }
            Host::Name(name) => match known(name) {
                Known::Addresses(ips) => {
                    assembled.endpoints.extend(ips.first().map(|first| instance.at(*first, ips)));
                    continue;
                }
                Known::Pending => None,
                Known::Failed(why) => Some(format!("can't resolve {name}: {why}")),
            },
        };
        if let Some(before) = before(&instance.id) {
            let ips: Vec<_> = before.candidates.iter().map(SocketAddr::ip).collect();
            assembled.endpoints.push(instance.at(before.address.ip(), &ips));
        } else if let Some(why) = why {
            assembled.rejected.push(|| Rejected { id: instance.id.to_string(), why });
        }
    }
    assembled
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
            max_sessions: self.max_sessions,
            registry: self.registry,
            note: self.note.clone(),
        }
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
            port: 80,
            weight: 1,
            priority: 0,
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
            "gone" => Known::Failed("nothing there"),
            "slow" => Known::Pending,
            _ => Known::Addresses(&good),
        };
        let kept = named("kept", "gone").at(old, &[old]);
        let before = |id: &str| (id == "kept").then_some(&kept);
        let assembled = assemble(&instances, known, before);
        let ids: Vec<_> = assembled.endpoints.iter().map(|endpoint| (&*endpoint.id, endpoint.address.ip())).collect();
        assert_eq!(ids, [("kept", old), ("good", "10.0.0.9".parse().unwrap())]);
        let why = "can't resolve gone: nothing there".to_owned();
        assert_eq!(*assembled.rejected, [Rejected { id: "bad".to_owned(), why }]);
    }
}
