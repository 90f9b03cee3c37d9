//! `/api/v1/pools`, one pool, one backend.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{Path, Query, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::AdminState;
use super::bodies::{BackendBody, PoolBody, backend_body, pool_body, time};
use super::explain::{self, Said};
use super::refusal::Refusal;
use super::slots::ConnectionSlot;
use crate::pool::{Backend, Pool};
use crate::server::ServerState;

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PoolsBody {
    pub(crate) pools: Vec<PoolBody>,
}

/// A backend, and everything that explains it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ExplainedBody {
    pub(crate) pool: String,
    #[serde(flatten)]
    pub(crate) backend: BackendBody,
    pub(crate) explanation: Vec<Said>,
    pub(crate) history: Vec<ChangeBody>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ChangeBody {
    pub(crate) at: String,
    pub(crate) from: Option<Cow<'static, str>>,
    pub(crate) to: Cow<'static, str>,
    pub(crate) reason: String,
}

#[derive(Deserialize)]
pub(super) struct PoolsQuery {
    /// With histograms.
    #[serde(default)]
    times: bool,
}

pub(super) async fn all(
    Shared(admin): Shared<AdminState>,
    Extension(slot): Extension<Arc<ConnectionSlot>>,
    wanted: Result<Query<PoolsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::bad(error.body_text(), ""))?;
    let set = admin.view.state.set();
    let make = move || {
        let pools = set.pools.iter().map(|pool| pool_body(&set, pool, wanted.times)).collect();
        Json(PoolsBody { pools }).into_response()
    };
    admin.maker.make(&slot, make).await
}

pub(super) async fn one(
    Shared(admin): Shared<AdminState>,
    Path(pool): Path<String>,
) -> Result<Json<PoolBody>, Refusal> {
    let pool = find_pool(&admin.view.state, &pool)?;
    let _alone = admin.maker.turn().await;
    Ok(Json(pool_body(&admin.view.state.set(), &pool, true)))
}

pub(super) async fn backend(
    Shared(admin): Shared<AdminState>,
    Path((pool, id)): Path<(String, String)>,
) -> Result<Json<ExplainedBody>, Refusal> {
    let pool = find_pool(&admin.view.state, &pool)?;
    let backend = find_backend(&pool, &id)?;
    Ok(Json(explained_body(&pool, &backend)))
}

pub(super) fn explained_body(pool: &Pool, backend: &Backend) -> ExplainedBody {
    let history = backend.history.read().into_iter().map(|change| ChangeBody {
        at: time(change.at),
        from: change.from.map(|from| from.name().into()),
        to: change.to.name().into(),
        reason: change.reason.to_string(),
    });
    ExplainedBody {
        pool: pool.name.to_string(),
        backend: backend_body(pool, backend, &pool.overrides.current(), true),
        explanation: explain::explain(pool, backend),
        history: history.collect(),
    }
}

pub(super) fn find_pool(state: &ServerState, name: &str) -> Result<Arc<Pool>, Refusal> {
    let found = state.set().pools.iter().find(|pool| *pool.name == *name).map(Arc::clone);
    found.ok_or_else(|| Refusal::not_found(format!("there is no pool `{}`", name.escape_debug())))
}

pub(super) fn find_backend(pool: &Pool, id: &str) -> Result<Arc<Backend>, Refusal> {
    let found = pool.members().iter().find(|backend| *backend.id == *id).map(Arc::clone);
    found.ok_or_else(|| {
        Refusal::not_found(format!("there is no backend `{}` in pool `{}`", id.escape_debug(), pool.name))
    })
}
