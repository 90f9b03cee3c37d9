//! A key as Consul sends it: a list of one, the value in base64.

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
    let value = base64(value.as_deref().unwrap_or_default().as_bytes())
        .ok_or_else(|| serde_json::Error::custom("the value is not base64"))?;
    Ok(Some(KvPair { key, value, modify_index, flags }))
}

/// The bytes of padded standard base64 (RFC 4648, section 4).
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let padding = text.iter().rev().take(2).take_while(|&&c| c == b'=').count();
    let digits = &text[..text.len() - padding];
    for group in digits.chunks(4) {
        let mut bits = 0;
        for &digit in group {
            bits = bits << 6 | u32::from(sextet(digit)?);
        }
        bits <<= 6 * (4 - group.len());
        // Six bits a digit hold one byte less than there are digits.
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

fn sextet(digit: u8) -> Option<u8> {
    Some(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        // RFC 4648, section 10.
        let vectors =
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmE=", "fooba")];
        for (text, bytes) in vectors {
            assert_eq!(base64(text.as_bytes()).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(base64(b"+/+/"), Some(vec![0xfb, 0xff, 0xbf]));
        for text in ["Zg=", "Z", "Zg=a", "====", "Zm9v\n", "Zm 9"] {
            assert_eq!(base64(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_pair_is_read() {
        let pair = decode(br#"[{"Key":"a/b","Flags":3,"Value":"Zm9v","ModifyIndex":9,"Session":"x"}]"#).unwrap();
        let wanted = KvPair { key: "a/b".to_owned(), value: b"foo".to_vec(), modify_index: 9, flags: 3 };
        assert_eq!(pair, Some(wanted));
        assert_eq!(decode(br#"[{"Key":"a","Value":null}]"#).unwrap().unwrap().value, b"");
        assert!(decode(br#"[{"Key":"a","Value":"?"}]"#).is_err());
    }
}
