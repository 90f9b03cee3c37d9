//! Time limits for a peer. While this process is stopped or has no CPU, time goes on and nothing is read; what the peer sent
//! meanwhile counts.

use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

/// Longer than one turn of the event loop, which reads what has arrived.
const LEAST_EXTRA_TIME: Duration = Duration::from_millis(2);

/// After a long pause one turn can't read everything. This bounds the extra time.
const EXTRA_TIME_LIMIT: Duration = Duration::from_secs(1);

/// As [`tokio::time::timeout`], but after the limit the event loop gets extra time to find what has arrived: as long as this
/// process was late itself, at most [`EXTRA_TIME_LIMIT`].
///
/// # Errors
/// The time is over and nothing came.
///
/// # Cancel safety
/// As safe as `future`.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = std::pin::pin!(future);
    let Some(due) = Instant::now().checked_add(limit) else { return Ok(future.await) };
    if let Ok(done) = timeout_at(due, future.as_mut()).await {
        return Ok(done);
    }
    timeout(due.elapsed().clamp(LEAST_EXTRA_TIME, EXTRA_TIME_LIMIT), future).await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    /// The thread is busy when the time is over; what is ready by then is seen.
    #[tokio::test]
    async fn what_is_ready_is_seen_first() {
        let (tell, told) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            std::thread::sleep(Duration::from_millis(30));
            tokio::task::yield_now().await;
            // The timer has been seen by now. The other task is behind this one in the queue, or was woken already.
            tokio::time::sleep(Duration::from_millis(2)).await;
            tell.send(()).unwrap();
        });
        assert!(within(Duration::from_millis(10), told).await.is_ok());
    }

    /// The event loop tells of one socket in a turn, and of this one after others whose tasks take their time.
    #[test]
    fn what_has_arrived_is_seen_first() {
        const LIMIT: Duration = Duration::from_millis(10);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_io_events_per_tick(1).build().unwrap();
        runtime.block_on(async {
            let mut peers = Vec::new();
            for _ in 0..8 {
                let (mut other, peer) = UnixStream::pair().unwrap();
                peers.push(peer);
                tokio::spawn(async move {
                    other.read_u8().await.unwrap();
                    std::thread::sleep(Duration::from_millis(2));
                });
            }
            let (mut ours, peer) = UnixStream::pair().unwrap();
            peers.push(peer);
            // It waits while everything comes, and the limit passes, before the loop has its next turn.
            tokio::spawn(async move {
                tokio::time::sleep(LIMIT / 2).await;
                peers.iter().for_each(|peer| assert_eq!(peer.try_write(b"!").unwrap(), 1));
                std::thread::sleep(10 * LIMIT);
                std::future::pending::<()>().await;
                drop(peers);
            });
            assert_eq!(within(LIMIT, ours.read_u8()).await.unwrap().unwrap(), b'!');
        });
    }

    #[tokio::test]
    async fn nothing_is_not_waited_for() {
        let (began, limit) = (Instant::now(), Duration::from_millis(20));
        assert!(within(limit, std::future::pending::<()>()).await.is_err());
        assert!(began.elapsed() >= limit);
        assert!(within(Duration::MAX, async {}).await.is_ok());
    }
}
