//! No flap storm: however a backend misbehaves, it gets its share back only so often.

use super::*;

/// Ten minutes.
const LASTS: u64 = 600;

/// In those. Without damping a backend that is dead and alive in turns comes up hundreds of times.
const MOST: usize = 40;

#[test]
fn a_bad_backend_comes_up_only_so_often() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..60).map(|_| fastrand::u64(..)).collect(),
    };
    for seed in seeds {
        let times = live(seed);
        assert!(times <= MOST, "SEED={seed}: up {times} times in ten minutes");
    }
}

/// How often it comes up.
fn live(seed: u64) -> usize {
    let mut random = Rng::with_seed(seed);
    let kind = if random.bool() { "tcp" } else { "http" };
    let mut bench = Bench::up(&format!("check = {{ kind = \"{kind}\", rise = 2, fall = 3 }}"), &["a", "b", "c"]);
    // How often its probes fail, and its sessions.
    let (probes, sessions) = ([0.0, 0.5, 1.0][random.usize(..3)], [0.0, 0.3, 1.0][random.usize(..3)]);
    // It may also be dead and alive in turns.
    let turns = random.u64(0..8);
    let (mut times, mut was_up) = (0, true);
    for tenth in 0..LASTS * 10 {
        bench.advance(Duration::from_millis(100));
        let dead = turns > 0 && (tenth / (turns * 10)) % 2 == 1;
        if tenth % 5 == 0 {
            let fails = dead || random.f64() < probes;
            bench.probe("a", !fails);
            bench.probe("b", true);
            bench.probe("c", true);
        }
        for _ in 0..5 {
            let Ok(lease) = bench.pool.pick(&PickContext::FIRST) else { continue };
            let bad = &*lease.backend().id == "a";
            if bad && dead {
                lease.failed(ConnectFailure::Refused);
            } else {
                lease.connected(Duration::from_millis(1));
                if bad && random.f64() < sessions {
                    lease.ended_early(EarlyEnd::Reset);
                } else {
                    lease.answered(Duration::from_millis(5));
                }
            }
            drop(lease);
            bench.hear();
            let is_up = bench.standing("a") == Standing::Up;
            times += usize::from(is_up && !was_up);
            was_up = is_up;
        }
    }
    times
}
