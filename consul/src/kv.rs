//! A key as Consul sends it: a list of one, the value in base64.

use registry_client::base64;
use serde::Deserialize;
use serde::de::Error as _;

use crate::model::KvPair;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    key: String,
    /// `null` for an empty value.
    value: Option<String>,
    #[serde(default)]
    modify_index: u64,
    #[serde(default)]
    flags: u64,
}

/// The pair of a 200.
pub(crate) fn decode(body: &[u8]) -> Result<Option<KvPair>, serde_json::Error> {
    let pairs: Option<Vec<Wire>> = serde_json::from_slice(body)?;
    let Some(Wire { key, value, modify_index, flags }) = pairs.and_then(|pairs| pairs.into_iter().next()) else {
        return Ok(None);
    };
    let value = base64::decode(value.as_deref().unwrap_or_default())
        .ok_or_else(|| serde_json::Error::custom("the value is not base64"))?;
    Ok(Some(KvPair { key, value, modify_index, flags }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_read() {
        let pair = decode(br#"[{"Key":"a/b","Flags":3,"Value":"Zm9v","ModifyIndex":9,"Session":"x"}]"#).unwrap();
        let wanted = KvPair { key: "a/b".to_owned(), value: b"foo".to_vec(), modify_index: 9, flags: 3 };
        assert_eq!(pair, Some(wanted));
        assert_eq!(decode(br#"[{"Key":"a","Value":null}]"#).unwrap().unwrap().value, b"");
        assert!(decode(br#"[{"Key":"a","Value":"?"}]"#).is_err());
    }
}
