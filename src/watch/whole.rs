//! PURE. When a file that changes is whole: from what was seen of it and the time to "read it now", "look who writes" or
//! "wait". Without this a file would be read while half of it is written.

use std::time::{Duration, Instant};

/// After a writer has closed it, or a whole one took its place: programs that save in steps (an empty file first, then
/// the text) are through by then.
const SETTLE: Duration = Duration::from_millis(50);

/// Of a file that is saved again and again, it is read so long after it was whole for the first time, in a pause of [`GAP`].
const SETTLE_AT_MOST: Duration = Duration::from_millis(150);

/// The kernel tells of a write after it is done: what has been told is old by a moment, longer on a busy machine.
const GAP: Duration = Duration::from_millis(25);

/// A file whose writer was not seen is quiet for so long before it is believed to be whole.
const QUIET: Duration = Duration::from_millis(200);

/// The same where changes are not told but found by looking: a network's file system learns late of what others write.
const QUIET_UNTOLD: Duration = Duration::from_secs(1);

/// Between two looks for programs that have the file open for writing.
const ASK: Duration = Duration::from_secs(1);

/// A read that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// A writer that has not closed the file by then is shown.
const LATE: Duration = Duration::from_secs(30);

/// What a file is, as far as one can see without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Device and number of the inode.
    pub(super) inode: (u64, u64),
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, i64),
    /// The same; besides its content, its mode and its names.
    pub(super) changed: (i64, i64),
}

/// What was seen. A look comes with all but the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A program writes to the file.
    Written,
    /// A program that could write to it has closed it.
    Closed,
    /// Something was renamed into its place or onto the way to it: a file, a link, a directory.
    MovedIn,
    /// Something on the way, or the file itself, was made or is gone.
    Replaced,
    /// Its mode, its times or its names are others.
    Touched,
    /// Only a look.
    Looked,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Wait,
    /// At this time; unless a program is known to have it open for writing: see [`Whole::writer`].
    ReadAt(Instant),
    /// Look at this time for programs that have it open for writing.
    AskAt(Instant),
}

#[derive(Debug, Default)]
pub(super) struct Whole {
    /// What was read last.
    read: Option<Stamp>,
    /// What it is now; `None` = it is not there.
    found: Option<Stamp>,
    /// A change that was not read yet.
    change: Option<Unread>,
}

#[derive(Debug)]
struct Unread {
    how: How,
    /// When it began.
    since: Instant,
    /// When the last thing happened.
    last: Instant,
    /// When it was whole for the first time.
    whole: Option<Instant>,
    asked: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// A writer has begun and has not closed it.
    Written,
    /// Closed, or renamed into its place.
    Whole,
    /// It is not known how it came there, and it has to be quiet for so long.
    Unsure(Duration),
}

impl Whole {
    /// Something happened; `found` = what the file is now, looked at after that.
    pub(super) fn saw(&mut self, seen: Seen, found: Option<Stamp>, now: Instant) {
        let is_other = std::mem::replace(&mut self.found, found) != found;
        if found.is_none() {
            self.change = None;
            return;
        }
        let how = match seen {
            Seen::Written => How::Written,
            Seen::Closed => How::Whole,
            // What was told and is no change: another file of that name elsewhere on the way, a write of nothing.
            _ if found == self.read => return self.change = None,
            Seen::MovedIn => How::Whole,
            Seen::Replaced => How::Unsure(QUIET),
            Seen::Touched | Seen::Looked => match &self.change {
                Some(_) if !is_other => return,
                // What told of the writer tells the rest.
                Some(Unread { how: How::Written | How::Whole, .. }) => return,
                _ if seen == Seen::Touched => How::Unsure(QUIET),
                _ => How::Unsure(QUIET_UNTOLD),
            },
        };
        self.becomes(how, now);
    }

    fn becomes(&mut self, how: How, now: Instant) {
        let change = self.change.get_or_insert(Unread { how, since: now, last: now, whole: None, asked: now });
        (change.how, change.last, change.asked) = (how, now, now);
        if how == How::Whole {
            change.whole.get_or_insert(now);
        }
    }

    /// What to do next, and when.
    pub(super) fn next(&self) -> Next {
        let Some(change) = &self.change else { return Next::Wait };
        match change.how {
            How::Written => Next::AskAt(change.asked + ASK),
            How::Whole => {
                let first = change.whole.unwrap_or(change.last);
                Next::ReadAt((change.last + SETTLE).min((first + SETTLE_AT_MOST).max(change.last + GAP)))
            }
            How::Unsure(quiet) => Next::ReadAt(change.last + quiet),
        }
    }

    /// Whether a program has the file open for writing; `None` = that can't be seen.
    pub(super) fn writer(&mut self, writes: Option<bool>, now: Instant) {
        let Some(change) = &mut self.change else { return };
        match (change.how, writes) {
            // Another one than the one that closed it, or one that was never told.
            (_, Some(true)) => change.how = How::Written,
            // Truncated by name, say: that is told, and no close is.
            (How::Written, Some(false)) => return self.becomes(How::Whole, now),
            _ => {}
        }
        change.asked = now;
    }

    /// It was read as it was at this stamp, and nothing was told meanwhile. Says whether that was whole: else something has
    /// happened that was not told yet.
    pub(super) fn done(&mut self, stamp: Stamp, now: Instant) -> bool {
        if self.found.replace(stamp) != Some(stamp) {
            self.becomes(How::Unsure(QUIET), now);
            return false;
        }
        (self.read, self.change) = (Some(stamp), None);
        true
    }

    /// It was read on demand, whole or not: what happens later is a change, and a writer that goes on is awaited.
    pub(super) fn read_anyway(&mut self, stamp: Stamp) {
        if self.change.as_ref().is_none_or(|change| change.how != How::Written) {
            (self.read, self.found, self.change) = (Some(stamp), Some(stamp), None);
        }
    }

    /// It can't be read.
    pub(super) fn failed(&mut self, now: Instant) {
        self.becomes(How::Unsure(RETRY), now);
    }

    /// For how long a writer has been writing, if that is too long.
    pub(super) fn late(&self, now: Instant) -> Option<Duration> {
        let change = self.change.as_ref().filter(|change| change.how == How::Written)?;
        Some(now.saturating_duration_since(change.since)).filter(|time| *time >= LATE)
    }

    /// Whether there is a file.
    pub(super) fn is_there(&self) -> bool {
        self.found.is_some()
    }
}
