//! `/v1/agent/…`: registrations, check updates, and the agent's data about itself.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    definition,
    query::{self, Parameters, Refusal, value},
    shared::SharedRecords,
    state::{Service, Status},
    wire,
};

pub(super) const DATACENTER: &str = "dc1";
pub(super) const NODE_NAME: &str = "dev";
pub(super) const NODE_ID: &str = "d5a7c3f0-0000-4000-8000-000000000001";
pub(super) const NODE_ADDRESS: &str = "127.0.0.1";

type Store = State<Arc<SharedRecords>>;

pub(super) fn routes() -> Router<Arc<SharedRecords>> {
    Router::new()
        .route("/v1/agent/self", get(about))
        .route("/v1/agent/services", get(services))
        .route("/v1/agent/service/register", put(register))
        .route("/v1/agent/service/deregister/{id}", put(deregister))
        .route("/v1/agent/service/maintenance/{id}", put(service_maintenance))
        .route("/v1/agent/maintenance", put(node_maintenance))
        .route("/v1/agent/check/pass/{id}", put(pass))
        .route("/v1/agent/check/warn/{id}", put(warn))
        .route("/v1/agent/check/fail/{id}", put(fail))
        .route("/v1/agent/check/update/{id}", put(update))
}

async fn about() -> Response {
    let about = json!({
        "Config": {
            "Datacenter": DATACENTER,
            "NodeName": NODE_NAME,
            "NodeID": NODE_ID,
            "Server": true,
            "Version": "1.0.0-evenkeel-development-registry",
        },
        "Member": { "Name": NODE_NAME, "Addr": NODE_ADDRESS, "Status": 1 },
    });
    query::json(&about).into_response()
}

async fn services(State(shared): Store, parameters: Parameters) -> Result<Response, Refusal> {
    if value(&parameters, "filter").is_some_and(|text| !text.is_empty()) {
        return Err(Refusal::bad_request("the development registry filters only /v1/health/service"));
    }
    let services: Map<String, Value> =
        shared.read(|state| state.services.iter().map(|(id, service)| (id.clone(), service_json(service))).collect());
    Ok(query::json(&Value::Object(services)).into_response())
}

/// The JSON of a service.
pub(super) fn service_json(service: &Service) -> Value {
    let definition = &service.definition;
    json!({
        "ID": definition.id,
        "Service": definition.name,
        "Tags": definition.tags,
        "Address": definition.address,
        "Meta": definition.meta,
        "Port": definition.port,
        "Weights": { "Passing": definition.passing_weight, "Warning": definition.warning_weight },
        "EnableTagOverride": false,
        "CreateIndex": service.created,
        "ModifyIndex": service.modified,
    })
}

async fn register(State(shared): Store, parameters: Parameters, body: Bytes) -> Result<(), Refusal> {
    let replace = value(&parameters, "replace-existing-checks").is_some_and(|text| !matches!(text, "false" | "0"));
    let (definition, checks) = definition::parse(&body).map_err(Refusal::bad_request)?;
    shared.change(|state, now| state.register(definition, checks, replace, now));
    Ok(())
}

async fn deregister(State(shared): Store, Path(id): Path<String>) -> Result<(), Refusal> {
    if shared.change(|state, _| state.deregister(&id)) { Ok(()) } else { Err(unknown_service(&id)) }
}

async fn service_maintenance(
    State(shared): Store,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<(), Refusal> {
    let reason = maintenance_reason(&parameters)?;
    let known = shared.change(|state, _| state.maintenance(&id, reason));
    if known { Ok(()) } else { Err(unknown_service(&id)) }
}

async fn node_maintenance(State(shared): Store, parameters: Parameters) -> Result<(), Refusal> {
    let reason = maintenance_reason(&parameters)?;
    shared.change(|state, _| state.maintenance("", reason));
    Ok(())
}

/// The reason for maintenance; `None` ends it.
fn maintenance_reason(parameters: &[(String, String)]) -> Result<Option<&str>, Refusal> {
    match value(parameters, "enable") {
        None | Some("") => Err(Refusal::bad_request("Missing value for enable")),
        Some("true" | "1") => Ok(Some(value(parameters, "reason").unwrap_or_default())),
        Some("false" | "0") => Ok(None),
        Some(other) => Err(Refusal::bad_request(format!("Invalid value for enable: {other:?}"))),
    }
}

async fn pass(store: Store, id: Path<String>, parameters: Parameters) -> Result<(), Refusal> {
    set(&store, &id, Status::Passing, value(&parameters, "note"))
}

async fn warn(store: Store, id: Path<String>, parameters: Parameters) -> Result<(), Refusal> {
    set(&store, &id, Status::Warning, value(&parameters, "note"))
}

async fn fail(store: Store, id: Path<String>, parameters: Parameters) -> Result<(), Refusal> {
    set(&store, &id, Status::Critical, value(&parameters, "note"))
}

async fn update(store: Store, id: Path<String>, body: Bytes) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    struct Update {
        #[serde(default)]
        status: String,
        #[serde(default)]
        output: String,
    }

    let update: Update =
        wire::read(&body).map_err(|error| Refusal::bad_request(format!("Request decode failed: {error}")))?;
    let status = Status::parse(&update.status)
        .ok_or_else(|| Refusal::bad_request(format!("Invalid check status: '{}'", update.status)))?;
    set(&store, &id, status, Some(&update.output))
}

fn set(shared: &SharedRecords, id: &str, status: Status, note: Option<&str>) -> Result<(), Refusal> {
    if shared.change(|state, now| state.update_check(id, status, note.unwrap_or_default(), now)) {
        return Ok(());
    }
    let text = format!("Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name.");
    Err(Refusal::not_found(text))
}

fn unknown_service(id: &str) -> Refusal {
    let text = format!("Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name.");
    Refusal::not_found(text)
}
