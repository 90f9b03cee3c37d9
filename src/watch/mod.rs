//! Reads the file of a configuration: when it is asked to, and when the file has changed and is whole. On a thread of its
//! own, which may hang with the file's disk: nothing waits for it for long. `whole` decides when, `path` sees what happens.
//! The files of a source of backends are read in the same way: `files`.

mod files;
mod lists;
mod path;
#[cfg(test)]
mod tests;
mod trouble;
mod whole;
mod writers;

use std::fs::Metadata;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tracing::info;

use crate::config::{ConfigError, file};
pub(crate) use files::{FileText, FilesError, FilesNews, FilesWatch, FoundFiles};
pub(crate) use lists::ListWatches;
use path::PathWatch;
use trouble::Troubles;
use whole::{Next, Seen, Stamp, Whole};

/// Between two looks at the file, for what inotify can't see: NFS, FUSE, a file system that is mounted over the way.
const LOOK: Duration = Duration::from_secs(5);

/// After something happened in a watched directory: one look at a burst, also if it is the log of a busy program.
const BURST: Duration = Duration::from_millis(5);

/// For a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads one file; watches it when that is switched on. Ends its thread when it is dropped.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    is_on: bool,
    asks: mpsc::Sender<Ask>,
    /// A byte for each of the asks; at its end the thread ends.
    wake: PipeWriter,
    changes: Arc<Newest>,
    troubles: Arc<Troubles>,
}

type Text = Result<String, ConfigError>;

/// What has changed last and was not taken yet: what came before it is old. A lock: held for as long as it takes to move.
#[derive(Debug, Default)]
struct Newest {
    newest: Mutex<Option<Text>>,
    filled: Notify,
}

impl Newest {
    fn put(&self, text: Option<Text>) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = text;
        self.filled.notify_one();
    }

    fn take(&self) -> Option<Text> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

enum Ask {
    Turn(bool),
    Read(oneshot::Sender<Text>),
}

impl FileWatch {
    /// Of the file at `path`, of which `seen` is in effect already. Off at first.
    ///
    /// # Errors
    /// If the system gives no descriptor or no thread.
    pub fn new(path: &Path, seen: &str) -> io::Result<Self> {
        Self::looking(path, seen, LOOK, true)
    }

    /// As [`Self::new`]; looks so often, and has or has not `eyes`: is told by the kernel.
    fn looking(path: &Path, seen: &str, period: Duration, eyes: bool) -> io::Result<Self> {
        let (woken, wake) = io::pipe()?;
        let (asks, asked) = mpsc::channel();
        let (changes, troubles) = (Arc::<Newest>::default(), Arc::<Troubles>::default());
        let mut reader = Reader {
            path: path.to_owned(),
            period,
            eyes,
            is_on: false,
            woken,
            asked,
            changes: Arc::clone(&changes),
            troubles: Arc::clone(&troubles),
            way: None,
            whole: Whole::default(),
            next_look: Instant::now(),
            seen: Some(seen.to_owned()),
            complained: None,
        };
        thread::Builder::new().name("file".to_owned()).spawn(move || reader.run())?;
        Ok(Self { path: path.to_owned(), is_on: false, asks, wake, changes, troubles })
    }

    /// Switches watching on or off, which the log hears. What has changed before it is on counts as changed then.
    pub fn turn(&mut self, on: bool) {
        if on == std::mem::replace(&mut self.is_on, on) {
            return;
        }
        if !on {
            info!("the file is not watched: only SIGHUP makes it be read");
        }
        self.ask(Ask::Turn(on));
    }

    /// What the file holds, when that is something else than what was read last and it is whole, or why it can't be read.
    /// Pending while it is not watched.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn changed(&mut self) -> Text {
        loop {
            if let Some(text) = self.changes.take() {
                return text;
            }
            self.changes.filled.notified().await;
        }
    }

    /// What the file holds now, whole or not.
    ///
    /// # Errors
    /// It can't be read, or not within some seconds.
    ///
    /// # Cancel safety
    /// Safe: then it counts as not read.
    pub async fn read(&mut self) -> Text {
        let (tell, told) = oneshot::channel();
        self.ask(Ask::Read(tell));
        if let Ok(Ok(text)) = timeout(PATIENCE, told).await {
            return text;
        }
        let source = io::Error::new(io::ErrorKind::TimedOut, format!("its disk does not answer within {PATIENCE:?}"));
        Err(ConfigError::Read { path: self.path.display().to_string(), source })
    }

    /// Says what is wrong with the file or its watch now, apart from what is in it.
    pub fn trouble(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let troubles = Arc::clone(&self.troubles);
        move || troubles.text(Instant::now())
    }

    fn ask(&mut self, ask: Ask) {
        // A pipe holds thousands; the thread lives as long as this does.
        if self.asks.send(ask).is_ok() {
            let _ = self.wake.write(&[0]);
        }
    }
}

/// What the thread has.
struct Reader {
    path: PathBuf,
    period: Duration,
    eyes: bool,
    is_on: bool,
    woken: PipeReader,
    asked: mpsc::Receiver<Ask>,
    changes: Arc<Newest>,
    troubles: Arc<Troubles>,
    way: Option<PathWatch>,
    whole: Whole,
    next_look: Instant,
    /// The text that was read and told last; `None` = what was told last is an error.
    seen: Option<String>,
    /// The error that was told last.
    complained: Option<String>,
}

impl Reader {
    fn run(&mut self) {
        loop {
            let Some(happened) = self.wait() else { return };
            self.troubles.busy(Some(Instant::now()));
            if happened {
                thread::sleep(BURST);
                self.hear();
            }
            self.look();
            match self.whole.next() {
                Next::ReadAt(at) if at <= Instant::now() => self.read_whole(),
                Next::AskAt(at) if at <= Instant::now() => {
                    self.ask_who_writes();
                }
                _ => {}
            }
            self.troubles.busy(None);
            let since = self.is_on.then(|| self.whole.late(Instant::now())).flatten();
            self.troubles.late(since.and_then(|time| Instant::now().checked_sub(time)));
        }
    }

    /// Until there is something to do: does what is asked, and says whether something happened on the way. `None` = the
    /// end.
    fn wait(&mut self) -> Option<bool> {
        let now = Instant::now();
        let due = match self.whole.next() {
            _ if !self.is_on => None,
            Next::Wait => Some(self.next_look),
            Next::ReadAt(at) | Next::AskAt(at) => Some(at.min(self.next_look)),
        };
        let time = due.map(|due| due.saturating_duration_since(now));
        // Rounded up, so that it is due then.
        let time = time.and_then(|time| Timespec::try_from(time + Duration::from_micros(100)).ok());
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        if let Some(way) = &self.way {
            fds.push(PollFd::from_borrowed_fd(way.fd(), PollFlags::IN));
        }
        // An error is no event: the next look makes up for it.
        let _ = poll(&mut fds, time.as_ref());
        let happened = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if !fds[0].revents().is_empty() {
            drop(fds);
            let mut bytes = [0; 64];
            let Ok(1..) = self.woken.read(&mut bytes) else { return None };
            while let Ok(ask) = self.asked.try_recv() {
                match ask {
                    Ask::Turn(on) => self.turn(on),
                    Ask::Read(tell) => self.read_now(tell),
                }
            }
        }
        Some(happened)
    }

    fn turn(&mut self, on: bool) {
        (self.is_on, self.way, self.whole) = (on, None, Whole::default());
        self.changes.put(None);
        if !on {
            return self.troubles.clear();
        }
        self.next_look = Instant::now() + self.period;
        self.troubles.busy(Some(Instant::now()));
        self.keep_watch();
        // It may have changed before.
        self.whole.saw(Seen::Touched, self.stamp(), Instant::now());
        self.troubles.busy(None);
    }

    /// Sets the watches, or sets them again: links may lead somewhere else, and what could not be watched may be there.
    fn keep_watch(&mut self) {
        if !self.eyes {
            return;
        }
        let kept = PathWatch::keep(&mut self.way, &self.path);
        self.troubles.blind(kept.err());
    }

    fn hear(&mut self) {
        let Some(way) = &mut self.way else { return };
        let (told, kept) = way.told(&self.path);
        if kept.is_err() {
            self.troubles.blind(kept.err());
        }
        if told.is_empty() {
            return;
        }
        let stamp = self.stamp();
        for seen in told {
            self.whole.saw(seen, stamp, Instant::now());
        }
        self.troubles.gone(!self.whole.is_there());
    }

    fn look(&mut self) {
        if !self.is_on || Instant::now() < self.next_look {
            return;
        }
        self.next_look = Instant::now() + self.period;
        self.keep_watch();
        // What is told by now is not only found.
        self.hear();
        self.whole.saw(Seen::Looked, self.stamp(), Instant::now());
        self.troubles.gone(!self.whole.is_there());
    }

    fn stamp(&self) -> Option<Stamp> {
        std::fs::metadata(&self.path).ok().map(|metadata| stamp(&metadata))
    }

    fn ask_who_writes(&mut self) -> bool {
        let inode = self.stamp().map(|stamp| stamp.inode.1);
        let writes = inode.and_then(|inode| writers::writes(&self.path, inode));
        self.whole.writer(writes, Instant::now());
        writes == Some(true)
    }

    /// Reads it and tells what it holds, unless something happens meanwhile: then it is not known to be whole.
    fn read_whole(&mut self) {
        if self.ask_who_writes() {
            return;
        }
        self.hear();
        if !matches!(self.whole.next(), Next::ReadAt(at) if at <= Instant::now()) {
            return;
        }
        let read = read(&self.path);
        self.hear();
        if !matches!(self.whole.next(), Next::ReadAt(at) if at <= Instant::now()) {
            return;
        }
        match read {
            Ok((text, stamp)) if self.stamp() == Some(stamp) => {
                if self.whole.done(stamp, Instant::now()) && self.seen.as_ref() != Some(&text) {
                    self.seen = Some(text.clone());
                    self.complained = None;
                    self.changes.put(Some(Ok(text)));
                }
            }
            // Another one by now, and that was not told yet.
            Ok(_) => self.whole.saw(Seen::Replaced, self.stamp(), Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.whole.saw(Seen::Replaced, self.stamp(), Instant::now());
            }
            Err(error) => {
                self.whole.failed(Instant::now());
                let text = error.to_string();
                if self.complained.as_ref() != Some(&text) {
                    (self.seen, self.complained) = (None, Some(text));
                    self.changes.put(Some(Err(refused(&self.path, error))));
                }
            }
        }
    }

    /// The caller gets what is there.
    fn read_now(&mut self, tell: oneshot::Sender<Text>) {
        self.troubles.busy(Some(Instant::now()));
        let read = read(&self.path);
        self.troubles.busy(None);
        let (text, stamp) = match read {
            Ok((text, stamp)) => (Ok(text), Some(stamp)),
            Err(error) => (Err(error), None),
        };
        let seen = text.as_ref().ok().cloned();
        let complained = text.as_ref().err().map(ToString::to_string);
        if tell.send(text.map_err(|error| refused(&self.path, error))).is_err() {
            // The one that asked has given up, and has not applied it.
            return;
        }
        (self.seen, self.complained) = (seen, complained);
        // What was found before is not newer.
        self.changes.put(None);
        if let Some(stamp) = stamp.filter(|_| self.is_on) {
            self.whole.read_anyway(stamp);
        }
    }
}

fn read(path: &Path) -> io::Result<(String, Stamp)> {
    let opened = file::open(path)?;
    let before = stamp(&opened.metadata()?);
    let text = file::text(&opened)?;
    match stamp(&opened.metadata()?) {
        after if after == before => Ok((text, after)),
        // The stamp of before: it is another one by now, so that it is read again.
        _ => Ok((text, before)),
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    Stamp {
        inode: (metadata.dev(), metadata.ino()),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn refused(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Read { path: path.display().to_string(), source }
}
