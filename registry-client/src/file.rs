//! The small files that settings name: a token, authorities.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

/// All of a regular file of at most `limit` bytes. It blocks as long as its disk does.
///
/// # Errors
/// It can't be read, or is a device or a FIFO (which may never end), or is larger.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    // Before it is opened: to open a FIFO waits for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it must be a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Reads files on a thread for blocking calls, because a file may be on a network that does not answer: one at a time, so
/// that it takes one thread.
pub struct OneAtATime(Arc<Semaphore>);

impl Default for OneAtATime {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl OneAtATime {
    /// # Cancel safety
    /// Safe: if it is dropped, a read that has begun goes on, and keeps its turn until it ends.
    pub async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let turn = Arc::clone(&self.0).acquire_owned().await;
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read()
        });
        read.await.unwrap_or_else(|error| Err(Error::other(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_read_that_hangs_takes_one_thread() {
        let reading = OneAtATime::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let mut ends = Vec::new();
        for _ in 0..20 {
            let (end, hangs) = mpsc::channel::<()>();
            ends.push(end);
            let begun = Arc::clone(&begun);
            let read = reading.run(move || {
                begun.fetch_add(1, SeqCst);
                let _ = hangs.recv();
                Ok(())
            });
            assert!(tokio::time::timeout(Duration::from_millis(20), read).await.is_err());
        }
        assert!(begun.load(SeqCst) <= 1, "{begun:?} at once");
        drop(ends);
        reading.run(|| Ok(())).await.unwrap();
    }

    #[test]
    fn only_a_regular_file_of_a_sane_size_is_read() {
        let path = std::env::temp_dir().join(format!("evenkeel-registry-client-{}", std::process::id()));
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"four");
        assert_eq!(read(&path, 3).unwrap_err().to_string(), "it is larger than 3 bytes");
        std::fs::remove_file(&path).unwrap();
        for none in ["/dev/zero", "/dev/null", "/"] {
            assert_eq!(read(Path::new(none), 3).unwrap_err().to_string(), "it must be a regular file");
        }
    }
}
