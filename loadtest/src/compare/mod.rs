//! `loadtest compare`: runs Evenkeel and its peers in interleaved rounds on one machine and reports what each costs.
//!
//! Top down: `options` (the command line), `rounds` (the order of the cells), `cell` (one measurement). The rest is pure: `window`,
//! `summary`, `goal`, `record`, and the output in `table`, `html` and `chart`.

mod case;
mod cell;
mod chart;
#[cfg(test)]
mod fixture;
mod goal;
mod html;
mod options;
mod record;
mod rounds;
mod summary;
mod system;
mod table;
mod window;

use std::path::Path;

use anyhow::Context;

use self::cell::CaseRunner;
pub use self::options::CompareArgs;
use self::record::{CompareRecord, CompareSettings};
use self::rounds::Rounds;
use crate::harness::record::RunRecord;
use crate::harness::{self, build};
use crate::plan::default_threads;
use crate::results;
use crate::serve::Server;

/// Compares and writes the results. Returns whether everything was measured, without a wrong byte.
///
/// # Errors
/// When a system name is unknown, a file can't be written, or the backend can't start.
pub fn compare(args: &CompareArgs) -> anyhow::Result<bool> {
    let target = build::target_directory()?;
    let mut comparison = prepare(args, &target)?;
    let evenkeel_is_there = comparison.systems.iter().any(|system| system.kind.is_ours());
    let out = args.harness.out(&target, "compare")?;
    let scratch = harness::scratch_directory("evenkeel-compare-")?;
    // The systems inherit it.
    crate::raise_descriptor_limit();
    let settings = comparison.settings.clone();
    let backend =
        Server::start(([127, 0, 0, 1], 0).into(), settings.load_threads).context("can't start the backend")?;
    let runner = CaseRunner {
        settings: &settings,
        backend: backend.address(),
        duration: args.duration(),
        warm_up: args.warm_up(),
        quiet: args.quiet(),
        scratch: scratch.path(),
    };

    let files = ["compare.json", "compare.html"].map(|name| out.join(name));
    let mut rounds = Rounds::new(&runner, &comparison);
    for round in 1..=comparison.settings.rounds {
        rounds.run(round, &mut comparison);
        comparison.run.look_again(&format!("after round {round}"))?;
        comparison.summarize();
        harness::write(&files[0], &(serde_json::to_string_pretty(&comparison)? + "\n"))?;
        harness::write(&files[1], &html::page(&comparison))?;
    }
    let all_ran = rounds.finish();
    args.harness.finish(&table::document(&comparison), &files, results::write_page)?;
    let complete = evenkeel_is_there || !args.harness.systems.is_empty();
    Ok(all_ran && comparison.mismatches() == 0 && complete)
}

fn prepare(args: &CompareArgs, target: &Path) -> anyhow::Result<CompareRecord> {
    let (mut systems, mut missing) = system::find(args.harness.programs.find(target)?);
    args.harness.select(&mut systems, &mut missing, |system| &system.name)?;
    let quick = args.quick.then_some("a quick run: the figures are worth little");
    let run = RunRecord::begin(missing, quick)?;
    let settings = CompareSettings {
        rounds: args.rounds(),
        seconds: args.duration().as_secs_f64(),
        threads: args.threads.unwrap_or(run.machine.cpus).max(1),
        load_threads: args.load_threads.unwrap_or_else(default_threads).clamp(1, 256),
        idle: args.idle_connections(),
        cases: args.cases(),
        rows: args.log_modes(),
    };
    let (lines, goals, cells) = (Vec::new(), Vec::new(), Vec::new());
    Ok(CompareRecord { run, settings, systems, rounds_done: 0, lines, goals, cells })
}
