//! `loadtest chaos`: breaks backends behind Evenkeel and its peers, and reports what clients notice.
//!
//! Top down: `options` (the command line), `cell` (one measurement: `network`, `backend`, `system`, and the clients in `load`). The
//! rest is pure: `fault`, `wire`, `count`, `goal`, `record`, `table`.

mod backend;
mod cell;
mod count;
mod fault;
#[cfg(test)]
mod fixture;
mod goal;
mod load;
mod network;
mod options;
mod record;
mod system;
mod table;
mod wire;

use std::env;
use std::path::Path;

use anyhow::Context;

pub use self::backend::{BackendArgs, chaos_backend};
use self::cell::FaultRunner;
use self::fault::{CheckKind, Fault};
use self::network::DropMethod;
pub use self::options::ChaosArgs;
use self::record::{ChaosCell, ChaosRecord, ChaosSettings};
use self::system::ChaosSystem;
use crate::harness::cells::{CellRunner, in_turn};
use crate::harness::record::RunRecord;
use crate::harness::{self, build};
use crate::results;

/// Runs all cells and writes the results. Returns whether everything was measured, without a wrong byte.
///
/// # Errors
/// When an option is out of range, a system name is unknown, network namespaces can't be made, or a file can't be written.
pub fn chaos(args: &ChaosArgs) -> anyhow::Result<bool> {
    args.validate()?;
    let scratch = harness::scratch_directory(&network::prefix()?)?;
    let drop_method = network::prepare()?;
    let target = build::target_directory()?;
    let (mut systems, mut missing) = system::find(args.harness.programs.find(&target)?);
    args.harness.select(&mut systems, &mut missing, |system| &system.name)?;
    crate::raise_descriptor_limit();
    let program = env::current_exe().context("can't find this program")?;
    let runner = FaultRunner {
        program: &program,
        drop_method,
        load: args.load(),
        scratch: scratch.path(),
        keep: args.keep.as_deref(),
    };
    let run_record = RunRecord::begin(missing, None)?;
    let settings = settings(args, &runner);
    let mut record = ChaosRecord { run: run_record, settings, systems, goals: Vec::new(), cells: Vec::new() };
    let file = args.harness.out(&target, "chaos")?.join("chaos.json");
    let all_ran = run(&runner, &mut record, &file)?;
    let write = |path: &Path, text: &str| results::write_section(path, "chaos", text);
    args.harness.finish(&table::document(&record), &[file], write)?;
    let complete = record.systems.iter().any(ChaosSystem::is_ours) || !args.harness.systems.is_empty();
    Ok(all_ran && record.wrong() == 0 && complete)
}

fn settings(args: &ChaosArgs, runner: &FaultRunner<'_>) -> ChaosSettings {
    let blackhole = match runner.drop_method {
        DropMethod::Filter => "nftables",
        DropMethod::Route => "a blackhole route (nftables is not there)",
    };
    ChaosSettings {
        seconds: args.seconds,
        fault_seconds: runner.fault_length().as_secs_f64(),
        rate: args.rate,
        long_lived: args.long_lived,
        patience: args.patience.as_secs_f64(),
        repeat: args.repeat,
        blackhole: blackhole.to_owned(),
        rows: args.rows(),
    }
}

/// Measures all cells. Returns whether every system was measured.
fn run(runner: &FaultRunner<'_>, record: &mut ChaosRecord, file: &Path) -> anyhow::Result<bool> {
    let planned: Vec<_> = (1..=record.settings.repeat).flat_map(|repeat| planned(repeat, record)).collect();
    let count = planned.len();
    let total = runner.estimate() * u32::try_from(count).unwrap_or(u32::MAX);
    let mut cells = CellRunner::new(&format!("{count} cells"), total, 2);
    for (index, PlannedCell { repeat, row: (fault, check), system }) in planned.into_iter().enumerate() {
        let label = format!("{}/{count}: {}, {}: {}", index + 1, fault.name(), check.title(), system.name);
        let place = (system.name.as_str(), fault.name(), label.as_str());
        let measure = || runner.measure(&system, fault, check);
        if let Some(counts) = cells.run(place, runner.estimate(), &mut record.run.missing, measure) {
            cells.line(&format!("{label}: {} failed, {} slow", counts.failed, counts.slow));
            record.cells.push(ChaosCell { repeat, fault, check, system: system.name, counts });
        }
        record.judge();
        write(file, record)?;
    }
    let all_ran = cells.finish();
    record.run.look_again("after the end")?;
    write(file, record)?;
    Ok(all_ran)
}

fn write(file: &Path, record: &ChaosRecord) -> anyhow::Result<()> {
    harness::write(file, &(serde_json::to_string_pretty(record)? + "\n"))
}

#[derive(Debug, Clone)]
struct PlannedCell {
    repeat: u32,
    row: (Fault, CheckKind),
    system: ChaosSystem,
}

/// Each row has every system, so that whatever changes on the machine over the minutes meets all systems.
fn planned(repeat: u32, record: &ChaosRecord) -> Vec<PlannedCell> {
    let cells = record.settings.rows.iter().flat_map(|&row| {
        let systems = record.systems.iter().filter(|system| system.belongs(row.0, row.1));
        in_turn(systems, repeat).into_iter().map(move |system| PlannedCell { repeat, row, system: system.clone() })
    });
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::count::FaultCounts;
    use super::*;

    #[test]
    fn every_row_has_every_system_and_every_repetition_begins_with_another_one() {
        let none: [FaultCounts; 0] = [];
        let systems = [("haproxy", &none[..]), ("evenkeel", &none[..]), ("evenkeel-first-byte", &none[..])];
        let mut record = fixture::chaos((Fault::Stop, CheckKind::Tcp), &systems);
        record.settings.rows.push((Fault::Kill, CheckKind::Tcp));
        let names = |repeat| planned(repeat, &record).into_iter().map(|cell| cell.system.name).collect::<Vec<_>>();
        assert_eq!(names(1), ["haproxy", "evenkeel", "evenkeel-first-byte", "haproxy", "evenkeel"]);
        assert_eq!(names(2), ["evenkeel", "evenkeel-first-byte", "haproxy", "evenkeel", "haproxy"]);
    }
}
