//! The table of a pool that is `sticky`: how picks go by it, and what operators see of it. It is behind the pool's lock.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Pool;
use super::state::PoolState;
use crate::balance;

/// What the table of a pool holds.
#[derive(Debug, Default)]
pub struct StickyView {
    /// Clients that are remembered, with some whose backend is gone.
    pub entries: usize,
    /// Clients that were forgotten before their time, because others came.
    pub forgotten: u64,
    /// Some of them, the last ones first: the client or its network, its backend, and the time since its last session began.
    pub clients: Vec<(IpAddr, Arc<str>, Duration)>,
}

impl Pool {
    /// Its table, with so many clients at most; `None` = it is not sticky.
    pub fn sticky(&self, most: usize) -> Option<StickyView> {
        let inner = self.inner();
        let table = inner.sticky.as_ref()?;
        let clients = table.list(Instant::now(), most).into_iter();
        let named = clients.filter_map(|(client, slot, unused)| Some((client, inner.id_of(slot)?, unused)));
        Some(StickyView { entries: table.len(), forgotten: table.forgotten(), clients: named.collect() })
    }

    /// Forgets a client, or all of them: their next session is picked for by the policy. Returns how many it has forgotten;
    /// `None` = it is not sticky.
    pub fn forget_sticky(&self, client: Option<IpAddr>) -> Option<usize> {
        let mut inner = self.inner();
        let table = inner.sticky.as_mut()?;
        let Some(client) = client else {
            let entries = table.len();
            table.clear();
            return Some(entries);
        };
        let network = table.rules().prefix.network(client);
        Some(usize::from(table.remove(network, Instant::now())))
    }
}

impl PoolState {
    /// The backend that the client had last, if the session may have it; else the policy's choice.
    pub(super) fn pick_slot(&mut self, context: &balance::PickContext<'_, usize>) -> Option<usize> {
        let Some((table, client)) = self.sticky.as_mut().zip(context.affinity.client) else {
            return self.picker.pick(context);
        };
        let now = Instant::now();
        let own = table.slot_of(client, now);
        let got = own.filter(|own| self.picker.pick_this(*own, context)).or_else(|| self.picker.pick(context))?;
        // One that is full or slow is not given up: the next session may find it better.
        let is_kept = |own: &usize| self.picker.is_only_full(*own) || context.dialling.contains(own);
        table.put(client, own.filter(is_kept).unwrap_or(got), now);
        Some(got)
    }
}
