//! A pool with its fallback, the fallback's fallback, and so on: where one session may be served. Sessions make one when
//! they begin to look for a backend; `server` says which pool is the fallback of which.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Affinity, Backend, PickContext, Pool, Prospect};
use crate::config;

/// The pools that may serve a session, in their order.
#[derive(Debug)]
pub struct Chain {
    first: ChainPool,
    /// No allocation where there is no fallback.
    fallbacks: Vec<ChainPool>,
}

/// A pool, and its settings when the session began to look: one set of them, whatever is applied meanwhile.
#[derive(Clone, Debug)]
pub struct ChainPool {
    /// The pool.
    pub pool: Arc<Pool>,
    /// Its settings.
    pub settings: Arc<config::Pool>,
    /// Which of its backends the session belongs to.
    pub affinity: Affinity,
}

impl Chain {
    /// Of a session that was routed to `first`; `affinity` is what it has by a pool's settings.
    pub fn new(first: &Arc<Pool>, affinity: impl Fn(&config::Pool) -> Affinity) -> Self {
        let of = |pool: Arc<Pool>| {
            let settings = pool.settings();
            ChainPool { pool, affinity: affinity(&settings), settings }
        };
        let fallbacks = first.fallbacks().into_iter().map(of).collect();
        Self { first: of(Arc::clone(first)), fallbacks }
    }

    /// The pool that the session was routed to.
    pub fn first(&self) -> &ChainPool {
        &self.first
    }

    /// Whether it is that pool alone.
    pub fn is_single(&self) -> bool {
        self.fallbacks.is_empty()
    }

    /// The pool at a place; the last one beyond the end.
    pub fn at(&self, place: usize) -> &ChainPool {
        match place {
            0 => &self.first,
            place => self.fallbacks.get(place - 1).or_else(|| self.fallbacks.last()).unwrap_or(&self.first),
        }
    }

    /// All of them.
    pub fn pools(&self) -> impl Iterator<Item = &ChainPool> {
        iter::once(&self.first).chain(&self.fallbacks)
    }
}

impl Pool {
    /// Where its sessions go while it has nothing for them.
    pub fn fallback(&self) -> Option<Arc<Self>> {
        self.fallback.load_full()
    }

    /// For `server`: sets that.
    pub fn fall_back_to(&self, fallback: Option<Arc<Self>>) {
        self.fallback.store(fallback);
    }

    /// Sessions that were routed here and that a fallback has served.
    pub fn fallback_sessions(&self) -> u64 {
        self.fallback_sessions.load(Relaxed)
    }

    /// Whether sessions need the server name that their client asks for, here or in a fallback.
    pub fn hashes_by_name(&self) -> bool {
        let hashes = |pool: &Self| pool.settings.load().hashing.by == config::HashBy::Sni;
        hashes(self) || self.fallback.load().is_some() && self.fallbacks().iter().any(|pool| hashes(pool))
    }

    /// Counts such a session.
    pub fn fell_back(&self) {
        self.fallback_sessions.fetch_add(1, Relaxed);
    }

    /// Its fallback, if sessions go there now because nothing here is up and something there is.
    pub fn lives_from(&self) -> Option<Arc<Self>> {
        if self.counts().up > 0 {
            return None;
        }
        self.fallbacks().into_iter().find(|pool| pool.counts().up > 0)
    }

    /// What there is for the session now; trials are not counted.
    pub fn prospect(&self, context: &PickContext<'_>) -> Prospect {
        self.inner().prospect(context)
    }

    /// The backends of which a new session would get one now, without picking any; with an affinity, the one that its hash
    /// leads to.
    pub fn foreseen(&self, affinity: Option<Affinity>) -> Vec<Arc<Backend>> {
        self.inner().foreseen(affinity)
    }

    /// Whether a client that comes now should wait: what serves it is not known yet.
    pub fn is_awaited(&self) -> bool {
        !self.is_settled() || self.unsettled_fallback().is_some()
    }

    /// Waits until that is known.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn until_known(&self) {
        self.until_settled().await;
        while let Some(fallback) = self.unsettled_fallback() {
            fallback.until_settled().await;
        }
    }

    /// The first fallback that sessions may need and that is not settled.
    fn unsettled_fallback(&self) -> Option<Arc<Self>> {
        if self.fallback.load().is_none() || self.counts().up > 0 {
            return None;
        }
        let first = self.fallbacks().into_iter().find(|pool| !pool.is_settled() || pool.counts().up > 0)?;
        (!first.is_settled()).then_some(first)
    }

    /// Its fallback, that one's, and so on.
    pub fn fallbacks(&self) -> Vec<Arc<Self>> {
        let mut all: Vec<Arc<Self>> = Vec::new();
        let mut next = self.fallback();
        // While another configuration is applied, there may be a circle for a moment.
        let is_new = |all: &[Arc<Self>], pool: &Arc<Self>| {
            !std::ptr::eq(&raw const **pool, self) && !all.iter().any(|known| Arc::ptr_eq(known, pool))
        };
        while let Some(pool) = next.filter(|pool| is_new(&all, pool)) {
            next = pool.fallback();
            all.push(pool);
        }
        all
    }
}
