//! Says when a file may hold something else. Its directory is watched, so that a file that is renamed into its place is
//! seen, and those of the links on the way to it, as a Kubernetes ConfigMap has them. The door to notify.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

/// A file that is being written is quiet for so long when it is done.
const QUIET: Duration = Duration::from_millis(200);

/// Of one that never is quiet.
const LONGEST: Duration = Duration::from_secs(2);

/// Links on the way to a file, at most: as many as the kernel follows.
const LINKS: usize = 40;

/// A file that is watched, or not: off at first.
#[derive(Default)]
pub struct Watch(Option<Watching>);

struct Watching {
    watcher: RecommendedWatcher,
    /// One is enough: it says only that something happened.
    events: mpsc::Receiver<()>,
    directories: BTreeSet<PathBuf>,
}

impl Watch {
    /// Switches it on or off, which the log hears. Right after it is on the file counts as changed.
    pub fn turn(&mut self, on: bool, path: &Path) {
        if on == self.0.is_some() {
            return;
        }
        self.0 = None;
        if !on {
            return info!("the file is not watched: only SIGHUP makes it be read");
        }
        match Watching::new(path) {
            Ok(watching) => self.0 = Some(watching),
            Err(error) => warn!(%error, "the file can't be watched: only SIGHUP makes it be read"),
        }
    }

    /// Resolves some time after something happened around the file.
    ///
    /// # Cancel safety
    /// Safe: what happened is looked at when it is called again, or the next time.
    pub async fn changed(&mut self, path: &Path) {
        match &mut self.0 {
            None => std::future::pending().await,
            Some(watching) => {
                if watching.events.recv().await.is_none() {
                    std::future::pending::<()>().await;
                }
                let end = Instant::now() + LONGEST;
                tokio::select! {
                    () = watching.quiet() => {}
                    () = sleep_until(end) => {}
                }
                // Links may lead somewhere else by now.
                watching.follow(path);
            }
        }
    }
}

impl Watching {
    fn new(path: &Path) -> notify::Result<Self> {
        let (happened, events) = mpsc::channel(1);
        // It may have changed between the start and now.
        let _ = happened.try_send(());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading it is no change. Full: it is known that something happened.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(access) if !is_written(access))) {
                let _ = happened.try_send(());
            }
        })?;
        let mut watching = Self { watcher, events, directories: BTreeSet::new() };
        for directory in directories(path) {
            watching.watcher.watch(&directory, RecursiveMode::NonRecursive)?;
            watching.directories.insert(directory);
        }
        Ok(watching)
    }

    async fn quiet(&mut self) {
        while let Ok(Some(())) = timeout(QUIET, self.events.recv()).await {}
    }

    fn follow(&mut self, path: &Path) {
        let now = directories(path);
        for gone in self.directories.difference(&now) {
            // It may be gone itself.
            let _ = self.watcher.unwatch(gone);
        }
        for new in now.difference(&self.directories) {
            if let Err(error) = self.watcher.watch(new, RecursiveMode::NonRecursive) {
                warn!(directory = %new.display(), %error, "a directory can't be watched");
            }
        }
        self.directories = now;
    }
}

fn is_written(access: notify::event::AccessKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    access == AccessKind::Close(AccessMode::Write)
}

/// Where the file is, and where each link on the way to it is.
fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    let mut path = path.to_path_buf();
    for _ in 0..LINKS {
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let link = std::fs::read_link(&path);
        directories.insert(std::fs::canonicalize(&directory).unwrap_or_else(|_| directory.clone()));
        directories.insert(directory.clone());
        match link {
            Ok(target) => path = directory.join(target),
            Err(_) => break,
        }
    }
    directories
}
