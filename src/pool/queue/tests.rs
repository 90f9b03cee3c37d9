use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use super::*;
use crate::config;
use crate::pool::tests::{pool, view};
use crate::pool::{Backend, BackendView, PickContext};
use crate::seeds::seeds;
use crate::standing::Standing;

const ROOMY: config::Queue = config::Queue { max_length: 1_000, timeout: Duration::from_secs(10) };

/// The queue does not care which.
const CLIENT: Affinity = Affinity::NONE;

fn capped(standing: Standing, cap: u32) -> BackendView {
    BackendView { max_sessions: Some(cap), ..view(standing, 1) }
}

fn add(pool: &Pool, id: &str, standing: Standing, cap: u32) -> Arc<Backend> {
    pool.add(&id.into(), capped(standing, cap))
}

fn wait(pool: &Arc<Pool>) -> Waiting {
    match pool.pick_or_wait(CLIENT, ROOMY) {
        Ok(PickOrWait::Later(waiting)) => waiting,
        other => panic!("{other:?}"),
    }
}

/// What it has been given.
fn served(waiting: &mut Waiting) -> Option<Lease> {
    match Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(lease) => Some(lease.expect("the pool lives")),
        Poll::Pending => None,
    }
}

#[test]
fn who_came_first_is_served_first_and_nobody_slips_in() {
    let pool = pool("");
    add(&pool, "a", Standing::Up, 1);
    let Ok(PickOrWait::Now(mut lease)) = pool.pick_or_wait(CLIENT, ROOMY) else { panic!("there is room") };
    let mut waiting: Vec<Waiting> = (0..3).map(|_| wait(&pool)).collect();
    assert_eq!((pool.queued(), pool.sessions()), (3, 1));
    for left in (0..3).rev() {
        assert!(waiting.iter_mut().all(|waiting| served(waiting).is_none()));
        drop(lease);
        // It is picked for already, though it has not looked yet.
        assert!(pool.pick(&PickContext::FIRST).is_err());
        assert_eq!((pool.queued(), pool.sessions()), (left, 1));
        lease = served(&mut waiting[0]).expect("its turn");
        waiting.remove(0);
    }
    drop(lease);
    assert_eq!((pool.queued(), pool.sessions()), (0, 0));
    assert!(pool.pick(&PickContext::FIRST).is_ok());
    assert_eq!(pool.queue_time.read().1, 3, "each that waited is in the histogram");
}

#[test]
fn who_leaves_is_passed_over() {
    let pool = pool("");
    add(&pool, "a", Standing::Up, 1);
    let lease = pool.pick(&PickContext::FIRST).unwrap();
    let (first, second, mut third) = (wait(&pool), wait(&pool), wait(&pool));
    drop(first);
    assert_eq!(pool.queued(), 2);
    // Served, and gone before it has looked.
    drop(lease);
    assert_eq!(pool.queued(), 1);
    drop(second);
    assert_eq!((pool.queued(), pool.sessions()), (0, 1));
    drop(served(&mut third).expect("its turn"));
    assert_eq!(pool.sessions(), 0);
}

#[test]
fn a_full_queue_takes_nobody() {
    let pool = pool("");
    add(&pool, "a", Standing::Up, 1);
    let _lease = pool.pick(&PickContext::FIRST).unwrap();
    let small = config::Queue { max_length: 1, ..ROOMY };
    let place = pool.pick_or_wait(CLIENT, small);
    assert!(matches!(place, Ok(PickOrWait::Later(_))));
    assert!(matches!(pool.pick_or_wait(CLIENT, small), Ok(PickOrWait::Full)));
    drop(place);
    assert!(matches!(pool.pick_or_wait(CLIENT, small), Ok(PickOrWait::Later(_))));
}

/// Nothing to wait for: no backend up, no weight, a cap of 0, a tier that is not used.
#[test]
fn only_what_may_become_free_is_waited_for() {
    let pool = pool("");
    assert!(pool.pick_or_wait(CLIENT, ROOMY).is_err());
    let backend = add(&pool, "a", Standing::Down, 1);
    assert!(pool.pick_or_wait(CLIENT, ROOMY).is_err());
    pool.place(&backend, capped(Standing::Up, 0));
    assert!(pool.pick_or_wait(CLIENT, ROOMY).is_err());
    pool.place(&backend, BackendView { share: 0, weight: 0, ..capped(Standing::Up, 1) });
    assert!(pool.pick_or_wait(CLIENT, ROOMY).is_err());
    assert_eq!(pool.queued(), 0);

    let waiting = self::pool("queue = { max_length = 9, timeout = \"9s\" }\nwhen_all_down = \"wait\"");
    let mut first = wait(&waiting);
    assert!(served(&mut first).is_none());
    add(&waiting, "a", Standing::Up, 1);
    assert!(served(&mut first).is_some());
}

#[test]
fn whatever_makes_room_serves() {
    let pool = pool("when_all_down = \"any\"");
    let a = add(&pool, "a", Standing::Up, 1);
    let _held = pool.pick(&PickContext::FIRST).unwrap();
    let mut leases = Vec::new();
    let mut serves = |pool: &Arc<Pool>, what: &str, change: &dyn Fn()| {
        let mut waiting = wait(pool);
        assert!(served(&mut waiting).is_none(), "before {what}");
        change();
        leases.push(served(&mut waiting).unwrap_or_else(|| panic!("after {what}")));
    };
    serves(&pool, "a cap was raised", &|| pool.place(&a, capped(Standing::Up, 2)));
    let newcomer = std::cell::OnceCell::new();
    serves(&pool, "a newcomer", &|| drop(newcomer.set(add(&pool, "b", Standing::Up, 1))));
    let b = newcomer.into_inner().unwrap();
    let c = add(&pool, "c", Standing::Down, 1);
    serves(&pool, "one came up", &|| pool.place(&c, capped(Standing::Up, 1)));
    add(&pool, "d", Standing::Down, 1);
    let all = [&a, &b, &c];
    let become_of = |standing, cap| all.iter().for_each(|backend| pool.place(backend, capped(standing, cap)));
    serves(&pool, "fail open", &|| become_of(Standing::Down, 1));
    become_of(Standing::Up, 1);
    serves(&pool, "panic", &|| {
        add(&pool, "e", Standing::Down, 1);
        pool.set_panicking(true);
    });
}

/// Any order of what may happen, against what must always hold. `SEED=…` replays a failure.
#[test]
fn any_sequence_is_first_come_first_served() {
    for seed in seeds(150, 50) {
        let mut random = fastrand::Rng::with_seed(seed);
        let pool = pool(["balance = \"round_robin\"", "balance = \"least_connections\""][random.usize(..2)]);
        let backends: Vec<_> = (0..3).map(|n| add(&pool, &n.to_string(), Standing::Up, 2)).collect();
        let mut caps = [2; 3];
        let (mut leases, mut waiting): (Vec<Lease>, VecDeque<Waiting>) = Default::default();
        for _ in 0..300 {
            match random.u8(..10) {
                0 | 1 => {
                    let (n, standing) = (random.usize(..3), [Standing::Up, Standing::Down][random.usize(..2)]);
                    caps[n] = random.u32(..4);
                    pool.place(&backends[n], capped(standing, caps[n]));
                }
                2 if !waiting.is_empty() => drop(waiting.remove(random.usize(..waiting.len()))),
                3..=5 if !leases.is_empty() => drop(leases.swap_remove(random.usize(..leases.len()))),
                _ => match pool.pick_or_wait(CLIENT, ROOMY) {
                    Ok(PickOrWait::Now(lease)) => leases.push(lease),
                    Ok(PickOrWait::Later(place)) => waiting.push_back(place),
                    Ok(PickOrWait::Full) | Err(NoneLeft) => {}
                },
            }
            if random.bool() {
                let before = waiting.len();
                while let Some(lease) = waiting.front_mut().and_then(served) {
                    leases.push(lease);
                    waiting.pop_front();
                }
                assert!(waiting.iter_mut().all(|waiting| served(waiting).is_none()), "out of order, {before} waited");
                assert_eq!(pool.queued(), waiting.len());
                assert_eq!(pool.sessions(), leases.len());
            }
            assert!(
                pool.queued() == 0 || pool.pick(&PickContext::FIRST).is_err(),
                "somebody waits although there is room"
            );
        }
        drop((leases, waiting));
        assert_eq!((pool.queued(), pool.sessions()), (0, 0));
    }
}

/// Many threads at once: no cap is exceeded, and no session is forgotten.
#[test]
fn a_crowd_gets_through() {
    const CAP: usize = 2;
    let pool = pool("");
    add(&pool, "a", Standing::Up, CAP as u32);
    let (inside, start) = (AtomicUsize::new(0), Barrier::new(6));
    thread::scope(|scope| {
        for n in 0..6 {
            let (pool, inside, start) = (&pool, &inside, &start);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let mut random = fastrand::Rng::with_seed(n);
                start.wait();
                for _ in 0..500 {
                    let lease = match pool.pick_or_wait(CLIENT, ROOMY).expect("it is up") {
                        PickOrWait::Now(lease) => lease,
                        PickOrWait::Full => panic!("six do not fill it"),
                        PickOrWait::Later(waiting) if random.u8(..4) == 0 => {
                            thread::yield_now();
                            drop(waiting);
                            continue;
                        }
                        PickOrWait::Later(waiting) => runtime
                            .block_on(async { tokio::time::timeout(Duration::from_secs(60), waiting).await })
                            .expect("it is forgotten")
                            .unwrap(),
                    };
                    assert!(inside.fetch_add(1, SeqCst) < CAP, "more than the cap");
                    thread::yield_now();
                    inside.fetch_sub(1, SeqCst);
                    drop(lease);
                }
            });
        }
    });
    assert_eq!((pool.queued(), pool.sessions()), (0, 0));
}

/// The pick for the head of the queue is for its client, not for the one whose end makes room.
#[test]
fn a_waiter_is_picked_for_as_the_client_that_it_is() {
    let mut queue = Queue::default();
    let clients: Vec<Affinity> = (1..=3).map(|hash| Affinity { hash, ..Affinity::NONE }).collect();
    for client in &clients {
        drop(queue.enter(*client));
    }
    let mut asked = Vec::new();
    assert!(
        queue
            .serve(|client| {
                asked.push(client);
                None
            })
            .is_empty()
    );
    assert_eq!((asked, queue.len()), (vec![clients[0]], 3), "only the first is asked for while nothing is free");
}
