use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::error::TryRecvError;

use super::*;
use crate::config::ScriptCheck;
use crate::health::ProbeState;

#[tokio::test]
async fn two_subscribers_share_one_probe_and_the_late_one_hears_the_last_report() {
    let backend = Backend::silent().await;
    let prober = Prober::new();
    let check = rare(CheckKind::Tcp);
    let (early, mut first) = subscribe(&prober, backend.address, &check);
    let report = next(&mut first).await;
    assert_eq!((report.state, report.streak), (ProbeState::Up, 1));

    let (late, mut second) = subscribe(&prober.clone(), backend.address, &check);
    let told = second.try_recv().expect("the last report at once");
    assert!(Arc::ptr_eq(&told.result, &report.result));
    assert_eq!((told.state, told.streak), (report.state, report.streak));
    assert_eq!(prober.stats().running, 1);
    eventually("accepted", || backend.accepted() == 1).await;

    drop(early);
    assert!(timeout(PATIENCE, first.recv()).await.unwrap().is_none(), "its sink is gone");
    assert_eq!(prober.stats().running, 1, "the other one is still interested");
    drop(late);
    assert_eq!(prober.stats().running, 0);
}

#[tokio::test]
async fn both_hear_each_report_once() {
    let backend = Backend::silent().await;
    let prober = Prober::new();
    let check = check(CheckKind::Tcp);
    let (_one, mut first) = subscribe(&prober, backend.address, &check);
    let (_two, mut second) = subscribe(&prober, backend.address, &check);
    for streak in 1..=5 {
        let (one, two) = (next(&mut first).await, next(&mut second).await);
        assert!(Arc::ptr_eq(&one.result, &two.result));
        assert_eq!((one.streak, two.streak), (streak, streak));
    }
    assert!(backend.accepted() <= 6, "one stream of connections, not two");
}

#[tokio::test]
async fn another_check_or_another_address_is_another_probe_and_the_port_is_part_of_the_address() {
    let (one, two) = (Backend::silent().await, Backend::silent().await);
    let prober = Prober::new();
    let tcp = rare(CheckKind::Tcp);
    let slower = Check { timeout: tcp.timeout * 2, ..tcp.clone() };
    let elsewhere = Check { port: Some(one.address.port()), ..tcp.clone() };
    let announced = Check { send_proxy: Some(crate::config::ProxyVersion::V2), ..tcp.clone() };
    let from_elsewhere = Check { sources: vec!["127.0.0.2".parse().unwrap()], ..tcp.clone() };
    let mut kept = Vec::new();
    for (address, check, running) in [
        (one.address, &tcp, 1),
        (two.address, &tcp, 2),
        (one.address, &slower, 3),
        (one.address, &elsewhere, 4),
        (two.address, &elsewhere, 4),
        (one.address, &announced, 5),
        (one.address, &from_elsewhere, 6),
        (one.address, &from_elsewhere.clone(), 6),
    ] {
        kept.push(subscribe(&prober, address, check));
        assert_eq!(prober.stats().running, running);
    }
}

#[tokio::test]
async fn a_dropped_subscription_cancels_what_is_in_flight() {
    let (sender, mut ends) = unbounded_channel();
    let backend = Backend::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            _ = sender.send(stream.read(&mut [0; 1]).await.ok());
        }
    })
    .await;
    let prober = Prober::new();
    let steps = vec![crate::config::ScriptStep::Expect(crate::config::Expectation::Bytes(b"never".into()))];
    let (subscription, mut reports) =
        subscribe(&prober, backend.address, &check(CheckKind::Script(ScriptCheck { steps })));
    eventually("in flight", || prober.stats().in_flight == 1 && backend.accepted() == 1).await;
    drop(subscription);
    assert_eq!(prober.stats().running, 0);
    assert_eq!(timeout(PATIENCE, ends.recv()).await.unwrap().unwrap(), Some(0), "the backend sees the end");
    eventually("nothing in flight", || prober.stats().in_flight == 0).await;
    assert!(reports.recv().await.is_none());
}

#[tokio::test]
async fn a_dropped_subscription_stops_the_connections_and_a_new_one_starts_afresh() {
    let (gone, other) = (Backend::silent().await, Backend::silent().await);
    let prober = Prober::new();
    let check = check(CheckKind::Tcp);
    let (subscription, mut reports) = subscribe(&prober, gone.address, &check);
    for _ in 0..3 {
        next(&mut reports).await;
    }
    drop(subscription);
    // Several rounds of another probe go by, of which the first takes in what was still on its way.
    let (_subscription, mut others) = subscribe(&prober, other.address, &check);
    next(&mut others).await;
    let before = gone.accepted();
    for _ in 0..10 {
        next(&mut others).await;
    }
    assert_eq!(gone.accepted(), before);

    let (_again, mut reports) = subscribe(&prober, gone.address, &check);
    assert!(reports.try_recv().is_err(), "no report of the ended probe");
    assert_eq!(next(&mut reports).await.streak, 1);
}

#[tokio::test]
async fn subscribers_that_come_and_go_on_many_threads_leave_nothing_behind() {
    let backend = Backend::silent().await;
    let prober = Prober::new();
    let check = Check { interval: Duration::from_millis(1), ..check(CheckKind::Tcp) };
    let visits = (0..4).map(|_| {
        let (prober, check, address) = (prober.clone(), check.clone(), backend.address);
        tokio::task::spawn_blocking(move || {
            for _ in 0..50 {
                let (subscription, mut reports) = subscribe(&prober, address, &check);
                reports.blocking_recv().expect("the probe ended under a subscriber");
                drop(subscription);
                while reports.try_recv().is_ok() {}
                assert_eq!(reports.try_recv().err(), Some(TryRecvError::Disconnected), "its sink is gone");
            }
        })
    });
    for visit in visits.collect::<Vec<_>>() {
        timeout(PATIENCE, visit).await.unwrap().unwrap();
    }
    assert_eq!(prober.stats().running, 0);
    eventually("nothing in flight", || prober.stats().in_flight == 0).await;
}
