//! Sessions by the address that they dialled, for a backend whose host is a name: some may be at a former address.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The counts. A lock: taken at the begin and at the end of a session. A name has few addresses, and those without sessions
/// are not kept.
#[derive(Debug, Default)]
pub(super) struct SessionsByAddress(Mutex<Vec<(SocketAddr, u32)>>);

impl SessionsByAddress {
    pub(super) fn enter(&self, address: SocketAddr) {
        let mut places = self.lock();
        match places.iter_mut().find(|(at, _)| *at == address) {
            Some((_, sessions)) => *sessions += 1,
            None => places.push((address, 1)),
        }
    }

    pub(super) fn leave(&self, address: SocketAddr) {
        let mut places = self.lock();
        if let Some((_, sessions)) = places.iter_mut().find(|(at, _)| *at == address) {
            *sessions -= 1;
        }
        places.retain(|(_, sessions)| *sessions > 0);
    }

    pub(super) fn read(&self) -> Vec<(SocketAddr, u32)> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(SocketAddr, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
