//! `file = "…"` of a pool: a list of backends that another program writes, apart from `lb.toml`; and its text as a tree.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value as Tree;

use super::access::path;
use super::value::Value;

/// `file = "…"` of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct FileSource {
    /// A JSON file, a TOML file (its name ends with `.toml`), or a directory of both.
    pub path: PathBuf,
}

impl FileSource {
    pub(super) fn read(value: &Value<'_>) -> Self {
        Self { path: value.parsed(path).unwrap_or_default() }
    }
}

/// The tree of a JSON text.
///
/// # Errors
/// Where it is none, and why.
pub(crate) fn json_tree(text: &str) -> Result<Tree, String> {
    serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))
}

/// The tree of a TOML text.
///
/// # Errors
/// As [`json_tree`].
pub(crate) fn toml_tree(text: &str) -> Result<Tree, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let line = before.matches('\n').count() + 1;
        format!("not valid TOML: {} at line {line} column {column}", error.message())
    })
}
