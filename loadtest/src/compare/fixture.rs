//! Made-up comparisons for the tests of everything that comes after measuring.

use std::path::PathBuf;

use super::case::Case;
use super::machine::Machine;
use super::measure::Measure;
use super::record::{Cell, Comparison, Settings};
use super::system::{Kind, Row, System};

/// 64 B ping-pong in both rows; for each system its CPU time per message (µs) by round.
pub(super) fn comparison(costs: &[(&str, &[f64])]) -> Comparison {
    let systems = costs.iter().map(|(name, _)| system(name)).collect();
    let mut cells = Vec::new();
    for (name, rounds) in costs {
        for (round, &micros) in (1..).zip(*rounds) {
            let rows: &[_] = if *name == "direct" { &[None] } else { &[Some(Row::Defaults), Some(Row::LogsOff)] };
            for &row in rows {
                cells.push(Cell { round, case: Case::Ping64, row, system: (*name).into(), measure: measure(micros) });
            }
        }
    }
    let settings = Settings {
        rounds: 3,
        seconds: 4.0,
        threads: 2,
        load_threads: 1,
        idle: 3_000,
        cases: vec![Case::Ping64],
        rows: vec![Row::Defaults, Row::LogsOff],
    };
    let machine = Machine {
        cpu: "Some CPU".into(),
        cpus: 2,
        memory: 24.0,
        kernel: "6.18".into(),
        load: "0.00 0.01 0.02".into(),
        background: 0.0,
    };
    let mut comparison = Comparison {
        date: "2026-01-01".into(),
        command: "loadtest compare".into(),
        profile: "dist".into(),
        machine,
        settings,
        systems,
        missing: vec!["envoy: <not found>".into()],
        warnings: Vec::new(),
        rounds_done: 3,
        lines: Vec::new(),
        goals: Vec::new(),
        cells,
    };
    comparison.summarize();
    comparison
}

fn system(name: &str) -> System {
    let kind = match name {
        "direct" => Kind::Direct,
        "nginx" => Kind::Nginx { module: None },
        "haproxy" => Kind::Haproxy { splice: false },
        _ => Kind::Evenkeel { relay: None },
    };
    System { name: name.into(), version: "1.0".into(), kind, binary: PathBuf::new() }
}

fn measure(micros: f64) -> Measure {
    Measure {
        throughput: 2e6 / micros,
        p50: 10.0 * micros,
        p99: 20.0 * micros,
        p99_9: 30.0 * micros,
        cpu: Some(micros / 1e6),
        busy: 2.0,
        ..Measure::default()
    }
}
