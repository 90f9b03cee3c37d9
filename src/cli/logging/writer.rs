//! Lines on their way to stderr. Not tracing-appender's: at its end it prints to stdout, which may well be the very pipe
//! that is not read.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::clean;
use crate::config::written_duration;
use crate::pace::Pace;

/// Lines that may wait for stderr's reader: at 300 bytes a line, about 5 MB; over a second at 10,000 sessions a second.
const WAITING: usize = 16_384;

/// How long the end waits for stderr's reader.
const PATIENCE: Duration = Duration::from_secs(1);

/// After each write, for lines to gather: with thousands of sessions a second, waking this thread for each one's line
/// would cost the worker more than the line. Nothing waits for it; what is said at the end waits for the end.
const GATHER: Duration = Duration::from_millis(5);

/// Between two lines that say how many were dropped.
const COMPLAIN: Duration = Duration::from_secs(10);

/// Bytes after which no more lines are added to a write.
const AT_ONCE: usize = 64 * 1024;

/// Takes whole lines, one a write, and never waits. Clones share the queue.
#[derive(Clone)]
pub(super) struct Writer {
    lines: SyncSender<LogLine>,
    /// `Relaxed`: a count, read for metrics.
    dropped: Arc<AtomicU64>,
    failing: Arc<WriteFailure>,
}

/// Since when stderr can't be written, and why. A lock: touched once a write by the thread that writes, and by readers.
#[derive(Default)]
struct WriteFailure(Mutex<Option<(Instant, String)>>);

impl WriteFailure {
    fn lock(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says why it could not be written before, if it can be again.
    fn set(&self, error: Option<String>) -> Option<String> {
        let mut failing = self.lock();
        match error {
            Some(why) => {
                let since = failing.take().map_or_else(Instant::now, |(since, _)| since);
                *failing = Some((since, why));
                None
            }
            None => failing.take().map(|(_, why)| why),
        }
    }
}

enum LogLine {
    Text(Vec<u8>),
    Last,
}

impl Writer {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// If the system gives no descriptor or no thread.
    pub(super) fn start() -> io::Result<(Self, Flush)> {
        // A descriptor of its own: a thread that holds std's stderr while its reader sleeps would hold up all that write there.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        // In the log's own format, by the way that all lines take.
        let complain = |lines, why: Option<String>| {
            let why = why.unwrap_or_else(|| "stderr's reader was too slow, or away".to_owned());
            tracing::warn!(lines, "log lines were dropped: {why}");
        };
        Self::start_on(stderr, WAITING, complain)
    }

    fn start_on(
        to: impl Write + Send + 'static,
        waiting: usize,
        complain: impl Fn(u64, Option<String>) + Send + 'static,
    ) -> io::Result<(Self, Flush)> {
        let (lines, queue) = sync_channel(waiting);
        let (finished, end) = channel();
        let writer = Self { lines: lines.clone(), dropped: Arc::default(), failing: Arc::default() };
        let (dropped, failing) = (Arc::clone(&writer.dropped), Arc::clone(&writer.failing));
        let work = move || write_out(&queue, to, (&dropped, &failing), complain, finished);
        thread::Builder::new().name("log".to_owned()).spawn(work)?;
        Ok((writer, Flush { lines, end }))
    }

    /// Lines so far that found the queue full, or no reader.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// That stderr can't be written, and why, while it is so.
    pub(super) fn trouble(&self) -> Option<String> {
        let (since, why) = self.failing.lock().clone()?;
        let age = written_duration(Duration::from_secs(since.elapsed().as_secs()));
        Some(format!("the log can't be written for {age}: {why}; {} lines are lost since the start", self.dropped()))
    }
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(LogLine::Text(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits, for a bounded time, until what was logged before is written, when it is dropped.
pub(super) struct Flush {
    lines: SyncSender<LogLine>,
    end: Receiver<()>,
}

impl Drop for Flush {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(TrySendError::Full(_)) = self.lines.try_send(LogLine::Last) {
            if Instant::now() >= deadline {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // Ends with an error when the writing thread does.
        let _ = self.end.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write_out(
    queue: &Receiver<LogLine>,
    mut to: impl Write,
    (dropped, failing): (&AtomicU64, &WriteFailure),
    complain: impl Fn(u64, Option<String>),
    finished: Sender<()>,
) {
    let mut text = Vec::with_capacity(2 * AT_ONCE);
    let mut is_last = false;
    let (mut told, mut pace, mut why) = (0, Pace::new(COMPLAIN), None);
    while !is_last {
        let mut next = queue.recv().ok();
        loop {
            match next {
                // A line is UTF-8 as a rule; what is not becomes it.
                Some(LogLine::Text(line)) => {
                    text.extend_from_slice(clean::lines(&String::from_utf8_lossy(&line)).as_bytes());
                }
                Some(LogLine::Last) | None => is_last = true,
            }
            if is_last || text.len() >= AT_ONCE {
                break;
            }
            next = match queue.try_recv() {
                Ok(line) => Some(line),
                Err(_) => break,
            };
        }
        if !text.is_empty() {
            let (lost, error) = put(&mut to, &text);
            dropped.fetch_add(lost, Relaxed);
            why = failing.set(error).or(why);
            let all = dropped.load(Relaxed);
            if lost == 0 && all > told && pace.allow(Instant::now()).is_some() {
                complain(all - told, why.take());
                told = all;
            }
        }
        let is_full = text.len() >= AT_ONCE;
        text.clear();
        if !is_last && !is_full {
            thread::sleep(GATHER);
        }
    }
    drop(finished);
}

/// Writes it, and says how many lines were lost because they are not read, or the disk is full; and why.
fn put(to: &mut impl Write, mut text: &[u8]) -> (u64, Option<String>) {
    let mut why = None;
    while !text.is_empty() {
        match to.write(text) {
            Ok(0) => {
                why = Some("nothing of it is taken".to_owned());
                break;
            }
            Ok(written) => text = &text[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A process that shares stderr with us may have made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(GATHER),
            Err(error) => {
                why = Some(error.to_string());
                break;
            }
        }
    }
    (text.iter().filter(|&&byte| byte == b'\n').count() as u64, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_sleeps_holds_up_nobody_and_the_rest_is_counted() {
        let (mut read, write) = io::pipe().unwrap();
        let (complaints, complained) = channel();
        let (mut writer, flush) = Writer::start_on(write, 4, move |lines, _| complaints.send(lines).unwrap()).unwrap();
        let line = [vec![b'x'; 99], vec![b'\n']].concat();
        let mut written = 0;
        // A pipe holds 64 KiB.
        while writer.dropped() < 10 {
            writer.write_all(&line).unwrap();
            written += 1;
            assert!(written < 1_000_000);
        }
        let dropped = writer.dropped();
        drop(writer);
        assert!(complained.try_recv().is_err(), "nobody would read it");
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            io::Read::read_to_end(&mut read, &mut all).unwrap();
            all
        });
        assert_eq!(complained.recv_timeout(Duration::from_secs(20)), Ok(dropped));
        drop(flush);
        let all = reader.join().unwrap();
        assert_eq!(all.len() as u64, (written - dropped) * 100);
    }

    #[test]
    fn what_others_wrote_does_not_turn_the_line_round() {
        let (mut read, write) = io::pipe().unwrap();
        let (mut writer, flush) = Writer::start_on(write, 4, |_, _| ()).unwrap();
        writer.write_all("a\u{202e}b\u{2028}c\u{9b}31m\n".as_bytes()).unwrap();
        drop((writer, flush));
        let mut all = String::new();
        io::Read::read_to_string(&mut read, &mut all).unwrap();
        assert_eq!(all, "a?b?c?31m\n");
    }

    #[test]
    fn the_end_waits_for_what_was_logged_but_not_for_ever() {
        struct Stuck(Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                // Until the test ends.
                let _ = self.0.recv();
                Ok(line.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for lines in [1, 10] {
            let (_reader, wait) = channel();
            let (mut writer, flush) = Writer::start_on(Stuck(wait), 4, |_, _| ()).unwrap();
            for _ in 0..lines {
                writer.write_all(b"x").unwrap();
            }
            let began = Instant::now();
            drop(flush);
            assert!(began.elapsed() >= PATIENCE);
        }
    }

    #[test]
    fn a_stderr_that_somebody_made_non_blocking_loses_nothing() {
        let (read, write) = std::os::unix::net::UnixStream::pair().unwrap();
        write.set_nonblocking(true).unwrap();
        let (mut writer, flush) = Writer::start_on(write, WAITING, |_, _| ()).unwrap();
        // More than the kernel holds of it.
        for _ in 0..10_000 {
            writer.write_all(&[&[b'x'; 99][..], b"\n"].concat()).unwrap();
        }
        let mut lines = io::BufRead::lines(io::BufReader::new(read));
        assert!(lines.by_ref().take(10_000).all(|line| line.unwrap().len() == 99));
        assert_eq!(writer.dropped(), 0);
        drop(flush);
        assert!(lines.next().is_none());
    }

    #[test]
    fn lines_that_nobody_takes_are_counted() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                let taken = text.len().min(self.0);
                self.0 -= taken;
                if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut writer, flush) = Writer::start_on(Full(25), 100, |_, _| ()).unwrap();
        for _ in 0..10 {
            writer.write_all(b"123456789\n").unwrap();
        }
        drop(flush);
        assert_eq!(writer.dropped(), 8, "the third line only in part");
        let trouble = writer.trouble().unwrap();
        assert!(
            trouble.starts_with("the log can't be written for 0s: no storage space; 8 lines are lost"),
            "{trouble}"
        );
    }

    #[test]
    fn a_disk_that_was_full_is_named_when_it_is_not_any_more() {
        struct Disk(Receiver<bool>);
        impl Write for Disk {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                let is_full = self.0.recv().unwrap_or_default();
                if is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(text.len()) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (is_full, disk) = channel();
        let (complaints, complained) = channel();
        let complain = move |lines, why: Option<String>| complaints.send((lines, why)).unwrap();
        let (mut writer, flush) = Writer::start_on(Disk(disk), 100, complain).unwrap();
        for full in [true, false] {
            is_full.send(full).unwrap();
            writer.write_all(b"a line\n").unwrap();
            let end = Instant::now() + Duration::from_secs(20);
            while writer.trouble().is_some() != full {
                assert!(Instant::now() < end, "{:?}", writer.trouble());
                thread::sleep(Duration::from_millis(1));
            }
        }
        let told = complained.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(told, (1, Some("no storage space".to_owned())));
        drop((is_full, flush));
    }
}
