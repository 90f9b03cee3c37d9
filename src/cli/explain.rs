//! `evenkeel explain`: why a backend gets sessions, or none, and what happened to it.

use super::api::find_backend;
use super::client::{AdminClient, known};
use super::table::{Table, ago, cell, coloured, standing, standing_word};
use super::{CommandError, say, say_json, sessions};
use crate::admin::ExplainedBody;

#[derive(Debug, clap::Args)]
pub(super) struct ExplainOptions {
    /// A backend: ID, POOL/ID, or a beginning of it that no other has; or the number of a session
    whom: String,
}

pub(super) async fn explain(client: &AdminClient, options: &ExplainOptions, json: bool) -> Result<(), CommandError> {
    if let Ok(id) = options.whom.parse() {
        return sessions::explain(client, id, json).await;
    }
    let named = find_backend(client, &options.whom).await?;
    let answer = client.get(&named.path()).await?;
    if json {
        return say_json(&answer);
    }
    let ExplainedBody { pool, backend, explanation, history } = known(answer)?;
    let ink = coloured();
    let word = standing_word(&backend.standing, ink);
    let mut text = format!(
        "{} in pool {pool}, at {}\n{word} for {}: {}\n{} sessions now, {} connects, {} of them failed\n\n",
        backend.id,
        backend.address,
        ago(&backend.since),
        backend.reason,
        backend.sessions,
        backend.connects,
        backend.connect_failures,
    );
    let mut parties = Table::new(&["", "WHO", "VALUE", "SAYS"]);
    for said in explanation {
        let mark = if said.decides { cell(">") } else { cell("") };
        parties.row(vec![mark, cell(&said.who), cell(&said.value), cell(&said.says)]);
    }
    text += &parties.text(ink);
    let mut changes = Table::new(&["WHEN", "AGO", "FROM", "TO", "BECAUSE"]);
    for change in history {
        let from = change.from.unwrap_or_else(|| "-".into());
        changes.row(vec![
            cell(&change.at),
            cell(ago(&change.at)),
            cell(from),
            standing(&change.to),
            cell(&change.reason),
        ]);
    }
    text += &format!("\n{}", changes.text(ink));
    Ok(say(&text)?)
}
