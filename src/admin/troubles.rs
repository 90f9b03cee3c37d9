//! What is wrong with the whole process, a line for each thing, for as long as it is wrong: the same words in `status`, in
//! `top` and on the page.

use std::time::{Duration, SystemTime};

use super::AdminView;
use crate::config::written_duration;
use crate::server::ReloadView;

pub(super) fn troubles(view: &AdminView) -> Vec<String> {
    let refused = refused(&view.state.reloads.view(), SystemTime::now());
    let around = view.troubles.as_ref().map(|troubles| troubles()).unwrap_or_default();
    refused.into_iter().chain(around).collect()
}

/// A configuration that was refused, until one is not.
fn refused(view: &ReloadView, now: SystemTime) -> Option<String> {
    let (at, error) = view.refusal()?;
    let age = Duration::from_secs(now.duration_since(at).unwrap_or_default().as_secs());
    let age = written_duration(age);
    Some(format!("{error}, refused {age} ago; generation {} is in effect", view.generation))
}
