//! `evenkeel status`: the whole at a glance.

use std::time::Duration;

use super::client::{AdminClient, known};
use super::table::{Colour, Table, TableCell, cell, coloured, number, short};
use super::{CommandError, say, say_json};
use crate::admin::{LimitBody, ListenerBody, PoolSummary, StatusBody};
use crate::config::shown_pools;

pub(super) async fn status(client: &AdminClient, json: bool) -> Result<(), CommandError> {
    let answer = client.get("/api/v1/status").await?;
    if json {
        return say_json(&answer);
    }
    let status: StatusBody = known(answer)?;
    let up = short(Duration::try_from_secs_f64(status.uptime_seconds).unwrap_or_default());
    let ready = if status.ready { "ready".to_owned() } else { format!("not ready: {}", status.waiting_for.join("; ")) };
    let mut text = format!(
        "evenkeel {}, pid {}, up {up}, {ready}\n{} of {} sessions, {} workers{}\n\n",
        status.version,
        status.pid,
        status.sessions,
        status.max_connections,
        status.workers,
        status.zone.map_or_else(String::new, |zone| format!(", zone {zone}")),
    );
    let mut listeners = Table::new(&["LISTENER", "SESSIONS", "LIMIT", "ACCEPTED", "POOL", "ADDRESSES"]);
    for listener in status.listeners {
        let limit = listener.max_connections.map_or_else(|| "-".to_owned(), |max| max.to_string());
        let limit = if listener.at_limit { format!("{limit} (reached)") } else { limit };
        listeners.row(vec![
            cell(&listener.name),
            number(listener.sessions),
            number(limit),
            number(listener.accepted),
            cell(pools(&listener)),
            cell(listener.addresses.join(", ")),
        ]);
    }
    let of_pools = status.pools.iter().filter_map(trouble);
    let of_process = status.troubles.iter().cloned();
    let troubles: Vec<_> = of_process.chain(status.limits.iter().map(limit)).chain(of_pools).collect();
    let mut pools = Table::new(&["POOL", "SESSIONS", "BACKENDS", "UP", "STATE"]);
    for pool in status.pools {
        let state = state(&pool);
        pools.row(vec![cell(&pool.name), number(pool.sessions), number(pool.backends), number(pool.up), state]);
    }
    let ink = coloured();
    text += &format!("{}\n{}", listeners.text(ink), pools.text(ink));
    if !troubles.is_empty() {
        text += &format!("\n{}\n", troubles.join("\n"));
    }
    Ok(say(&text)?)
}

fn pools(listener: &ListenerBody) -> String {
    match (&listener.pools[..], &listener.pool) {
        ([], pool) => pool.clone().unwrap_or_default(),
        (pools, _) => shown_pools(&pools.iter().map(String::as_str).collect::<Vec<_>>()),
    }
}

pub(super) fn limit(limit: &LimitBody) -> String {
    let LimitBody { says, since, until, .. } = limit;
    match until {
        None => format!("limit reached since {since}: {says}"),
        Some(until) => format!("limit reached from {since} until {until}, over now: {says}"),
    }
}

/// What discovery of a pool fails with, and what is left to go by.
fn trouble(pool: &PoolSummary) -> Option<String> {
    let error = pool.discovery_error.as_deref()?;
    let known = match pool.discovery_age_seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(age)) => format!("what is known is {} old", short(age)),
        _ => "nothing is known yet".to_owned(),
    };
    Some(format!("discovery of pool {} fails, {known}: {error}", pool.name))
}

fn state(pool: &PoolSummary) -> TableCell {
    match pool {
        PoolSummary { served_by: Some(other), .. } => {
            cell(format!("nothing is up, sessions go to pool {other}")).in_colour(Colour::Yellow)
        }
        PoolSummary { fail_open: true, .. } => cell("nothing is up, sessions try the rest").in_colour(Colour::Red),
        PoolSummary { all_down: true, when_all_down, queued, .. } if when_all_down == "wait" => {
            cell(format!("nothing is up, {queued} sessions wait")).in_colour(Colour::Red)
        }
        PoolSummary { all_down: true, .. } => cell("nothing is up, sessions are refused").in_colour(Colour::Red),
        PoolSummary { settled: false, .. } => cell("waits for discovery and first probes").in_colour(Colour::Blue),
        PoolSummary { queued: queued @ 1.., .. } => {
            cell(format!("{queued} sessions wait for a backend")).in_colour(Colour::Yellow)
        }
        PoolSummary { up, backends, .. } if up < backends => cell("degraded").in_colour(Colour::Yellow),
        _ => cell("ok").in_colour(Colour::Green),
    }
}
