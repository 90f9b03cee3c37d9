use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

use super::*;
use crate::seeds::seeds;

/// What the same operations do to plain collections.
#[derive(Default)]
struct Model {
    known: BTreeMap<IpAddr, Known>,
    /// Clients without sessions, the coldest first.
    idle: VecDeque<IpAddr>,
}

#[derive(Default)]
struct Known {
    bucket: SessionBucket,
    sessions: u32,
    waiting: u16,
    over: u64,
}

impl Model {
    fn meet(&mut self, ip: IpAddr, most: usize) {
        if self.known.contains_key(&ip) {
            return;
        }
        self.forget(most - 1);
        self.known.insert(ip, Known::default());
        self.idle.push_back(ip);
    }

    fn forget(&mut self, most: usize) {
        while self.known.len() > most
            && let Some(coldest) = self.idle.pop_front()
        {
            self.known.remove(&coldest);
        }
    }

    fn heard(&mut self, ip: IpAddr) {
        self.idle.retain(|one| *one != ip);
        if self.known[&ip].sessions == 0 && self.known[&ip].waiting == 0 {
            self.idle.push_back(ip);
        }
    }

    fn released(&mut self, ip: IpAddr, most: usize) {
        self.heard(ip);
        self.forget(most);
    }

    fn begin(&mut self, ip: IpAddr, limits: ClientLimits, now: u64) -> Result<(), Over> {
        let known = self.known.get_mut(&ip).unwrap();
        if limits.sessions.is_some_and(|most| known.sessions >= most) {
            return Err(Over::Sessions);
        }
        if let Some(rate) = limits.rate {
            known.bucket.take(rate, now).map_err(Over::Rate)?;
        }
        known.sessions += 1;
        self.heard(ip);
        Ok(())
    }
}

/// Against the model: sessions, rate, waiting, and which is forgotten.
#[test]
fn it_does_what_plain_collections_do() {
    for seed in seeds(30, 30) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let most = rng.usize(1..12);
        let limits = ClientLimits {
            sessions: rng.bool().then(|| rng.u32(1..4)),
            rate: rng.bool().then(|| SessionRate::new(rng.f64() * 5.0 + 0.1, rng.u32(1..5))),
        };
        let (mut clients, mut model) = (Clients::<u8>::new(most, RandomState::new()), Model::default());
        let (mut live, mut waits, mut now) = (Vec::new(), Vec::new(), 1_u64 << 40);
        for _ in 0..3_000 {
            now += rng.u64(0..400_000_000);
            let ip: IpAddr = match rng.u8(0..20) {
                n @ 0..10 => Ipv4Addr::from([10, 0, 0, n]).into(),
                n => format!("2001:db8::{n}").parse().unwrap(),
            };
            match rng.u8(0..6) {
                0 if !live.is_empty() => {
                    let (ip, slot) = live.swap_remove(rng.usize(0..live.len()));
                    clients.end(slot);
                    model.known.get_mut(&ip).unwrap().sessions -= 1;
                    model.released(ip, most);
                }
                1 if !waits.is_empty() => {
                    let (ip, slot) = waits.swap_remove(rng.usize(0..waits.len()));
                    clients.stop_waiting(slot);
                    model.known.get_mut(&ip).unwrap().waiting -= 1;
                    model.released(ip, most);
                }
                2 => {
                    let slot = clients.meet(ip);
                    model.meet(ip, most);
                    let known = model.known.get_mut(&ip).unwrap();
                    let may = known.waiting < 2;
                    assert_eq!(clients.wait(slot, 2), may);
                    if may {
                        known.waiting += 1;
                        waits.push((ip, slot));
                        model.heard(ip);
                    }
                }
                _ => {
                    let slot = clients.meet(ip);
                    model.meet(ip, most);
                    let begun = match model.known[&ip].waiting {
                        0 => model.begin(ip, limits, now),
                        _ => Err(Over::Sessions),
                    };
                    let is = clients.begin(slot, limits, now);
                    assert_eq!(is.is_ok(), begun.is_ok());
                    match begun {
                        Ok(()) => live.push((ip, slot)),
                        Err(over) => {
                            if model.known[&ip].waiting == 0 {
                                assert_eq!(is, Err(over));
                            }
                            model.known.get_mut(&ip).unwrap().over += 1;
                            model.heard(ip);
                        }
                    }
                }
            }
            let mut views: Vec<_> = clients.views().collect();
            views.sort_by_key(|view| view.address);
            let expected = model.known.iter().map(|(ip, known)| (*ip, known.sessions, known.waiting, known.over));
            let seen = views.iter().map(|view| (view.address, view.sessions, view.waiting, view.over()));
            assert!(seen.eq(expected), "{views:?}");
            // Beyond the bound there are only those that are held.
            let held = model.known.values().filter(|known| known.sessions > 0 || known.waiting > 0).count();
            assert!(clients.len() <= most.max(held + 1), "{} {held}", clients.len());
        }
    }
}

#[test]
fn a_place_holds_while_there_is_a_session_and_what_is_kept_goes_with_the_client() {
    let mut clients = Clients::<u32>::new(1, RandomState::new());
    let any = ClientLimits { sessions: None, rate: None };
    let first = clients.meet("192.0.2.1".parse().unwrap());
    clients.begin(first, any, 0).unwrap();
    *clients.value(first) = 7;
    let second = clients.meet("192.0.2.2".parse().unwrap());
    clients.begin(second, any, 0).unwrap();
    assert_eq!((*clients.value(first), *clients.value(second), clients.len()), (7, 0, 2));
    clients.end(first);
    let third = clients.meet("192.0.2.3".parse().unwrap());
    assert_eq!((third, *clients.value(third)), (first, 0));
}

#[test]
fn an_entry_is_small() {
    assert_eq!(size_of::<Entry<()>>(), 48);
}

/// `cargo test --release --lib two_million -- --ignored --nocapture` prints what two million clients take.
#[test]
#[ignore = "it measures the memory of a whole process"]
fn memory_of_two_million_clients() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
    };
    let before = resident();
    let (most, limits) = (2_000_000, ClientLimits { sessions: Some(50), rate: Some(SessionRate::new(10.0, 20)) });
    let shards = 64;
    let mut all: Vec<_> = (0..shards).map(|_| Clients::<()>::new(most / shards, RandomState::new())).collect();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut round = |count: u32, what: &str| {
        let began = std::time::Instant::now();
        for _ in 0..count {
            let ip = std::net::Ipv6Addr::from_bits(rng.u128(..));
            let clients = &mut all[rng.usize(0..shards)];
            let slot = clients.meet(ip.into());
            clients.begin(slot, limits, 0).unwrap();
            clients.end(slot);
        }
        let known: usize = all.iter().map(Clients::len).sum();
        eprintln!("{what}: {known} clients, {} MiB, {:?} a session", resident() - before, began.elapsed() / count);
    };
    round(2_000_000, "two million sessions");
    round(4_000_000, "four million more");
}
