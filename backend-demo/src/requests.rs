//! Shows the stored requests of a member: the last ones as a table, and the number for each id.

use std::path::PathBuf;

use crate::serve::RequestDatabase;

/// Options of `requests`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The database of a member, which may be running
    #[arg(long, value_name = "FILE")]
    pub database: PathBuf,
    /// Show only the number of requests for each id
    #[arg(long)]
    pub count: bool,
    /// Number of requests to list, the latest ones
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub last: u32,
}

/// The text to print.
///
/// # Errors
/// When the database can't be read.
pub fn show(options: &Options) -> anyhow::Result<String> {
    let stored = RequestDatabase::open(&options.database)?;
    let mut text = String::new();
    if !options.count {
        text += &format!("{:<24}  {:<21}  {:>7}  {:<12}  request\n", "time", "peer", "bytes", "answered by");
        for row in stored.last(options.last)? {
            let first_line = row.request.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let request: String = first_line.trim_ascii_end().escape_ascii().to_string().chars().take(60).collect();
            text += &format!("{:<24}  {:<21}  {:>7}  {:<12}  {request}\n", row.at, row.peer, row.bytes, row.id);
        }
        text.push('\n');
    }
    let totals = stored.totals()?;
    text += &format!("{:<12}  {:>8}\n", "answered by", "requests");
    for (id, count) in &totals {
        text += &format!("{id:<12}  {count:>8}\n");
    }
    if totals.len() != 1 {
        text += &format!("{:<12}  {:>8}\n", "all", totals.iter().map(|(_, count)| count).sum::<u64>());
    }
    Ok(text)
}
