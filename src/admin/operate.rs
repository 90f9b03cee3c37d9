//! What operators change: whether a backend or a whole pool serves, and a backend's share.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Deserializer, Serialize};

use super::AdminState;
use super::bodies::{PoolBody, pool_body};
use super::pools::{ExplainedBody, explained_body, find_backend, find_pool};
use super::refusal::Refusal;
use crate::config::parse_duration;
use crate::operator::{Lasting, Override, ProbeSwitch, Wanted};
use crate::pool::{OverrideError, Pool};
use crate::standing::Operator;

/// For an order; what is shorter is over before it is seen.
const SHORTEST: Duration = Duration::from_secs(1);

/// Characters of a note.
const LONGEST_NOTE: usize = 200;

/// On whose behalf a request is.
#[derive(Clone)]
pub(super) struct Who(pub(super) Arc<str>);

/// What is wanted of a pool or a backend.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OverrideRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operator: Option<Operator>,
    /// `null` = as discovery says.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<Option<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probe: Option<ProbeSwitch>,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub(crate) time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until_restart: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseRequest {
    note: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PoolAnswer {
    pub(crate) pool: PoolBody,
    pub(crate) warning: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ReleasedAnswer {
    pub(crate) pool: PoolBody,
    /// Backends that were held.
    pub(crate) released: usize,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct BackendAnswer {
    pub(crate) backend: ExplainedBody,
    pub(crate) warning: Option<String>,
}

pub(super) async fn pool(
    Shared(admin): Shared<AdminState>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<PoolAnswer>, Refusal> {
    let pool = find_pool(&admin.view.state, &name)?;
    let change: OverrideRequest = parsed(body)?;
    if change.weight.is_some() {
        return Err(Refusal::bad("`weight` is a backend's, not a pool's", "ask /api/v1/backends/POOL/ID"));
    }
    if change.probe.is_some() {
        return Err(Refusal::bad("`probe` is of a backend, not of a pool", "ask /api/v1/backends/POOL/ID"));
    }
    let operator = change.operator.ok_or_else(nothing_to_do)?;
    give(&pool, given(&admin, &who, &change, Wanted::Pool(operator))?).await?;
    let warning = saved(&admin).await;
    let _alone = admin.maker.turn().await;
    Ok(Json(PoolAnswer { pool: pool_body(&admin.view.state.set(), &pool, false), warning }))
}

/// What discovery said last of the pool holds at once.
pub(super) async fn release(
    Shared(admin): Shared<AdminState>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ReleasedAnswer>, Refusal> {
    let pool = find_pool(&admin.view.state, &name)?;
    let ReleaseRequest { note } = parsed(body)?;
    let (by, note) = (Arc::clone(&who.0), checked(note.as_deref())?);
    let given = Override { value: Wanted::Release, by, note, at: SystemTime::now(), lasting: Lasting::Kept };
    let released = give(&pool, given).await?;
    let _alone = admin.maker.turn().await;
    Ok(Json(ReleasedAnswer { pool: pool_body(&admin.view.state.set(), &pool, false), released }))
}

pub(super) async fn backend(
    Shared(admin): Shared<AdminState>,
    Extension(who): Extension<Who>,
    Path((name, id)): Path<(String, String)>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<BackendAnswer>, Refusal> {
    let pool = find_pool(&admin.view.state, &name)?;
    let backend = find_backend(&pool, &id)?;
    let change: OverrideRequest = parsed(body)?;
    let id = || Arc::clone(&backend.id);
    let wanted = [
        change.operator.map(|operator| Wanted::Backend(id(), operator)),
        change.weight.map(|weight| Wanted::Weight(id(), weight)),
        change.probe.map(|probe| Wanted::Probe(id(), probe)),
    ];
    let all = wanted.into_iter().flatten().map(|wanted| given(&admin, &who, &change, wanted));
    // All of them are understood before the first is obeyed.
    let all = all.collect::<Result<Vec<_>, _>>()?;
    if all.is_empty() {
        return Err(nothing_to_do());
    }
    for given in all {
        give(&pool, given).await?;
    }
    let warning = saved(&admin).await;
    Ok(Json(BackendAnswer { backend: explained_body(&pool, &backend), warning }))
}

fn nothing_to_do() -> Refusal {
    let hint = "write `operator` (\"ready\", \"drain\", \"disabled\"), or a backend's `weight` or `probe` (\"paused\", \"running\")";
    Refusal::bad("nothing to change", hint)
}

/// A body that can be read, whatever is wrong with it.
pub(super) fn parsed<T: for<'a> Deserialize<'a>>(body: Result<Bytes, BytesRejection>) -> Result<T, Refusal> {
    let body = body.map_err(|error| Refusal::new(error.status(), error.body_text(), ""))?;
    serde_json::from_slice(&body).map_err(|error| Refusal::bad(format!("the body is not understood: {error}"), ""))
}

fn given(admin: &AdminState, who: &Who, change: &OverrideRequest, value: Wanted) -> Result<Override<Wanted>, Refusal> {
    let at = SystemTime::now();
    let takes_back = matches!(
        value,
        Wanted::Pool(Operator::Ready)
            | Wanted::Backend(_, Operator::Ready)
            | Wanted::Weight(_, None)
            | Wanted::Probe(_, ProbeSwitch::Running)
    );
    let lasting = match (&change.time, change.until_restart.unwrap_or(false)) {
        (Some(_), true) => return Err(Refusal::bad("`for` next to `until_restart`", "keep one of the two")),
        (Some(_), _) if takes_back => {
            return Err(Refusal::bad("`for` with an order that takes another one back", "leave `for` out"));
        }
        (Some(text), false) => {
            let time = time_of_order(text)?;
            Lasting::for_so_long(time, Instant::now(), at).ok_or_else(|| Refusal::bad("`for` is too long", ""))?
        }
        (None, true) => Lasting::Restart,
        // Nothing survives where nothing is kept, and it should say so.
        (None, false) if !admin.view.state.overrides.is_kept() => Lasting::Restart,
        (None, false) => Lasting::Kept,
    };
    let note = checked(change.note.as_deref())?;
    Ok(Override { value, by: Arc::clone(&who.0), note, at, lasting })
}

/// A note that can be shown in a line; an empty one is none.
pub(super) fn checked(note: Option<&str>) -> Result<Option<Arc<str>>, Refusal> {
    if note.is_some_and(|note| note.chars().count() > LONGEST_NOTE || note.chars().any(char::is_control)) {
        let error = format!("`note` has more than {LONGEST_NOTE} characters, or a control character");
        return Err(Refusal::bad(error, ""));
    }
    Ok(note.map(str::trim).filter(|note| !note.is_empty()).map(Arc::from))
}

/// A duration of a request, in the grammar and with the complaints of the file.
pub(super) fn duration(name: &str, text: &str) -> Result<Duration, Refusal> {
    parse_duration(text).map_err(|error| Refusal::bad(format!("`{name} = \"{}\"`: {error}", text.escape_debug()), ""))
}

/// How long an order is to hold.
pub(super) fn time_of_order(text: &str) -> Result<Duration, Refusal> {
    let time = duration("for", text)?;
    if time < SHORTEST {
        Err(Refusal::bad("`for` is shorter than a second", "write it like \"90s\" or \"1h\""))
    } else {
        Ok(time)
    }
}

async fn give(pool: &Pool, given: Override<Wanted>) -> Result<usize, Refusal> {
    pool.overrides.give(given).await.map_err(|error| match error {
        OverrideError::NoSuchBackend => Refusal::not_found(error.to_string()),
        OverrideError::NoKeeper => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), ""),
    })
}

/// What to tell an operator whose order would not survive a restart as it should.
async fn saved(admin: &AdminState) -> Option<String> {
    let error = admin.view.state.save_overrides().await.err()?;
    tracing::warn!(%error, "an operator's order holds, but can't be kept across a restart");
    Some(format!("it holds, but is not kept across a restart: {error}"))
}

fn written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u16>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
