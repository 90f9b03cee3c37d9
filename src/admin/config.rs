//! `/api/v1/config`: what is in effect, secrets masked, and what became of the last reload.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State as Shared;
use serde::Serialize;
use serde_json::Value;

use super::Desk;
use super::bodies::time;
use crate::config::masked;
use crate::server::{ReloadResult, ReloadView};

#[derive(Serialize)]
pub(super) struct ConfigBody {
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

pub(super) async fn config(Shared(desk): Shared<Desk>) -> Json<ConfigBody> {
    let state = &desk.view.state;
    let view = state.reloads.view();
    let reloads = ReloadResult::ALL.into_iter().map(|result| (result.name(), view.count(result))).collect();
    let ReloadView { generation, hash, applied_at, needs_restart, last, .. } = view;
    Json(ConfigBody {
        version: env!("CARGO_PKG_VERSION"),
        generation,
        hash: format!("{hash:016x}"),
        applied_at: time(applied_at),
        reloads,
        last_reload: last.map(|(at, result, error)| LastBody { at: time(at), result: result.name(), error }),
        needs_restart,
        config: masked(state.set().config.effective()),
    })
}
