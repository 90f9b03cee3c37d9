//! Reads JSON like an agent: Go's decoder ignores the case of field names, the agent ignores the underscores of older spellings, and
//! `null` means the default.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A body, with names in lower case and without underscores.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_value(plain(serde_json::from_slice(body)?))
}

fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| {
                let name = name.replace('_', "").to_lowercase();
                // The member chooses these names.
                let value = if name == "meta" { value } else { plain(value) };
                (name, value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.into_iter().map(plain).collect(),
        other => other,
    }
}
