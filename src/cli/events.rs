//! `evenkeel events`: what happens, while it happens.

use std::pin::pin;

use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::api::find_pool;
use super::client::{AdminClient, escaped};
use super::reader::gone;
use super::table::{coloured, standing_word};
use super::{CommandError, say};
use crate::clean;

/// Of one event; the balancer's are far shorter.
const LONGEST: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct EventsOptions {
    /// Of this pool only, and of the balancer as a whole
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// End after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// An event as it is sent, line by line.
#[derive(Default)]
struct RawEvent {
    id: String,
    name: String,
    data: String,
}

pub(super) async fn events(client: &AdminClient, options: &EventsOptions, json: bool) -> Result<(), CommandError> {
    let path = match &options.pool {
        Some(pool) => format!("/api/v1/events?pool={}", escaped(&find_pool(client, pool).await?)),
        None => "/api/v1/events".to_owned(),
    };
    let mut body = client.follow(&path).await?;
    let (mut waiting, mut reading, mut left) = (Vec::new(), RawEvent::default(), options.count);
    let ink = coloured();
    let mut unread = pin!(gone());
    while left != Some(0) {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = &mut unread => return Ok(()),
        };
        let Some(frame) = frame else { return Err(over()) };
        let Ok(data) = frame.map_err(|_| over())?.into_data() else { continue };
        waiting.extend_from_slice(&data);
        while let Some(end) = waiting.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            let Some((name, id, data)) = reading.line(String::from_utf8_lossy(&line).trim_end()) else { continue };
            if name == "following" || left == Some(0) {
                continue;
            }
            say(&if json { line_of_json(&name, &id, &data) } else { line_for_people(&name, &data, ink) })?;
            left = left.map(|left| left - 1);
        }
        if waiting.len() > LONGEST {
            return Err(over());
        }
    }
    Ok(())
}

fn over() -> CommandError {
    CommandError::Runtime(anyhow::anyhow!("the balancer ended the stream of events"))
}

impl RawEvent {
    /// Name, id and data, when an event is complete.
    fn line(&mut self, line: &str) -> Option<(String, String, Value)> {
        if line.is_empty() {
            let Self { id, name, data } = std::mem::take(self);
            return (!data.is_empty()).then(|| (name, id, serde_json::from_str(&data).unwrap_or_default()));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut self.id),
            "event" => value.clone_into(&mut self.name),
            "data" => self.data += value,
            // A sign of life.
            _ => {}
        }
        None
    }
}

fn line_of_json(name: &str, id: &str, data: &Value) -> String {
    let mut line = json!({ "event": name, "id": id.parse::<u64>().ok() });
    if let (Value::Object(line), Value::Object(data)) = (&mut line, data) {
        line.extend(data.clone());
    }
    clean::json(&format!("{line}\n"))
}

fn line_for_people(name: &str, data: &Value, ink: bool) -> String {
    let text = |key: &str| data.get(key).and_then(Value::as_str).map(clean::line);
    if name == "lost" {
        let lost = data.get("lost").and_then(Value::as_u64).unwrap_or_default();
        return format!("{lost} events were lost: this reader was too slow\n");
    }
    let whom = match (text("pool"), text("backend")) {
        (Some(pool), Some(backend)) => format!("{pool}/{backend} "),
        (Some(pool), None) => format!("{pool} "),
        _ => String::new(),
    };
    let coloured = |word: String| standing_word(&word, ink);
    let change = match (text("from"), text("to")) {
        (Some(from), Some(to)) => format!("{from} -> {}: ", coloured(to)),
        (None, Some(to)) => format!("{}: ", coloured(to)),
        _ => format!("{}: ", clean::line(&name.replace('_', " "))),
    };
    format!("{} {whom}{change}{}\n", text("at").unwrap_or_default(), text("says").unwrap_or_default())
}
