//! `/api/v1/log`: what the log says, changed while it runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::AdminState;
use super::operate::{Who, parsed, time_of_order};
use super::refusal::Refusal;
use crate::config::check_log_level;
use crate::pool::Happened;

/// Changes a level; an error says what is wrong with it.
pub type SetLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The log's level, wherever the log is.
#[derive(Clone)]
pub struct LogLevel {
    /// What it is.
    pub read: Arc<dyn Fn() -> String + Send + Sync>,
    /// Makes it another one; an error says what is wrong with it.
    pub write: SetLevel,
    /// Which change is the last one, so that the end of an older one changes nothing.
    changes: Arc<AtomicU64>,
}

#[derive(Serialize)]
pub(super) struct LevelBody {
    level: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelRequest {
    level: String,
    #[serde(rename = "for")]
    time: Option<String>,
}

impl LogLevel {
    /// By these two.
    pub fn new(read: Arc<dyn Fn() -> String + Send + Sync>, write: SetLevel) -> Self {
        Self { read, write, changes: Arc::default() }
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLevel").field("level", &(self.read)()).finish_non_exhaustive()
    }
}

pub(super) async fn read(Shared(admin): Shared<AdminState>) -> Result<Json<LevelBody>, Refusal> {
    Ok(Json(LevelBody { level: (level(&admin)?.read)() }))
}

pub(super) async fn write(
    Shared(admin): Shared<AdminState>,
    Extension(who): Extension<Who>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<LevelBody>, Refusal> {
    let log = level(&admin)?.clone();
    let change: LevelRequest = parsed(body)?;
    check_log_level(&change.level).map_err(|error| Refusal::bad(format!("`level`: {error}"), ""))?;
    let time = change.time.as_deref().map(time_of_order).transpose()?;
    let before = (log.read)();
    (log.write)(&change.level).map_err(|error| Refusal::bad(format!("`level`: {error}"), ""))?;
    let number = log.changes.fetch_add(1, Relaxed) + 1;
    info!(by = %who.0, from = before, "log level: {}", change.level);
    admin.view.state.events.tell(|| Happened::LogLevel { level: change.level.clone() });
    if let Some(time) = time {
        let (state, stop) = (Arc::clone(&admin.view.state), admin.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(time) => {}
                () = stop.cancelled() => return,
            }
            if log.changes.load(Relaxed) == number && (log.write)(&before).is_ok() {
                info!("log level: {before} again");
                state.events.tell(|| Happened::LogLevel { level: before });
            }
        });
    }
    Ok(Json(LevelBody { level: change.level }))
}

fn level(admin: &AdminState) -> Result<&LogLevel, Refusal> {
    let error = || Refusal::new(StatusCode::NOT_FOUND, "the log is not this balancer's to change", "");
    admin.view.log_level.as_ref().ok_or_else(error)
}
