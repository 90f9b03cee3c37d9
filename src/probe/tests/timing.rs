use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::{Expectation, ScriptCheck, ScriptStep};
use crate::health::ProbeState;
use std::sync::Mutex;

fn expecting(text: &str) -> CheckKind {
    CheckKind::Script(ScriptCheck { steps: vec![ScriptStep::Expect(Expectation::Bytes(text.into()))] })
}

#[tokio::test]
async fn a_backend_that_dies_is_down_after_fall_failures_and_back_after_rise_passes() {
    let backend = Backend::silent().await;
    let address = backend.address;
    let (_subscription, mut reports) = subscribe(&Prober::new(), address, &check(CheckKind::Tcp));
    assert_eq!(next(&mut reports).await.state, ProbeState::Up);

    drop(backend);
    let mut report = next(&mut reports).await;
    while report.result.passed {
        report = next(&mut reports).await;
    }
    for streak in 1..=4 {
        let state = if streak < 3 { ProbeState::Up } else { ProbeState::Down };
        assert_eq!((report.state, report.streak, report.result.got.as_str()), (state, streak, "refused"));
        report = next(&mut reports).await;
    }

    let _listener = TcpListener::bind(address).await.unwrap();
    while !report.result.passed {
        report = next(&mut reports).await;
    }
    assert_eq!((report.state, report.streak), (ProbeState::Down, 1));
    let report = next(&mut reports).await;
    assert_eq!((report.state, report.streak), (ProbeState::Up, 2));
}

#[tokio::test]
async fn isolated_failures_do_not_add_up() {
    let backend = Backend::start(|mut stream, number| async move {
        let answer = if number % 3 == 0 { "ok" } else { "no" };
        drop(stream.write_all(answer.as_bytes()).await);
    })
    .await;
    let (_subscription, mut reports) = subscribe(&Prober::new(), backend.address, &check(expecting("ok")));
    let mut failures = 0;
    for _ in 0..12 {
        let report = next(&mut reports).await;
        failures += usize::from(!report.result.passed);
        assert_eq!(report.state, ProbeState::Up);
    }
    assert_eq!(failures, 8);
}

#[tokio::test]
async fn the_state_chooses_the_pace() {
    let start = Instant::now();
    // Up and settled: the next one would come after the test.
    let backend = Backend::silent().await;
    let check = Check { interval: 3 * PATIENCE, ..check(CheckKind::Tcp) };
    let (_up, mut ups) = subscribe(&Prober::new(), backend.address, &check);
    next(&mut ups).await;
    // Down and settled.
    let (_socket, address) = refusing();
    let (_down, mut downs) = subscribe(&Prober::new(), address, &check);
    for _ in 0..5 {
        next(&mut downs).await;
    }
    assert!(ups.try_recv().is_err());
    assert!(start.elapsed() >= 4 * check.down_interval.mul_f64(0.8), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_slow_backend_delays_only_itself_and_never_overlaps() {
    let (silent, quick) = (Backend::silent().await, Backend::silent().await);
    let prober = Prober::new();
    let (_slow, mut slow) = subscribe(&prober, silent.address, &check(expecting("never")));
    let (_quick, mut reports) = subscribe(&prober, quick.address, &check(CheckKind::Tcp));
    for _ in 0..10 {
        assert!(next(&mut reports).await.result.passed);
    }
    assert!(slow.try_recv().is_err());
    assert_eq!(silent.accepted(), 1, "one probe at a time");
}

#[tokio::test]
async fn a_probe_that_takes_longer_than_its_interval_is_followed_at_once_by_the_next() {
    let backend = Backend::silent().await;
    let check = Check {
        timeout: Duration::from_millis(300),
        down_interval: Duration::from_millis(290),
        ..check(expecting("never"))
    };
    let start = Instant::now();
    let (_subscription, mut reports) = subscribe(&Prober::new(), backend.address, &check);
    for _ in 0..4 {
        assert_eq!(next(&mut reports).await.result.got, "timeout after 300ms");
    }
    // Not a down_interval after each end, which would be 1.9 s at least.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1200) && took < Duration::from_millis(1800), "{took:?}");
    assert!(backend.accepted() <= 5, "never two at once");
}

#[tokio::test]
async fn three_hundred_silent_backends_are_probed_128_at_a_time_each_with_its_whole_timeout() {
    let silent = Backend::start(|mut stream, _| async move { drop(stream.read_to_end(&mut Vec::new()).await) }).await;
    let prober = Prober::new();
    let mut probes = Vec::new();
    for i in 0..300 {
        let check = Check { timeout: Duration::from_millis(600), ..rare(CheckKind::Http(get(&format!("/{i}")))) };
        probes.push(subscribe(&prober, silent.address, &check));
    }
    assert_eq!(prober.stats().running, 300);
    eventually("as many in flight as may be", || prober.stats().in_flight == IN_FLIGHT_LIMIT).await;
    eventually("they have arrived", || silent.accepted() == IN_FLIGHT_LIMIT).await;
    for (_, reports) in &mut probes {
        let report = next(reports).await;
        assert_eq!(report.result.got, "timeout after 600ms");
        assert!(report.result.duration < Duration::from_millis(1150), "{:?}", report.result.duration);
    }
    assert_eq!(silent.accepted(), 300);
    eventually("nothing in flight", || prober.stats().in_flight == 0).await;
    drop(probes);
    assert_eq!(prober.stats().running, 0);
}

/// A check that asks for a path of its own, so that probes can be told apart.
fn named(i: usize, check: Check) -> Check {
    let kind = CheckKind::Http(get(&format!("/{i}/")));
    Check { kind, ..check }
}

#[tokio::test]
async fn a_set_that_is_silent_as_a_whole_holds_up_nobody_and_no_probe_piles_up() {
    const SILENT: usize = 300;
    let under_way = Arc::new(Mutex::new(vec![0_usize; SILENT]));
    let most = Arc::new(AtomicUsize::new(0));
    let (seen, at_once) = (Arc::clone(&under_way), Arc::clone(&most));
    let silent = Backend::start(move |mut stream, _| {
        let (seen, at_once) = (Arc::clone(&seen), Arc::clone(&at_once));
        async move {
            let mut request = [0; 256];
            let Ok(count @ 1..) = stream.read(&mut request).await else { return };
            let text = String::from_utf8_lossy(&request[..count]).into_owned();
            let i: usize = text.split('/').nth(1).unwrap().parse().unwrap();
            let now = {
                let mut seen = seen.lock().unwrap();
                seen[i] += 1;
                seen.iter().sum()
            };
            at_once.fetch_max(now, Ordering::SeqCst);
            while stream.read(&mut request).await.is_ok_and(|count| count > 0) {}
            seen.lock().unwrap()[i] -= 1;
        }
    })
    .await;
    let good = Backend::start(|mut stream, _| async move {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await);
        drop(stream.read_to_end(&mut Vec::new()).await);
    })
    .await;

    let prober = Prober::bounded(SILENT + 1);
    // They never time out in this test: each stays in flight, and none gets a second attempt on its way.
    let silents: Vec<_> =
        (0..SILENT).map(|i| subscribe(&prober, silent.address, &named(i, check(CheckKind::Tcp)))).collect();
    eventually("all are under way", || under_way.lock().unwrap().iter().sum::<usize>() == SILENT).await;
    // Each of them is older than its youth or will be; one more is served at its own pace.
    let (_good, mut reports) = subscribe(&prober, good.address, &named(0, check(CheckKind::Tcp)));
    for _ in 0..20 {
        assert!(next(&mut reports).await.result.passed);
    }
    assert!(under_way.lock().unwrap().iter().all(|&count| count == 1), "one at a time of each");
    assert_eq!((most.load(Ordering::SeqCst), silent.accepted()), (SILENT, SILENT));
    assert!(prober.stats().in_flight <= SILENT + 1);
    drop(silents);
    eventually("they are gone", || under_way.lock().unwrap().iter().sum::<usize>() == 0).await;
}

#[tokio::test]
async fn beyond_the_bound_probes_take_turns() {
    let silent = Backend::silent().await;
    let prober = Prober::bounded(10);
    let quick = Check { timeout: Duration::from_millis(50), ..check(CheckKind::Tcp) };
    let mut probes: Vec<_> = (0..40).map(|i| subscribe(&prober, silent.address, &named(i, quick.clone()))).collect();
    for (_, reports) in &mut probes {
        assert_eq!(next(reports).await.result.got, "timeout after 50ms");
        assert!(prober.stats().in_flight <= 10);
    }
}
