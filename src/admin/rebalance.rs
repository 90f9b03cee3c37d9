//! `/api/v1/pools/POOL/rebalance`: what a rebalance would do, and the order to do it once.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::AdminState;
use super::explain::Said;
use super::operate::{Who, checked, parsed};
use super::pools::find_pool;
use super::refusal::Refusal;
use crate::config::{Rebalance, written_duration};
use crate::pool::{Backend, Happened, Pool};
use crate::server::RebalanceView;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RebalanceRequest {
    note: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RebalanceBody {
    pub(crate) pool: String,
    /// Whether a change of the backends begins one.
    pub(crate) automatic: bool,
    pub(crate) threshold: u32,
    pub(crate) max_per_second: u32,
    pub(crate) min_age: String,
    pub(crate) prefer: String,
    pub(crate) waits_for: Option<String>,
    /// Sessions over the threshold.
    pub(crate) moving: u32,
    /// Closes that this can take, where some clients come back to a backend that has too many.
    pub(crate) at_most: u32,
    /// What the one that goes on may still close.
    pub(crate) left: u32,
    pub(crate) seconds: u64,
    pub(crate) backends: Vec<PartBody>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct PartBody {
    pub(crate) id: String,
    pub(crate) sessions: u32,
    pub(crate) part: f64,
    pub(crate) close: u32,
}

pub(super) async fn dry_run(
    Shared(admin): Shared<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<RebalanceBody>, Refusal> {
    let pool = movable(&admin, &name)?;
    Ok(Json(body(&pool, &RebalanceView::of(&pool))))
}

pub(super) async fn begin(
    Shared(admin): Shared<AdminState>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    request: Result<Bytes, BytesRejection>,
) -> Result<Json<RebalanceBody>, Refusal> {
    let pool = movable(&admin, &name)?;
    let RebalanceRequest { note } = parsed(request)?;
    let note = checked(note.as_deref())?;
    let view = RebalanceView::of(&pool);
    if let Some(why) = &view.waits_for {
        let error = format!("pool `{}` can't be rebalanced now: {why}", pool.name);
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            error,
            "nothing is closed while anything is wrong; try again then",
        ));
    }
    let by = &who.0;
    info!(pool = %pool.name, %by, note = note.as_deref(), moving = view.plan.moving(), "operator: rebalance");
    let says = format!("rebalance pool {}, at most {} sessions, by {by}", pool.name, view.plan.bound);
    admin.view.state.events.tell(|| Happened::Closing { says });
    admin.view.state.rebalance(&pool);
    Ok(Json(body(&pool, &view)))
}

/// A pool in which sessions that are closed go elsewhere.
fn movable(admin: &AdminState, name: &str) -> Result<Arc<Pool>, Refusal> {
    let pool = find_pool(&admin.view.state, name)?;
    let settings = pool.settings();
    match Rebalance::useless_with(settings.balance, settings.sticky.is_some()) {
        None => Ok(pool),
        Some(why) => {
            let of = if settings.sticky.is_some() {
                "`sticky`".to_owned()
            } else {
                format!("balance \"{}\"", settings.balance.name())
            };
            let error = format!("pool `{}` can't be rebalanced with {of}: {why}", pool.name);
            Err(Refusal::new(StatusCode::CONFLICT, error, ""))
        }
    }
}

fn body(pool: &Pool, view: &RebalanceView) -> RebalanceBody {
    let RebalanceView { rules, plan, .. } = view;
    let parts = view.backends.iter().zip(&view.sessions).zip(plan.parts.iter().zip(&plan.close));
    let mut backends: Vec<_> = parts
        .map(|((backend, &sessions), (&part, &close))| PartBody { id: backend.id.to_string(), sessions, part, close })
        .collect();
    backends.sort_by(|a, b| a.id.cmp(&b.id));
    RebalanceBody {
        pool: pool.name.to_string(),
        automatic: view.is_on,
        threshold: rules.threshold,
        max_per_second: rules.max_per_second,
        min_age: written_duration(rules.min_age),
        prefer: rules.prefer.name().to_owned(),
        waits_for: view.waits_for.clone(),
        moving: plan.moving(),
        at_most: plan.bound,
        left: view.left,
        seconds: view.time(pool).as_secs(),
        backends,
    }
}

/// What the pool's `rebalance` says about a backend; `None` = the pool has none, and none goes on.
pub(super) fn said(pool: &Pool, backend: &Backend) -> Option<Said> {
    if pool.settings().rebalance.is_none() && pool.closes.rebalancing.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        return None;
    }
    let view = RebalanceView::of(pool);
    let at = view.backends.iter().position(|other| std::ptr::eq(&**other, backend))?;
    let (sessions, part, close) = (view.sessions[at], view.plan.parts[at], view.plan.close[at]);
    let mut says = format!("{sessions} sessions, its part is {part:.1}");
    if close > 0 {
        says += &format!(", that is {close} over the threshold of {} %", view.rules.threshold);
    }
    match (&view.waits_for, view.left) {
        (Some(why), 1..) => says += &format!("; the rebalance waits: {why}"),
        (None, left @ 1..) => says += &format!("; {left} sessions of the pool may still be closed for it"),
        _ if close > 0 => says += "; a change of the backends, or `evenkeel rebalance`, closes them",
        _ => {}
    }
    let value = if close > 0 { "over" } else { "even" }.into();
    Some(Said { who: "rebalance".into(), value, says, decides: false })
}
