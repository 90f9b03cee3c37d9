//! `evenkeel clients`: the clients that reach their limits.

use super::client::{AdminClient, escaped, known};
use super::table::{Table, cell, coloured, number};
use super::{CommandError, say, say_json};
use crate::admin::ClientsBody;

#[derive(Debug, clap::Args)]
pub(super) struct ClientsOptions {
    /// Of this listener
    #[arg(long, value_name = "LISTENER")]
    listener: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(super) async fn clients(client: &AdminClient, options: &ClientsOptions, json: bool) -> Result<(), CommandError> {
    let ClientsOptions { listener, limit } = options;
    let only = listener.as_ref().map_or_else(String::new, |name| format!("&listener={}", escaped(name)));
    let answer = client.get(&format!("/api/v1/clients?limit={limit}{only}")).await?;
    if json {
        return say_json(&answer);
    }
    let ClientsBody { clients, known } = known(answer)?;
    let mut table = Table::new(&["LISTENER", "CLIENT", "SESSIONS", "WAITING", "OVER MAX_CONNECTIONS", "OVER RATE"]);
    for client in &clients {
        table.row(vec![
            cell(&client.listener),
            cell(&client.client),
            number(client.sessions),
            number(client.waiting),
            number(client.over_max_connections),
            number(client.over_rate),
        ]);
    }
    let mut text = table.text(coloured());
    if known > clients.len() {
        text += &format!("and {} more (--limit)\n", known - clients.len());
    }
    Ok(say(&text)?)
}
