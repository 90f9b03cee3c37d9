//! Errors are noticed: wrong bytes of every kind are mismatches, and every other failure is counted by its reason.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::{Meddle, Swap, dead, listener, plan, proxy, run, server, swapping_proxy, untouched};
use loadtest::{LoadPlan, RunReport, Scenario};

fn only_mismatch(report: &RunReport, label: &str) {
    assert!(report.mismatches.keys().eq([label]), "wanted only {label}: {report}");
    assert!(!report.passed(true), "a mismatch is never acceptable");
    assert!(!report.examples.is_empty());
}

fn only_failure(report: &RunReport, label: &str) {
    assert_eq!(report.mismatch_count(), 0, "{report}");
    assert!(report.failures.keys().eq([label]), "wanted only {label}: {report}");
    assert!(report.passed(true) && !report.passed(false));
}

/// One connection and one attempt, so the first error ends the run.
fn once(address: SocketAddr, scenario: Scenario) -> LoadPlan {
    LoadPlan { connections: 1, attempts: 1, ..plan(address, scenario) }
}

#[test]
fn one_corrupted_byte_of_a_reply() {
    let server = server();
    let flip: Meddle = |passed, data| {
        if passed == 128 {
            data[17] ^= 0x20;
        }
    };
    let report = run(&once(proxy(server.address(), untouched, flip), Scenario::SmallMessages));
    only_mismatch(&report, "content");
    assert_eq!(report.operations, 2);
    assert!(report.examples[0].contains("connection 0, exchange 2: byte 17 of the reply"), "{report}");
}

#[test]
fn one_corrupted_byte_in_the_middle_of_a_bulk_stream() {
    let server = server();
    let flip: Meddle = |passed, data| {
        if (passed..passed + data.len() as u64).contains(&1_234_567) {
            data[(1_234_567 - passed) as usize] ^= 1;
        }
    };
    let bulk = |up, down, scenario| {
        let address = proxy(server.address(), up, down);
        run(&LoadPlan { size: 2_000_000, messages: Some(1), ..once(address, scenario) })
    };
    only_mismatch(&bulk(untouched, flip, Scenario::BulkDownload), "content");
    only_mismatch(&bulk(flip, untouched, Scenario::BulkUpload), "request");
    assert_eq!(server.totals().mismatches, 1);
}

#[test]
fn one_corrupted_byte_of_a_request_or_a_header() {
    let server = server();
    let request: Meddle = |passed, data| data[if passed == 0 { 60 } else { 0 }] ^= 1;
    let report = run(&once(proxy(server.address(), request, untouched), Scenario::SmallMessages));
    only_mismatch(&report, "request");
    let header: Meddle = |passed, data| data[20] ^= u8::from(passed == 0);
    let report = run(&once(proxy(server.address(), header, untouched), Scenario::ConnectRequestClose));
    only_mismatch(&report, "header");
}

#[test]
fn two_connections_that_were_swapped() {
    for (swap, label) in [(Swap::Replies, "content"), (Swap::Both, "request")] {
        let server = server();
        let address = swapping_proxy(server.address(), swap);
        let plan =
            LoadPlan { connections: 2, attempts: 1, messages: Some(4), ..plan(address, Scenario::SmallMessages) };
        let report = run(&plan);
        if matches!(swap, Swap::Both) {
            // Each server answers a request that belongs to the other connection.
            assert_eq!(server.totals().mismatches, 2);
        }
        assert_eq!(report.mismatch_count(), 2, "{label}: {report}");
        assert_eq!(report.operations, 2);
    }
}

#[test]
fn a_reply_that_came_twice() {
    let server = server();
    let twice: Meddle = |_, data| data.extend_from_within(..);
    for scenario in [Scenario::SmallMessages, Scenario::ConnectRequestClose] {
        only_mismatch(&run(&once(proxy(server.address(), untouched, twice), scenario)), "surplus");
    }
}

#[test]
fn bytes_after_the_last_reply() {
    // They come when the client closes and expects no more replies.
    let address = listener(|mut stream| {
        let mut message = [0; 64];
        for _ in 0..3 {
            stream.read_exact(&mut message).unwrap();
            stream.write_all(&message).unwrap();
        }
        assert_eq!(stream.read(&mut message).unwrap(), 0);
        stream.write_all(b"?").unwrap();
    });
    let plan = LoadPlan { plain_echo: true, messages: Some(3), ..once(address, Scenario::SmallMessages) };
    let report = run(&plan);
    only_mismatch(&report, "surplus");
    assert_eq!(report.operations, 3);
}

#[test]
fn a_lost_byte_and_a_shift_by_a_message() {
    let server = server();
    let lose: Meddle = |passed, data| drop(data.drain(..usize::from(passed == 0)));
    let report = run(&once(proxy(server.address(), untouched, lose), Scenario::SmallMessages));
    only_mismatch(&report, "content");
    // The complete reply to the message before.
    let late = listener(|mut stream| {
        let (mut before, mut message) = ([0; 64], [0; 64]);
        stream.read_exact(&mut before).unwrap();
        stream.write_all(&before).unwrap();
        while stream.read_exact(&mut message).is_ok() && stream.write_all(&before).is_ok() {
            before = message;
        }
    });
    let report = run(&LoadPlan { plain_echo: true, ..once(late, Scenario::SmallMessages) });
    only_mismatch(&report, "content");
}

#[test]
fn dead_servers_are_counted_and_given_up() {
    for scenario in [Scenario::SmallMessages, Scenario::ConnectRequestClose] {
        let report = run(&plan(dead(), scenario));
        only_failure(&report, "refused");
        assert_eq!((report.operations, report.connections_abandoned, report.failure_count()), (0, 4, 8));
        assert!(report.not_started > 0);
    }
    let report = run(&plan(dead(), Scenario::Idle));
    only_failure(&report, "refused");
    assert_eq!(report.failure_count(), 4);
}

#[test]
fn servers_that_close_reset_or_say_nothing() {
    let closing = listener(|mut stream| {
        let mut request = [0; 120];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&request[..10]).unwrap_or_default();
    });
    // Wrong bytes would be a mismatch; these are right, but incomplete.
    let truncated = LoadPlan { plain_echo: true, size: 120, ..once(closing, Scenario::SmallMessages) };
    only_failure(&run(&truncated), "unexpected_eof");

    let resetting = listener(|mut stream| {
        // A close with unread bytes sends a reset.
        stream.read_exact(&mut [0; 1]).unwrap();
    });
    only_failure(&run(&once(resetting, Scenario::SmallMessages)), "reset");

    let silent = listener(|mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    for scenario in [Scenario::SmallMessages, Scenario::ConnectRequestClose, Scenario::Idle] {
        let timeout = Duration::from_millis(50);
        only_failure(&run(&LoadPlan { timeout, ..once(silent, scenario) }), "timeout");
    }
}

#[test]
fn a_connection_that_failed_is_opened_again() {
    let server = server();
    // Each connection of the proxy carries three exchanges and ends.
    let address = server.address();
    let flaky = listener(move |mut client| {
        let mut server = TcpStream::connect(address).unwrap();
        let mut message = [0; 120];
        for length in [120, 64, 64] {
            if client.read_exact(&mut message[..length]).is_err() {
                return;
            }
            server.write_all(&message[..length]).unwrap();
            server.read_exact(&mut message[..64]).unwrap();
            client.write_all(&message[..64]).unwrap();
        }
    });
    let report = run(&LoadPlan { connections: 1, messages: Some(10), ..plan(flaky, Scenario::SmallMessages) });
    assert_eq!(report.mismatch_count(), 0, "{report}");
    // 3 good, 1 lost with its connection, 3 good, 1 lost, 2 good; then the end finds the proxy still waiting.
    assert_eq!((report.operations, report.failure_count(), report.connections_opened), (8, 2, 3), "{report}");
    assert_eq!((report.connections_abandoned, report.not_started), (0, 0));
}

#[test]
fn an_open_loop_does_not_hide_a_stall() {
    let stall = Duration::from_millis(300);
    let address = listener(move |mut stream| {
        let mut message = [0; 64];
        let mut count = 0;
        while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {
            count += 1;
            if count == 10 {
                thread::sleep(stall);
            }
        }
    });
    let base = LoadPlan { plain_echo: true, messages: Some(400), ..once(address, Scenario::SmallMessages) };
    // 300 of 400 were due during the stall, so half of all waited 100 ms or more. A closed loop would see one slow operation.
    let open = run(&LoadPlan { rate: Some(1_000.0), ..base });
    assert!(open.latency.p50 >= 100_000.0, "{open}");
}

#[test]
fn an_open_loop_reports_operations_that_it_could_not_start() {
    let slow = listener(|mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            thread::sleep(Duration::from_millis(20));
            if stream.write_all(&message).is_err() {
                return;
            }
        }
    });
    let plan = LoadPlan {
        plain_echo: true,
        rate: Some(1_000.0),
        messages: None,
        duration: Some(Duration::from_millis(200)),
        ..once(slow, Scenario::SmallMessages)
    };
    let report = run(&plan);
    assert_eq!(report.operations + report.not_started, 200, "{report}");
    assert!(report.operations <= 11, "{report}");
}
