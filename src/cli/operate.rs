//! `evenkeel drain`, `ready`, `disable`, `weight`, `probe` and `release`: what operators want of backends and pools.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use super::api::{BackendName, find_backend, find_pool};
use super::client::{AdminClient, escaped, known};
use super::table::{coloured, short, standing_word};
use super::{CommandError, complain, say, say_json};
use crate::admin::{BackendBody, ExplainedBody, OverrideBody, OverrideRequest, PoolBody};
use crate::config::{parse_duration, written_duration};
use crate::operator::ProbeSwitch;
use crate::standing::Operator;

/// Between two looks at how many sessions are left.
const LOOK: Duration = Duration::from_millis(200);

/// Between two lines of progress where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false, id = "whom")]
pub(super) struct Selection {
    /// ID, POOL/ID, or a beginning of it that no other backend has
    #[arg(group = "whom")]
    backend: Option<String>,
    /// The whole pool instead, and backends that come later
    #[arg(long, value_name = "POOL", group = "whom")]
    pool: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct LastingOptions {
    /// End the order after this time, such as 90s or 1h
    #[arg(long = "for", value_name = "TIME", conflicts_with = "until_restart")]
    time: Option<String>,
    /// End the order with the process, although there is a state_dir
    #[arg(long)]
    until_restart: bool,
    /// Why; shown with the order
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct TakeOut {
    #[command(flatten)]
    whom: Selection,
    #[command(flatten)]
    lasting: LastingOptions,
    /// Close running sessions, at the close_rate of the pool
    #[arg(long)]
    close: bool,
    /// Wait until the last session is gone
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this; exit status 4 if sessions are left
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(super) struct PutBack {
    #[command(flatten)]
    whom: Selection,
    /// Why; shown with the order
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Weight {
    /// ID, POOL/ID, or a beginning of it that no other backend has
    backend: String,
    /// 0 to 65535, 0 = no new sessions; or `default` = as discovery says
    #[arg(value_parser = weight_of)]
    weight: Given,
    #[command(flatten)]
    lasting: LastingOptions,
}

#[derive(Debug, clap::Args)]
pub(super) struct ProbeOptions {
    /// ID, POOL/ID, or a beginning of it that no other backend has
    backend: String,
    /// `pause`: no probes, and the last result holds; or `resume`
    #[arg(value_enum)]
    action: Action,
    #[command(flatten)]
    lasting: LastingOptions,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Action {
    Pause,
    Resume,
}

#[derive(Debug, clap::Args)]
pub(super) struct ReleaseOptions {
    /// The pool, or a beginning of its name that no other pool has
    pool: String,
    /// Why; shown in the log
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Given(Option<u16>);

fn weight_of(text: &str) -> Result<Given, String> {
    if text == "default" {
        return Ok(Given(None));
    }
    text.parse()
        .map(|weight| Given(Some(weight)))
        .map_err(|_| "it is a number from 0 to 65535, or `default`".to_owned())
}

/// Whom it is about, found.
enum Found {
    Pool(String),
    Backend(BackendName),
}

pub(super) async fn take_out(
    client: &AdminClient,
    word: Operator,
    options: &TakeOut,
    json: bool,
) -> Result<(), CommandError> {
    let found = find(client, &options.whom).await?;
    let wanted = OverrideRequest { operator: Some(word), ..options.lasting.request() };
    let answer = give(client, &found, &wanted).await?;
    if options.close {
        let closed = json!({ "filter": found.filter() });
        client.change(Method::POST, "/api/v1/sessions/close", &closed).await?;
    }
    if !options.wait {
        return show(&answer, &found, json);
    }
    let left = wait(client, &found, options.timeout).await?;
    let answer = client.get(&found.path()).await;
    match (answer, &found) {
        (Ok(answer), _) => show(&as_answer(answer, &found), &found, json)?,
        // It left the registry meanwhile and is forgotten: it has no sessions.
        (Err(CommandError::Unknown(_)), _) => {}
        (Err(failure), _) => return Err(failure),
    }
    match left {
        0 => Ok(()),
        left => Err(CommandError::TimedOut(format!("{left} sessions are left after {}", said(options.timeout)))),
    }
}

pub(super) async fn put_back(client: &AdminClient, options: &PutBack, json: bool) -> Result<(), CommandError> {
    let found = find(client, &options.whom).await?;
    let wanted =
        OverrideRequest { operator: Some(Operator::Ready), note: options.note.clone(), ..OverrideRequest::default() };
    let answer = give(client, &found, &wanted).await?;
    show(&answer, &found, json)
}

pub(super) async fn weight(client: &AdminClient, options: &Weight, json: bool) -> Result<(), CommandError> {
    let found = Found::Backend(find_backend(client, &options.backend).await?);
    let wanted = OverrideRequest { weight: Some(options.weight.0), ..options.lasting.request() };
    let answer = give(client, &found, &wanted).await?;
    show(&answer, &found, json)
}

pub(super) async fn probe(client: &AdminClient, options: &ProbeOptions, json: bool) -> Result<(), CommandError> {
    let found = Found::Backend(find_backend(client, &options.backend).await?);
    let switch = match options.action {
        Action::Pause => ProbeSwitch::Paused,
        Action::Resume => ProbeSwitch::Running,
    };
    let wanted = OverrideRequest { probe: Some(switch), ..options.lasting.request() };
    let answer = give(client, &found, &wanted).await?;
    show(&answer, &found, json)
}

pub(super) async fn release(client: &AdminClient, options: &ReleaseOptions, json: bool) -> Result<(), CommandError> {
    let found = Found::Pool(find_pool(client, &options.pool).await?);
    let body = options.note.as_ref().map_or_else(|| json!({}), |note| json!({ "note": note }));
    let answer = client.change(Method::POST, &format!("{}/release", found.path()), &body).await?;
    if !json && answer.get("released") == Some(&json!(0)) {
        return Ok(say("no backend was held: what discovery says holds already\n")?);
    }
    show(&answer, &found, json)
}

impl LastingOptions {
    fn request(&self) -> OverrideRequest {
        OverrideRequest {
            time: self.time.clone(),
            until_restart: self.until_restart.then_some(true),
            note: self.note.clone(),
            ..OverrideRequest::default()
        }
    }
}

impl Found {
    /// Its sessions.
    fn filter(&self) -> Value {
        match self {
            Self::Pool(pool) => json!({ "pool": pool }),
            Self::Backend(named) => json!({ "pool": named.pool, "backend": named.id }),
        }
    }

    fn path(&self) -> String {
        match self {
            Self::Pool(pool) => format!("/api/v1/pools/{}", escaped(pool)),
            Self::Backend(named) => named.path(),
        }
    }
}

async fn find(client: &AdminClient, whom: &Selection) -> Result<Found, CommandError> {
    match (&whom.backend, &whom.pool) {
        (Some(backend), _) => Ok(Found::Backend(find_backend(client, backend).await?)),
        (None, Some(pool)) => Ok(Found::Pool(find_pool(client, pool).await?)),
        (None, None) => Err(CommandError::Config("name a backend, or a pool with --pool".to_owned())),
    }
}

async fn give(client: &AdminClient, found: &Found, wanted: &OverrideRequest) -> Result<Value, CommandError> {
    let answer = client.change(Method::PATCH, &found.path(), &json!(wanted)).await?;
    if let Some(warning) = answer.get("warning").and_then(Value::as_str) {
        complain(format!("warning: {warning}"));
    }
    Ok(answer)
}

fn as_answer(body: Value, found: &Found) -> Value {
    match found {
        Found::Pool(_) => json!({ "pool": body, "warning": null }),
        Found::Backend(_) => json!({ "backend": body, "warning": null }),
    }
}

fn show(answer: &Value, found: &Found, json: bool) -> Result<(), CommandError> {
    if json {
        return say_json(answer);
    }
    let ink = coloured();
    let mut text = String::new();
    match found {
        Found::Backend(named) => {
            let ExplainedBody { backend, .. } = known(answer.get("backend").cloned().unwrap_or_default())?;
            text += &line(&named.pool, &backend, ink);
        }
        Found::Pool(_) => {
            let mut pool: PoolBody = known(answer.get("pool").cloned().unwrap_or_default())?;
            pool.backends.sort_by(|a, b| a.id.cmp(&b.id));
            for backend in &pool.backends {
                text += &line(&pool.name, backend, ink);
            }
        }
    }
    Ok(say(&text)?)
}

fn line(pool: &str, backend: &BackendBody, ink: bool) -> String {
    let BackendBody { id, standing, weight, sessions, reason, .. } = backend;
    let word = standing_word(standing, ink);
    let weight = match &backend.operator_weight {
        Some(order) => format!("weight {weight} ({})", until(order)),
        None => format!("weight {weight}"),
    };
    format!("{pool}/{id}: {word}, {weight}, {sessions} sessions: {reason}\n")
}

fn until(order: &OverrideBody<u16>) -> String {
    match &order.until {
        Some(until) => format!("until {until}"),
        None if order.survives_restart => "until it is taken back".to_owned(),
        None => "until a restart".to_owned(),
    }
}

/// Waits until the last session is gone. Returns how many are left when the time is over.
async fn wait(client: &AdminClient, found: &Found, timeout: Option<Duration>) -> Result<usize, CommandError> {
    let began = Instant::now();
    let terminal = io::stderr().is_terminal();
    let mut said_at: Option<Instant> = None;
    loop {
        let left = match left(client, found).await {
            // Forgotten: it left the registry, and has no sessions.
            Err(CommandError::Unknown(_)) => 0,
            left => left?,
        };
        let over = timeout.is_some_and(|timeout| began.elapsed() >= timeout);
        if terminal || said_at.is_none_or(|at| at.elapsed() >= LINE) || left == 0 || over {
            said_at = Some(Instant::now());
            let (begin, end) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
            let text = format!("{begin}{left} sessions left, {}{end}", short(began.elapsed()));
            let mut stderr = io::stderr().lock();
            // Progress that can't be shown is not needed.
            let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
        }
        if left == 0 || over {
            if terminal {
                let _ = writeln!(io::stderr());
            }
            return Ok(left);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn left(client: &AdminClient, found: &Found) -> Result<usize, CommandError> {
    let (standing, sessions, who) = match found {
        Found::Backend(named) => {
            let ExplainedBody { backend, .. } = client.read(&named.path()).await?;
            (backend.standing, backend.sessions as usize, named.to_string())
        }
        Found::Pool(pool) => {
            let pool: PoolBody = client.read(&format!("/api/v1/pools/{}", escaped(pool))).await?;
            let back = pool.backends.iter().find(|backend| backend.standing == "up" && backend.weight > 0);
            (back.map_or("draining", |_| "up").into(), pool.sessions, pool.name)
        }
    };
    if standing == "up" {
        let error = format!("somebody made {who} ready again: waiting makes no sense");
        return Err(CommandError::Runtime(anyhow::anyhow!("{error}")));
    }
    Ok(sessions)
}

fn said(timeout: Option<Duration>) -> String {
    written_duration(timeout.unwrap_or_default())
}
