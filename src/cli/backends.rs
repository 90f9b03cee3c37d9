//! `evenkeel backends`: every backend on a line.

use serde_json::{Value, json};

use super::api::{Backend, Pools, find_pool};
use super::client::{Client, known};
use super::table::{Table, ago, cell, coloured, number, standing};
use super::{Failure, say, say_json};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Of this pool alone
    pool: Option<String>,
}

pub(super) async fn backends(client: &Client, options: &Options, json: bool) -> Result<(), Failure> {
    let wanted = match &options.pool {
        Some(pool) => Some(find_pool(client, pool).await?),
        None => None,
    };
    let mut answer = client.get("/api/v1/pools").await?;
    if let (Some(wanted), Some(Value::Array(pools))) = (&wanted, answer.get_mut("pools")) {
        pools.retain(|pool| pool.get("name") == Some(&json!(wanted)));
    }
    if json {
        return say_json(&answer);
    }
    let pools: Pools = known(answer)?;
    let mut table = Table::new(&["POOL", "BACKEND", "STANDING", "SINCE", "WEIGHT", "SESSIONS", "ADDRESS", "WHY"]);
    for pool in &pools.pools {
        let mut backends: Vec<&Backend> = pool.backends.iter().collect();
        backends.sort_by(|a, b| a.id.cmp(&b.id));
        for backend in backends {
            let mark = if backend.operator_weight.is_some() { "*" } else { "" };
            table.row(vec![
                cell(&pool.name),
                cell(&backend.id),
                standing(&backend.standing),
                cell(ago(&backend.since)),
                number(format!("{}{mark}", backend.weight)),
                number(backend.sessions),
                cell(&backend.address),
                cell(&backend.reason),
            ]);
        }
    }
    let mut text = table.text(coloured());
    if pools.pools.iter().any(|pool| pool.backends.iter().any(|backend| backend.operator_weight.is_some())) {
        text += "* set by an operator\n";
    }
    Ok(say(&text)?)
}
