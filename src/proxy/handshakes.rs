//! Sessions of a listener of which a header or first bytes are awaited: so many at once. Where one more comes, the oldest is
//! refused: an honest client has said them within a round trip, so that half-said ones can't take the places of others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Those that are under way.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// By the order in which they came. A lock: held for a step when one begins and when it ends.
    all: Mutex<BTreeMap<u64, Arc<Notify>>>,
    next: AtomicU64,
}

/// One that is under way, until it is dropped.
pub(super) struct Handshake<'a> {
    of: &'a Handshakes,
    number: u64,
    pushed_out: Arc<Notify>,
}

impl Handshakes {
    /// One more. If there are more than `most` then, the oldest one is told to go.
    pub(super) fn enter(&self, most: usize) -> Handshake<'_> {
        let (number, pushed_out) = (self.next.fetch_add(1, Relaxed), Arc::new(Notify::new()));
        let mut all = self.lock();
        while all.len() >= most
            && let Some((_, oldest)) = all.pop_first()
        {
            oldest.notify_one();
        }
        all.insert(number, Arc::clone(&pushed_out));
        Handshake { of: self, number, pushed_out }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.of.lock().remove(&self.number);
    }
}

/// Resolves when it has to go; never, if it need not.
///
/// # Cancel safety
/// Safe.
pub(super) async fn pushed_out(handshake: Option<&Handshake<'_>>) {
    match handshake {
        Some(handshake) => handshake.pushed_out.notified().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_out(handshake: &Handshake<'_>) -> bool {
        use std::future::Future;
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(pushed_out(Some(handshake))).as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn the_oldest_goes_and_what_has_ended_makes_room() {
        let handshakes = Handshakes::default();
        let (first, second) = (handshakes.enter(2), handshakes.enter(2));
        assert!(!is_out(&first) && !is_out(&second));
        let third = handshakes.enter(2);
        assert!(is_out(&first) && !is_out(&second) && !is_out(&third));
        drop(second);
        let fourth = handshakes.enter(2);
        assert!(!is_out(&third) && !is_out(&fourth));
        drop(first);
        assert_eq!(handshakes.count(), 2);
        // The number may become lower.
        let fifth = handshakes.enter(1);
        assert!(is_out(&third) && is_out(&fourth) && !is_out(&fifth));
    }
}
