//! PURE. Networks with a value each: which of them an address is in. Sorted, each with its place in the next larger one, so
//! that a search among 100,000 takes a few steps more than one among ten.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Network;

/// The end of the way outwards.
const NONE: u32 = u32::MAX;

/// Networks, IPv4 and IPv6, with a value each. They do not change.
#[derive(Clone, Debug)]
pub struct Networks<T> {
    v4: Vec<Entry<T>>,
    v6: Vec<Entry<T>>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    /// The bits of the first address, from the highest on.
    first: u128,
    prefix: u8,
    /// The place of the smallest network around it.
    around: u32,
    value: T,
}

impl<T> Networks<T> {
    /// Of networks in any order. Where one is there twice, the first value counts.
    pub fn new(all: impl IntoIterator<Item = (Network, T)>) -> Self {
        let entry = |(network, value): (Network, T)| {
            let entry = Entry { first: bits(network.address), prefix: network.prefix, around: NONE, value };
            (network.address.is_ipv4(), entry)
        };
        let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().map(entry).partition(|(is_v4, _)| *is_v4);
        Self { v4: sorted(v4), v6: sorted(v6) }
    }

    /// The value of the smallest network that the address is in. IPv4 in IPv6 counts as IPv4.
    pub fn most_specific(&self, ip: IpAddr) -> Option<&T> {
        self.around(ip).next()
    }

    /// The values of all networks that the address is in, from the smallest to the largest.
    pub fn around(&self, ip: IpAddr) -> impl Iterator<Item = &T> {
        let ip = ip.to_canonical();
        let (entries, bits) = (if ip.is_ipv4() { &self.v4 } else { &self.v6 }, bits(ip));
        // What begins last is the smallest one around the address, or lies beside it within a larger one.
        let last = entries.partition_point(|entry| entry.first <= bits).checked_sub(1);
        let next = |entry: &&Entry<T>| entries.get(entry.around as usize);
        let outwards = std::iter::successors(last.and_then(|last| entries.get(last)), next);
        outwards.filter(move |entry| entry.holds(bits)).map(|entry| &entry.value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Network, &T)> {
        let v4 = self.v4.iter().map(|entry| (Ipv4Addr::from_bits((entry.first >> 96) as u32).into(), entry));
        let v6 = self.v6.iter().map(|entry| (Ipv6Addr::from_bits(entry.first).into(), entry));
        v4.chain(v6).map(|(address, entry)| (Network { address, prefix: entry.prefix }, &entry.value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Entry<T> {
    fn holds(&self, bits: u128) -> bool {
        bits & mask(self.prefix) == self.first
    }
}

fn sorted<T>(entries: Vec<(bool, Entry<T>)>) -> Vec<Entry<T>> {
    let mut entries: Vec<_> = entries.into_iter().map(|(_, entry)| entry).collect();
    // A network comes before those in it.
    entries.sort_by_key(|entry| (entry.first, entry.prefix));
    entries.dedup_by_key(|entry| (entry.first, entry.prefix));
    let mut open: Vec<u32> = Vec::new();
    for place in 0..entries.len() {
        let first = entries[place].first;
        while open.last().is_some_and(|outer| !entries[*outer as usize].holds(first)) {
            open.pop();
        }
        entries[place].around = open.last().copied().unwrap_or(NONE);
        open.push(u32::try_from(place).unwrap_or(NONE));
    }
    entries
}

/// Of both families the same: the prefix counts from the highest bit.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn network(address: IpAddr, prefix: u8) -> Network {
        let prefix = if address.is_ipv4() { prefix.min(32) } else { prefix };
        let first = bits(address) & mask(prefix);
        let address = match address {
            IpAddr::V4(_) => Ipv4Addr::from_bits((first >> 96) as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(first).into(),
        };
        Network { address, prefix }
    }

    /// Addresses close to each other, so that networks are in each other.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        let bits = (0..4_u32, 0..4_u32, any::<bool>());
        bits.prop_map(|(high, low, is_v4)| {
            let bits = high << 30 | low << 3 | low;
            if is_v4 {
                Ipv4Addr::from_bits(bits).into()
            } else {
                Ipv6Addr::from_bits(u128::from(bits) << 96 | 7).into()
            }
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_a_look_at_all_of_them_finds(
            all in prop::collection::vec((addresses(), 0..=128_u8), 0..40),
            ips in prop::collection::vec(addresses(), 1..20),
        ) {
            let all: Vec<_> = all.into_iter().map(|(address, prefix)| network(address, prefix)).collect();
            let networks = Networks::new(all.iter().copied().enumerate().map(|(value, network)| (network, value)));
            // The last of equals is not there.
            let mut known = Vec::new();
            all.iter().enumerate().for_each(|(value, network)| {
                if !known.iter().any(|(_, one)| one == network) {
                    known.push((value, *network));
                }
            });
            prop_assert_eq!(networks.len(), known.len());
            known.sort_by_key(|(_, network)| std::cmp::Reverse(network.prefix));
            for ip in ips {
                let expected: Vec<_> = known.iter().filter(|(_, network)| network.contains(ip)).map(|(value, _)| value).collect();
                prop_assert_eq!(networks.around(ip).collect::<Vec<_>>(), expected.clone());
                prop_assert_eq!(networks.most_specific(ip), expected.first().copied());
            }
        }
    }

    #[test]
    fn the_families_are_apart_and_ipv4_in_ipv6_is_ipv4() {
        let parse = |text: &str| crate::config::parse_network(text).unwrap();
        let networks = Networks::new([(parse("0.0.0.0/0"), 4), (parse("::/0"), 6), (parse("10.0.0.0/8"), 10)]);
        for (ip, value) in
            [("192.0.2.1", 4), ("::ffff:192.0.2.1", 4), ("::ffff:10.1.1.1", 10), ("2001:db8::1", 6), ("::", 6)]
        {
            assert_eq!(networks.most_specific(ip.parse().unwrap()), Some(&value), "{ip}");
        }
        assert!(Networks::<u8>::new([]).is_empty());
    }

    /// The best of several rounds, for `lookups` searches.
    fn time<T>(networks: &Networks<T>, ips: &[IpAddr]) -> Duration {
        let round = |_| {
            let began = Instant::now();
            let found = ips.iter().filter(|ip| networks.most_specific(**ip).is_some()).count();
            black_box(found);
            began.elapsed()
        };
        (0..7).map(round).min().unwrap()
    }

    /// A search that looks at each of them would take 1,000 times as long among 1,000 times as many.
    #[test]
    fn a_thousand_times_as_many_take_a_few_steps_more() {
        let mut rng = fastrand::Rng::with_seed(11);
        let mut address = || IpAddr::from(Ipv4Addr::from_bits(rng.u32(..)));
        let all: Vec<_> = (0..100_000).map(|n| (network(address(), 8 + (n % 25) as u8), ())).collect();
        let ips: Vec<_> = (0..20_000).map(|_| address()).collect();
        let (few, many) = (Networks::new(all[..100].to_vec()), Networks::new(all));
        let (of_few, of_many) = (time(&few, &ips), time(&many, &ips));
        let bytes = many.v4.capacity() * size_of::<Entry<()>>();
        eprintln!("100 networks: {of_few:?}, {} networks: {of_many:?}, {bytes} bytes", many.len());
        assert!(of_many < of_few * 100, "{of_few:?} {of_many:?}");
        assert!(bytes < 8_000_000, "{bytes}");
    }
}
