//! `/api/v1/config`: what is in effect, secrets masked, and what became of the last reload; and the wish for another one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;
use tracing::info;

use super::AdminState;
use super::bodies::time;
use super::operate::{Who, parsed};
use super::refusal::Refusal;
use crate::config::masked;
use crate::server::{ReloadResult, ReloadView};

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ConfigBody {
    #[serde(default)]
    pub(crate) version: Cow<'static, str>,
    pub(crate) generation: u64,
    #[serde(default)]
    pub(crate) hash: String,
    #[serde(default)]
    pub(crate) applied_at: String,
    /// How often a reload came to what.
    #[serde(default)]
    pub(crate) reloads: BTreeMap<Cow<'static, str>, u64>,
    pub(crate) last_reload: Option<LastBody>,
    pub(crate) needs_restart: Vec<String>,
    #[serde(default)]
    pub(crate) config: Value,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LastBody {
    #[serde(default)]
    pub(crate) at: String,
    pub(crate) result: Cow<'static, str>,
    pub(crate) error: Option<String>,
    /// What it changed, a line each; nothing of an older balancer.
    #[serde(default)]
    pub(crate) changes: Vec<String>,
}

/// There is nothing to say besides: the file is the one that the process was started with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadRequest {}

/// Has the file read again, and answers when what it says is applied or refused.
pub(super) async fn reload(
    Shared(admin): Shared<AdminState>,
    Extension(who): Extension<Who>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ConfigBody>, Refusal> {
    let ReloadRequest {} = parsed(body)?;
    let error =
        || Refusal::new(StatusCode::CONFLICT, "this balancer was not started from a file: there is none to read", "");
    let reload = admin.view.reload.clone().ok_or_else(error)?;
    info!(by = %who.0, "asked to read the file");
    let (done, heard) = oneshot::channel();
    let stopping = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the balancer is stopping", "");
    reload.send(done).await.map_err(|_| stopping())?;
    heard.await.map_err(|_| stopping())?;
    Ok(config(Shared(admin)).await)
}

pub(super) async fn config(Shared(admin): Shared<AdminState>) -> Json<ConfigBody> {
    let state = &admin.view.state;
    let view = state.reloads.view();
    let reloads = ReloadResult::ALL.into_iter().map(|result| (result.name().into(), view.count(result))).collect();
    let ReloadView { generation, hash, applied_at, needs_restart, changes, last, .. } = view;
    Json(ConfigBody {
        version: env!("CARGO_PKG_VERSION").into(),
        generation,
        hash: format!("{hash:016x}"),
        applied_at: time(applied_at),
        reloads,
        last_reload: last.map(|(at, result, error)| LastBody {
            at: time(at),
            result: result.name().into(),
            error,
            changes,
        }),
        needs_restart,
        config: masked(state.set().config.effective()),
    })
}
