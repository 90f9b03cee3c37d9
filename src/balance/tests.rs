use super::*;

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn set(balancer: &mut Picker, slot: usize, share: u32, eligible: bool) {
    balancer.set(slot, Worth { share, eligible, ..Worth::default() });
}

fn rules(balance: Balance) -> PickRules {
    PickRules { balance, hashing: Hashing::DEFAULT, spill: Spill::DEFAULT, seed: 1 }
}

fn of_client(number: u64) -> Affinity {
    Affinity { hash: hash_of(&number.to_be_bytes(), 0), ..Affinity::NONE }
}

fn pool(balance: Balance, weights: &[u32]) -> Picker {
    let mut balancer = Picker::new(rules(balance));
    for (slot, &weight) in weights.iter().enumerate() {
        set(&mut balancer, slot, weight, true);
    }
    balancer
}

/// Every window of W picks holds each slot's share, wherever it starts.
fn assert_exact(balancer: &mut Picker, weights: &[u32], windows: usize) {
    let g = weights.iter().fold(0, |g, &w| gcd(g, u64::from(w)));
    let shares: Vec<u64> = weights.iter().map(|&w| u64::from(w) / g).collect();
    let window = usize::try_from(shares.iter().sum::<u64>()).unwrap();
    let picks: Vec<usize> = (0..window + windows).map(|_| balancer.pick(&PickContext::FIRST).unwrap()).collect();
    for start in 0..=windows {
        let mut counts = vec![0_u64; weights.len()];
        for &slot in &picks[start..start + window] {
            counts[slot] += 1;
        }
        assert_eq!(counts, shares, "window at {start} of weights {weights:?}: {picks:?}");
    }
}

#[test]
fn equal_weights_go_in_order() {
    let mut balancer = pool(Balance::RoundRobin, &[1, 1, 1]);
    let picks: Vec<_> = (0..7).map(|_| balancer.pick(&PickContext::FIRST).unwrap()).collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn heavy_backends_are_spread_not_clumped() {
    let mut balancer = pool(Balance::RoundRobin, &[5, 1, 1]);
    let picks: Vec<_> = (0..7).map(|_| balancer.pick(&PickContext::FIRST).unwrap()).collect();
    assert_eq!(picks, [0, 0, 0, 1, 2, 0, 0]);
}

#[test]
fn any_window_is_exact() {
    for weights in
        [vec![1], vec![3, 1], vec![2, 4, 6], vec![5, 1, 1], vec![7, 3, 2, 9], vec![65_535, 1], vec![100, 99, 1]]
    {
        assert_exact(&mut pool(Balance::RoundRobin, &weights), &weights, 300);
    }
}

#[test]
fn any_window_is_exact_after_any_change() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..300 {
        let mut weights: Vec<u32> = (0..random.usize(1..8)).map(|_| random.u32(1..9)).collect();
        let mut balancer = pool(Balance::RoundRobin, &weights);
        for _ in 0..10 {
            for _ in 0..random.usize(..40) {
                balancer.pick(&PickContext::FIRST);
            }
            match random.u8(..3) {
                0 => weights.push(random.u32(1..9)),
                1 => {
                    let slot = random.usize(..weights.len());
                    weights[slot] = random.u32(1..9);
                }
                _ => {
                    let slot = random.usize(..weights.len());
                    set(&mut balancer, slot, weights[slot], false);
                    balancer.pick(&PickContext::FIRST);
                }
            }
            for (slot, &weight) in weights.iter().enumerate() {
                set(&mut balancer, slot, weight, true);
            }
            assert_exact(&mut balancer, &weights, 60);
        }
    }
}

#[test]
fn publishing_the_same_set_keeps_the_position() {
    let weights = [3, 2, 1];
    let mut left_alone = pool(Balance::RoundRobin, &weights);
    let mut republished = pool(Balance::RoundRobin, &weights);
    for _ in 0..100 {
        for (slot, &weight) in weights.iter().enumerate() {
            set(&mut republished, slot, weight, true);
        }
        assert_eq!(left_alone.pick(&PickContext::FIRST), republished.pick(&PickContext::FIRST));
    }
}

#[test]
fn weight_0_gets_nothing_new_and_keeps_its_sessions() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let mut balancer = pool(balance, &[1, 1]);
        assert_eq!((balancer.pick(&PickContext::FIRST), balancer.pick(&PickContext::FIRST)), (Some(0), Some(1)));
        set(&mut balancer, 0, 0, true);
        for _ in 0..10 {
            assert_eq!(balancer.pick(&PickContext::FIRST), Some(1));
        }
        assert_eq!(balancer.sessions(0), 1);
        balancer.release(0);
        set(&mut balancer, 1, 0, true);
        assert_eq!(balancer.pick(&PickContext::FIRST), None);
    }
}

#[test]
fn tried_backends_are_passed_over_and_keep_their_turn() {
    let mut balancer = pool(Balance::RoundRobin, &[1, 1, 1]);
    assert_eq!(balancer.pick(&PickContext::having_tried(&[0, 1])), Some(2));
    assert_eq!(balancer.pick(&PickContext::FIRST), Some(0));
    assert_eq!(balancer.pick(&PickContext::FIRST), Some(1));
    assert_eq!(balancer.pick(&PickContext::having_tried(&[0, 1, 2])), None);
}

#[test]
fn least_connections_follows_the_sessions() {
    let mut balancer = pool(Balance::LeastConnections, &[1, 1, 2]);
    // (0+1)/1, (0+1)/1, (0+1)/2, then (1+1)/2 = 1 ties with the two others, which were never picked.
    let picks: Vec<_> = (0..4).map(|_| balancer.pick(&PickContext::FIRST).unwrap()).collect();
    assert_eq!(picks, [2, 0, 1, 2]);
    balancer.release(1);
    assert_eq!(balancer.pick(&PickContext::FIRST), Some(1));
}

#[test]
fn least_connections_counts_survive_a_change_of_membership() {
    let mut balancer = pool(Balance::LeastConnections, &[1, 1]);
    for _ in 0..10 {
        balancer.pick(&PickContext::FIRST);
    }
    set(&mut balancer, 0, 1, false);
    for _ in 0..3 {
        balancer.release(0);
    }
    set(&mut balancer, 0, 1, true);
    set(&mut balancer, 2, 1, true);
    assert_eq!((balancer.sessions(0), balancer.sessions(1)), (2, 5));
    let picks: Vec<_> = (0..3).map(|_| balancer.pick(&PickContext::FIRST).unwrap()).collect();
    assert_eq!(picks, [2, 2, 0], "the new, empty backend is preferred until it has caught up");
}

#[test]
fn least_connections_matches_a_scan() {
    let mut random = fastrand::Rng::with_seed(3);
    let weights: Vec<u32> = (0..20).map(|_| random.u32(1..5)).collect();
    let mut balancer = pool(Balance::LeastConnections, &weights);
    let mut sessions = vec![0_u32; weights.len()];
    for _ in 0..20_000 {
        if random.bool() {
            let slot = balancer.pick(&PickContext::FIRST).unwrap();
            let least = (0..20).map(|s| (sessions[s] + 1) as f64 / f64::from(weights[s])).fold(f64::INFINITY, f64::min);
            assert!(((sessions[slot] + 1) as f64 / f64::from(weights[slot]) - least).abs() < 1e-9);
            sessions[slot] += 1;
        } else {
            let slot = random.usize(..20);
            if sessions[slot] > 0 {
                balancer.release(slot);
                sessions[slot] -= 1;
            }
        }
    }
}

#[test]
fn a_cap_is_never_exceeded_and_room_is_used_again() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let mut balancer = pool(balance, &[1, 1]);
        balancer.set(0, Worth { share: 1, cap: Some(2), eligible: true, ..Worth::default() });
        for _ in 0..10 {
            balancer.pick(&PickContext::FIRST);
        }
        assert_eq!((balancer.sessions(0), balancer.sessions(1), balancer.eligible(false)), (2, 8, 1));
        assert_eq!(balancer.pick(&PickContext::having_tried(&[1])), None);
        assert!(!balancer.claim(0));
        balancer.release(0);
        assert_eq!((balancer.eligible(false), balancer.pick(&PickContext::having_tried(&[1]))), (2, Some(0)));
        // Lowered below what is there: nothing new until it has run down.
        balancer.set(0, Worth { share: 1, cap: Some(1), eligible: true, ..Worth::default() });
        balancer.release(0);
        assert_eq!(balancer.pick(&PickContext::having_tried(&[1])), None);
        balancer.release(0);
        assert_eq!(balancer.pick(&PickContext::having_tried(&[1])), Some(0));
    }
}

#[test]
fn tiers_get_their_load_and_stay_exact_within() {
    let mut balancer = Picker::new(rules(Balance::RoundRobin));
    for (slot, tier) in [0, 0, 1, 1].into_iter().enumerate() {
        balancer.set(slot, Worth { share: [3, 1, 1, 1][slot], tier, cap: None, eligible: true });
    }
    assert_eq!(balancer.eligible(false), 2, "a tier without load is not used");
    let mut loads = [0; PICK_TIERS];
    (loads[0], loads[1]) = (70, 30);
    balancer.set_loads(loads);
    assert_eq!(balancer.eligible(false), 4);
    let mut counts = [0; 4];
    for _ in 0..400 {
        counts[balancer.pick(&PickContext::FIRST).unwrap()] += 1;
    }
    assert_eq!(counts, [210, 70, 60, 60]);
    let tried = [0, 1];
    assert!(
        (0..10).all(|_| balancer.pick(&PickContext::having_tried(&tried)).unwrap() > 1),
        "another tier that is in use has untried ones"
    );
    assert_eq!(balancer.pick(&PickContext::having_tried(&[0, 1, 2, 3])), None);
}

/// The share of each slot over many picks, in percent; nothing is released.
fn shares(balancer: &mut Picker, picks: usize) -> Vec<f64> {
    let mut counts = vec![0_u32; balancer.slots.len()];
    for number in 0..picks {
        let context = PickContext { affinity: of_client(number as u64), ..PickContext::FIRST };
        counts[balancer.pick(&context).unwrap()] += 1;
    }
    counts.into_iter().map(|count| 100.0 * f64::from(count) / picks as f64).collect()
}

/// Every policy, whether it draws, counts or hashes: shares by weight, nothing for weight 0. All but the one that fills.
#[test]
fn every_policy_follows_weights() {
    for balance in Balance::ALL.into_iter().filter(|balance| *balance != Balance::First) {
        for weights in [vec![1, 1], vec![1, 2, 0, 7], vec![300; 12], vec![65_535, 6_553]] {
            let mut balancer = pool(balance, &weights);
            set_tables(&mut balancer, &weights);
            let total: u32 = weights.iter().sum();
            for (share, weight) in shares(&mut balancer, 40_000).into_iter().zip(&weights) {
                let wanted = 100.0 * f64::from(*weight) / f64::from(total);
                let within = if balance == Balance::RingHash { 0.3 * wanted + 1.0 } else { 1.0 };
                assert!((share - wanted).abs() <= within, "{balance:?} {weights:?}: {share:.2} %, not {wanted:.2} %");
                assert!(*weight > 0 || share == 0.0);
            }
        }
    }
}

fn set_tables(balancer: &mut Picker, weights: &[u32]) {
    let Some(kind) = balancer.wanted_tables(0) else { return };
    let ids: Vec<String> = (0..weights.len()).map(|slot| format!("node-{slot}")).collect();
    let members = weights.iter().zip(&ids).enumerate().filter(|(_, (weight, _))| **weight > 0);
    let members = members
        .map(|(slot, (&weight, id))| TableMember { slot, id, position: slot as u32, weight: weight as u16 })
        .collect();
    let mut tables: [Arc<MemberTable>; PICK_TIERS] = std::array::from_fn(|_| Arc::default());
    tables[0] = Arc::new(MemberTable::build(kind, members));
    balancer.set_tables((kind, 0), tables);
}

/// Whatever comes, goes and is tried: a pick gives an eligible slot that was not tried, and gives one while there is one.
#[test]
fn every_policy_gives_what_is_left_and_nothing_else() {
    for balance in Balance::ALL {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..200 {
            let mut weights: Vec<u32> = (0..random.usize(1..9)).map(|_| random.u32(..3)).collect();
            let mut balancer = pool(balance, &weights);
            if random.bool() {
                set_tables(&mut balancer, &weights);
            }
            for _ in 0..30 {
                let slot = random.usize(..weights.len());
                weights[slot] = random.u32(..3);
                set(&mut balancer, slot, weights[slot], true);
                let tried: Vec<usize> = (0..weights.len()).filter(|_| random.u8(..3) == 0).collect();
                let left = |slot: &usize| weights[*slot] > 0 && !tried.contains(slot);
                let affinity = of_client(random.u64(..256));
                match balancer.pick(&PickContext { affinity, ..PickContext::having_tried(&tried) }) {
                    Some(slot) => assert!(left(&slot), "{balance:?}: {slot} of {weights:?} without {tried:?}"),
                    None => assert!(!(0..weights.len()).any(|slot| left(&slot)), "{balance:?} {weights:?} {tried:?}"),
                }
            }
        }
    }
}

/// The less loaded of two: long sessions do not pile up as they do where one is drawn.
#[test]
fn power_of_two_keeps_the_longest_queue_short() {
    let longest = |balance| {
        let mut balancer = pool(balance, &[1; 100]);
        for _ in 0..10_000 {
            balancer.pick(&PickContext::FIRST).unwrap();
        }
        (0..100).map(|slot| balancer.sessions(slot)).max().unwrap()
    };
    let (random, two) = (longest(Balance::Random), longest(Balance::PowerOfTwo));
    assert!(two <= 103 && random >= 115, "of a mean of 100: {two}, and {random} where one is drawn");
}

/// The next backend gets sessions when the one before it is at its cap, and not earlier; then the order begins again.
#[test]
fn first_fills_the_backends_in_their_order() {
    let mut balancer = pool(Balance::First, &[1, 9, 0, 1]);
    let cap = |slot, cap| (slot, Worth { share: 1, cap: Some(cap), eligible: true, ..Worth::default() });
    for (slot, worth) in [cap(0, 3), cap(1, 2), cap(3, 2)] {
        balancer.set(slot, worth);
    }
    set_tables(&mut balancer, &[1, 9, 0, 1]);
    let picks: Vec<_> = (0..8).map(|_| balancer.pick(&PickContext::FIRST)).collect();
    assert_eq!(picks, [Some(0), Some(0), Some(0), Some(1), Some(1), Some(3), Some(3), None]);
    balancer.release(1);
    balancer.release(0);
    assert_eq!(balancer.pick(&PickContext::FIRST), Some(0));
    assert_eq!(balancer.pick(&PickContext::FIRST), Some(1));
}

/// Seconds of a simulation: sessions end after what their backend takes, and its times are told as they become known.
#[test]
fn least_time_sends_fewer_to_what_is_slow_and_comes_back_when_it_is_not() {
    let mut balancer = pool(Balance::LeastTime, &[1, 1, 1]);
    let start = Instant::now();
    let at = |millisecond| start + Duration::from_millis(millisecond);
    let mut running: Vec<(u64, usize)> = Vec::new();
    let mut counts = [[0_u32; 3]; 2];
    for now in 0..60_000_u64 {
        let takes = |slot| if slot == 2 && now < 20_000 { 200 } else { 10 };
        running.retain(|(end, slot)| {
            if *end <= now {
                balancer.timed(*slot, Timed::FirstByte, Duration::from_millis(takes(*slot)), at(now));
                balancer.release(*slot);
            }
            *end > now
        });
        if now % 2 == 0 {
            let slot = balancer.pick(&PickContext::FIRST).unwrap();
            balancer.timed(slot, Timed::Connect, Duration::from_millis(1), at(now));
            running.push((now + takes(slot), slot));
            counts[usize::from(now >= 20_000)][slot] += u32::from(!(20_000..50_000).contains(&now));
        }
    }
    let [slow, well] = counts;
    assert!(slow[2] * 20 < slow[0] && slow[2] > 0, "{slow:?}");
    assert!(well.iter().all(|count| (1_400..1_900).contains(count)), "{well:?}");
}
