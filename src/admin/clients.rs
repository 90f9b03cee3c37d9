//! `/api/v1/clients`: the clients of listeners with `per_client`, those first that were over a limit most often.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::AdminState;
use super::refusal::Refusal;
use super::slots::ConnectionSlot;
use crate::config::{ClientPrefix, Network};
use crate::route::ClientView;
use crate::server::ServerState;

/// Clients in an answer, unless it says another number, and at most.
const USUAL: usize = 20;
const MOST: usize = 10_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ClientsQuery {
    listener: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ClientsBody {
    pub(crate) clients: Vec<ClientBody>,
    /// That are known, also those beyond the limit.
    pub(crate) known: usize,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ClientBody {
    pub(crate) listener: String,
    /// Its address, or its network where that is one client.
    pub(crate) client: String,
    pub(crate) sessions: u32,
    /// Sessions that wait for a limit, besides.
    pub(crate) waiting: u16,
    /// How often it was over `max_connections`, since it is known.
    pub(crate) over_max_connections: u32,
    /// How often it was over `rate`.
    pub(crate) over_rate: u32,
}

pub(super) async fn list(
    Shared(admin): Shared<AdminState>,
    Extension(slot): Extension<Arc<ConnectionSlot>>,
    wanted: Result<Query<ClientsQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::bad(error.body_text(), ""))?;
    let limit = wanted.limit.unwrap_or(USUAL);
    if limit > MOST {
        return Err(Refusal::bad(format!("`limit` is more than {MOST}"), "ask for fewer"));
    }
    let state = Arc::clone(&admin.view.state);
    if let Some(name) = wanted.listener.as_deref().filter(|name| !has_listener(&state, name)) {
        return Err(Refusal::not_found(format!("there is no listener `{}`", name.escape_debug())));
    }
    admin.maker.make(&slot, move || Json(listed(&state, wanted.listener.as_deref(), limit)).into_response()).await
}

fn has_listener(state: &ServerState, name: &str) -> bool {
    state.set().listeners.iter().any(|listener| *listener.name == *name)
}

fn listed(state: &ServerState, only: Option<&str>, limit: usize) -> ClientsBody {
    let (mut all, mut known) = (Vec::new(), 0);
    for listener in state.set().listeners.iter().filter(|listener| only.is_none_or(|only| *listener.name == *only)) {
        let Some(clients) = listener.settings().clients.clone() else { continue };
        let (worst, count) = clients.worst(limit);
        known += count;
        all.extend(worst.into_iter().map(|view| (view, Arc::clone(&listener.name), clients.prefix())));
    }
    all.sort_by_key(|(view, ..)| std::cmp::Reverse((view.over(), view.sessions)));
    let clients = all.into_iter().take(limit).map(|(view, listener, prefix)| body(&view, &listener, prefix)).collect();
    ClientsBody { clients, known }
}

fn body(view: &ClientView, listener: &str, prefix: ClientPrefix) -> ClientBody {
    let address = view.address;
    let (prefix, whole) = if address.is_ipv4() { (prefix.v4, 32) } else { (prefix.v6, 128) };
    ClientBody {
        listener: listener.to_owned(),
        client: if prefix == whole { IpAddr::to_string(&address) } else { Network { address, prefix }.to_string() },
        sessions: view.sessions,
        waiting: view.waiting,
        over_max_connections: view.over_sessions,
        over_rate: view.over_rate,
    }
}
