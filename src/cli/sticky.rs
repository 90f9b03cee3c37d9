//! `evenkeel sticky`: which client comes back to which backend of a sticky pool, and the end of that.

use std::net::IpAddr;
use std::time::Duration;

use hyper::Method;
use serde_json::json;

use super::api::find_pool;
use super::client::{AdminClient, escaped, known};
use super::table::{Table, cell, coloured, number, short};
use super::{CommandError, say, say_json};
use crate::admin::{ForgetRequest, ForgottenAnswer, StickyBody};

#[derive(Debug, clap::Args)]
pub(super) struct StickyOptions {
    /// The pool, or a beginning of its name that no other pool has
    pool: String,
    /// Show no more clients than this
    #[arg(long, value_name = "NUMBER", default_value_t = 100, conflicts_with_all = ["clear", "clear_client"])]
    limit: usize,
    /// Forget all clients: the policy chooses for their next sessions. Running sessions stay
    #[arg(long, conflicts_with = "clear_client")]
    clear: bool,
    /// Forget this client, or its network
    #[arg(long, value_name = "ADDRESS")]
    clear_client: Option<IpAddr>,
}

pub(super) async fn sticky(client: &AdminClient, options: &StickyOptions, json: bool) -> Result<(), CommandError> {
    let pool = find_pool(client, &options.pool).await?;
    let path = format!("/api/v1/pools/{}/sticky", escaped(&pool));
    if options.clear || options.clear_client.is_some() {
        let request = ForgetRequest { client: options.clear_client.map(|client| client.to_string()) };
        let answer = client.change(Method::POST, &format!("{path}/clear"), &json!(request)).await?;
        if json {
            return say_json(&answer);
        }
        let ForgottenAnswer { forgotten } = known(answer)?;
        return Ok(say(&format!("pool {pool}: {forgotten} clients are forgotten\n"))?);
    }
    let answer = client.get(&format!("{path}?limit={}", options.limit)).await?;
    if json {
        return say_json(&answer);
    }
    let StickyBody { is_sticky, entries, forgotten, clients, .. } = known(answer)?;
    if !is_sticky {
        return Ok(say(&format!("pool {pool} is not sticky\n"))?);
    }
    let mut table = Table::new(&["CLIENT", "BACKEND", "LAST SESSION"]);
    for known in &clients {
        let unused = Duration::try_from_secs_f64(known.unused_seconds).unwrap_or_default();
        table.row(vec![cell(&known.client), cell(&known.backend), number(format!("{} ago", short(unused)))]);
    }
    let more = format!("{entries} clients are remembered, {forgotten} were forgotten for want of room\n");
    Ok(say(&(table.text(coloured()) + &more))?)
}
