//! `evenkeel completions` and `evenkeel man`: what a package installs beside the program.

use std::path::PathBuf;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

use super::{CommandError, say};

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Write the pages of all commands into this directory. Without it: the first page to stdout
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(options: &Completions, mut command: Command) -> Result<(), CommandError> {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut command, "evenkeel", &mut text);
    Ok(say(&String::from_utf8_lossy(&text))?)
}

pub(super) fn man(options: &Man, command: Command) -> Result<(), CommandError> {
    if let Some(directory) = &options.dir {
        let shown = directory.display().to_string();
        std::fs::create_dir_all(directory).with_context(|| shown.clone())?;
        return Ok(clap_mangen::generate_to(command, directory).context(shown)?);
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text).context("the page can't be made")?;
    Ok(say(&String::from_utf8_lossy(&text))?)
}
