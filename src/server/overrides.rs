//! Keeps operators' orders across restarts: one file in `state_dir`, replaced as a whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::operator::{Overrides, file};
use crate::pool::Pool;

const NAME: &str = "operator.json";

/// The file, and what was read from it.
#[derive(Debug)]
pub struct OverrideFile {
    path: Option<PathBuf>,
    /// By pool, as read at the start. Pools that the configuration lacks now keep theirs.
    loaded: BTreeMap<String, Overrides>,
    /// One writer at a time, so that an older state never replaces a newer one.
    saving: Mutex<()>,
}

impl OverrideFile {
    /// Reads the file. If that fails, the balancer starts without orders, logs why, and keeps the file under another name.
    pub fn open(state_dir: Option<&Path>) -> Self {
        let path = state_dir.map(|directory| directory.join(NAME));
        let mut loaded = BTreeMap::new();
        if let Some(path) = &path {
            match read(path) {
                Ok(overrides) => loaded = overrides,
                Err(why) => warn!(path = %path.display(), "no order of an operator is restored: {why}"),
            }
        }
        for (pool, overrides) in &loaded {
            let whole = overrides.pool().map(|order| format!("{} {order}", order.value.name()));
            let backends = overrides.exceptions().count();
            info!(%pool, whole, backends, "operators' orders are restored");
        }
        Self { path, loaded, saving: Mutex::new(()) }
    }

    /// Whether orders survive a restart.
    pub fn is_kept(&self) -> bool {
        self.path.is_some()
    }

    /// The orders that were read for a pool.
    pub fn of(&self, pool: &str) -> Overrides {
        self.loaded.get(pool).cloned().unwrap_or_default()
    }

    /// Writes the orders that hold, and syncs them to the disk.
    pub(super) async fn save(&self, pools: &[Arc<Pool>]) -> io::Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        let _alone = self.saving.lock().await;
        let running: BTreeMap<&str, Arc<Overrides>> =
            pools.iter().map(|pool| (&*pool.name, pool.overrides.current())).collect();
        let absent = self.loaded.iter().filter(|(name, _)| !running.contains_key(name.as_str()));
        let absent = absent.map(|(name, overrides)| (name.as_str(), overrides));
        let all = running.iter().map(|(name, overrides)| (*name, &**overrides)).chain(absent);
        let text = file::write(all);
        // A disk may be slow, and the control plane's threads must not wait for it.
        let written = tokio::task::spawn_blocking(move || write(&path, &text)).await;
        written.unwrap_or_else(|_| Err(io::Error::other("the writer panicked")))
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Overrides>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(format!("it can't be read: {error}")),
    };
    file::read(&text, Instant::now(), SystemTime::now()).map_err(|error| {
        let aside = path.with_extension("json.unreadable");
        match fs::rename(path, &aside) {
            Ok(()) => format!("{error}; it is now {}", aside.display()),
            Err(kept) => format!("{error}; it can't be put aside either ({kept}) and is overwritten by the next order"),
        }
    })
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let new = path.with_extension("json.new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The rename must be on the disk, too.
    fs::File::open(directory)?.sync_all()
}
