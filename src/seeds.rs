//! The seeds that simulations run with. Tests alone.

/// `fixed` seeds that are the same in every run, then `fresh` ones that are new in each; or the one in `SEED`, to replay a
/// failure. Each is printed when its turn comes, so that the last line that a failed test printed names the seed to replay.
pub(crate) fn seeds(fixed: u64, fresh: u64) -> impl Iterator<Item = u64> {
    let replayed = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let (fixed, fresh) = if replayed.is_some() { (0, 0) } else { (fixed, fresh) };
    let fresh = (0..fresh).map(|_| fastrand::u64(..));
    replayed.into_iter().chain(0..fixed).chain(fresh).inspect(|seed| println!("SEED={seed}"))
}
