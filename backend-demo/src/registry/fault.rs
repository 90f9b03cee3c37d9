//! Makes the registry fail on request.
//!
//! A fault affects every route of Consul's API, also requests that wait for a change, because most clients wait when an agent fails.

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
    shared::SharedRecords,
    state::{BEGINNING, HiddenInstances, Records},
};

/// How every request fails until the fault ends.
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
    /// No answer until the fault ends; then the waiting requests get a 500.
    Hang,
    /// The servers have no leader, and `/v1/status/leader` shows that. Blocking queries wait on, as with the streaming backend; of new
    /// reads only stale ones are answered, the others get a 500.
    NoLeader,
    /// 200 with an index and invalid JSON.
    Garbage,
    /// 200 with an index and an empty list.
    Empty200,
    /// 200 with an empty list and no index.
    NoIndex,
}

/// The faults of `PUT /fault/NAME`.
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

/// Other names of `PUT /fault/NAME`, which change the records.
const CHANGES: &str = "index-back, restart, restart-empty, acl, shrink";

/// Routes to inject faults. They are not part of Consul's API, and faults do not affect them.
pub(super) fn routes() -> Router<Arc<SharedRecords>> {
    Router::new().route("/fault", delete(mend)).route("/fault/{name}", put(break_it))
}

async fn break_it(State(shared): State<Arc<SharedRecords>>, Path(name): Path<String>) -> (StatusCode, String) {
    let done = match name.as_str() {
        "index-back" => {
            shared.change(|state, _| state.rewind(BEGINNING));
            format!("the index is {BEGINNING} again\n")
        }
        "restart" => {
            shared.change(Records::restart);
            "every check is critical until it has run, or its application reports\n".to_owned()
        }
        "restart-empty" => {
            shared.clear();
            "everything is forgotten\n".to_owned()
        }
        "acl" | "shrink" => {
            let hidden = HiddenInstances { ids: None, announced: name == "acl" };
            shared.change(|state, _| state.set_hidden(Some(hidden)));
            format!("{name}: no instance is shown, until DELETE /fault\n")
        }
        _ => return inject(&shared, &name),
    };
    (StatusCode::OK, done)
}

fn inject(shared: &SharedRecords, name: &str) -> (StatusCode, String) {
    let Some((_, fault)) = NAMES.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        return (StatusCode::NOT_FOUND, format!("no such fault; there are {}, {CHANGES}\n", names.join(", ")));
    };
    shared.inject(Some(fault.clone()));
    (StatusCode::OK, format!("{name}, until DELETE /fault\n"))
}

async fn mend(State(shared): State<Arc<SharedRecords>>) -> &'static str {
    shared.inject(None);
    if shared.read(|state| state.hidden.is_some()) {
        shared.change(|state, _| state.set_hidden(None));
    }
    "no fault\n"
}

/// The middleware that applies the fault.
pub(super) async fn apply(State(shared): State<Arc<SharedRecords>>, request: Request, next: Next) -> Response {
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

/// Returns when there is a fault that also affects waiting requests.
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
