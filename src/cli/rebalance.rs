//! `evenkeel rebalance`: closes sessions of backends that have more than their part, or says what that would be.

use std::time::Duration;

use hyper::Method;
use serde_json::json;

use super::api::find_pool;
use super::client::{AdminClient, escaped, known};
use super::table::{Table, cell, coloured, number, short};
use super::{CommandError, say, say_json};
use crate::admin::RebalanceBody;

#[derive(Debug, clap::Args)]
pub(super) struct RebalanceOptions {
    /// The pool, or a beginning of its name that no other pool has
    pool: String,
    /// Say what it would do and how long it would take. Closes nothing
    #[arg(long, conflicts_with = "note")]
    dry_run: bool,
    /// Why; shown in the log
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

pub(super) async fn rebalance(
    client: &AdminClient,
    options: &RebalanceOptions,
    json: bool,
) -> Result<(), CommandError> {
    let path = format!("/api/v1/pools/{}/rebalance", escaped(&find_pool(client, &options.pool).await?));
    let answer = if options.dry_run {
        client.get(&path).await?
    } else {
        let body = options.note.as_ref().map_or_else(|| json!({}), |note| json!({ "note": note }));
        client.change(Method::POST, &path, &body).await?
    };
    if json {
        return say_json(&answer);
    }
    Ok(say(&text(&known(answer)?, options.dry_run))?)
}

fn text(body: &RebalanceBody, dry_run: bool) -> String {
    let RebalanceBody { pool, moving, at_most, max_per_second, threshold, min_age, prefer, .. } = body;
    let mut text = match moving {
        0 => format!(
            "pool {pool}: no backend has {threshold} % more sessions than its part: there is nothing to close\n"
        ),
        _ => {
            let does = if dry_run { "would close" } else { "closes" };
            let more = if at_most > moving {
                format!(" ({at_most} at most: some clients come back to where they were)")
            } else {
                String::new()
            };
            let time = short(Duration::from_secs(body.seconds));
            format!(
                "pool {pool}: it {does} {moving} sessions{more}, {max_per_second} a second, prefers {prefer}, none younger \
                 than {min_age}; done in {time}\n"
            )
        }
    };
    if let Some(why) = &body.waits_for {
        text += &format!("it waits: {why}\n");
    }
    if body.left > 0 {
        text += &format!("one goes on already, and may still close {}\n", body.left);
    }
    if dry_run && !body.automatic {
        text += "`rebalance` is not set: it happens only by this command, with the default rules\n";
    }
    let mut table = Table::new(&["BACKEND", "SESSIONS", "PART", "CLOSE"]);
    for backend in &body.backends {
        let part = format!("{:.1}", backend.part);
        table.row(vec![cell(&backend.id), number(backend.sessions), number(part), number(backend.close)]);
    }
    format!("{text}\n{}", table.text(coloured()))
}
