//! `/api/v1/pools/POOL/sticky`: which client comes back to which backend, and the end of that.

use std::net::IpAddr;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::AdminState;
use super::operate::{Who, parsed};
use super::pools::find_pool;
use super::refusal::Refusal;
use crate::pool::StickyView;

/// Clients in an answer, unless it says another number, and at most.
const USUAL: usize = 100;
const MOST: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StickyQuery {
    limit: Option<usize>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StickyBody {
    pub(crate) pool: String,
    #[serde(rename = "sticky")]
    pub(crate) is_sticky: bool,
    /// With those of backends that are gone.
    pub(crate) entries: usize,
    pub(crate) forgotten: u64,
    /// The one whose last session began last comes first.
    pub(crate) clients: Vec<StickyClientBody>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StickyClientBody {
    /// Its address, or its network.
    pub(crate) client: String,
    pub(crate) backend: String,
    pub(crate) unused_seconds: f64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForgetRequest {
    /// Without it: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ForgottenAnswer {
    pub(crate) forgotten: usize,
}

pub(super) async fn list(
    Shared(admin): Shared<AdminState>,
    Path(name): Path<String>,
    wanted: Result<Query<StickyQuery>, QueryRejection>,
) -> Result<Json<StickyBody>, Refusal> {
    let Query(StickyQuery { limit }) = wanted.map_err(|error| Refusal::bad(error.body_text(), ""))?;
    let pool = find_pool(&admin.view.state, &name)?;
    let limit = limit.unwrap_or(USUAL);
    if limit > MOST {
        return Err(Refusal::bad(format!("`limit` is more than {MOST}"), ""));
    }
    let _alone = admin.maker.turn().await;
    let table = pool.sticky(limit);
    let is_sticky = table.is_some();
    let StickyView { entries, forgotten, clients } = table.unwrap_or_default();
    let clients = clients.into_iter().map(|(client, backend, unused)| StickyClientBody {
        client: client.to_string(),
        backend: backend.to_string(),
        unused_seconds: unused.as_secs_f64(),
    });
    let (pool, clients) = (pool.name.to_string(), clients.collect());
    Ok(Json(StickyBody { pool, is_sticky, entries, forgotten, clients }))
}

/// Running sessions stay; the policy chooses for the next one.
pub(super) async fn forget(
    Shared(admin): Shared<AdminState>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ForgottenAnswer>, Refusal> {
    let pool = find_pool(&admin.view.state, &name)?;
    let ForgetRequest { client } = parsed(body)?;
    let address = |text: &String| {
        text.parse::<IpAddr>().map_err(|_| Refusal::bad("`client` must be an IP address", "write it without a port"))
    };
    let client = client.as_ref().map(address).transpose()?;
    let not_sticky = || Refusal::new(StatusCode::CONFLICT, format!("pool `{}` is not sticky", pool.name), "");
    let forgotten = pool.forget_sticky(client).ok_or_else(not_sticky)?;
    info!(pool = %pool.name, by = %who.0, forgotten, "clients are no longer tied to their backends");
    Ok(Json(ForgottenAnswer { forgotten }))
}
