//! What can go wrong with a registry, on demand.
//!
//! Sits in front of every route of Consul's and also cuts in on requests that are waiting for a change, because that is
//! where a client is when an agent fails.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{delete, put},
};

use super::{
    shared::Shared,
    state::{BEGINNING, State as Known, Veil},
};

/// A way to fail, for every request until it is taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 500 `No cluster leader`.
    Status500,
    /// 403, as for a token without rights.
    Forbidden,
    /// 429.
    TooManyRequests,
    /// Any status with any text.
    Status(u16, String),
    /// No answer at all until the fault is taken back; what waited for it then gets a 500.
    Hang,
    /// The servers have no leader, and `/v1/status/leader` says so. Who waits for a change waits on, as with the streaming
    /// backend; of new reads only stale ones are answered, the others get a 500.
    NoLeader,
    /// 200 with an index, and a body that is no JSON.
    Garbage,
    /// 200 with an index, and an empty list: what is hardest to tell from the truth.
    Empty200,
    /// 200 with an empty list, and no index.
    NoIndex,
}

/// What `PUT /fault/NAME` injects.
const NAMES: [(&str, Fault); 8] = [
    ("error", Fault::Status500),
    ("forbidden", Fault::Forbidden),
    ("rate-limit", Fault::TooManyRequests),
    ("hang", Fault::Hang),
    ("no-leader", Fault::NoLeader),
    ("garbage", Fault::Garbage),
    ("empty", Fault::Empty200),
    ("no-index", Fault::NoIndex),
];

/// What else can be asked for by hand: changes of what is known.
const CHANGES: &str = "index-back, restart, restart-empty, acl, shrink";

/// Faults by hand: no part of Consul's API, and not subject to them.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/fault", delete(mend)).route("/fault/{name}", put(break_it))
}

async fn break_it(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> (StatusCode, String) {
    let done = match name.as_str() {
        "index-back" => {
            shared.change(|state, _| state.rewind(BEGINNING));
            format!("the index is {BEGINNING} again\n")
        }
        "restart" => {
            shared.change(Known::restart);
            "every check is critical until it has run, or its application reports\n".to_owned()
        }
        "restart-empty" => {
            shared.clear();
            "everything is forgotten\n".to_owned()
        }
        "acl" | "shrink" => {
            let veil = Veil { ids: None, told: name == "acl" };
            shared.change(|state, _| state.veil(Some(veil)));
            format!("{name}: no instance is shown, until DELETE /fault\n")
        }
        _ => return inject(&shared, &name),
    };
    (StatusCode::OK, done)
}

fn inject(shared: &Shared, name: &str) -> (StatusCode, String) {
    let Some((_, fault)) = NAMES.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        return (StatusCode::NOT_FOUND, format!("no such fault; there are {}, {CHANGES}\n", names.join(", ")));
    };
    shared.inject(Some(fault.clone()));
    (StatusCode::OK, format!("{name}, until DELETE /fault\n"))
}

async fn mend(State(shared): State<Arc<Shared>>) -> &'static str {
    shared.inject(None);
    if shared.read(|state| state.veil.is_some()) {
        shared.change(|state, _| state.veil(None));
    }
    "no fault\n"
}

/// The middleware that applies the fault.
pub(super) async fn apply(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    shared.count_request();
    let mut faults = shared.faults();
    if *faults.borrow() == Some(Fault::NoLeader) {
        let asks = |parameter: &str| {
            let parameters = request.uri().query().unwrap_or_default().split('&');
            parameters.map(|text| text.split('=').next()).any(|name| name == Some(parameter))
        };
        if request.uri().path() == "/v1/status/leader" {
            return super::query::json(&serde_json::json!("")).into_response();
        }
        if !asks("stale") && !asks("index") {
            return answer(&Fault::NoLeader, 0);
        }
    }
    let healthy = tokio::select! {
        biased;
        fault = failing(&mut faults) => Err(fault),
        response = next.run(request) => Ok(response),
    };
    match healthy {
        Ok(response) => response,
        Err(Fault::Hang) => {
            let _ended = faults.wait_for(|fault| *fault != Some(Fault::Hang)).await;
            (StatusCode::INTERNAL_SERVER_ERROR, "rpc error: code = Canceled desc = context canceled").into_response()
        }
        Err(fault) => answer(&fault, shared.read(|state| state.index())),
    }
}

/// Resolves when there is a fault that also those meet that wait for a change.
async fn failing(faults: &mut tokio::sync::watch::Receiver<Option<Fault>>) -> Fault {
    let cuts_in = |fault: &Option<Fault>| fault.as_ref().is_some_and(|fault| *fault != Fault::NoLeader);
    match faults.wait_for(cuts_in).await.map(|fault| fault.clone()) {
        Ok(Some(fault)) => fault,
        _ => std::future::pending().await,
    }
}

fn answer(fault: &Fault, index: u64) -> Response {
    let index = [("X-Consul-Index", index.to_string())];
    let json = [("Content-Type", "application/json")];
    match fault {
        Fault::Status500 | Fault::NoLeader => (StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader").into_response(),
        Fault::Forbidden => {
            (StatusCode::FORBIDDEN, "Permission denied: anonymous token lacks permission 'service:read'")
                .into_response()
        }
        Fault::TooManyRequests => {
            (StatusCode::TOO_MANY_REQUESTS, "Your IP is issuing too many requests").into_response()
        }
        Fault::Status(code, text) => {
            let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, text.clone()).into_response()
        }
        Fault::Garbage => (index, json, "[{\"Node\":{\"ID\":\"<html>").into_response(),
        Fault::Empty200 => (index, json, "[]").into_response(),
        Fault::Hang | Fault::NoIndex => (json, "[]").into_response(),
    }
}
