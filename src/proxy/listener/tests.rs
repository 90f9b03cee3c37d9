use std::sync::atomic::AtomicUsize;

use super::*;

fn front(max_connections: usize) -> Arc<Listener> {
    let text = format!(
        "[listeners.a]\nbind = \"127.0.0.1:0\"\npool = \"a\"\nmax_connections = {max_connections}\n\
         [pools.a]\nbackends = [\"127.0.0.1:1\"]"
    );
    let config = config::parse(&text, "test.toml", &|_| None).unwrap();
    let (pool, _evidence) = Pool::new(config.pools[0].clone(), 2);
    let named = |_: &str| Some(Arc::clone(&pool));
    let settings = Settings::new(config.listeners[0].clone(), config.log.sessions, None, named).unwrap();
    Listener::new(settings, Vec::new(), Places::new(100), TaskTracker::new())
}

/// Looked at while one session after the other comes and goes, on two threads in turn: there is never more than one.
#[test]
fn every_look_at_the_counts_is_of_one_moment() {
    const EACH: u64 = 5_000;
    let (listener, done) = (front(1), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut left = EACH;
                while left > 0 {
                    let Some(mut slot) = listener.try_slot() else { continue };
                    slot.accepted();
                    slot.begins();
                    // Longer than a look.
                    std::thread::sleep(Duration::from_micros(1));
                    listener.ended.count(Outcome::Completed);
                    left -= 1;
                }
                done.fetch_add(1, Relaxed);
            });
        }
        while done.load(Relaxed) < 2 {
            let counts = listener.counts();
            assert!(counts.sessions <= 1, "{counts:?}");
            assert_eq!(counts.accepted, counts.ended.iter().sum::<u64>() + counts.sessions as u64);
        }
    });
    let counts = listener.counts();
    assert_eq!((counts.sessions, counts.accepted), (0, 2 * EACH));
}

/// Its worker has stopped, for instance.
#[test]
fn a_connection_that_never_is_a_session_has_ended() {
    let listener = front(2);
    let mut slot = listener.try_slot().unwrap();
    slot.accepted();
    assert_eq!(listener.sessions(), 1);
    drop(slot);
    assert_eq!((listener.sessions(), listener.ended.read(Outcome::Killed)), (0, 1));
    // A place that no client took.
    drop(listener.try_slot());
    assert_eq!((listener.counts().accepted, listener.ended.read(Outcome::Killed)), (1, 1));
}
