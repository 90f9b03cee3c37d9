//! PURE. `allow` and `deny` of a listener: which clients may have a session. The most specific entry counts, whichever list it
//! is in.

use std::collections::HashSet;
use std::net::IpAddr;

use super::Networks;
use crate::config::Network;

/// Which clients may have a session.
#[derive(Clone, Debug)]
pub struct Access {
    lists: Networks<AccessList>,
    /// Whether clients in neither list may.
    others: bool,
}

words! {
    /// The two lists.
    pub enum AccessList {
        /// Its clients may.
        Allow = "allow",
        /// Its clients may not.
        Deny = "deny",
    }
}

/// How a list differs from what it was, in networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListDifference {
    /// That it did not have.
    pub new: usize,
    /// That it does not have any more.
    pub gone: usize,
    /// That it has as before.
    pub kept: usize,
}

impl Access {
    /// Of the two lists, which have no entry in common. `None` for `allow`: there is no such list, so that clients in
    /// neither may have a session.
    pub fn new(allow: Option<Vec<Network>>, deny: Vec<Network>) -> Self {
        let others = allow.is_none();
        let allow = allow.into_iter().flatten().map(|network| (network, AccessList::Allow));
        let deny = deny.into_iter().map(|network| (network, AccessList::Deny));
        Self { lists: Networks::new(allow.chain(deny)), others }
    }

    /// Whether a client may have a session.
    pub fn admits(&self, client: IpAddr) -> bool {
        self.lists.most_specific(client).map_or(self.others, |list| *list == AccessList::Allow)
    }

    /// How one of the lists differs from what it was before.
    pub fn difference(&self, before: &Self, list: AccessList) -> ListDifference {
        let of = |access: &Self| -> HashSet<Network> {
            access.lists.iter().filter(|(_, one)| **one == list).map(|(network, _)| network).collect()
        };
        let (old, new) = (of(before), of(self));
        let kept = new.intersection(&old).count();
        ListDifference { new: new.len() - kept, gone: old.len() - kept, kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_network;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| parse_network(text).unwrap()).collect()
    }

    fn admits(access: &Access, ip: &str) -> bool {
        access.admits(ip.parse().unwrap())
    }

    #[test]
    fn the_most_specific_entry_counts_in_whichever_list() {
        let deny = networks(&["10.1.0.0/16", "10.1.2.3", "::/0"]);
        let access = Access::new(Some(networks(&["10.0.0.0/8", "10.1.2.0/24", "2001:db8::/32"])), deny);
        for ip in ["10.0.0.1", "10.1.2.4", "::ffff:10.1.2.4", "2001:db8::1"] {
            assert!(admits(&access, ip), "{ip}");
        }
        for ip in ["10.1.0.1", "10.1.2.3", "::ffff:10.1.2.3", "192.0.2.1", "2001:db9::1"] {
            assert!(!admits(&access, ip), "{ip}");
        }
    }

    #[test]
    fn without_allow_who_is_not_denied_may() {
        let access = Access::new(None, networks(&["192.0.2.0/24"]));
        assert!(admits(&access, "10.0.0.1") && admits(&access, "2001:db8::1"));
        assert!(!admits(&access, "192.0.2.255"));
    }

    #[test]
    fn what_changed_is_counted_by_list() {
        let before = Access::new(Some(networks(&["10.0.0.0/8"])), networks(&["10.1.0.0/16", "10.2.0.0/16"]));
        let after = Access::new(Some(networks(&["10.0.0.0/8"])), networks(&["10.1.0.0/16", "10.3.0.0/16", "::1"]));
        assert_eq!(after.difference(&before, AccessList::Deny), ListDifference { new: 2, gone: 1, kept: 1 });
        assert_eq!(after.difference(&before, AccessList::Allow), ListDifference { new: 0, gone: 0, kept: 1 });
    }
}
