//! `file = "…"`: a document, or a directory of them, that other programs write. What can't be read or is no document is an
//! error; of a directory all files count together, so that one bad file leaves everything as it was.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::document;
use super::error::AskError;
use super::feed::{Feed, Heard};
use super::instance::Instance;
use super::outages::Outages;
use super::update_sender::Closed;
use crate::config;
use crate::deadline::within;
use crate::endpoint::Rejections;
use crate::watch::{FileText, FilesError, FilesNews, FilesWatch, FoundFiles};

/// The watch looks every 5 s and tells that it has.
const HUNG: Duration = Duration::from_secs(15);

/// What all pools share that name the same file.
pub(super) struct WatchedFiles {
    pub(super) path: PathBuf,
    watch: FilesWatch,
    pub(super) outages: Arc<Outages>,
}

/// The files that pools name; each is watched once.
#[derive(Default)]
pub(super) struct FileSources {
    known: HashMap<PathBuf, Weak<WatchedFiles>>,
}

impl FileSources {
    /// Watches it from now on, if that is not so already.
    pub(super) fn of(&mut self, path: &Path) -> io::Result<Arc<WatchedFiles>> {
        if let Some(watched) = self.known.get(path).and_then(Weak::upgrade) {
            return Ok(watched);
        }
        self.known.retain(|_, watched| watched.strong_count() > 0);
        let outages = Outages::of_source(&path.display().to_string());
        let watched = Arc::new(WatchedFiles { path: path.to_owned(), watch: FilesWatch::new(path)?, outages });
        self.known.insert(path.to_owned(), Arc::downgrade(&watched));
        Ok(watched)
    }
}

/// Until the receiver of the feed is gone.
pub(super) async fn follow(watched: &WatchedFiles, feed: &mut Feed) -> Result<(), Closed> {
    let mut news = watched.watch.news();
    let mut last: Option<(Arc<FoundFiles>, Result<Listed, AskError>)> = None;
    let mut is_hung = false;
    loop {
        let FilesNews { found } = news.borrow_and_update().clone();
        if let Some(found) = found {
            let known = last.take().filter(|(before, _)| Arc::ptr_eq(before, &found));
            let is_same = known.is_some();
            let (found, listed) = known.unwrap_or_else(|| {
                let listed = listed(&found);
                (found, listed)
            });
            match &listed {
                Err(failure) => feed.failed(failure.clone()).await?,
                Ok(_) if is_same && !is_hung => feed.confirm(),
                Ok((instances, refused)) => {
                    let heard = Heard::Answer { restarted: false, filtered: false };
                    feed.put(instances.clone(), refused.clone(), heard).await?;
                }
            }
            (last, is_hung) = (Some((found, listed)), false);
        }
        match feed.until(within(HUNG, news.changed())).await? {
            Ok(Ok(())) => {}
            // Its thread has ended: it panicked.
            Ok(Err(_)) => return feed.until(std::future::pending()).await,
            Err(_) => {
                is_hung = true;
                let path = watched.path.display();
                let text = format!("{path}: its disk does not answer, or it is not whole for {HUNG:?}").into();
                feed.failed(AskError { kind: "hung", text }).await?;
            }
        }
    }
}

type Listed = (Vec<Instance>, Rejections);

fn listed(found: &FoundFiles) -> Result<Listed, AskError> {
    let texts = found.as_ref().map_err(|error| {
        let kind = match error {
            FilesError::Missing(_) => "missing",
            FilesError::Unreadable(_) => "unreadable",
        };
        AskError { kind, text: error.to_string().into() }
    })?;
    let trees: Result<Vec<_>, String> = texts.iter().map(tree).collect();
    trees.and_then(|trees| document::all(&trees)).map_err(|text| AskError { kind: "invalid", text: text.into() })
}

fn tree(file: &FileText) -> Result<(String, serde_json::Value), String> {
    let (name, text) = (file.path.display().to_string(), &*file.text);
    let is_toml = file.path.extension().is_some_and(|extension| extension == "toml");
    let tree = if is_toml { config::toml_tree(text) } else { config::json_tree(text) };
    match tree {
        Ok(tree) => Ok((name, tree)),
        Err(why) => Err(format!("{name}: {why}")),
    }
}
