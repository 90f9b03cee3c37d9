//! `loadtest shares`: which backend gets how many of 10,000 connects, for every policy and some weights; and for the policies that
//! hash, whether two processes agree on every client, and how many clients move when a backend leaves.
//!
//! `rig` runs backends that say their numbers and a balancer in front of them; `report` is the text.

mod report;
mod rig;

use std::path::{Path, PathBuf};

use clap::Args;

use self::report::{Agreement, Report, Shares};
use self::rig::{Backends, Balancer};
use crate::harness::{build, scratch_directory};
use crate::results;
use crate::units;

/// Every policy, by its word.
pub const POLICIES: [&str; 8] =
    ["round_robin", "least_connections", "least_time", "random", "power_of_two", "first", "maglev", "ring_hash"];

/// The policies that hash.
const HASHING: [&str; 2] = ["maglev", "ring_hash"];

const WEIGHTS: [[u16; 4]; 3] = [[1, 1, 1, 1], [1, 2, 3, 4], [5, 3, 1, 0]];

/// Sessions that are open at once: without any the policies that count them would have nothing to compare.
const HELD: usize = 1_000;

/// Sessions that a backend may have at once where backends are filled one after the other.
const CAP: u32 = 400;

/// Of the clients of other backends, the most that may move when one leaves, in percent.
const MAY_MOVE: f64 = 2.0;

/// The options of `shares`.
#[derive(Debug, Clone, Args)]
pub struct SharesArgs {
    /// Evenkeel's program [default: the one beside this program; `cargo run` builds it first]
    #[arg(long, value_name = "PATH")]
    evenkeel: Option<PathBuf>,
    /// Connects for each policy and set of weights
    #[arg(long, default_value = "10k", value_parser = units::count)]
    connects: u64,
    /// Clients of the policies that hash, each with an address of its own
    #[arg(long, default_value = "100k", value_parser = units::count)]
    clients: u64,
    /// Also write the tables into this file
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = results::PATH)]
    write_results: Option<PathBuf>,
}

/// Measures, and prints the tables. Returns whether the balancers agreed, and few enough clients moved.
///
/// # Errors
/// When a process can't be started, or does not serve.
pub fn shares(args: &SharesArgs) -> anyhow::Result<bool> {
    crate::raise_descriptor_limit();
    let program = build::evenkeel(args.evenkeel.as_deref())?;
    let scratch = scratch_directory("evenkeel-shares-")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let shares = all_shares(args, &program, scratch.path()).await?;
        let agreements = all_agreements(args, &program, scratch.path()).await?;
        anyhow::Ok(Report { shares, agreements })
    })?;
    print!("{report}");
    if let Some(path) = &args.write_results {
        let preamble = results::preamble(&build::command_line())?;
        results::write_section(path, "shares", &format!("## Shares of the policies\n\n{preamble}\n{report}"))?;
        eprintln!("written: {}", path.display());
    }
    Ok(report
        .agreements
        .iter()
        .all(|agreement| agreement.disagreements == 0 && agreement.moved_of_others() <= MAY_MOVE))
}

async fn all_shares(args: &SharesArgs, program: &Path, scratch: &Path) -> anyhow::Result<Vec<Shares>> {
    let backends = Backends::start(WEIGHTS[0].len()).await?;
    let mut all = Vec::new();
    for policy in POLICIES {
        for weights in WEIGHTS {
            let cap = (policy == "first").then_some(CAP);
            let balancer = Balancer::start(program, scratch, policy, &backends.entries(&weights, cap)).await?;
            let met = balancer.met_by(0..args.connects, HELD).await?;
            let mut counts = vec![0; weights.len()];
            met.iter().for_each(|backend| counts[usize::from(*backend)] += 1);
            eprintln!("{policy}, weights {weights:?}: {counts:?}");
            all.push(Shares { policy, weights: weights.to_vec(), counts });
        }
    }
    Ok(all)
}

/// Ten backends of one weight.
async fn all_agreements(args: &SharesArgs, program: &Path, scratch: &Path) -> anyhow::Result<Vec<Agreement>> {
    const LEAVES: u8 = 3;
    let backends = Backends::start(10).await?;
    let entries = backends.entries(&[1; 10], None);
    let reversed: Vec<String> = entries.iter().rev().cloned().collect();
    let others: Vec<String> = entries
        .iter()
        .enumerate()
        .filter(|(number, _)| *number != usize::from(LEAVES))
        .map(|(_, it)| it.clone())
        .collect();
    let mut all = Vec::new();
    for policy in HASHING {
        let [here, there, without] = [&entries, &reversed, &others];
        // The first two run at the same time.
        let (here, there) = (
            Balancer::start(program, scratch, policy, here).await?,
            Balancer::start(program, scratch, policy, there).await?,
        );
        let (before, other) = (here.met_by(0..args.clients, HELD).await?, there.met_by(0..args.clients, HELD).await?);
        drop((here, there));
        let without = Balancer::start(program, scratch, policy, without).await?;
        let after = without.met_by(0..args.clients, HELD).await?;
        let agreement = Agreement::of(policy, (&before, &other, &after), LEAVES);
        eprintln!("{agreement:?}");
        all.push(agreement);
    }
    Ok(all)
}
