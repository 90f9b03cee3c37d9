//! Reads the files of a source, one or all of a directory, again whenever they change and are whole. On a thread of its own,
//! which may hang with the disk: that it has looked lately is told, so that whoever waits sees when it has not.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::watch;
use tracing::{info, warn};

use super::path::PathWatch;
use super::trouble::{GONE, why_blind};
use super::whole::{Next, Seen, Stamp, Whole};
use super::{BURST, LOOK, writers};

/// Of a directory. More are a mistake, such as the wrong directory.
const MOST_FILES: usize = 1000;

/// A file that has not been written for so long when it is met first is taken to be whole.
const OLD: Duration = Duration::from_secs(1);

/// Ends its thread when it is dropped.
#[derive(Debug)]
pub(crate) struct FilesWatch {
    news: watch::Receiver<FilesNews>,
    /// Its end is the end of the thread.
    _wake: PipeWriter,
}

/// What the thread tells, at the latest every [`LOOK`].
#[derive(Clone, Debug)]
pub(crate) struct FilesNews {
    /// Another `Arc` where something has changed; `None` = nothing is known yet.
    pub(crate) found: Option<Arc<FoundFiles>>,
}

/// Every file in the order of their names, each as it was when it was last whole; or why that can't be said.
pub(crate) type FoundFiles = Result<Vec<FileText>, FilesError>;

/// A file that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileText {
    pub(crate) path: PathBuf,
    pub(crate) text: Arc<str>,
}

/// Why there is no set of files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilesError {
    /// The file or the directory is not there, or the directory has no file of that sort.
    #[error("{0}")]
    Missing(String),
    /// One of them can't be read.
    #[error("{0}")]
    Unreadable(String),
}

impl FilesWatch {
    /// Of the file at `path`, or of the files in the directory there whose names end with `.json` or `.toml`.
    ///
    /// # Errors
    /// If the system gives no descriptor or no thread.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        Self::looking(path, LOOK, true)
    }

    /// As [`Self::new`]; looks so often, and has or has not `eyes`: is told by the kernel.
    pub(super) fn looking(path: &Path, period: Duration, eyes: bool) -> io::Result<Self> {
        let (woken, wake) = io::pipe()?;
        let (told, news) = watch::channel(FilesNews { found: None });
        let mut reader = FilesReader {
            path: path.to_owned(),
            period,
            eyes,
            woken,
            told,
            way: None,
            is_blind: false,
            files: BTreeMap::new(),
            lost: None,
            next_look: Instant::now(),
        };
        thread::Builder::new().name("files".to_owned()).spawn(move || reader.run())?;
        Ok(Self { news, _wake: wake })
    }

    /// What is known, and all that comes.
    pub(crate) fn news(&self) -> watch::Receiver<FilesNews> {
        self.news.clone()
    }
}

/// What the thread has.
struct FilesReader {
    path: PathBuf,
    period: Duration,
    eyes: bool,
    woken: PipeReader,
    told: watch::Sender<FilesNews>,
    way: Option<PathWatch>,
    is_blind: bool,
    files: BTreeMap<PathBuf, OneFile>,
    /// Since when what is at the path can't be listed, and why.
    lost: Option<(Instant, io::Error)>,
    next_look: Instant,
}

#[derive(Default)]
struct OneFile {
    whole: Whole,
    /// As it was when it was last whole, or why it can't be read; `None` = it has never been whole.
    text: Option<Result<Arc<str>, String>>,
    /// Since when it has not been there: a file that is replaced may be away for a moment.
    gone: Option<Instant>,
}

impl FilesReader {
    fn run(&mut self) {
        self.look();
        loop {
            self.read_due();
            self.tell();
            let Some(happened) = self.wait() else { return };
            if happened {
                thread::sleep(BURST);
                self.hear();
            }
            if Instant::now() >= self.next_look {
                self.look();
            }
        }
    }

    /// Until there is something to do; says whether something happened on the way. `None` = the end.
    fn wait(&self) -> Option<bool> {
        let time = self.due().saturating_duration_since(Instant::now());
        // Rounded up, so that it is due then.
        let time = Timespec::try_from(time + Duration::from_micros(100)).ok();
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        if let Some(way) = &self.way {
            fds.push(PollFd::from_borrowed_fd(way.fd(), PollFlags::IN));
        }
        // An error is no event: the next look makes up for it.
        let _ = poll(&mut fds, time.as_ref());
        let happened = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        let ends = !fds[0].revents().is_empty() && matches!((&self.woken).read(&mut [0]), Ok(0));
        (!ends).then_some(happened)
    }

    fn due(&self) -> Instant {
        let of_file = |file: &OneFile| match file.whole.next() {
            Next::Wait => file.gone.map(|since| since + GONE),
            Next::ReadAt(at) | Next::AskAt(at) => Some(at),
        };
        let lost = self.lost.iter().map(|(since, _)| *since + GONE).filter(|at| *at > Instant::now());
        self.files.values().filter_map(of_file).chain(lost).chain([self.next_look]).min().unwrap_or(self.next_look)
    }

    /// Sets the watches again, and looks at everything: for what inotify can't see.
    fn look(&mut self) {
        self.next_look = Instant::now() + self.period;
        self.keep_watch();
        self.hear();
        self.see(&[Seen::Looked]);
        // It has looked, so what is known is as good as new.
        self.told.send_modify(|_| ());
    }

    fn keep_watch(&mut self) {
        if !self.eyes {
            return;
        }
        let kept = PathWatch::keep(&mut self.way, &self.path);
        self.say_blind(kept.err());
    }

    fn say_blind(&mut self, error: Option<io::Error>) {
        let path = self.path.display();
        match (std::mem::replace(&mut self.is_blind, error.is_some()), error) {
            (false, Some(error)) => {
                warn!(%path, error = why_blind(&error), "it can't be watched: it is looked at every 5 s")
            }
            (true, None) => info!(%path, "it is watched again"),
            _ => {}
        }
    }

    fn hear(&mut self) {
        let Some(way) = &mut self.way else { return };
        let (told, kept) = way.told(&self.path);
        if kept.is_err() {
            self.say_blind(kept.err());
        }
        if !told.is_empty() {
            self.see(&told);
        }
    }

    /// Something was seen at the path. Of a directory it is not told which file it was: each is looked at.
    fn see(&mut self, seen: &[Seen]) {
        let now = Instant::now();
        let listed = match list(&self.path) {
            Ok(listed) => {
                self.lost = None;
                listed
            }
            Err(error) => {
                let since = self.lost.take().map_or(now, |(since, _)| since);
                self.lost = Some((since, error));
                return;
            }
        };
        for (path, file) in &mut self.files {
            file.gone = if listed.contains(path) { None } else { file.gone.or(Some(now)) };
        }
        self.files.retain(|_, file| file.gone.is_none_or(|since| now < since + GONE));
        let is_directory = listed != [self.path.clone()];
        for path in listed {
            let found = stamp(&path);
            let file = self.files.entry(path).or_insert_with(|| OneFile::met(found));
            match seen {
                [Seen::Looked] => file.whole.saw(Seen::Looked, found, now),
                _ if is_directory => file.whole.saw(Seen::Touched, found, now),
                _ => seen.iter().for_each(|seen| file.whole.saw(*seen, found, now)),
            }
        }
    }

    fn read_due(&mut self) {
        let now = Instant::now();
        let is_due = |file: &OneFile| match file.whole.next() {
            Next::Wait => false,
            Next::ReadAt(at) | Next::AskAt(at) => at <= now,
        };
        let due: Vec<_> = self.files.iter().filter(|(_, file)| is_due(file)).map(|(path, _)| path.clone()).collect();
        for path in due {
            self.read(&path);
        }
        if self.files.values().any(|file| file.gone.is_some_and(|since| since + GONE <= now)) {
            self.see(&[Seen::Looked]);
        }
    }

    /// Reads it, unless something happens meanwhile: then it is not known to be whole.
    fn read(&mut self, path: &Path) {
        let Some(file) = self.files.get_mut(path) else { return };
        let inode = stamp(path).map(|stamp| stamp.inode.1);
        let writes = inode.and_then(|inode| writers::writes(path, inode));
        file.whole.writer(writes, Instant::now());
        self.hear();
        if !self.is_ready(path) {
            return;
        }
        let read = super::read(path);
        self.hear();
        if !self.is_ready(path) {
            return;
        }
        let (now, found) = (Instant::now(), stamp(path));
        let Some(file) = self.files.get_mut(path) else { return };
        match read {
            Ok((text, stamp)) if found == Some(stamp) => {
                if file.whole.done(stamp, now) {
                    file.text = Some(Ok(text.into()));
                }
            }
            // Another one by now, and that was not told yet.
            Ok(_) => file.whole.saw(Seen::Replaced, found, now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => file.whole.saw(Seen::Replaced, found, now),
            Err(error) => {
                file.whole.failed(now);
                file.text = Some(Err(error.to_string()));
            }
        }
    }

    fn is_ready(&self, path: &Path) -> bool {
        let next = self.files.get(path).map(|file| file.whole.next());
        matches!(next, Some(Next::ReadAt(at)) if at <= Instant::now())
    }

    fn tell(&self) {
        let Some(found) = self.found() else { return };
        self.told.send_if_modified(|news| {
            let is_news = news.found.as_deref() != Some(&found);
            if is_news {
                news.found = Some(Arc::new(found));
            }
            is_news
        });
    }

    /// `None` = that can't be said yet, or it is what was told last.
    fn found(&self) -> Option<FoundFiles> {
        let now = Instant::now();
        if let Some((since, error)) = &self.lost {
            let text = format!("{}: {error}", self.path.display());
            let is_over = now >= *since + GONE || self.files.is_empty();
            return is_over.then(|| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Err(FilesError::Missing(text)),
                _ => Err(FilesError::Unreadable(text)),
            });
        }
        if self.files.is_empty() {
            let text = format!("{}: no file in it ends with .json or .toml", self.path.display());
            return Some(Err(FilesError::Missing(text)));
        }
        let mut texts = Vec::with_capacity(self.files.len());
        for (path, file) in &self.files {
            let why = match (&file.text, file.whole.late(now)) {
                (_, Some(time)) => format!("it has been written for {} s and is not closed", time.as_secs()),
                (Some(Err(error)), _) => error.clone(),
                (Some(Ok(text)), _) => {
                    texts.push(FileText { path: path.clone(), text: Arc::clone(text) });
                    continue;
                }
                // One that is new does not take effect in parts, and neither does a directory.
                (None, None) => return None,
            };
            return Some(Err(FilesError::Unreadable(format!("{}: {why}", path.display()))));
        }
        Some(Ok(texts))
    }
}

impl OneFile {
    fn met(found: Option<Stamp>) -> Self {
        let mut file = Self::default();
        let age = found.and_then(|stamp| {
            let written = Duration::from_secs(u64::try_from(stamp.modified.0).ok()?);
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + written).ok()
        });
        // It was made by a rename, or long ago: nothing speaks for a writer.
        let seen = if age.is_some_and(|age| age > OLD) { Seen::MovedIn } else { Seen::Touched };
        file.whole.saw(seen, found, Instant::now());
        file
    }
}

/// The file itself, or those in the directory, without the hidden ones that editors and tools leave for a moment.
fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let (name, file) = entry.map(|entry| (entry.file_name(), entry.path()))?;
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        if is_hidden || !file.extension().is_some_and(|extension| extension == "json" || extension == "toml") {
            continue;
        }
        if files.len() == MOST_FILES {
            return Err(io::Error::other(format!("it has more than {MOST_FILES} files")));
        }
        files.push(file);
    }
    Ok(files)
}

fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|metadata| super::stamp(&metadata))
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
