//! `evenkeel sessions` and `close`: lists sessions, shows one, closes some.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::api::{BackendName, find_backend, find_pool};
use super::client::{AdminClient, escaped, known};
use super::table::{Table, cell, coloured, number, short};
use super::{CommandError, say, say_json};
use crate::admin::{SessionBody, SessionSort, SessionsBody, SessionsQuery};

/// Which sessions; all that is said has to fit.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Of this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Of this backend
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Of this listener
    #[arg(long, value_name = "LISTENER")]
    listener: Option<String>,
    /// From this address, address with port, or network
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// Quiet for at least this time, such as 10m
    #[arg(long, value_name = "TIME")]
    idle: Option<String>,
    /// At least this old
    #[arg(long, value_name = "TIME")]
    age: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListOptions {
    #[command(flatten)]
    which: Which,
    /// age = the oldest first, idle = the quietest first, bytes = the most bytes first
    #[arg(long, value_name = "BY", default_value = "age", value_parser = ["age", "idle", "bytes"])]
    sort: String,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, clap::Args)]
pub(super) struct CloseOptions {
    /// The number of one session, as in the log and in `evenkeel sessions`
    id: Option<u64>,
    #[command(flatten)]
    which: Which,
    /// Every session
    #[arg(long)]
    all: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Which {
    /// As the API takes it, names found.
    async fn query(&self, client: &AdminClient) -> Result<SessionsQuery, CommandError> {
        let Self { listener, client: from, idle, age, .. } = self;
        let mut query = SessionsQuery {
            listener: listener.clone(),
            client: from.clone(),
            idle: idle.clone(),
            age: age.clone(),
            ..SessionsQuery::default()
        };
        if let Some(text) = &self.backend {
            let BackendName { pool, id } = find_backend(client, text).await?;
            (query.pool, query.backend) = (Some(pool), Some(id));
        }
        if let Some(text) = &self.pool {
            let pool = find_pool(client, text).await?;
            if query.pool.as_ref().is_some_and(|of_backend| *of_backend != pool) {
                return Err(CommandError::Config("that backend is in another pool".to_owned()));
            }
            query.pool = Some(pool);
        }
        Ok(query)
    }
}

fn path(query: &SessionsQuery) -> String {
    let said = query.said().map(|(name, value)| format!("{name}={}", escaped(&value)));
    format!("/api/v1/sessions?{}", said.collect::<Vec<_>>().join("&"))
}

pub(super) async fn list(client: &AdminClient, options: &ListOptions, json: bool) -> Result<(), CommandError> {
    let sort = SessionSort::ALL.into_iter().find(|sort| sort.name() == options.sort);
    let query = SessionsQuery { sort, limit: Some(options.limit), ..options.which.query(client).await? };
    let answer = client.get(&path(&query)).await?;
    if json {
        return say_json(&answer);
    }
    let SessionsBody { sessions, matched, .. } = known(answer)?;
    let mut table = Table::new(&[
        "SESSION",
        "AGE",
        "IDLE",
        "FINISHED",
        "TO BACKEND",
        "TO CLIENT",
        "LISTENER",
        "CLIENT",
        "LOCAL",
        "BACKEND",
    ]);
    for session in &sessions {
        let backend = session.backend.clone().unwrap_or_else(|| format!("({})", session.phase));
        table.row(vec![
            number(session.id),
            number(seconds(session.age_seconds)),
            number(seconds(session.idle_seconds)),
            cell(if session.finished.is_empty() { "-".to_owned() } else { session.finished.join(", ") }),
            number(session.to_backend),
            number(session.to_client),
            cell(&session.listener),
            cell(&session.client),
            cell(session.local.as_deref().unwrap_or("-")),
            cell(backend),
        ]);
    }
    let mut text = table.text(coloured());
    if matched > sessions.len() {
        text += &format!("and {} more (--limit)\n", matched - sessions.len());
    }
    Ok(say(&text)?)
}

pub(super) async fn close(client: &AdminClient, options: &CloseOptions, json: bool) -> Result<(), CommandError> {
    let filter = SessionsQuery { id: options.id, ..options.which.query(client).await? };
    if (filter == SessionsQuery::default()) != options.all {
        let error = if options.all { "--all next to a filter" } else { "say which sessions, or --all" };
        return Err(CommandError::Config(error.to_owned()));
    }
    if !options.yes && options.id.is_none() && !io::stdin().is_terminal() {
        return Err(CommandError::Config("no terminal to confirm it on: add --yes to close them".to_owned()));
    }
    if !options.yes && io::stdin().is_terminal() && !sure(client, &filter).await? {
        return Err(CommandError::Runtime(anyhow::anyhow!("nothing was closed")));
    }
    let body = if options.all { json!({ "all": true }) } else { json!({ "filter": filter }) };
    let answer = client.change(Method::POST, "/api/v1/sessions/close", &body).await?;
    let closing = answer.get("closing").and_then(Value::as_u64).unwrap_or_default();
    match closing {
        _ if json => say_json(&answer)?,
        0 => {}
        1 => say("1 session is being closed\n")?,
        _ => say(&format!("{closing} sessions are being closed, at the pace of their pools\n"))?,
    }
    match closing {
        0 => Err(CommandError::Unknown("there is no such session, so none is closed".to_owned())),
        _ => Ok(()),
    }
}

async fn sure(client: &AdminClient, filter: &SessionsQuery) -> Result<bool, CommandError> {
    let count = SessionsQuery { limit: Some(0), ..filter.clone() };
    let SessionsBody { matched, .. } = client.read(&path(&count)).await?;
    let _ = write!(io::stderr(), "close {matched} sessions? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// One session, and what the kernel knows of it.
pub(super) async fn explain(client: &AdminClient, id: u64, json: bool) -> Result<(), CommandError> {
    let answer = client.get(&format!("/api/v1/sessions/{id}")).await?;
    if json {
        return say_json(&answer);
    }
    let session: SessionBody = known(answer)?;
    let by = if session.peer == session.client { String::new() } else { format!(", by {}", session.peer) };
    let finished = match &session.finished[..] {
        [] => String::new(),
        sides => format!(", the {} has finished", sides.join(" and the ")),
    };
    let throttled = match &session.throttled[..] {
        [] => String::new(),
        directions => format!(", held up by its bandwidth {}", directions.join(" and ").replace('_', " the ")),
    };
    let ending = if session.is_ending { ", told to end" } else { "" };
    let mut text = format!(
        "session {} from {}{by}, by listener {} to {}\n{} for {}, quiet for {}{finished}{throttled}{ending}\n{} bytes to the backend, {} to the client\n",
        session.id,
        session.client,
        session.listener,
        routed(&session),
        session.phase,
        seconds(session.age_seconds),
        seconds(session.idle_seconds),
        session.to_backend,
        session.to_client,
    );
    if let (Some(backend), Some(address)) = (&session.backend, &session.address) {
        let local = session.local.as_ref().map(|local| format!(", from {local}")).unwrap_or_default();
        text += &format!("backend {backend} at {address}{local}\n");
    }
    if let Some(failed) = &session.failed_attempts {
        text += &format!("before that failed {failed}\n");
    }
    if let Some(tcp) = &session.tcp {
        let heads = ["", "RTT", "+-", "SENT AGAIN", "UNACKED", "LOST", "WINDOW", "UNREAD", "UNSENT"];
        let mut table = Table::new(&heads);
        for (name, side) in [("client", &tcp.client), ("backend", &tcp.backend)] {
            table.row(vec![
                cell(name),
                number(format!("{:.2}ms", side.rtt_ms)),
                number(format!("{:.2}ms", side.rtt_deviation_ms)),
                number(side.retransmits),
                number(side.unacknowledged),
                number(side.lost),
                number(side.congestion_window),
                number(format!("{}B", side.receive_queue_bytes)),
                number(format!("{}B", side.send_queue_bytes)),
            ]);
        }
        text += &format!("\n{}", table.text(coloured()));
    }
    Ok(say(&text)?)
}

/// Where it went, and by what.
fn routed(session: &SessionBody) -> String {
    let Some(pool) = &session.pool else { return "no pool yet".to_owned() };
    let mut text = format!("pool {pool}");
    let route = session.route.map(|route| format!("routes[{route}]"));
    let sni = session.sni.as_ref().map(|name| format!("sni {name}"));
    let alpn = session.alpn.as_ref().map(|protocols| format!("alpn {protocols}"));
    let known: Vec<_> = [route, sni, alpn].into_iter().flatten().collect();
    if !known.is_empty() {
        text += &format!(" ({})", known.join(", "));
    }
    text
}

fn seconds(value: f64) -> String {
    short(Duration::try_from_secs_f64(value).unwrap_or_default())
}
