//! The bandwidth of a pool's sessions: token buckets that a session, the sessions of a client or the whole pool draw from.
//!
//! A bucket is one number: when all that was drawn is paid for. Whoever draws gets the time of its turn and moves that number
//! by what it drew; so turns come in the order of draws, and none starves, on whatever worker. An atomic, because sessions of
//! several workers share buckets; no lock. A session without a limit never comes here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::config::{Bandwidth, BandwidthScope};
use crate::metrics::Direction;

const SECOND: u64 = 1_000_000_000;

/// What may be drawn at once after a rest, as time: enough for a thread that comes late, and little of ten seconds.
const BURST: u64 = SECOND / 8;

/// One draw, in bytes, and as a part of a second: few enough to be no load, and small enough that a turn comes soon.
const LEAST_DRAW: u64 = 128;
const MOST_DRAW: u64 = 1 << 20;
const DRAWS_A_SECOND: u64 = 20;

/// The same where others wait for their turns meanwhile.
const MOST_SHARED_DRAW: u64 = 64 << 10;
const SHARED_DRAWS_A_SECOND: u64 = 200;

/// Of one pool.
#[derive(Debug)]
pub struct PoolBandwidth {
    rates: Arc<Rates>,
    all: Arc<Buckets>,
    clients: Arc<Clients>,
}

/// What all buckets of a pool go by. Relaxed: a change may be seen a moment later.
#[derive(Debug)]
struct Rates {
    since: Instant,
    /// Bytes a second, by direction; 0 = no limit.
    bytes: [AtomicU64; Direction::ALL.len()],
    /// Nanoseconds that sessions waited.
    waited: [AtomicU64; Direction::ALL.len()],
}

/// The clients that have sessions. A lock: taken at the begin and the end of a session with such a limit, for one entry.
#[derive(Debug, Default)]
struct Clients(Mutex<HashMap<IpAddr, Weak<Buckets>>>);

/// A bucket for each direction.
#[derive(Debug)]
struct Buckets {
    rates: Arc<Rates>,
    is_shared: bool,
    buckets: [Bucket; Direction::ALL.len()],
    /// Where it is known, and as whose.
    home: Option<(Weak<Clients>, IpAddr)>,
}

/// PURE. When all that was drawn is paid for, in nanoseconds of some clock. Relaxed: it orders nothing else.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

/// What one direction of a session draws from.
#[derive(Debug)]
pub struct Throttle {
    buckets: Arc<Buckets>,
    direction: Direction,
}

/// Bytes that were drawn, and when they may be moved.
#[derive(Debug)]
pub struct Draw {
    /// So many at most.
    pub bytes: usize,
    /// Not before.
    pub at: Instant,
    cost: u64,
}

impl Bucket {
    /// Draws something that takes `cost`. Returns its turn, which may be in the past.
    fn draw(&self, now: u64, cost: u64) -> u64 {
        let turn = |paid: u64| paid.max(now.saturating_sub(BURST));
        // It can't fail: there is always a new value.
        let paid = self.0.fetch_update(Relaxed, Relaxed, |paid| Some(turn(paid).saturating_add(cost)));
        turn(paid.unwrap_or_default())
    }

    fn give_back(&self, cost: u64) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |paid| Some(paid.saturating_sub(cost)));
    }
}

impl PoolBandwidth {
    /// With the limits of the pool's settings.
    pub fn new(settings: Option<&Bandwidth>) -> Self {
        // A clock that begins before any burst.
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let rates = Arc::new(Rates { since, bytes: Default::default(), waited: Default::default() });
        let all = Arc::new(Buckets::new(&rates, true, None));
        let this = Self { rates, all, clients: Arc::default() };
        this.change(settings);
        this
    }

    /// Sets other limits. Sessions that have one go by the new rate at once; one that began without a limit stays so.
    pub fn change(&self, settings: Option<&Bandwidth>) {
        let rate = |direction| {
            let rate = match direction {
                Direction::ToBackend => settings?.to_backend,
                Direction::ToClient => settings?.to_client,
            };
            rate.map(|rate| rate.0.get())
        };
        for direction in Direction::ALL {
            self.rates.bytes[direction as usize].store(rate(direction).unwrap_or(0), Relaxed);
        }
    }

    /// What a new session of this client draws from, by direction; `None` = it has no limit.
    pub fn throttles(&self, settings: &Bandwidth, client: IpAddr) -> [Option<Throttle>; Direction::ALL.len()] {
        let buckets = match settings.scope {
            BandwidthScope::Session => Arc::new(Buckets::new(&self.rates, false, None)),
            BandwidthScope::Client => self.clients.buckets(client, &self.rates),
            BandwidthScope::Pool => Arc::clone(&self.all),
        };
        Direction::ALL.map(|direction| {
            let is_limited = self.rates.bytes[direction as usize].load(Relaxed) > 0;
            is_limited.then(|| Throttle { buckets: Arc::clone(&buckets), direction })
        })
    }

    /// How long sessions waited for their turns.
    pub fn waited(&self, direction: Direction) -> Duration {
        Duration::from_nanos(self.rates.waited[direction as usize].load(Relaxed))
    }

    /// Clients with sessions that share a limit now.
    pub fn clients(&self) -> usize {
        self.clients.lock().len()
    }
}

impl Buckets {
    fn new(rates: &Arc<Rates>, is_shared: bool, home: Option<(Weak<Clients>, IpAddr)>) -> Self {
        Self { rates: Arc::clone(rates), is_shared, buckets: Default::default(), home }
    }

    /// The most that is drawn at once.
    fn most(&self, rate: u64) -> u64 {
        let (a_second, most) =
            if self.is_shared { (SHARED_DRAWS_A_SECOND, MOST_SHARED_DRAW) } else { (DRAWS_A_SECOND, MOST_DRAW) };
        (rate / a_second).clamp(LEAST_DRAW, most)
    }
}

impl Clients {
    fn buckets(self: &Arc<Self>, client: IpAddr, rates: &Arc<Rates>) -> Arc<Buckets> {
        let network = network(client);
        let mut all = self.lock();
        if let Some(known) = all.get(&network).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Buckets::new(rates, true, Some((Arc::downgrade(self), network))));
        all.insert(network, Arc::downgrade(&new));
        new
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Weak<Buckets>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Buckets {
    fn drop(&mut self) {
        let Some((home, network)) = self.home.take() else { return };
        let Some(home) = home.upgrade() else { return };
        let mut all = home.lock();
        // By now the client may have others.
        if all.get(&network).is_some_and(|buckets| buckets.strong_count() == 0) {
            all.remove(&network);
        }
    }
}

impl Throttle {
    /// Draws from the bucket at `now`. `None` = there is no limit any more.
    pub fn draw(&self, now: Instant) -> Option<Draw> {
        let rate = self.rate()?;
        let bytes = self.buckets.most(rate);
        let cost = cost(bytes, rate);
        let turn = self.bucket().draw(self.clock(now), cost);
        let at = self.buckets.rates.since + Duration::from_nanos(turn);
        Some(Draw { bytes: usize::try_from(bytes).unwrap_or(usize::MAX), at, cost })
    }

    /// Gives back what was drawn and not moved.
    pub fn give_back(&self, draw: &Draw, moved: usize) {
        let left = draw.bytes.saturating_sub(moved) as u64;
        let cost = u128::from(draw.cost) * u128::from(left) / (draw.bytes as u128).max(1);
        self.bucket().give_back(u64::try_from(cost).unwrap_or(draw.cost));
    }

    /// Counts bytes that were moved without a draw.
    pub fn charge(&self, now: Instant, bytes: u64) {
        if let Some(rate) = self.rate().filter(|_| bytes > 0) {
            self.bucket().draw(self.clock(now), cost(bytes, rate));
        }
    }

    /// Counts the time that a session waited for a turn.
    pub fn waited(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets.rates.waited[self.direction as usize].fetch_add(nanoseconds, Relaxed);
    }

    fn rate(&self) -> Option<u64> {
        Some(self.buckets.rates.bytes[self.direction as usize].load(Relaxed)).filter(|rate| *rate > 0)
    }

    fn bucket(&self) -> &Bucket {
        &self.buckets.buckets[self.direction as usize]
    }

    fn clock(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.buckets.rates.since).as_nanos()).unwrap_or(u64::MAX)
    }
}

fn cost(bytes: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(SECOND) / u128::from(rate.max(1))).unwrap_or(u64::MAX)
}

/// A client of IPv6 has as many addresses as it likes: it is its /64.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::config::ByteRate;

    fn settings(rate: u64, scope: BandwidthScope) -> Bandwidth {
        let rate = NonZeroU64::new(rate).map(ByteRate);
        Bandwidth { to_client: rate, to_backend: None, scope }
    }

    fn downward(pool: &PoolBandwidth, settings: &Bandwidth, client: &str) -> Throttle {
        let [to_backend, to_client] = pool.throttles(settings, client.parse().unwrap());
        assert!(to_backend.is_none());
        to_client.unwrap()
    }

    /// Moves all that it may, as a session does that comes late by up to `late`. Returns how much in that time.
    fn moved(throttles: &[Throttle], time: Duration, late: u64, read: impl Fn(usize) -> usize) -> Vec<u64> {
        let start = Instant::now();
        let mut random = fastrand::Rng::with_seed(late);
        let mut moved = vec![0; throttles.len()];
        let mut waiting: Vec<(Instant, usize, Draw)> =
            throttles.iter().enumerate().map(|(i, throttle)| (start, i, throttle.draw(start).unwrap())).collect();
        loop {
            waiting.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
            let (now, i, draw) = waiting.pop().unwrap();
            if now >= start + time {
                return moved;
            }
            if now < draw.at {
                waiting.push((draw.at + Duration::from_micros(random.u64(..=late)), i, draw));
                continue;
            }
            let bytes = read(draw.bytes);
            throttles[i].give_back(&draw, bytes);
            moved[i] += bytes as u64;
            waiting.push((now, i, throttles[i].draw(now).unwrap()));
        }
    }

    const TEN: Duration = Duration::from_secs(10);

    #[test]
    fn ten_seconds_are_within_two_percent_of_the_rate() {
        for rate in [1 << 10, 50_000, 1 << 20, 10 << 20, 1 << 30] {
            for (late, most) in [(0, usize::MAX), (2_000, usize::MAX), (2_000, 1_460), (20_000, 65_536)] {
                // So many small reads would take too long here.
                if rate > 1 << 20 && most < 65_536 {
                    continue;
                }
                let settings = settings(rate, BandwidthScope::Session);
                let throttle = downward(&PoolBandwidth::new(Some(&settings)), &settings, "10.0.0.1");
                let moved = moved(&[throttle], TEN, late, |drawn| drawn.min(most))[0] as f64 / 10.0;
                let off = (moved / rate as f64 - 1.0).abs();
                assert!(
                    off < 0.02 + 256.0 / (rate as f64 * 10.0),
                    "{moved} of {rate}, late by {late}, reads of {most}"
                );
            }
        }
    }

    #[test]
    fn those_that_share_a_bucket_have_even_parts_of_it() {
        for sessions in [2, 10, 300] {
            let settings = settings(10 << 20, BandwidthScope::Pool);
            let pool = PoolBandwidth::new(Some(&settings));
            let throttles: Vec<_> = (0..sessions).map(|_| downward(&pool, &settings, "10.0.0.1")).collect();
            let moved = moved(&throttles, TEN, 2_000, |drawn| drawn);
            let all: u64 = moved.iter().sum();
            assert!((all as f64 / f64::from(100 << 20) - 1.0).abs() < 0.03, "{all}");
            let (least, most) = (*moved.iter().min().unwrap() as f64, *moved.iter().max().unwrap() as f64);
            let even = all as f64 / f64::from(sessions);
            assert!(least > even * 0.9 - 65_536.0 && most < even * 1.1 + 65_536.0, "{least} {most} of {even}");
        }
    }

    #[test]
    fn a_rest_saves_no_more_than_a_burst() {
        let bucket = Bucket::default();
        let day = 86_400 * SECOND;
        assert_eq!(bucket.draw(day, SECOND), day - BURST);
        assert_eq!(bucket.draw(day, 1), day - BURST + SECOND);
        bucket.give_back(SECOND);
        assert_eq!(bucket.draw(day, 1), day - BURST + 1);
    }

    #[test]
    fn a_client_is_known_for_as_long_as_it_has_sessions() {
        let settings = settings(1 << 20, BandwidthScope::Client);
        let pool = PoolBandwidth::new(Some(&settings));
        let [a, b] = [(); 2].map(|()| downward(&pool, &settings, "2001:db8::1"));
        let same_network = downward(&pool, &settings, "2001:db8::2");
        let mapped = [downward(&pool, &settings, "::ffff:10.0.0.1"), downward(&pool, &settings, "10.0.0.1")];
        let other = downward(&pool, &settings, "10.0.0.2");
        assert_eq!(pool.clients(), 3);
        assert!(Arc::ptr_eq(&a.buckets, &b.buckets) && Arc::ptr_eq(&a.buckets, &same_network.buckets));
        assert!(Arc::ptr_eq(&mapped[0].buckets, &mapped[1].buckets));
        assert!(!Arc::ptr_eq(&other.buckets, &mapped[0].buckets));
        drop((a, b));
        assert_eq!(pool.clients(), 3);
        drop((same_network, mapped));
        assert_eq!(pool.clients(), 1);
        drop(other);
        assert_eq!(pool.clients(), 0);
    }

    #[test]
    fn another_rate_holds_at_once_and_none_is_no_limit() {
        let slow = settings(1 << 10, BandwidthScope::Session);
        let pool = PoolBandwidth::new(Some(&slow));
        let throttle = downward(&pool, &slow, "10.0.0.1");
        let now = Instant::now();
        assert_eq!(throttle.draw(now).unwrap().bytes, 128);
        pool.change(Some(&settings(1 << 20, BandwidthScope::Session)));
        assert_eq!(throttle.draw(now).unwrap().bytes, (1 << 20) / 20);
        pool.change(None);
        assert!(throttle.draw(now).is_none());
        assert!(pool.throttles(&slow, "10.0.0.1".parse().unwrap()).iter().all(Option::is_none));
    }

    /// What was moved before is paid for by a later turn.
    #[test]
    fn what_is_charged_is_paid_for() {
        let settings = settings(1 << 20, BandwidthScope::Session);
        let throttle = downward(&PoolBandwidth::new(Some(&settings)), &settings, "10.0.0.1");
        let now = Instant::now();
        throttle.charge(now, 1 << 20);
        let at = throttle.draw(now).unwrap().at;
        assert!((Duration::from_millis(870)..Duration::from_millis(880)).contains(&(at - now)), "{:?}", at - now);
    }
}
