//! Why a question to a registry got no answer that can be obeyed.

use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) struct AskError {
    /// A metric label.
    pub(super) kind: &'static str,
    /// For people, in one line.
    pub(super) text: Arc<str>,
}

impl AskError {
    pub(super) fn of(kind: &'static str, error: &dyn std::error::Error) -> Self {
        Self { kind, text: one_line(error).into() }
    }
}

/// An error and its causes; bounded, because what could not be decoded may be quoted in it.
fn one_line(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 500;

    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}
