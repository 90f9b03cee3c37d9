//! `loadtest compare`: Evenkeel and its peers side by side, in interleaved rounds on one machine.
//!
//! Down from here: `options` (the command line), `rounds` (who has a turn when), `measure` (one turn: `system`, `process`,
//! `machine`), then pure: `window`, `summary`, `goal`, `record`, and what a reader gets: `table`, `html`, `chart`.

pub(crate) mod build;
mod case;
mod chart;
#[cfg(test)]
mod fixture;
mod goal;
mod html;
pub(crate) mod machine;
mod measure;
mod options;
pub(crate) mod process;
pub(crate) mod programs;
mod record;
mod rounds;
mod summary;
pub(crate) mod system;
pub(crate) mod table;
mod window;

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context, bail};

use self::machine::{Machine, today};
use self::measure::Bench;
pub use self::options::CompareArgs;
use self::record::{Comparison, Settings};
use self::rounds::Rounds;
use self::system::Kind;
use crate::plan::default_threads;
use crate::results;
use crate::serve::Server;

/// Compares, and writes what came out. Returns whether all that was to be measured was, without a wrong byte.
pub fn compare(args: &CompareArgs) -> anyhow::Result<bool> {
    let target = build::target_directory()?;
    let (mut comparison, evenkeel_is_there) = prepare(args, &target)?;
    let out = args.out.clone().unwrap_or_else(|| target.join("compare"));
    fs::create_dir_all(&out).with_context(|| format!("can't make {}", out.display()))?;

    // In memory where that is possible, so that nobody's log waits for a disk; the same place for all.
    let place = Path::new("/dev/shm");
    let place = if place.is_dir() { place.to_owned() } else { env::temp_dir() };
    let scratch = tempfile::Builder::new().prefix("evenkeel-compare-").tempdir_in(place)?;
    process::clean_up_on_signals(scratch.path())?;
    // Systems inherit it.
    crate::raise_descriptor_limit();
    let Settings { threads, load_threads, idle, .. } = comparison.settings;
    let backend = Server::start(([127, 0, 0, 1], 0).into(), load_threads).context("can't start the backend")?;
    let bench = Bench {
        backend: backend.address(),
        threads,
        load_threads,
        duration: args.duration(),
        warm_up: args.warm_up(),
        idle,
        quiet: args.quiet(),
        scratch: scratch.path(),
    };

    let mut rounds = Rounds::new(&bench, &comparison);
    for round in 1..=comparison.settings.rounds {
        rounds.run(round, &mut comparison);
        // Nothing of ours runs now: who is busy is somebody else, and was it during the round too.
        comparison.warnings.extend(Machine::look()?.warning(&format!("after round {round}")));
        comparison.summarize();
        write(&out, &comparison)?;
    }
    let failed = rounds.finish();
    print_table(&comparison)?;
    eprintln!("written: {} and {}", out.join("compare.json").display(), out.join("compare.html").display());
    if let Some(path) = &args.write_results {
        let written = results::write_page(path, &table::markdown(&comparison));
        written.with_context(|| format!("can't write {}", path.display()))?;
        eprintln!("written: {}", path.display());
    }
    Ok(!failed && comparison.mismatches() == 0 && (evenkeel_is_there || !args.systems.is_empty()))
}

fn prepare(args: &CompareArgs, target: &Path) -> anyhow::Result<(Comparison, bool)> {
    let binaries = args.programs.binaries(target)?;
    let mut found = binaries.find();
    if !args.systems.is_empty() {
        for name in &args.systems {
            if !found.systems.iter().any(|system| system.name == *name) {
                let names: Vec<_> = found.systems.iter().map(|system| system.name.as_str()).collect();
                bail!("no system {name:?}; there are {} ({})", names.join(", "), found.missing.join("; "));
            }
        }
        found.systems.retain(|system| system.kind == Kind::Direct || args.systems.contains(&system.name));
        found.missing.clear();
    }
    for line in &found.missing {
        eprintln!("not compared: {line}");
    }
    let evenkeel_is_there = found.systems.iter().any(|system| system.kind.is_ours());
    let machine = Machine::look()?;
    let profile = build::profile();
    let mut warnings: Vec<_> = machine.warning("before the start").into_iter().collect();
    if profile == "debug" {
        warnings.push("built without optimisation: the load generator, and an Evenkeel built with it, are slow".into());
    }
    if args.quick {
        warnings.push("a quick run: the figures are worth little".into());
    }
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let settings = Settings {
        rounds: args.rounds(),
        seconds: args.duration().as_secs_f64(),
        threads: args.threads.unwrap_or(machine.cpus).max(1),
        load_threads: args.load_threads.unwrap_or_else(default_threads).clamp(1, 256),
        idle: args.idle(),
        cases: args.cases(),
        rows: args.rows(),
    };
    let comparison = Comparison {
        date: today(),
        command: build::command_line(),
        profile,
        machine,
        settings,
        systems: found.systems,
        missing: found.missing,
        warnings,
        rounds_done: 0,
        lines: Vec::new(),
        goals: Vec::new(),
        cells: Vec::new(),
    };
    Ok((comparison, evenkeel_is_there))
}

fn write(out: &Path, comparison: &Comparison) -> anyhow::Result<()> {
    let put =
        |path: PathBuf, text: String| fs::write(&path, text).with_context(|| format!("can't write {}", path.display()));
    put(out.join("compare.json"), serde_json::to_string_pretty(comparison)? + "\n")?;
    put(out.join("compare.html"), html::page(comparison))
}

fn print_table(comparison: &Comparison) -> io::Result<()> {
    use io::Write;
    write!(io::stdout(), "{}", table::terminal(comparison))
}
