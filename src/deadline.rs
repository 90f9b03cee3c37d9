//! Limits in time that hold for who has to keep them, not for us: while this process is stopped, or has no CPU, time goes on
//! and nothing is read. What came meanwhile counts.

use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

/// Longer than a turn of the event loop, which shows what is there by now.
const TURN: Duration = Duration::from_millis(2);

/// After a long pause there is more than one turn can show. No longer, however long that was.
const LONGEST: Duration = Duration::from_secs(1);

/// As [`tokio::time::timeout`], but when the time is over, the event loop gets a turn before that is believed; as long as
/// this process was late itself, and at most [`LONGEST`].
///
/// # Errors
/// The time was over, and nothing had come.
///
/// # Cancel safety
/// As safe as the future.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = std::pin::pin!(future);
    let Some(due) = Instant::now().checked_add(limit) else { return Ok(future.await) };
    if let Ok(done) = timeout_at(due, future.as_mut()).await {
        return Ok(done);
    }
    timeout(due.elapsed().clamp(TURN, LONGEST), future).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thread is busy when the time is over; what is ready by then is seen.
    #[tokio::test]
    async fn what_is_ready_is_seen_first() {
        let (tell, told) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            std::thread::sleep(Duration::from_millis(30));
            tokio::task::yield_now().await;
            // The timer has been seen by now, and the other task is behind this one in the queue, or was woken by it already.
            tokio::time::sleep(Duration::from_millis(2)).await;
            tell.send(()).unwrap();
        });
        assert!(within(Duration::from_millis(10), told).await.is_ok());
    }

    #[tokio::test]
    async fn nothing_is_not_waited_for() {
        let (began, limit) = (Instant::now(), Duration::from_millis(20));
        assert!(within(limit, std::future::pending::<()>()).await.is_err());
        assert!(began.elapsed() >= limit);
        assert!(within(Duration::MAX, async {}).await.is_ok());
    }
}
