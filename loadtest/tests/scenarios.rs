//! Every scenario against the matching server, and against a plain echo server if the scenario allows it.

use std::time::Duration;

use crate::support::{assert_good, plain_echo, plan, run, server};
use loadtest::{CloseSide, LoadPlan, Scenario, Server, Totals};

#[test]
fn small_messages() {
    let server = server();
    let report = run(&plan(server.address(), Scenario::SmallMessages));
    assert_good(&report);
    assert_eq!((report.operations, report.latency.count, report.connections_opened), (40, 40, 4));
    assert_eq!((report.bytes_sent, report.bytes_received), (40 * 64 + 4 * 56, 40 * 64));
    assert_eq!(server.totals(), Totals { connections: 4, exchanges: 40, ..Totals::default() });
}

#[test]
fn several_threads_on_both_sides() {
    let server = Server::start(([127, 0, 0, 1], 0).into(), 3).unwrap();
    let report = run(&LoadPlan { threads: 3, messages: Some(101), ..plan(server.address(), Scenario::SmallMessages) });
    assert_good(&report);
    assert_eq!(report.operations, 101);
}

#[test]
fn more_connections_than_messages() {
    let server = server();
    let report = run(&LoadPlan { messages: Some(1), ..plan(server.address(), Scenario::SmallMessages) });
    assert_good(&report);
    assert_eq!(report.operations, 1);
}

#[test]
fn large_messages() {
    let server = server();
    let report = run(&LoadPlan { size: 300_000, ..plan(server.address(), Scenario::LargeMessages) });
    assert_good(&report);
    assert_eq!(report.bytes_received, 40 * 300_000);
}

#[test]
fn bulk_download_and_upload() {
    let server = server();
    let bulk = |scenario| LoadPlan { size: 5_000_001, messages: Some(6), ..plan(server.address(), scenario) };
    let down = run(&bulk(Scenario::BulkDownload));
    assert_good(&down);
    assert_eq!(down.bytes_received, 6 * 5_000_001);
    let up = run(&bulk(Scenario::BulkUpload));
    assert_good(&up);
    assert_eq!(up.bytes_sent, 6 * 5_000_001 + 4 * 56);
}

#[test]
fn connect_request_close_with_either_side_closing() {
    let server = server();
    for close in [CloseSide::Server, CloseSide::Client] {
        let report = run(&LoadPlan { close, ..plan(server.address(), Scenario::ConnectRequestClose) });
        assert_good(&report);
        assert_eq!((report.operations, report.connections_opened, report.connect.count), (40, 40, 40));
    }
}

#[test]
fn idle_connections_work_at_the_end() {
    let server = server();
    let plan = LoadPlan {
        connections: 100,
        duration: Some(Duration::from_millis(50)),
        ..plan(server.address(), Scenario::Idle)
    };
    let report = run(&plan);
    assert_good(&report);
    assert_eq!((report.operations, report.connections_opened), (200, 100));
    assert!(report.seconds >= 0.05);
}

#[test]
fn plain_echo_servers_can_be_the_other_side() {
    let address = plain_echo();
    for scenario in [Scenario::SmallMessages, Scenario::LargeMessages, Scenario::Idle] {
        // More than socket buffers hold: a client that does not read while it writes would block.
        let size = if scenario == Scenario::LargeMessages { 20_000_000 } else { 64 };
        let base = plan(address, scenario);
        let report = run(&LoadPlan { plain_echo: true, size, messages: base.messages.map(|_| 4), ..base });
        assert_good(&report);
        assert_eq!(report.bytes_sent, report.bytes_received);
    }
}

#[test]
fn a_closed_loop_ends_with_its_duration() {
    let server = server();
    let duration = Some(Duration::from_millis(100));
    let report = run(&LoadPlan { duration, messages: None, ..plan(server.address(), Scenario::SmallMessages) });
    assert_good(&report);
    assert!(report.operations > 0 && report.seconds >= 0.1, "{report}");
}

#[test]
fn an_open_loop_keeps_its_schedule() {
    let server = server();
    for scenario in [Scenario::SmallMessages, Scenario::ConnectRequestClose] {
        let report = run(&LoadPlan { rate: Some(1_000.0), messages: Some(200), ..plan(server.address(), scenario) });
        assert_good(&report);
        assert_eq!(report.operations, 200);
        // The 200th is due at 199 ms, and none may be early.
        assert!(report.seconds >= 0.199, "{report}");
    }
}

#[test]
fn invalid_plans_are_refused() {
    let address = crate::support::dead();
    let good = plan(address, Scenario::SmallMessages);
    for bad in [
        LoadPlan { connections: 0, ..good },
        LoadPlan { threads: 5, ..good },
        LoadPlan { size: 0, ..good },
        LoadPlan { messages: None, ..good },
        LoadPlan { messages: Some(0), ..good },
        LoadPlan { scenario: Scenario::Idle, ..good },
        LoadPlan { rate: Some(0.0), ..good },
        LoadPlan { plain_echo: true, scenario: Scenario::BulkUpload, ..good },
    ] {
        assert!(matches!(loadtest::run(&bad, |_| {}), Err(loadtest::RunError::Plan(_))), "{bad:?}");
    }
    let many = LoadPlan { connections: 1 << 40, ..good };
    assert!(matches!(loadtest::run(&many, |_| {}), Err(loadtest::RunError::NoRoom(_))));
}
