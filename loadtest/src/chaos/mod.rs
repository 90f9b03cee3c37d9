//! `loadtest chaos`: what clients notice when backends fail, with Evenkeel and its peers in front of them.
//!
//! Down from here: `options` (the command line), `cell` (one turn: `arena` is its network, `backend` what fails, `system` what
//! is tested, `load` the clients), then pure: `fault`, `wire`, `count`, `goal`, `record`, `table`.

mod arena;
mod backend;
mod cell;
mod count;
mod fault;
#[cfg(test)]
mod fixture;
mod goal;
mod load;
mod options;
mod record;
mod system;
mod table;
mod wire;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context, bail};

use self::arena::Blackhole;
pub use self::backend::{BackendArgs, chaos_backend};
use self::cell::Bench;
use self::fault::{Check, Fault};
pub use self::options::ChaosArgs;
use self::record::{Cell, Chaos, Settings};
use self::system::{Found, Subject};
use crate::compare::machine::{Machine, today};
use crate::compare::{build, process};
use crate::progress::Course;
use crate::results;

/// Runs everything, and writes what came out. Returns whether all that was to be measured was, without a wrong byte.
pub fn chaos(args: &ChaosArgs) -> anyhow::Result<bool> {
    args.validate()?;
    // In memory where that is possible, so that nobody's log waits for a disk.
    let place = Path::new("/dev/shm");
    let place = if place.is_dir() { place.to_owned() } else { env::temp_dir() };
    let scratch = tempfile::Builder::new().prefix(&arena::prefix()?).tempdir_in(place)?;
    process::clean_up_on_signals(scratch.path())?;
    let blackhole = arena::prepare()?;
    let target = build::target_directory()?;
    let found = find(args, &target)?;
    crate::raise_descriptor_limit();
    let program = env::current_exe().context("can't find this program")?;
    let bench = Bench {
        program: &program,
        blackhole,
        duration: std::time::Duration::from_secs_f64(args.seconds),
        rate: args.rate,
        long_lived: args.long_lived,
        patience: args.patience,
        scratch: scratch.path(),
        keep: args.keep.as_deref(),
    };
    let mut chaos = begin(args, found, &bench)?;
    let out = args.out.clone().unwrap_or_else(|| target.join("chaos"));
    fs::create_dir_all(&out).with_context(|| format!("can't make {}", out.display()))?;
    let failed = run(&bench, &mut chaos, &out)?;
    print_table(&chaos)?;
    eprintln!("written: {}", out.join("chaos.json").display());
    if let Some(path) = &args.write_results {
        let written = results::write_section(path, "chaos", &table::markdown(&chaos));
        written.with_context(|| format!("can't write {}", path.display()))?;
        eprintln!("written: {}", path.display());
    }
    let ours = chaos.systems.iter().any(Subject::is_ours);
    Ok(failed.is_empty() && chaos.wrong() == 0 && (ours || !args.systems.is_empty()))
}

fn find(args: &ChaosArgs, target: &Path) -> anyhow::Result<Found> {
    let binaries = args.programs.binaries(target)?;
    let mut found = system::find(&binaries);
    for name in &args.systems {
        if !found.subjects.iter().any(|subject| subject.name == *name) {
            let names: Vec<_> = found.subjects.iter().map(|subject| subject.name.as_str()).collect();
            bail!("no system {name:?}; there are {} ({})", names.join(", "), found.missing.join("; "));
        }
    }
    if !args.systems.is_empty() {
        found.subjects.retain(|subject| args.systems.contains(&subject.name));
        found.missing.clear();
    }
    for line in &found.missing {
        eprintln!("not tested: {line}");
    }
    Ok(found)
}

fn begin(args: &ChaosArgs, found: Found, bench: &Bench<'_>) -> anyhow::Result<Chaos> {
    let machine = Machine::look()?;
    let profile = build::profile();
    let mut warnings: Vec<_> = machine.warning("before the start").into_iter().collect();
    if profile == "debug" {
        warnings.push("built without optimisation: the clients, and an Evenkeel built with them, are slow".into());
    }
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let blackhole = match bench.blackhole {
        Blackhole::Filter => "nftables",
        Blackhole::Route => "a blackhole route (nftables is not there)",
    };
    Ok(Chaos {
        date: today(),
        command: build::command_line(),
        profile,
        machine,
        settings: Settings {
            seconds: args.seconds,
            fault_seconds: bench.fault_length().as_secs_f64(),
            rate: args.rate,
            long_lived: args.long_lived,
            patience: args.patience.as_secs_f64(),
            repeat: args.repeat,
            blackhole: blackhole.to_owned(),
            rows: args.rows(),
        },
        systems: found.subjects,
        missing: found.missing,
        warnings,
        goals: Vec::new(),
        cells: Vec::new(),
    })
}

/// Returns the systems that did not run, twice in a row; these are not tried again.
fn run(bench: &Bench<'_>, chaos: &mut Chaos, out: &Path) -> anyhow::Result<BTreeSet<String>> {
    let turns: Vec<_> = (1..=chaos.settings.repeat).flat_map(|repeat| turns(repeat, chaos)).collect();
    let all = bench.estimate() * u32::try_from(turns.len()).unwrap_or(u32::MAX);
    eprintln!("{} cells: about {:.1} minutes", turns.len(), all.as_secs_f64() / 60.0);
    let course = Course::new(all);
    let mut failed = BTreeSet::new();
    for (index, Turn { repeat, row: (fault, check), system }) in turns.iter().enumerate() {
        let place = format!("{}/{}: {}, {}: {}", index + 1, turns.len(), fault.name(), check.title(), system.name);
        if !failed.contains(&system.name) {
            course.show(&place);
            let measured = bench.measure(system, *fault, *check).or_else(|error| {
                course.line(&format!("once more: {place}: {:#}", anyhow::Error::from(error)));
                bench.measure(system, *fault, *check)
            });
            match measured {
                Ok(counts) => {
                    course.line(&format!("{place}: {} failed, {} slow", counts.failed, counts.slow));
                    let (fault, check, system) = (*fault, *check, system.name.clone());
                    chaos.cells.push(Cell { repeat: *repeat, fault, check, system, counts });
                }
                Err(error) => {
                    let line = format!("{}: {}: {:#}", system.name, fault.name(), anyhow::Error::from(error));
                    course.line(&format!("failed: {line}"));
                    chaos.missing.push(line);
                    failed.insert(system.name.clone());
                }
            }
        }
        course.done(bench.estimate());
        chaos.judge();
        write(out.join("chaos.json"), chaos)?;
    }
    course.clear();
    chaos.warnings.extend(Machine::look()?.warning("after the end"));
    write(out.join("chaos.json"), chaos)?;
    Ok(failed)
}

/// One turn.
#[derive(Debug, Clone)]
struct Turn {
    repeat: u32,
    row: (Fault, Check),
    system: Subject,
}

/// In each row every system, so that what changes on the machine over the minutes meets all of them. Another one begins in each
/// repetition.
fn turns(repeat: u32, chaos: &Chaos) -> Vec<Turn> {
    let mut turns = Vec::new();
    for &row in &chaos.settings.rows {
        let mut systems: Vec<_> = chaos.systems.iter().filter(|system| system.belongs(row.0, row.1)).collect();
        let first = (repeat as usize - 1) % systems.len().max(1);
        systems.rotate_left(first);
        turns.extend(systems.into_iter().map(|system| Turn { repeat, row, system: system.clone() }));
    }
    turns
}

fn write(path: PathBuf, chaos: &Chaos) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(chaos)? + "\n";
    fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
}

fn print_table(chaos: &Chaos) -> io::Result<()> {
    use io::Write;
    write!(io::stdout(), "{}", table::terminal(chaos))
}

#[cfg(test)]
mod tests {
    use super::count::Counts;
    use super::*;

    #[test]
    fn every_row_has_every_system_and_every_repetition_begins_with_another_one() {
        let none: [Counts; 0] = [];
        let systems = [("haproxy", &none[..]), ("evenkeel", &none[..]), ("evenkeel-first-byte", &none[..])];
        let mut chaos = fixture::chaos((Fault::Stop, Check::Tcp), &systems);
        chaos.settings.rows.push((Fault::Kill, Check::Tcp));
        let names = |repeat| turns(repeat, &chaos).into_iter().map(|turn| turn.system.name).collect::<Vec<_>>();
        assert_eq!(names(1), ["haproxy", "evenkeel", "evenkeel-first-byte", "haproxy", "evenkeel"]);
        assert_eq!(names(2), ["evenkeel", "evenkeel-first-byte", "haproxy", "evenkeel", "haproxy"]);
    }
}
