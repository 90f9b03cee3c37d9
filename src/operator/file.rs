//! What holds across restarts, as text: one versioned JSON document for all pools.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{BackendOverrides, Lasting, Override, Overrides, ProbeSwitch, printable};
use crate::standing::Operator;

/// The one that this program writes and reads.
const VERSION: u32 = 1;

/// Why a text is not read.
#[derive(Debug, Error)]
pub enum FileError {
    /// It is not what this program writes.
    #[error("it is not what evenkeel writes")]
    Json(#[from] serde_json::Error),
    /// Another version of it.
    #[error("it is of version {0}, this program reads version {VERSION}")]
    Version(u32),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    pools: BTreeMap<String, PoolShape>,
}

/// Looked at first: another version may have another shape.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PoolShape {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operator: Option<OverrideShape<Operator>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    backends: BTreeMap<String, BackendShape>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct BackendShape {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operator: Option<OverrideShape<Operator>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<OverrideShape<u16>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<OverrideShape<ProbeSwitch>>,
}

impl BackendShape {
    fn is_empty(&self) -> bool {
        self.operator.is_none() && self.weight.is_none() && self.probe.is_none()
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct OverrideShape<T> {
    value: T,
    by: String,
    at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// The text for what holds in these pools; what ends with the process is not in it.
pub fn write<'a>(pools: impl Iterator<Item = (&'a str, &'a Overrides)>) -> String {
    let shaped = pools.map(|(name, overrides)| (name.to_owned(), pool_shape(overrides)));
    let pools = shaped.filter(|(_, shape)| shape.operator.is_some() || !shape.backends.is_empty()).collect();
    // Strings and numbers alone: it can't fail.
    let text = serde_json::to_string_pretty(&Document { version: VERSION, pools }).unwrap_or_default();
    text + "\n"
}

/// What such a text says, by pool. What has ended meanwhile is left out.
///
/// # Errors
/// It is not such a text.
pub fn read(text: &str, now: Instant, wall: SystemTime) -> Result<BTreeMap<String, Overrides>, FileError> {
    let Versioned { version } = serde_json::from_str(text)?;
    if version != VERSION {
        return Err(FileError::Version(version));
    }
    let document: Document = serde_json::from_str(text)?;
    let pools = document.pools.into_iter().map(|(name, shape)| (name, overrides(shape, now, wall)));
    Ok(pools.filter(|(_, overrides)| !overrides.is_empty()).collect())
}

fn pool_shape(overrides: &Overrides) -> PoolShape {
    let backends = overrides.backends.iter().map(|(id, own)| {
        let BackendOverrides { operator, weight, probe, .. } = own;
        (id.to_string(), BackendShape { operator: shape(operator), weight: shape(weight), probe: shape(probe) })
    });
    PoolShape { operator: shape(&overrides.pool), backends: backends.filter(|(_, shape)| !shape.is_empty()).collect() }
}

fn shape<T: Copy>(held: &Option<Override<T>>) -> Option<OverrideShape<T>> {
    let held = held.as_ref()?;
    let until = match held.lasting {
        Lasting::Restart => return None,
        Lasting::Kept => None,
        Lasting::Until { at, .. } => Some(humantime::format_rfc3339_seconds(printable(at)).to_string()),
    };
    Some(OverrideShape {
        value: held.value,
        by: held.by.to_string(),
        at: humantime::format_rfc3339_seconds(printable(held.at)).to_string(),
        until,
        note: held.note.as_ref().map(ToString::to_string),
    })
}

fn overrides(shape: PoolShape, now: Instant, wall: SystemTime) -> Overrides {
    let backends = shape.backends.into_iter().map(|(id, BackendShape { operator, weight, probe })| {
        let own = BackendOverrides {
            operator: held(operator, now, wall),
            weight: held(weight, now, wall),
            probe: held(probe, now, wall).filter(|held| held.value == ProbeSwitch::Paused),
            // The pool has no members yet.
            gone_at: Some(wall),
        };
        (Arc::from(id), own)
    });
    let mut overrides =
        Overrides { backends: backends.collect(), pool: held(shape.operator, now, wall), next_end: None };
    if overrides.pool.is_none() {
        overrides.forget_exceptions();
    }
    overrides.tidy();
    overrides
}

fn held<T>(shape: Option<OverrideShape<T>>, now: Instant, wall: SystemTime) -> Option<Override<T>> {
    let shape = shape?;
    let lasting = match shape.until.map(|until| humantime::parse_rfc3339_weak(&until)) {
        None => Lasting::Kept,
        // The order was meant to end: where its end can't be read, it does not hold for ever.
        Some(Err(_)) => return None,
        Some(Ok(at)) => Lasting::for_so_long(at.duration_since(wall).ok()?, now, wall)?,
    };
    let at = humantime::parse_rfc3339_weak(&shape.at).unwrap_or(wall);
    Some(Override { value: shape.value, by: shape.by.into(), note: shape.note.map(Arc::from), at, lasting })
}
