//! The same rule for a pool and its fallbacks. A session that goes from pool to pool as `proxy` does is refused only if none
//! of all of them has a backend left that it may use, and gets a last resort only if nothing that is up is left.

use super::rule::{Met, World};
use super::*;

#[test]
fn refused_only_if_no_pool_of_the_chain_has_one_left() {
    let (mut served, mut refused, mut fell_back, mut resorts) = (0, 0, 0, 0);
    for seed in seeds(150, 100) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut worlds: Vec<World> = (0..random.usize(2..5)).map(|_| World::new(random.u64(..))).collect();
        for _ in 0..10 {
            worlds.iter_mut().for_each(World::change);
            match search(&mut random, &worlds) {
                None => refused += 1,
                Some((place, is_resort)) => {
                    served += 1;
                    fell_back += usize::from(place > 0);
                    resorts += usize::from(is_resort);
                }
            }
        }
    }
    let all = [served, refused, fell_back, resorts];
    assert!(std::env::var("SEED").is_ok() || all.iter().all(|&count| count > 10), "{all:?}");
}

/// One session. Returns where it was served, and whether by a last resort.
fn search(random: &mut fastrand::Rng, worlds: &[World]) -> Option<(usize, bool)> {
    let mut met: Vec<Vec<Met>> = worlds.iter().map(|world| vec![Met::Nothing; world.backends.len()]).collect();
    let waits: Vec<_> = worlds.iter().map(|world| world.pool.settings().queue.is_some() && random.bool()).collect();
    loop {
        let those = |wanted: fn(Met) -> bool| -> Vec<_> {
            let of = |(world, met): (&World, &Vec<Met>)| -> Vec<_> {
                let met = met.iter().zip(&world.backends).filter(|(met, _)| wanted(**met));
                met.map(|(_, backend)| Arc::clone(backend)).collect()
            };
            worlds.iter().zip(&met).flat_map(of).collect()
        };
        // One list over all pools, as a session has it.
        let (tried, dialling) = (those(|met| met != Met::Nothing), those(|met| met == Met::Silence));
        let context = |place: usize| PickContext {
            dialling: &dialling,
            waits: waits[place],
            ..PickContext::having_tried(&tried)
        };
        let course = course((0..worlds.len()).map(|place| worlds[place].pool.prospect(&context(place))));

        // What it may use, by the rule of each pool, as far as the pools before it let it go.
        let is_reached = |place: &usize| {
            (0..*place).all(|before| {
                worlds[before].lets_go(&met[before], waits[before])
                    || worlds[before].has_none_up() && may(&worlds[before], &met[before], waits[before])
            })
        };
        let reached: Vec<_> = (0..worlds.len()).filter(is_reached).collect();
        let has = |place: &&usize| may(&worlds[**place], &met[**place], waits[**place]);
        let up = reached.iter().filter(has).find(|place| !worlds[**place].has_none_up());
        let wanted = up.or_else(|| reached.iter().find(has));
        let Course::Picks(place) = course else {
            assert_eq!(wanted, None, "{course:?}");
            return None;
        };
        assert_eq!(wanted, Some(&place));
        let may: Vec<_> =
            (0..met[place].len()).filter(|it| worlds[place].may(*it, &met[place], waits[place])).collect();
        let lease = worlds[place].pool.pick(&context(place)).unwrap();
        assert!(Arc::ptr_eq(lease.pool(), &worlds[place].pool));
        let number = worlds[place].backends.iter().position(|it| Arc::ptr_eq(it, lease.backend())).unwrap();
        assert!(may.contains(&number), "{number} of {may:?}");
        met[place][number] = match random.u8(..4) {
            0 => return Some((place, worlds[place].has_none_up())),
            1 => Met::Silence,
            _ => Met::Failed,
        };
    }
}

fn may(world: &World, met: &[Met], waits: bool) -> bool {
    (0..met.len()).any(|number| world.may(number, met, waits))
}

/// A circle lasts for a moment, while another configuration is applied.
#[test]
fn a_circle_is_followed_once() {
    let (a, b, c) = (pool(""), pool(""), pool(""));
    a.fall_back_to(Some(Arc::clone(&b)));
    b.fall_back_to(Some(Arc::clone(&c)));
    c.fall_back_to(Some(Arc::clone(&b)));
    assert_eq!(a.fallbacks().len(), 2);
    c.fall_back_to(Some(Arc::clone(&a)));
    assert_eq!(a.fallbacks().len(), 2);
    a.fall_back_to(Some(Arc::clone(&a)));
    assert_eq!(a.fallbacks().len(), 0);
    for pool in [a, b, c] {
        pool.fall_back_to(None);
    }
}

#[test]
fn it_lives_from_the_first_fallback_with_one_up() {
    let (a, b, c) = (pool(""), pool(""), pool(""));
    a.fall_back_to(Some(Arc::clone(&b)));
    b.fall_back_to(Some(Arc::clone(&c)));
    let name = |pool: &Pool| pool.lives_from().map(|it| Arc::as_ptr(&it));
    let backend = add(&a, "a", Standing::Down, 1);
    add(&b, "b", Standing::Down, 1);
    assert_eq!(name(&a), None);
    add(&c, "c", Standing::Up, 1);
    assert_eq!((name(&a), name(&b), name(&c)), (Some(Arc::as_ptr(&c)), Some(Arc::as_ptr(&c)), None));
    a.place(&backend, view(Standing::Up, 1));
    assert_eq!(name(&a), None);
}
