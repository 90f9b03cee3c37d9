//! What ties clients to backends: balancers agree on every client of a policy that hashes, and a sticky pool remembers.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::balance::hash_of;
use crate::config::{Balance, Prefix};

const CLIENTS: u32 = 100_000;

/// What a pool makes of a client.
fn of(pool: &Pool, client: u32) -> Affinity {
    let address = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + client));
    let IpAddr::V4(network) = Prefix::WHOLE.network(address) else { unreachable!() };
    let client = pool.settings().sticky.map(|sticky| sticky.prefix.network(address));
    Affinity { hash: hash_of(&network.octets(), 0), client }
}

fn picked(pool: &Arc<Pool>, client: u32, tried: &[Arc<Backend>], dialling: &[Arc<Backend>]) -> Lease {
    let context = PickContext { affinity: of(pool, client), tried, dialling, waits: false };
    pool.pick(&context).unwrap()
}

fn id_for(pool: &Arc<Pool>, client: u32) -> Arc<str> {
    Arc::clone(&picked(pool, client, &[], &[]).backend().id)
}

fn met_by_all(pool: &Arc<Pool>) -> Vec<Arc<str>> {
    (0..CLIENTS).map(|client| id_for(pool, client)).collect()
}

/// Another order, another past, another seed, probes that found other things meanwhile, and shares that still grow.
#[test]
fn two_balancers_with_the_same_members_agree_on_every_client() {
    let weight = |number: usize| [1, 1, 3][number % 3];
    let id = |number: usize| Arc::<str>::from(format!("node-{number}/web"));
    for balance in ["maglev", "ring_hash"] {
        let (here, there) = (pool(&format!("balance = \"{balance}\"")), pool(&format!("balance = \"{balance}\"")));
        let mut ours = Vec::new();
        for number in 0..20 {
            ours.push(here.add(&id(number), view(Standing::Up, weight(number))));
        }
        here.rebuild_tables();
        for number in (0..30).rev() {
            let view = BackendView { share: 1_000 + number as u32, ..view(Standing::Down, weight(number)) };
            let backend = there.add(&id(number), view.clone());
            there.rebuild_tables();
            if number >= 20 {
                there.place(&backend, BackendView { standing: Standing::Removed, ..view });
                assert!(there.forget(&backend));
            } else {
                there.place(&backend, BackendView { standing: Standing::Up, ..view });
            }
        }
        there.rebuild_tables();
        let before = met_by_all(&here);
        let disagreements = before.iter().zip(met_by_all(&there)).filter(|(here, there)| *here != there).count();
        assert_eq!(disagreements, 0, "{balance}");

        // One is down: only its own clients go elsewhere, and the table is the same one.
        here.place(&ours[3], view(Standing::Down, weight(3)));
        let down = met_by_all(&here);
        assert!(before.iter().zip(&down).all(|(before, now)| if **before == *id(3) {
            now != before
        } else {
            now == before
        }));
        here.place(&ours[3], view(Standing::Up, weight(3)));
        assert_eq!(met_by_all(&here), before, "{balance}");

        // One leaves: its own clients move, and few of the others.
        here.place(&ours[3], view(Standing::Removed, weight(3)));
        here.rebuild_tables();
        let after = met_by_all(&here);
        let moved = before.iter().zip(&after).filter(|(before, after)| ***before != *id(3) && before != after).count();
        let percent = 100.0 * moved as f64 / f64::from(CLIENTS);
        assert!(percent <= 2.0, "{balance}: {percent:.2} %");
    }
}

fn sticky(more: &str) -> (Arc<Pool>, [Arc<Backend>; 3]) {
    let pool = pool(&format!("balance = \"round_robin\"\nsticky = {{ ttl = \"30m\" }}\n{more}"));
    let add = |id: &str| pool.add(&id.into(), view(Standing::Up, 1));
    let backends = [add("a"), add("b"), add("c")];
    (pool, backends)
}

#[test]
fn a_client_comes_back_to_its_backend() {
    let (pool, _) = sticky("");
    let first: Vec<_> = (0..30).map(|client| id_for(&pool, client)).collect();
    for _ in 0..3 {
        assert!((0..30).rev().all(|client| id_for(&pool, client) == first[client as usize]));
    }
    assert_eq!(first.iter().filter(|id| ***id == *"a").count(), 10, "new clients go round");
    let view = pool.sticky(5).unwrap();
    assert_eq!((view.entries, view.clients.len(), view.clients[0].0), (30, 5, Ipv4Addr::new(10, 0, 0, 0).into()));
    assert_eq!(pool.forget_sticky(Some(Ipv4Addr::new(10, 0, 0, 7).into())), Some(1));
    assert_eq!(pool.forget_sticky(Some(Ipv4Addr::new(10, 0, 0, 7).into())), Some(0));
    assert_eq!((pool.forget_sticky(None), pool.sticky(5).unwrap().entries), (Some(29), 0));
}

#[test]
fn one_that_is_full_or_slow_is_kept_and_one_that_failed_or_is_down_is_not() {
    let (pool, [a, b, c]) = sticky("");
    let of_a = (0..3).find(|client| *id_for(&pool, *client) == *"a").unwrap();
    let others = |client| picked(&pool, client, std::slice::from_ref(&a), &[]).backend().id.to_string();
    // Full: elsewhere, and back.
    pool.place(&a, BackendView { max_sessions: Some(1), ..view(Standing::Up, 1) });
    let held = picked(&pool, of_a, &[], &[]);
    assert_ne!(*id_for(&pool, of_a), *"a");
    drop(held);
    assert_eq!(*id_for(&pool, of_a), *"a");
    // It does not answer the connect, so that another one is dialled beside it.
    let slow = std::slice::from_ref(&a);
    assert_ne!(&*picked(&pool, of_a, slow, slow).backend().id, "a");
    assert_eq!(*id_for(&pool, of_a), *"a");
    // It failed the session.
    let now = others(of_a);
    assert_eq!(*id_for(&pool, of_a), *now);
    // It is down.
    let own = if now == "b" { &b } else { &c };
    pool.place(own, view(Standing::Down, 1));
    let other = id_for(&pool, of_a);
    assert_ne!(*other, *now);
    pool.place(own, view(Standing::Up, 1));
    assert_eq!(id_for(&pool, of_a), other, "it stays where it went");
}

/// `spill = []` promises that a backup serves only while no primary is up: also those who were there meanwhile.
#[test]
fn a_client_of_a_backup_goes_back_when_the_backup_is_not_in_use() {
    let pool = pool("sticky = {}\nspill = []");
    let primary = pool.add(&"primary".into(), view(Standing::Down, 1));
    pool.add(&"backup".into(), BackendView { priority: 1, ..view(Standing::Up, 1) });
    assert_eq!(*id_for(&pool, 1), *"backup");
    pool.place(&primary, view(Standing::Up, 1));
    assert_eq!(*id_for(&pool, 1), *"primary");
}

#[test]
fn a_removed_backend_has_no_clients_although_its_number_is_used_again() {
    let (pool, [a, ..]) = sticky("");
    let clients: Vec<_> = (0..30).filter(|client| *id_for(&pool, *client) == *"a").collect();
    pool.place(&a, view(Standing::Removed, 1));
    assert!(pool.forget(&a));
    pool.add(&"d".into(), view(Standing::Up, 1));
    let of_d = clients.iter().filter(|client| *id_for(&pool, **client) == *"d").count();
    assert!(of_d < clients.len(), "they are picked for as new ones");
    assert!(pool.sticky(100).unwrap().clients.iter().all(|(_, id, _)| **id != *"a"));
}

#[test]
fn a_reload_keeps_the_table_unless_clients_are_told_apart_in_another_way() {
    let (pool, _) = sticky("");
    let first: Vec<_> = (0..30).map(|client| id_for(&pool, client)).collect();
    for policy in Balance::ALL.into_iter().filter(|policy| !policy.hashes()) {
        pool.change(settings(&format!("balance = \"{}\"\nsticky = {{ ttl = \"1h\", max = 30 }}", policy.name())));
        assert!((0..30).all(|client| id_for(&pool, client) == first[client as usize]), "{policy:?}");
    }
    pool.change(settings("sticky = { max = 10 }"));
    assert_eq!(pool.sticky(99).unwrap().entries, 10);
    pool.change(settings("sticky = { prefix = { v4 = 24 } }"));
    assert_eq!(pool.sticky(99).unwrap().entries, 0);
    assert!((0..30).map(|client| id_for(&pool, client)).all(|id| id == id_for(&pool, 0)), "one network");
    pool.change(settings(""));
    assert!(pool.sticky(99).is_none() && pool.forget_sticky(None).is_none());
}
