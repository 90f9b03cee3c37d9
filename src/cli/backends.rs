//! `evenkeel backends`: every backend on a line.

use serde_json::{Value, json};

use super::api::find_pool;
use super::client::{AdminClient, known};
use super::table::{Table, ago, cell, coloured, number, standing};
use super::{CommandError, say, say_json};
use crate::admin::{BackendBody, PoolBody, PoolsBody, RejectedBody, SourceBody};

/// Of the instances that can't be used; as a rule they are broken in the same way.
const MOST_LEFT_OUT: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct BackendsOptions {
    /// Of this pool only
    pool: Option<String>,
}

pub(super) async fn backends(client: &AdminClient, options: &BackendsOptions, json: bool) -> Result<(), CommandError> {
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
    let pools: PoolsBody = known(answer)?;
    let has_zones = pools.pools.iter().any(|pool| !pool.zones.is_empty());
    let mut heads = vec!["POOL", "BACKEND", "STANDING", "SINCE", "WEIGHT", "SESSIONS", "ADDRESS", "WHY"];
    if has_zones {
        heads.insert(7, "ZONE");
    }
    let mut table = Table::new(&heads);
    for pool in &pools.pools {
        let mut backends: Vec<&BackendBody> = pool.backends.iter().collect();
        backends.sort_by(|a, b| a.id.cmp(&b.id));
        for backend in backends {
            let mark = if backend.operator_weight.is_some() { "*" } else { "" };
            let mut row = vec![
                cell(&pool.name),
                cell(&backend.id),
                standing(&backend.standing),
                cell(ago(&backend.since)),
                number(format!("{}{mark}", backend.weight)),
                number(backend.sessions),
                cell(&backend.address),
                cell(&backend.reason),
            ];
            if has_zones {
                row.insert(7, cell(backend.zone.as_deref().unwrap_or("-")));
            }
            table.row(row);
        }
    }
    let mut text = table.text(coloured());
    if pools.pools.iter().any(|pool| pool.backends.iter().any(|backend| backend.operator_weight.is_some())) {
        text += "* set by an operator\n";
    }
    for pool in &pools.pools {
        text += &trouble(pool);
    }
    Ok(say(&text)?)
}

/// What discovery has against the set, and whom it leaves out: they have no line of their own.
fn trouble(pool: &PoolBody) -> String {
    let SourceBody { error, rejected, rejected_count, .. } = &pool.source;
    let mut text = String::new();
    if let Some(error) = error {
        text += &format!("pool {}: discovery fails, what is known stays: {}\n", pool.name, error.text);
    }
    for RejectedBody { id, why } in rejected.iter().take(MOST_LEFT_OUT) {
        text += &format!("pool {}: {id} is left out: {why}\n", pool.name);
    }
    match rejected_count.saturating_sub(MOST_LEFT_OUT) {
        0 => text,
        more => text + &format!("pool {}: {more} more are left out\n", pool.name),
    }
}
