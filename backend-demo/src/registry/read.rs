//! Reads, which can block until a change: health of a service, the catalog, keys, the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::{
    agent::{DATACENTER, NODE_ADDRESS, NODE_ID, NODE_NAME, service_json},
    filter::Filter,
    query::{self, Parameters, Query, Refusal, value},
    shared::SharedRecords,
    state::{self, Status},
};

type Store = State<Arc<SharedRecords>>;

pub(super) fn routes() -> Router<Arc<SharedRecords>> {
    Router::new()
        .route("/v1/health/service/{name}", get(health))
        .route("/v1/catalog/services", get(catalog))
        .route("/v1/status/leader", get(leader))
        .route("/v1/kv/{*key}", get(key).put(put_key).delete(delete_key))
}

async fn health(State(shared): Store, Path(name): Path<String>, parameters: Parameters) -> Result<Response, Refusal> {
    let query = Query::parse(&parameters)?;
    let passing = value(&parameters, "passing").is_some_and(|text| !matches!(text, "false" | "0"));
    let tags: Vec<&str> = parameters.iter().filter(|(key, _)| key == "tag").map(|(_, tag)| tag.as_str()).collect();
    let filter = match value(&parameters, "filter").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(Filter::parse(text).map_err(Refusal::bad_request)?),
    };
    let wanted = |state: &state::Records, one: &state::Service| {
        let id = &one.definition.id;
        (!passing || state.status(id) == Some(Status::Passing))
            && tags.iter().all(|tag| one.definition.tags.iter().any(|has| has == tag))
    };
    let (index, (entries, filtered)) = query
        .read(&shared, |state| {
            let hidden =
                |one: &&state::Service| state.hidden.as_ref().is_some_and(|hidden| hidden.hides(&one.definition.id));
            let filtered =
                state.instances(&name).any(|one| hidden(&one)) && state.hidden.as_ref().is_some_and(|v| v.announced);
            let instances = state.instances(&name).filter(|one| wanted(state, one) && !hidden(one));
            let entries = instances.map(|one| entry_json(state, one));
            let selected = entries.filter(|entry| filter.as_ref().is_none_or(|filter| filter.matches(entry)));
            (state.service_index(&name), (Value::Array(selected.collect()), filtered))
        })
        .await;
    let mut response = (query.health_headers(index), query::json(&entries)).into_response();
    if filtered {
        response.headers_mut().insert("X-Consul-Results-Filtered-By-ACLs", HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn entry_json(state: &state::Records, service: &state::Service) -> Value {
    let definition = &service.definition;
    let checks: Vec<Value> = state
        .checks_of(&definition.id)
        .map(|check| {
            let of_service = !check.service_id.is_empty();
            json!({
                "Node": NODE_NAME,
                "CheckID": check.id,
                "Name": check.name,
                "Status": check.status.as_str(),
                "Notes": check.notes,
                "Output": check.output,
                "ServiceID": check.service_id,
                "ServiceName": if of_service { definition.name.as_str() } else { "" },
                "ServiceTags": if of_service { definition.tags.as_slice() } else { &[] },
                "Type": check.kind(),
            })
        })
        .collect();
    json!({
        "Node": {
            "ID": NODE_ID,
            "Node": NODE_NAME,
            "Address": NODE_ADDRESS,
            "Datacenter": DATACENTER,
            "Meta": {},
        },
        "Service": service_json(service),
        "Checks": checks,
    })
}

async fn catalog(State(shared): Store, parameters: Parameters) -> Result<Response, Refusal> {
    let query = Query::parse(&parameters)?;
    let (index, services) = query
        .read(&shared, |state| {
            // The agent itself is always a service.
            let mut services = BTreeMap::from([("consul", BTreeSet::new())]);
            for service in state.services.values() {
                let tags = services.entry(service.definition.name.as_str()).or_default();
                tags.extend(service.definition.tags.iter().map(String::as_str));
            }
            (state.catalog_index(), json!(services))
        })
        .await;
    Ok((query.headers(index), query::json(&services)).into_response())
}

async fn leader() -> Response {
    query::json(&json!(format!("{NODE_ADDRESS}:8300"))).into_response()
}

async fn key(State(shared): Store, Path(key): Path<String>, parameters: Parameters) -> Result<Response, Refusal> {
    let query = Query::parse(&parameters)?;
    if let Some((unknown, _)) = parameters.iter().find(|(name, _)| matches!(name.as_str(), "recurse" | "keys")) {
        return Err(Refusal::bad_request(format!("the development registry does not know ?{unknown}")));
    }
    let (index, found) = query
        .read(&shared, |state| {
            let entry = state.keys.get(&key);
            (state.key_index(&key), entry.map(|entry| (entry.value.clone(), entry.created, entry.modified)))
        })
        .await;
    let headers = query.headers(index);
    let Some((value_bytes, created, modified)) = found else {
        return Ok((StatusCode::NOT_FOUND, headers).into_response());
    };
    if value(&parameters, "raw").is_some() {
        return Ok((headers, [("Content-Type", "text/plain; charset=utf-8")], value_bytes).into_response());
    }
    let entry = json!([{
        "LockIndex": 0,
        "Key": key,
        "Flags": 0,
        "Value": base64(&value_bytes),
        "CreateIndex": created,
        "ModifyIndex": modified,
    }]);
    Ok((headers, query::json(&entry)).into_response())
}

async fn put_key(
    State(shared): Store,
    Path(key): Path<String>,
    parameters: Parameters,
    body: Bytes,
) -> Result<Response, Refusal> {
    if let Some((unknown, _)) =
        parameters.iter().find(|(name, _)| matches!(name.as_str(), "acquire" | "release" | "cas"))
    {
        return Err(Refusal::bad_request(format!("the development registry does not know ?{unknown}")));
    }
    shared.change(|state, _| state.put(&key, body.to_vec()));
    Ok(query::json(&Value::Bool(true)).into_response())
}

async fn delete_key(
    State(shared): Store,
    Path(key): Path<String>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    if value(&parameters, "recurse").is_some() {
        return Err(Refusal::bad_request("the development registry does not know ?recurse"));
    }
    shared.change(|state, _| state.delete(&key));
    Ok(query::json(&Value::Bool(true)).into_response())
}

/// RFC 4648, section 4; the agent sends values of keys in it.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let sextet = (group >> (18 - 6 * position)) & 63;
            let letter = if position <= chunk.len() { ALPHABET[sextet as usize] } else { b'=' };
            text.push(char::from(letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_that_of_the_rfc() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (plain, encoded) in cases {
            assert_eq!(super::base64(plain.as_bytes()), encoded);
        }
        assert_eq!(super::base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}
