//! Runs a command. Exit code: 0 good, 1 mismatches, failures or a runtime error, 2 bad usage.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use loadtest::args::{Cli, Command, RunArgs, ServeArgs};
use loadtest::{RunBar, RunReport, Server};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Serve(args) => serve(&args),
        Command::Compare(args) => Ok(verdict(loadtest::compare(&args))),
        Command::Chaos(args) => Ok(verdict(loadtest::chaos(&args))),
        Command::Shares(args) => Ok(verdict(loadtest::shares(&args))),
        Command::ChaosBackend(args) => Ok(verdict(loadtest::chaos_backend(&args).map(|()| true).map_err(Into::into))),
    };
    result.unwrap_or_else(|error| {
        eprintln!("loadtest: {error:#}");
        ExitCode::from(2)
    })
}

fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let plan = args.plan()?;
    let bar = RunBar::new(&plan);
    let result = loadtest::run(&plan, |now| bar.show(now));
    bar.clear();
    let report = match result {
        Ok(report) => report,
        Err(error @ (loadtest::RunError::Plan(_) | loadtest::RunError::NoRoom(_))) => return Err(error.into()),
        Err(error) => return Ok(failure(&error.into())),
    };
    if let Err(error) = write(&report, args.json.as_deref()) {
        return Ok(failure(&error));
    }
    Ok(if report.passed(args.allow_failures) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(report: &RunReport, json: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = json else { return Ok(write!(std::io::stdout(), "{report}")?) };
    let text = serde_json::to_string_pretty(report)? + "\n";
    if path == Path::new("-") {
        eprint!("{report}");
        return Ok(std::io::stdout().write_all(text.as_bytes())?);
    }
    write!(std::io::stdout(), "{report}")?;
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let (address, threads) = args.place()?;
    loadtest::raise_descriptor_limit();
    let server = match Server::start(address, threads).with_context(|| format!("can't listen on {address}")) {
        Ok(server) => server,
        Err(error) => return Ok(failure(&error)),
    };
    println!("listening on {}", server.address());
    // Until a signal ends the process; the kernel closes the connections then.
    loop {
        std::thread::park();
    }
}

fn verdict(result: anyhow::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failure(&error),
    }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    eprintln!("loadtest: {error:#}");
    ExitCode::FAILURE
}
