//! `evenkeel explain`: why a backend gets sessions, or none, and what happened to it; why an instance is no backend; how a
//! pool is.

use anyhow::Context;
use serde::Serialize;

use super::api::{Meant, find_meant};
use super::client::{AdminClient, escaped, known};
use super::table::{Table, ago, cell, coloured, standing, standing_word};
use super::{CommandError, say, say_json, sessions};
use crate::admin::{ExplainedBody, PoolBody, RejectedBody, RouteBody};

#[derive(Debug, clap::Args)]
pub(super) struct ExplainOptions {
    /// A backend, or an instance that was rejected: ID, POOL/ID, or a beginning of it that no other has; a pool; or the number
    /// of a session
    #[arg(required_unless_present = "listener", conflicts_with = "listener")]
    whom: Option<String>,
    #[command(flatten)]
    thought: ThoughtClient,
}

/// A client that is thought of, and where it would get.
#[derive(Debug, clap::Args)]
struct ThoughtClient {
    /// Say which route, pool and backend a client of this listener would get, without a client
    #[arg(long, value_name = "NAME", requires = "from")]
    listener: Option<String>,
    /// The client's address, or address and port
    #[arg(long, value_name = "ADDRESS", requires = "listener")]
    from: Option<String>,
    /// The server name that it asks for
    #[arg(long, value_name = "NAME", requires = "listener")]
    sni: Option<String>,
    /// A protocol that it offers; may be given several times
    #[arg(long, value_name = "PROTOCOL", requires = "listener")]
    alpn: Vec<String>,
    /// It begins with a TLS ClientHello, also without a server name
    #[arg(long, requires = "listener")]
    tls: bool,
    /// What it sends first, if it is no TLS client
    #[arg(long, value_name = "TEXT", requires = "listener")]
    starts_with: Option<String>,
}

pub(super) async fn explain(client: &AdminClient, options: &ExplainOptions, json: bool) -> Result<(), CommandError> {
    if let Some(listener) = &options.thought.listener {
        return explain_client(client, listener, &options.thought, json).await;
    }
    let whom = options.whom.as_deref().unwrap_or_default();
    if let Ok(id) = whom.parse() {
        return sessions::explain(client, id, json).await;
    }
    let named = match find_meant(client, whom).await? {
        Meant::Backend(named) => named,
        Meant::Rejected { pool, rejected } => return explain_rejected(pool, rejected, json),
        Meant::Pool(pool) => return explain_pool(client, *pool, json).await,
    };
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

async fn explain_client(
    client: &AdminClient,
    listener: &str,
    thought: &ThoughtClient,
    json: bool,
) -> Result<(), CommandError> {
    let alpn = (!thought.alpn.is_empty()).then(|| thought.alpn.join(","));
    let said = [("from", &thought.from), ("sni", &thought.sni), ("alpn", &alpn), ("starts_with", &thought.starts_with)];
    let said = said.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", escaped(value.as_deref()?))));
    let query: Vec<_> = said.chain(thought.tls.then(|| "tls=true".to_owned())).collect();
    let answer = client.get(&format!("/api/v1/listeners/{}/route?{}", escaped(listener), query.join("&"))).await?;
    if json {
        return say_json(&answer);
    }
    let body: RouteBody = known(answer)?;
    let mut text = format!("listener {}: {}\n", body.listener, body.why);
    if body.is_read {
        text += "its first bytes are waited for before that is known\n";
    }
    if let Some(reason) = &body.refused {
        text += &format!("it is refused: {reason}\n");
    }
    for routed in &body.pools {
        let part =
            if routed.percent < 100.0 { format!(" ({} % of such sessions)", routed.percent) } else { String::new() };
        let served = match &routed.served_by {
            Some(pool) if *pool != routed.pool => format!(", served by its fallback {pool}"),
            _ => String::new(),
        };
        text += &format!("pool {}{part}{served}\n", routed.pool);
        let backends = match &routed.backends[..] {
            [] => "no backend".to_owned(),
            [one] => format!("backend {one}"),
            several => format!("one of {} backends: {}", several.len(), listed(several)),
        };
        text += &format!("  {backends}; {}\n", routed.why);
    }
    Ok(say(&text)?)
}

fn listed(names: &[String]) -> String {
    const MOST: usize = 10;
    let more = if names.len() > MOST { ", …" } else { "" };
    names[..names.len().min(MOST)].join(", ") + more
}

#[derive(Serialize)]
struct ExplainedRejection {
    pool: String,
    id: String,
    rejected: String,
}

fn explain_rejected(pool: String, rejected: RejectedBody, json: bool) -> Result<(), CommandError> {
    let body = ExplainedRejection { pool, id: rejected.id, rejected: rejected.why };
    if json {
        return say_json(&serde_json::to_value(&body).context("the answer can't be written")?);
    }
    let ExplainedRejection { pool, id, rejected } = body;
    Ok(say(&format!("{id} in pool {pool} is no backend: it was rejected\n{rejected}\n"))?)
}

async fn explain_pool(client: &AdminClient, pool: PoolBody, json: bool) -> Result<(), CommandError> {
    if json {
        return say_json(&client.get(&format!("/api/v1/pools/{}", escaped(&pool.name))).await?);
    }
    let ink = coloured();
    let up = pool.backends.iter().filter(|backend| backend.standing == "up").count();
    let of = pool.backends.iter().filter(|backend| backend.standing != "removed").count();
    let mut text =
        format!("pool {}: {up} of {of} backends are up, {} sessions, {} wait\n", pool.name, pool.sessions, pool.queued);
    match (&pool.fallback, &pool.served_by) {
        (_, Some(other)) => text += &format!("nothing is up here: sessions go to pool {other}\n"),
        (Some(other), None) => text += &format!("its fallback is pool {other}\n"),
        (None, None) => {}
    }
    if let Some(error) = pool.source.error {
        text += &format!("discovery fails: {}\n", error.text);
    }
    for zone in &pool.zones {
        let name = if zone.zone.is_empty() { "without a zone" } else { &zone.zone };
        text += &format!("zone {name}: {} of {} up, {} sessions\n", zone.up, zone.backends, zone.sessions);
    }
    let mut backends = Table::new(&["BACKEND", "ADDRESS", "STANDING", "SINCE", "WHY"]);
    for backend in pool.backends {
        backends.row(vec![
            cell(&backend.id),
            cell(&backend.address),
            standing(&backend.standing),
            cell(ago(&backend.since)),
            cell(&backend.reason),
        ]);
    }
    text += &format!("\n{}", backends.text(ink));
    let (rejected, rejected_count) = (pool.source.rejected, pool.source.rejected_count);
    if rejected_count > 0 {
        text += &format!("\n{rejected_count} instances are no backends: they were rejected\n");
        let mut instances = Table::new(&["INSTANCE", "WHY"]);
        let unnamed = rejected_count.saturating_sub(rejected.len());
        rejected.iter().for_each(|rejected| instances.row(vec![cell(&rejected.id), cell(&rejected.why)]));
        text += &instances.text(ink);
        if unnamed > 0 {
            text += &format!("and {unnamed} more\n");
        }
    }
    Ok(say(&text)?)
}
