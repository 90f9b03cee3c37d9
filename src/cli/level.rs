//! `evenkeel log-level`: what the log says, changed while it runs.

use hyper::Method;
use serde_json::{Value, json};

use super::client::AdminClient;
use super::{CommandError, say, say_json};
use crate::clean;

#[derive(Debug, clap::Args)]
pub(super) struct LevelOptions {
    /// off, error, warn, info, debug, trace; or by module: info,evenkeel::probe=debug. Without it: show the level
    level: Option<String>,
    /// Go back to the former level after this time, such as 10m
    #[arg(long = "for", value_name = "TIME", requires = "level")]
    time: Option<String>,
}

pub(super) async fn level(client: &AdminClient, options: &LevelOptions, json: bool) -> Result<(), CommandError> {
    let answer = match &options.level {
        None => client.get("/api/v1/log").await?,
        Some(level) => {
            let mut body = json!({ "level": level });
            if let Some(time) = &options.time {
                body["for"] = json!(time);
            }
            client.change(Method::PUT, "/api/v1/log", &body).await?
        }
    };
    if json {
        return say_json(&answer);
    }
    let level = answer.get("level").and_then(Value::as_str).unwrap_or_default();
    Ok(say(&format!("{}\n", clean::line(level)))?)
}
