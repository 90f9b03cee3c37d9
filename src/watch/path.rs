//! The way to a file: each directory and link on it is watched by inotify, and the file itself, so that whatever takes the
//! place of one of them is seen. Not by the notify crate: it watches paths, so that a directory that is moved away and
//! replaced is lost, and writes log lines of its own about each.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::whole::Seen;

/// Links on the way to a file, at most: as many as the kernel follows.
const LINKS: usize = 40;

/// Of events that are read at once.
const AT_ONCE: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct PathWatch {
    inotify: OwnedFd,
    watched: BTreeMap<i32, Interest>,
    buffer: Box<[MaybeUninit<u8>]>,
}

/// What matters of what is told about an inode.
#[derive(Debug)]
enum Interest {
    /// It is the file.
    File,
    /// It is a directory: these names in it are on the way, the last one perhaps among them.
    Directory { steps: Vec<OsString>, file: Option<OsString> },
}

/// What a watch tells, or `None` if it tells nothing of the file.
struct Told {
    watch: i32,
    flags: ReadFlags,
    name: Option<OsString>,
}

impl PathWatch {
    fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let buffer = vec![MaybeUninit::uninit(); AT_ONCE].into_boxed_slice();
        Ok(Self { inotify, watched: BTreeMap::new(), buffer })
    }

    /// Makes the watch of a path where there is none yet, and watches what is on the way now, as [`Self::watch`].
    ///
    /// # Errors
    /// There can be no watch, or something can't be watched.
    pub(super) fn keep(way: &mut Option<Self>, path: &Path) -> io::Result<()> {
        let way = match way {
            Some(way) => way,
            None => way.insert(Self::new()?),
        };
        way.watch(path)
    }

    /// Watches what is on the way now, and nothing else any more. To be followed by a look at the file: what happens
    /// after this is told.
    ///
    /// # Errors
    /// Something can't be watched; the rest is.
    pub(super) fn watch(&mut self, path: &Path) -> io::Result<()> {
        let mut watched = BTreeMap::new();
        let mut result = Ok(());
        let (file, steps) = steps(path, |directory| self.add(directory, directory_flags()));
        for PathStep { at, name, kind } in steps {
            match at {
                Ok(watch) => {
                    let new = || Interest::Directory { steps: Vec::new(), file: None };
                    if let Interest::Directory { steps, file } = watched.entry(watch).or_insert_with(new) {
                        match kind {
                            StepKind::End => *file = Some(name),
                            StepKind::Link | StepKind::Directory => steps.push(name),
                        }
                    }
                }
                // One may go through it, and not see what is in it; the regular look sees if it is another one.
                Err(Errno::ACCESS) if kind == StepKind::Directory => {}
                Err(error) => result = Err(error),
            }
        }
        match self.add(&file, file_flags()) {
            Ok(watch) => {
                watched.entry(watch).or_insert(Interest::File);
            }
            Err(error) => result = Err(error),
        }
        for gone in self.watched.keys().filter(|watch| !watched.contains_key(watch)) {
            // The kernel may have removed it already, with its inode.
            let _ = inotify::remove_watch(&self.inotify, *gone);
        }
        self.watched = watched;
        match result {
            Err(error) if !is_absent(error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn add(&self, path: &Path, flags: WatchFlags) -> Result<i32, Errno> {
        inotify::add_watch(&self.inotify, path, flags)
    }

    /// What has been told since the last time about the file, in its order. Never waits.
    pub(super) fn told(&mut self, path: &Path) -> (Vec<Seen>, io::Result<()>) {
        let told = self.read();
        let is_other = told.iter().any(|one| self.watched.get(&one.watch).is_some_and(|names| names.moved(one)))
            || told.iter().any(|one| one.flags.contains(ReadFlags::QUEUE_OVERFLOW));
        let before: Vec<Option<Seen>> = told.iter().map(|one| self.seen(one)).collect();
        let kept = if is_other { self.watch(path) } else { Ok(()) };
        // What was written to a file that is not in its place any more is nothing to us.
        let stays = |one: &Told| self.watched.contains_key(&one.watch) || one.flags.contains(ReadFlags::QUEUE_OVERFLOW);
        let seen = told.iter().zip(before).filter_map(|(one, seen)| {
            seen.filter(|seen| !matches!(seen, Seen::Written | Seen::Closed | Seen::Touched) || stays(one))
        });
        (seen.collect(), kept)
    }

    fn read(&mut self) -> Vec<Told> {
        let mut told: Vec<Told> = Vec::new();
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut self.buffer);
        loop {
            match reader.next() {
                Ok(event) => told.push(Told {
                    watch: event.wd(),
                    flags: event.events(),
                    name: event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()),
                }),
                Err(Errno::INTR) => {}
                // Nothing more; or an error that the next look makes up for.
                Err(_) => return told,
            }
        }
    }

    fn seen(&self, told: &Told) -> Option<Seen> {
        if told.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Some(Seen::Replaced);
        }
        self.watched.get(&told.watch)?.seen(told)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Interest {
    fn seen(&self, told: &Told) -> Option<Seen> {
        let flags = told.flags;
        let is_own = |name: &OsString| told.name.as_ref() == Some(name);
        match self {
            Self::Directory { file, .. } if file.as_ref().is_some_and(is_own) => match () {
                () if flags.contains(ReadFlags::MOVED_TO) => Some(Seen::MovedIn),
                () if flags.contains(ReadFlags::MODIFY) => Some(Seen::Written),
                () if flags.contains(ReadFlags::CLOSE_WRITE) => Some(Seen::Closed),
                () if flags.intersects(ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM) => {
                    Some(Seen::Replaced)
                }
                () => None,
            },
            Self::Directory { steps, .. } if steps.iter().any(is_own) => match () {
                () if flags.contains(ReadFlags::MOVED_TO) => Some(Seen::MovedIn),
                () if flags.intersects(ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM) => {
                    Some(Seen::Replaced)
                }
                () => None,
            },
            // A directory on the way is gone itself, or its file system is.
            Self::Directory { .. } if told.name.is_none() => self.moved(told).then_some(Seen::Replaced),
            Self::Directory { .. } => None,
            Self::File if flags.contains(ReadFlags::MODIFY) => Some(Seen::Written),
            Self::File if flags.contains(ReadFlags::CLOSE_WRITE) => Some(Seen::Closed),
            Self::File => Some(Seen::Touched),
        }
    }

    /// Whether something on the way may be another one now.
    fn moved(&self, told: &Told) -> bool {
        let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
        match (self, &told.name) {
            (Self::Directory { .. }, Some(_)) => matches!(self.seen(told), Some(Seen::MovedIn | Seen::Replaced)),
            (Self::Directory { .. } | Self::File, _) => told.flags.intersects(gone),
        }
    }
}

fn directory_flags() -> WatchFlags {
    // Also what is written to files in it: one that has just been made is written to before it is watched itself.
    WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::EXCL_UNLINK
}

/// Where the way ends at a directory, that is watched as the file: also what comes into it and leaves it.
fn file_flags() -> WatchFlags {
    WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
}

/// Then the directory above it says when it is there.
fn is_absent(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// One on the way to a file.
struct PathStep<T> {
    /// What came of the directory that it is in.
    at: T,
    name: OsString,
    kind: StepKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepKind {
    Link,
    Directory,
    /// The file, or what is in its place.
    End,
}

/// Calls `enter` with each directory on the way to a file before it looks for the next step in it, so that a watch that is
/// set there misses nothing. Returns where the file is in the end, and the steps.
fn steps<T>(path: &Path, mut enter: impl FnMut(&Path) -> T) -> (PathBuf, Vec<PathStep<T>>) {
    let start = |path: &Path| PathBuf::from(if path.is_absolute() { "/" } else { "." });
    let mut here = start(path);
    let mut rest: VecDeque<OsString> = parts(path).collect();
    let (mut steps, mut links) = (Vec::new(), 0);
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            here.push("..");
            continue;
        }
        let at = enter(&here);
        let next = here.join(&name);
        let target = std::fs::read_link(&next).ok().filter(|_| links < LINKS);
        let kind = match target {
            Some(_) => StepKind::Link,
            None if rest.is_empty() => StepKind::End,
            None => StepKind::Directory,
        };
        steps.push(PathStep { at, name, kind });
        let Some(target) = target else {
            here = next;
            continue;
        };
        links += 1;
        if target.is_absolute() {
            here = start(&target);
        }
        for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(part);
        }
    }
    (here, steps)
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_leads_over_directories_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("store/v1")).unwrap();
        std::fs::write(root.join("store/v1/real.toml"), "").unwrap();
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, root.join(from)).unwrap();
        link("store/v1", "current");
        link("../v1/real.toml", "store/v1/lb.toml");
        let (file, seen) = steps(&root.join("current/lb.toml"), Path::to_owned);
        assert_eq!(file.canonicalize().unwrap(), root.join("store/v1/real.toml"));
        let below = seen.iter().filter_map(|step| {
            Some((step.at.strip_prefix(&root).ok()?.display().to_string(), step.name.to_str().unwrap(), step.kind))
        });
        let wanted = [
            ("", "current", StepKind::Link),
            ("", "store", StepKind::Directory),
            ("store", "v1", StepKind::Directory),
            ("store/v1", "lb.toml", StepKind::Link),
            ("store/v1/..", "v1", StepKind::Directory),
            ("store/v1/../v1", "real.toml", StepKind::End),
        ];
        assert_eq!(below.collect::<Vec<_>>(), wanted.map(|(at, name, kind)| (at.to_owned(), name, kind)));
        // Links that lead to each other end.
        link("b", "a");
        link("a", "b");
        let count = steps(&root.join("a"), |_| ()).1.len();
        assert!((LINKS..2 * LINKS + 20).contains(&count), "{count}");
    }
}
