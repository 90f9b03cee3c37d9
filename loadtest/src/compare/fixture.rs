//! Made-up comparisons for the tests of everything that comes after measuring.

use super::case::Case;
use super::cell::Measurement;
use super::record::{CompareCell, CompareRecord, CompareSettings};
use super::system::{ComparedSystem, LogMode, SystemKind};
use crate::harness::record::RunRecord;

/// 64 B ping-pong in both rows; for each system its CPU time per message (µs) by round.
pub(super) fn comparison(costs: &[(&str, &[f64])]) -> CompareRecord {
    let systems = costs.iter().map(|(name, _)| system(name)).collect();
    let mut cells = Vec::new();
    for (name, rounds) in costs {
        for (round, &micros) in (1..).zip(*rounds) {
            let rows: &[_] =
                if *name == "direct" { &[None] } else { &[Some(LogMode::Defaults), Some(LogMode::LogsOff)] };
            for &row in rows {
                cells.push(CompareCell {
                    round,
                    case: Case::Ping64,
                    row,
                    system: (*name).into(),
                    measure: measure(micros),
                });
            }
        }
    }
    let settings = CompareSettings {
        rounds: 3,
        seconds: 4.0,
        threads: 2,
        load_threads: 1,
        idle: 3_000,
        cases: vec![Case::Ping64],
        rows: vec![LogMode::Defaults, LogMode::LogsOff],
    };
    let run = RunRecord::sample("loadtest compare", "dist", "envoy: <not found>");
    let (lines, goals) = (Vec::new(), Vec::new());
    let mut comparison = CompareRecord { run, settings, systems, rounds_done: 3, lines, goals, cells };
    comparison.summarize();
    comparison
}

fn system(name: &str) -> ComparedSystem {
    let kind = match name {
        "direct" => SystemKind::Direct,
        "nginx" => SystemKind::Nginx {},
        "haproxy" => SystemKind::Haproxy { splice: false },
        _ => SystemKind::Evenkeel { relay: None },
    };
    ComparedSystem { name: name.into(), version: "1.0".into(), kind, program: None }
}

fn measure(micros: f64) -> Measurement {
    Measurement {
        throughput: 2e6 / micros,
        p50: 10.0 * micros,
        p99: 20.0 * micros,
        p99_9: 30.0 * micros,
        cpu: Some(micros / 1e6),
        busy: 2.0,
        ..Measurement::default()
    }
}
