//! `evenkeel config` and `evenkeel reload`: what is in effect, and the file read again.

use hyper::Method;
use serde_json::json;

use super::client::{AdminClient, known};
use super::{CommandError, say, say_json};
use crate::admin::ConfigBody;

/// Lines about what changed; a terminal holds about twice as many.
const MOST_CHANGES: usize = 20;

/// What is in effect, with every default.
pub(super) async fn config(client: &AdminClient, json: bool) -> Result<(), CommandError> {
    let answer = client.get("/api/v1/config").await?;
    say_json(if json { &answer } else { &answer["config"] })
}

/// Has the file read again. What is refused is told in the words of `evenkeel check`, and nothing has changed.
pub(super) async fn reload(client: &AdminClient, json: bool) -> Result<(), CommandError> {
    let mut whole = client.change(Method::POST, "/api/v1/config/reload", &json!({})).await?;
    let answer: ConfigBody = known(whole.clone())?;
    // Several lines; cleaned when it is written.
    let refused = whole["last_reload"]["error"].as_str().map(str::to_owned);
    if json {
        // The whole of what is in effect is `config`'s to say.
        whole.as_object_mut().map(|whole| whole.remove("config"));
        say_json(&whole)?;
    }
    if let Some(error) = refused {
        return Err(CommandError::Config(error));
    }
    if !json {
        let (result, changes) =
            answer.last_reload.map_or_else(|| ("unchanged".into(), Vec::new()), |last| (last.result, last.changes));
        say(&format!("{result}, generation {}\n", answer.generation))?;
        for change in changes.iter().take(MOST_CHANGES) {
            say(&format!("{change}\n"))?;
        }
        if let more @ 1.. = changes.len().saturating_sub(MOST_CHANGES) {
            say(&format!("{more} more\n"))?;
        }
        for place in answer.needs_restart {
            say(&format!("{place} takes a restart\n"))?;
        }
    }
    Ok(())
}
