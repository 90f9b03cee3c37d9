//! The body of an answer, bounded.

use crate::failure::{Failure, no_answer};

/// Of the body of an error status: registries say it in one line.
const SHOWN: usize = 512;
/// Read of such a body, so that a short one leaves the connection fit for the next request.
const ERROR_BODY_LIMIT: usize = 16 << 10;

/// All of it.
///
/// # Errors
/// The connection breaks, or it has more than `limit` bytes.
pub async fn whole(response: &mut reqwest::Response, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        if body.len() + chunk.len() > limit {
            return Err(Failure::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Of an error status: whatever is wrong with its body, the status is what went wrong.
pub async fn beginning(response: &mut reqwest::Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= ERROR_BODY_LIMIT {
            break;
        }
    }
    body
}

/// The beginning of a body for people: at most 512 bytes, escaped to ASCII.
pub fn shown(body: &[u8]) -> String {
    let text = body.trim_ascii();
    text[..text.len().min(SHOWN)].escape_ascii().to_string()
}
