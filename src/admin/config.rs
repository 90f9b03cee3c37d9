//! `/api/v1/config`: what is in effect, secrets masked, and what became of the last reload. `/api/v1/listeners`: where
//! clients come in, those that are leaving too.

use std::collections::BTreeMap;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use crate::config::masked;
use crate::server::{ReloadResult, ReloadView, State};

#[derive(Serialize)]
struct Answer {
    version: &'static str,
    generation: u64,
    hash: String,
    applied_at: String,
    /// How often a reload came to what.
    reloads: BTreeMap<&'static str, u64>,
    last_reload: Option<LastBody>,
    needs_restart: Vec<String>,
    config: Value,
}

#[derive(Serialize)]
struct LastBody {
    at: String,
    result: &'static str,
    error: Option<String>,
}

pub(super) fn answer(state: &State) -> Response {
    let view = state.reloads.view();
    let reloads = ReloadResult::ALL.into_iter().map(|result| (result.name(), view.count(result))).collect();
    let ReloadView { generation, hash, applied_at, needs_restart, last, .. } = view;
    Json(Answer {
        version: env!("CARGO_PKG_VERSION"),
        generation,
        hash: format!("{hash:016x}"),
        applied_at: super::pools::time(applied_at),
        reloads,
        last_reload: last.map(|(at, result, error)| LastBody {
            at: super::pools::time(at),
            result: result.name(),
            error,
        }),
        needs_restart,
        config: masked(state.set().config.effective()),
    })
    .into_response()
}

#[derive(Serialize)]
struct Listeners {
    listeners: Vec<ListenerBody>,
}

#[derive(Serialize)]
struct ListenerBody {
    name: String,
    addresses: Vec<String>,
    pool: String,
    sessions: usize,
    max_connections: Option<usize>,
    at_limit: bool,
    /// Not in the configuration any more: it waits for its last session.
    leaving: bool,
}

pub(super) fn listeners(state: &State) -> Response {
    let set = state.set();
    let bodies = set.listeners.iter().map(|listener| {
        let settings = listener.settings();
        ListenerBody {
            name: listener.name.to_string(),
            addresses: listener.addresses().iter().map(ToString::to_string).collect(),
            pool: settings.pool.name.to_string(),
            sessions: listener.sessions(),
            max_connections: settings.file.max_connections,
            at_limit: listener.is_at_limit(),
            leaving: !set.listener_stays(listener),
        }
    });
    Json(Listeners { listeners: bodies.collect() }).into_response()
}
