//! What a pool's keeper writes: members, their views, and what follows from all of them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Backend, BackendView, Happened, Pool, Published};
use crate::health::Failing;
use crate::standing::Standing;

/// For the keeper only.
impl Pool {
    /// Adds a member. Readers see it after the next [`Self::publish`].
    pub fn add(&self, id: &Arc<str>, view: BackendView) -> Arc<Backend> {
        let make = |slot, view| Backend::new(Arc::clone(id), slot, self.workers, view);
        let backend = self.alter(|inner| inner.add(view, make));
        self.changed(&backend, None);
        backend
    }

    /// Gives a member another view. Picks follow it.
    pub fn place(&self, backend: &Backend, view: BackendView) {
        let opened = self.alter(|inner| inner.place(backend, &view));
        let before = backend.view();
        let (changed, moved) = (before.standing != view.standing, before.address != view.address);
        // The standing at its other addresses may have changed, too.
        let elsewhere =
            (changed && view.candidates.len() > 1) || before.candidates != view.candidates || before.dead != view.dead;
        // What is even follows from weights and tiers.
        let weighed = before.weight != view.weight || before.priority != view.priority;
        backend.show(view);
        if moved || elsewhere {
            self.moves.fetch_add(1, Relaxed);
        }
        if changed || moved || elsewhere || opened || weighed {
            self.standings.send_replace(());
        }
        if changed {
            self.changed(backend, Some(before.standing));
        }
    }

    fn changed(&self, backend: &Backend, from: Option<Standing>) {
        let view = backend.view();
        backend.history.add(from, &view);
        self.tell(|| Happened::Standing {
            pool: Arc::clone(&self.name),
            backend: Arc::clone(&backend.id),
            address: view.address,
            from,
            to: view.standing,
            reason: Arc::clone(&view.reason),
        });
    }

    /// Forgets a member without sessions, and returns whether it did. Readers see it until the next publish.
    pub fn forget(&self, backend: &Backend) -> bool {
        // The loads of the other tiers may change.
        self.alter(|inner| inner.forget(backend))
    }

    /// The next session that has tried nothing yet may be an ejected backend's trial. No effect if a trial is offered or
    /// running, or if the backend is not ejected.
    pub fn offer_trial(&self, backend: &Backend, failing: Failing) {
        self.alter(|inner| inner.offer_trial(backend, failing));
    }

    /// Ends the running trial, if it has that number. Returns whether it had.
    pub fn end_trial(&self, backend: &Backend, number: u64) -> bool {
        self.inner().end_trial(backend, number)
    }

    /// Sets whether nothing is up although all have been probed.
    pub fn set_all_down(&self, all_down: bool) {
        self.all_down.store(all_down, Relaxed);
        self.tell(|| {
            let fallback = self.settings.load().fallback.as_deref().map(Arc::from);
            Happened::AllDown { pool: Arc::clone(&self.name), all_down, fallback }
        });
        self.standings.send_replace(());
    }

    /// Sets whether so few backends are up that sessions may try the rest.
    pub fn set_panicking(&self, panicking: bool) {
        self.alter(|inner| inner.set_panicking(panicking));
        self.standings.send_replace(());
    }

    /// Marks the pool as settled. Returns whether that is new.
    pub fn settle(&self) -> bool {
        let is_news = !self.settled.send_replace(true);
        if is_news {
            self.tell(|| Happened::Settled { pool: Arc::clone(&self.name) });
        }
        is_news
    }

    /// Shows these members to readers.
    pub fn publish(&self, members: Vec<Arc<Backend>>) {
        let retired = self.inner().retired;
        self.published.store(Arc::new(Published { members: Arc::new(members), retired }));
    }
}
