//! Watches the files of networks that the configuration in effect names: each as its own file is watched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::FileWatch;
use crate::config::{self, Config};

/// Changes that were not taken yet. Each leads to a look at all lists, so one is as good as many.
const CHANGES: usize = 1;

/// What a watch says of its file, if something is wrong with it.
type Trouble = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The watches, by file.
#[derive(Debug)]
pub(crate) struct ListWatches {
    watches: BTreeMap<PathBuf, AbortOnDropHandle<()>>,
    /// What the files said before they were applied: what they say later is a change.
    expected: BTreeMap<PathBuf, String>,
    troubles: Arc<Troubles>,
    tell: mpsc::Sender<PathBuf>,
    told: mpsc::Receiver<PathBuf>,
}

/// A lock: held for as long as it takes to ask them, or to add one.
#[derive(Default)]
struct Troubles(Mutex<BTreeMap<PathBuf, Trouble>>);

impl std::fmt::Debug for Troubles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Troubles").finish_non_exhaustive()
    }
}

impl Default for ListWatches {
    fn default() -> Self {
        let (tell, told) = mpsc::channel(CHANGES);
        Self { watches: BTreeMap::new(), expected: BTreeMap::new(), troubles: Arc::default(), tell, told }
    }
}

impl ListWatches {
    /// Notes what the files of a configuration say, just before it is applied.
    pub(crate) fn expect(&mut self, config: &Config) {
        let new = files(config).filter(|file| !self.watches.contains_key(*file));
        // One that can't be read is refused when it is applied.
        let text = |file: &Path| config::read(file).ok().map(|text| (file.to_owned(), text));
        self.expected = new.filter_map(text).collect();
    }

    /// Watches the files of the configuration in effect, and no others.
    pub(crate) fn follow(&mut self, config: &Config) {
        let expected = std::mem::take(&mut self.expected);
        if !config.reload.watch {
            self.watches.clear();
            return self.lock().clear();
        }
        self.watches.retain(|file, _| files(config).any(|wanted| wanted == file));
        self.lock().retain(|file, _| files(config).any(|wanted| wanted == file));
        for file in files(config).map(Path::to_owned) {
            if !self.watches.contains_key(&file) {
                self.watch(&expected, file);
            }
        }
    }

    fn watch(&mut self, expected: &BTreeMap<PathBuf, String>, file: PathBuf) {
        let mut watch = match FileWatch::new(&file, expected.get(&file).map_or("", String::as_str)) {
            Ok(watch) => watch,
            Err(error) => {
                warn!(file = %file.display(), %error, "the file can't be watched: only a reload makes it be read");
                return;
            }
        };
        watch.turn(true);
        self.lock().insert(file.clone(), Box::new(watch.trouble()));
        let (tell, changed) = (self.tell.clone(), file.clone());
        let task = tokio::spawn(async move {
            loop {
                // Who applies it reads it again, and says what is wrong with it.
                drop(watch.changed().await);
                if tell.send(changed.clone()).await.is_err() {
                    return;
                }
            }
        });
        self.watches.insert(file, AbortOnDropHandle::new(task));
    }

    /// The next file that has changed.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn changed(&mut self) -> PathBuf {
        match self.told.recv().await {
            Some(file) => file,
            // This has a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Says what is wrong with the files or their watches now, a line each, apart from what is in them.
    pub(crate) fn troubles(&self) -> impl Fn() -> Vec<String> + Send + Sync + use<> {
        let troubles = Arc::clone(&self.troubles);
        move || {
            let troubles = troubles.0.lock().unwrap_or_else(PoisonError::into_inner);
            let line = |(file, trouble): (&PathBuf, &Trouble)| Some(format!("{}: {}", file.display(), trouble()?));
            troubles.iter().filter_map(line).collect()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Trouble>> {
        self.troubles.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn files(config: &Config) -> impl Iterator<Item = &Path> {
    config.listeners.iter().flat_map(config::Listener::list_files)
}
