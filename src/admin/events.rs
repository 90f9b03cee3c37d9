//! `/api/v1/events`: what happens, as server-sent events. A follower that is too slow loses some and is told so. The door
//! to futures-util.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::AdminState;
use super::bodies::time;
use super::refusal::Refusal;
use crate::pool::{Event, Happened};
use crate::standing::Standing;

/// So that both sides notice when the other is gone.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How many may follow at the same time.
#[derive(Debug)]
pub(super) struct Followers {
    most: usize,
    left: Arc<Semaphore>,
}

impl Followers {
    pub(super) fn new(most: usize) -> Self {
        Self { most, left: Arc::new(Semaphore::new(most)) }
    }

    fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.left).try_acquire_owned().map_err(|_| {
            let error = format!("{} follow already", self.most);
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error, "end one of them")
        })
    }
}

#[derive(Deserialize)]
pub(super) struct EventsQuery {
    /// Of one pool alone; what is about no pool comes all the same.
    pool: Option<String>,
}

struct Following {
    events: Receiver<Arc<Event>>,
    pool: Option<String>,
    stop: CancellationToken,
    /// The first thing that is said, so that a follower knows that nothing is missed from now on.
    greeted: bool,
    _seat: OwnedSemaphorePermit,
}

#[derive(Serialize)]
struct EventBody<'a> {
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'static str>,
    /// Which limit, and whether it is reached or over.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<bool>,
    /// For people.
    says: &'a str,
}

pub(super) async fn follow(
    Shared(admin): Shared<AdminState>,
    wanted: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<impl IntoResponse, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::bad(error.body_text(), ""))?;
    let slot = admin.followers.enter()?;
    let following = Following {
        events: admin.view.state.events.follow(),
        pool: wanted.pool,
        stop: admin.stop.clone(),
        greeted: false,
        _seat: slot,
    };
    let stream = unfold(following, |mut following| async move {
        let sent = following.next().await?;
        Some((Ok::<_, Infallible>(sent), following))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)))
}

impl Following {
    async fn next(&mut self) -> Option<Sent> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(Sent::default().event("following").data("{}"));
        }
        loop {
            let received = tokio::select! {
                received = self.events.recv() => received,
                () = self.stop.cancelled() => return None,
            };
            match received {
                Ok(event) if self.wants(&event) => return Some(sent(&event)),
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => {
                    return Some(Sent::default().event("lost").data(format!("{{\"lost\":{lost}}}")));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn wants(&self, event: &Event) -> bool {
        match (&self.pool, event.what.pool()) {
            (Some(wanted), Some(pool)) => wanted == pool,
            _ => true,
        }
    }
}

fn sent(event: &Event) -> Sent {
    let mut body = EventBody {
        at: time(event.at),
        pool: event.what.pool(),
        backend: None,
        address: None,
        from: None,
        to: None,
        limit: None,
        reached: None,
        says: "",
    };
    let text;
    match &event.what {
        Happened::Standing { backend, address, from, to, reason, .. } => {
            body.backend = Some(backend);
            body.address = Some(address.to_string());
            body.from = from.map(Standing::name);
            body.to = Some(to.name());
            body.says = reason;
        }
        Happened::Operator { backend, says, .. } => {
            body.backend = backend.as_deref();
            body.says = says;
        }
        Happened::AllDown { all_down: true, fallback: Some(fallback), .. } => {
            text = format!("no backend is up: sessions go to pool `{fallback}`, if one is up there");
            body.says = &text;
        }
        Happened::AllDown { all_down, .. } => {
            body.says = if *all_down { "no backend is up" } else { "a backend is up again" };
        }
        Happened::Settled { .. } => body.says = "every backend is probed",
        Happened::Limit { limit, reached, says } => {
            (body.limit, body.reached, body.says) = (Some(*limit), Some(*reached), says);
        }
        Happened::Closing { says } | Happened::Reload { says } => body.says = says,
        Happened::LogLevel { level } => body.says = level,
        Happened::Stopping => body.says = "the balancer is stopping",
    }
    let data = serde_json::to_string(&body).unwrap_or_default();
    Sent::default().id(event.number.to_string()).event(event.what.name()).data(data)
}
