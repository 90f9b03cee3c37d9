//! `evenkeel plan`: what a file would change in the running process, key by key, and what becomes of live sessions. Asks
//! the process what it runs and changes nothing there; the file is read here, with the variables of this shell.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use super::addresses::{foreign, written};
use super::client::AdminClient;
use super::{CommandError, rerouted, say, say_json};
use crate::balance::LastResort;
use crate::balancer::{StartError, permit};
use crate::clean;
use crate::config::{self, ClosePolicy, Config, Diff, Difference, Host, KeyChange, NamedDifference, Pool, Source};
use crate::server;
use crate::standing::{Standing, Surroundings};

/// What would happen.
#[derive(Serialize)]
struct Plan {
    /// Outside of listeners and pools.
    process: Vec<KeyChange>,
    listeners: Vec<Item>,
    pools: Vec<Item>,
    /// Places that take a restart; all else comes into effect.
    needs_restart: Vec<String>,
    /// Secrets are masked by the balancer: whether these are other ones can't be told.
    not_compared: Vec<String>,
    /// Of all live sessions.
    sessions: Sessions,
}

/// A listener or pool that would come, change or go.
#[derive(Serialize)]
struct Item {
    #[serde(flatten)]
    named: NamedDifference,
    sessions: Sessions,
    /// Of a listener whose routes change: live sessions that would go to another pool, or be refused, if they came now. They
    /// stay where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    elsewhere: Option<u64>,
    /// What else is to be known.
    notes: Vec<String>,
}

/// Live sessions by what becomes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Sessions {
    /// They do not notice.
    kept: u64,
    /// They may finish, within `reload.drain_timeout` or a policy of the pool.
    drained: u64,
    /// They are closed, at the pace of the pool.
    closed: u64,
}

/// How to say it.
#[derive(Debug, clap::Args)]
pub(super) struct PlanOptions {
    /// Exit with status 5 if something would change
    #[arg(long)]
    exit_code: bool,
}

pub(super) async fn plan(
    client: &AdminClient,
    path: &Path,
    allow_exec: bool,
    options: &PlanOptions,
    json: bool,
) -> Result<(), CommandError> {
    let config = load(path)?;
    permit(&config, allow_exec)?;
    server::max_connections(&config)?;
    server::lists_ready(&config).map_err(|error| StartError::from(server::ServerStartError::from(error)))?;
    let plan = make(client, &config).await?;
    let differs = !plan.process.is_empty() || !plan.listeners.is_empty() || !plan.pools.is_empty();
    if json {
        say_json(&serde_json::to_value(&plan).context("the plan can't be written")?)?;
    } else {
        say(&clean::lines(&table(&plan, differs)))?;
    }
    if differs && options.exit_code { Err(CommandError::Differs) } else { Ok(()) }
}

/// A file of another user gets nothing of our environment; see `addresses`.
fn load(path: &Path) -> Result<Config, CommandError> {
    let written = match written(path) {
        Ok(written) if !written.is_trusted => written,
        Ok(written) if !written.is_lossy => return Ok(config::parse_file(path, &written.text)?),
        // It can't be read, or is no text: in the words of `run` and `check`.
        _ => return Ok(config::load(path)?),
    };
    let parsed = config::parse(&written.text, &path.display().to_string(), &|_| None);
    parsed.map_err(|error| match CommandError::from(error) {
        CommandError::Config(text) => CommandError::Config(format!("{text}\n{}", foreign(path))),
        other => other,
    })
}

async fn make(client: &AdminClient, config: &Config) -> Result<Plan, CommandError> {
    let running = client.get("/api/v1/config").await?;
    let (listeners_now, pools) = (client.get("/api/v1/listeners").await?, client.get("/api/v1/pools").await?);
    let new = config.effective();
    let diff = Diff::between(&running["config"], &new);
    let (needs_restart, not_compared) = (diff.needs_restart(), diff.not_compared.clone());
    let listeners_live = |name: &str| live(&listeners_now["listeners"], name);
    let gone: Vec<String> =
        diff.pools.iter().filter(|pool| pool.what == Difference::Removed).map(|pool| pool.name.clone()).collect();
    let mut listeners = Vec::new();
    for named in diff.listeners {
        let all = listeners_live(&named.name);
        let mut elsewhere = None;
        let (sessions, mut notes) = match &named.what {
            Difference::Removed => drained(all, config),
            // One that is new may be one that has not yet left.
            Difference::Added | Difference::Changed(_) => {
                (Sessions { kept: all, ..Sessions::default() }, moved(&named))
            }
        };
        let written = config.listeners.iter().find(|listener| listener.name == named.name);
        if let Some(listener) = written.filter(|_| all > 0 && reroutes(&named)) {
            let moved = rerouted::ask(client, listener).await?;
            elsewhere = Some(moved.elsewhere());
            notes.extend(moved.notes());
        }
        listeners.push(Item { named, sessions, elsewhere, notes });
    }
    let items = diff.pools.into_iter().map(|named| {
        let all = live(&pools["pools"], &named.name);
        let (sessions, notes) = match &named.what {
            Difference::Removed => drained(all, config),
            // One that is new may be one that has not yet left.
            Difference::Added | Difference::Changed(_) => changed(&named, find(&pools["pools"], &named.name), config),
        };
        Item { named, sessions, elsewhere: None, notes }
    });
    let pools_planned: Vec<_> = items.collect();
    let mut sessions = Sessions { kept: total(&pools["pools"]), ..Sessions::default() };
    // A session has a pool for all of its life but its first moments: it is counted there, once.
    for item in &pools_planned {
        sessions.kept = sessions.kept.saturating_sub(item.sessions.drained + item.sessions.closed);
        sessions.drained += item.sessions.drained;
        sessions.closed += item.sessions.closed;
    }
    for item in &listeners {
        // Those of pools that go are counted there.
        let its = find(&listeners_now["listeners"], &item.named.name);
        let pools: Vec<&Value> = its.map_or_else(Vec::new, |listener| array(&listener["pools"]).iter().collect());
        let counted = match pools[..] {
            [pool] if gone.iter().any(|name| pool == name) => item.sessions.drained,
            _ if item.sessions.drained > 0 && pools.iter().any(|pool| gone.iter().any(|name| *pool == name)) => {
                rerouted::in_pools(client, &item.named.name, &gone).await?
            }
            _ => 0,
        };
        let more = item.sessions.drained.saturating_sub(counted).min(sessions.kept);
        sessions.kept -= more;
        sessions.drained += more;
    }
    Ok(Plan { process: diff.process, listeners, pools: pools_planned, needs_restart, not_compared, sessions })
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn find<'a>(all: &'a Value, name: &str) -> Option<&'a Value> {
    all.as_array()?.iter().find(|one| one["name"] == name)
}

fn live(all: &Value, name: &str) -> u64 {
    find(all, name).and_then(|one| one["sessions"].as_u64()).unwrap_or(0)
}

fn total(all: &Value) -> u64 {
    all.as_array().into_iter().flatten().filter_map(|one| one["sessions"].as_u64()).sum()
}

fn drained(all: u64, config: &Config) -> (Sessions, Vec<String>) {
    let note = match config.reload.drain_timeout {
        None => "its sessions go on until they end by themselves".to_owned(),
        Some(limit) => format!("its sessions have {limit:?} to finish, then they are closed"),
    };
    (Sessions { drained: all, ..Sessions::default() }, vec![note])
}

/// Whether new sessions may go to other pools.
fn reroutes(named: &NamedDifference) -> bool {
    named.changes("pool") || named.changes("routes")
}

fn moved(named: &NamedDifference) -> Vec<String> {
    let mut notes = Vec::new();
    if reroutes(named) {
        notes.push("sessions stay in the pool that they are in".to_owned());
    }
    if named.changes("bind") {
        notes.push("clients that wait at an address that it leaves are served first".to_owned());
    }
    notes
}

fn changed(named: &NamedDifference, running: Option<&Value>, config: &Config) -> (Sessions, Vec<String>) {
    let all = running.and_then(|pool| pool["sessions"].as_u64()).unwrap_or(0);
    let (mut sessions, mut notes) = (Sessions { kept: all, ..Sessions::default() }, Vec::new());
    let Some(pool) = config.pool(&named.name) else { return (sessions, notes) };
    let Some(running) = running else { return (sessions, notes) };
    let is_open = will_be_open(pool, running);
    for backend in array(&running["backends"]) {
        let id = backend["id"].as_str().unwrap_or_default();
        let mut its = backend["sessions"].as_u64().unwrap_or(0);
        let mut places = Vec::new();
        for place in array(&backend["elsewhere"]) {
            let there = place["sessions"].as_u64().unwrap_or(0).min(its);
            its -= there;
            places.push((format!("{id} at {}", place["address"].as_str().unwrap_or_default()), place, there));
        }
        places.push((id.to_owned(), backend, its));
        for (place, said, its) in places {
            match policy(pool, id, backend, said, is_open) {
                Some(ClosePolicy::Drain(time)) if its > 0 => {
                    notes.push(format!("{place} has {its} sessions: they get {time:?}, then they are closed"));
                    sessions.drained += its;
                }
                Some(ClosePolicy::Close) if its > 0 => {
                    notes.push(format!("{place} has {its} sessions: they are closed"));
                    sessions.closed += its;
                }
                Some(ClosePolicy::Keep) if its > 0 => {
                    notes.push(format!("{place} gets no new sessions; the {its} that it has go on"))
                }
                _ => {}
            }
        }
    }
    sessions.kept = sessions.kept.saturating_sub(sessions.drained + sessions.closed);
    if ["consul", "etcd", "file", "dns", "http"].iter().any(|key| named.changes(key)) {
        notes.push("which backends leave follows from what the new source then says: see on_removed".to_owned());
    }
    if named.changes("on_removed") && pool.closing.on_removed != ClosePolicy::Keep {
        notes.push("sessions at addresses that their backends have left go by it, too".to_owned());
    }
    if named.changes("check") {
        notes.push("backends keep their standing until the new check has said otherwise in a row".to_owned());
    }
    if named.changes("rebalance") && pool.rebalance.is_some() {
        notes
            .push("sessions over the part of their backend may be closed: see evenkeel rebalance --dry-run".to_owned());
    }
    if named.changes("timeouts") || named.changes("max_lifetime") {
        notes.push("running sessions go by the new times: those that are over end".to_owned());
    }
    (sessions, notes)
}

/// Whether sessions may then try backends that are not up.
fn will_be_open(pool: &Pool, running: &Value) -> bool {
    let serves = |backend: &&Value| backend["effective_weight"].as_f64().is_some_and(|weight| weight > 0.0);
    let standings: Vec<_> = array(&running["backends"]).iter().filter(serves).filter_map(standing).collect();
    let count = |is: fn(&Standing) -> bool| standings.iter().filter(|standing| is(standing)).count();
    let (up, rest) = (count(|standing| *standing == Standing::Up), count(|standing| standing.is_last_resort()));
    let unproven = count(|standing| *standing == Standing::Unproven);
    let last_resort = LastResort::of(pool);
    last_resort.fails_open(up, rest) || last_resort.panics(up, up + rest - unproven)
}

fn standing(of: &Value) -> Option<Standing> {
    Standing::ALL.into_iter().find(|standing| of["standing"] == standing.name())
}

/// What becomes of a backend's sessions, where its standing is the one that is `said`; `None` = nothing speaks against it.
fn policy(pool: &Pool, id: &str, backend: &Value, said: &Value, is_open: bool) -> Option<ClosePolicy> {
    let standing = standing(said)?;
    let written = match &pool.source {
        Source::Static(backends) => Some(backends.iter().find(|backend| backend.id == id)),
        Source::Consul(_) | Source::Etcd(_) | Source::File(_) | Source::Dns(_) | Source::Http(_) => None,
    };
    // What an operator said of it counts more than that it is not in the file any more.
    let standing = match written {
        Some(None) if backend["facts"]["operator"] == "ready" => Standing::Removed,
        // It comes back.
        Some(Some(_)) if standing == Standing::Removed => Standing::Unproven,
        _ => standing,
    };
    // Where a name leads is found out when it is looked up.
    let moves = written.flatten().is_some_and(|written| {
        !matches!(written.address.host, Host::Name(_)) && backend["address"] != written.address.to_string()
    });
    if moves && pool.closing.on_removed != ClosePolicy::Keep {
        return Some(pool.closing.on_removed);
    }
    let around = Surroundings { is_open, is_relieved: backend["relieved"] == true };
    standing.fate(around, &pool.closing).map(|(_, policy)| policy)
}

fn table(plan: &Plan, differs: bool) -> String {
    let unseen = match &plan.not_compared[..] {
        [] => String::new(),
        keys => format!("secrets are not shown, and so not compared: {}\n", keys.join(", ")),
    };
    if !differs && unseen.is_empty() {
        return "nothing would change\n".to_owned();
    }
    if !differs {
        return format!("nothing would change that can be seen\n{unseen}");
    }
    let mut text = String::new();
    let keys = |text: &mut String, changes: &[KeyChange]| {
        for change in changes {
            let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
            let restart = if change.needs_restart { "  (takes a restart)" } else { "" };
            // Writing to a string can't fail.
            let _ = writeln!(text, "    {}: {} -> {}{restart}", change.key, word(&change.old), word(&change.new));
        }
    };
    if !plan.process.is_empty() {
        text += "~ process\n";
        keys(&mut text, &plan.process);
    }
    for (kind, items) in [("listener", &plan.listeners), ("pool", &plan.pools)] {
        for Item { named, sessions, notes, .. } in items {
            let Sessions { kept, drained, closed } = sessions;
            let sign = match named.what {
                Difference::Added => "+",
                Difference::Changed(_) => "~",
                Difference::Removed => "-",
            };
            let counts = format!("sessions: {kept} kept, {drained} drained, {closed} closed");
            let _ = writeln!(text, "{sign} {kind} {}  {counts}", named.name);
            if let Difference::Changed(changes) = &named.what {
                keys(&mut text, changes);
            }
            for note in notes {
                let _ = writeln!(text, "    ({note})");
            }
        }
    }
    if !plan.needs_restart.is_empty() {
        let _ = writeln!(text, "takes a restart, the rest comes into effect: {}", plan.needs_restart.join(", "));
    }
    text += &unseen;
    let Sessions { kept, drained, closed } = plan.sessions;
    let _ = writeln!(text, "all live sessions: {kept} kept, {drained} drained, {closed} closed");
    text
}
