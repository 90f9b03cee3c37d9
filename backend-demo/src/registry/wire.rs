//! JSON as the agent reads it: Go's decoder does not look at the case of a field's name, the agent itself drops the underscores
//! of older spellings, and `null` is the default.

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
                // Its names are whatever the member wants them to be.
                let value = if name == "meta" { value } else { plain(value) };
                (name, value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.into_iter().map(plain).collect(),
        other => other,
    }
}
