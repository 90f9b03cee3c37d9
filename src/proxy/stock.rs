//! Connections to backends that a worker keeps ready. `preconnect` opens them, sessions take them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use super::shares::Spare;
use super::socket::Socket;
use crate::pool::{Backend, Lease, Pool, Preconnected};

/// The connections that one worker keeps.
#[derive(Debug, Default)]
pub(super) struct Stock {
    /// By the identity's address in memory. The connections keep the identity alive, so the address stays its own.
    pub(super) kept: RefCell<HashMap<*const Backend, Vec<SpareConnection>>>,
    pub(super) wanted: Notify,
}

#[derive(Debug)]
pub(super) struct SpareConnection {
    pub(super) socket: Socket,
    /// Keeps the key of the map alive, and counts.
    pub(super) counted: Preconnected,
    pub(super) old_at: Instant,
    pub(super) source: Option<IpAddr>,
    /// It takes the place of a session, so that descriptors never run out.
    pub(super) _place: Spare,
}

impl Stock {
    /// A live connection to the lease's backend and address, if there is one.
    pub(super) fn take(&self, lease: &mut Lease) -> Option<Socket> {
        let mut kept = self.kept.borrow_mut();
        let of_backend = kept.get_mut(&Arc::as_ptr(lease.backend()))?;
        self.wanted.notify_waiters();
        while let Some(SpareConnection { socket, counted, source, .. }) = of_backend.pop() {
            if counted.address() != lease.address() || !socket.is_alive() {
                continue;
            }
            counted.used();
            if let Some(source) = source {
                lease.set_source(source);
            }
            return Some(socket);
        }
        None
    }

    /// Drops connections that can't be used any more. They are closed by a FIN.
    pub(super) fn drop_unusable(&self, pool: &Pool, now: Instant) {
        let members = pool.members();
        self.kept.borrow_mut().retain(|&backend, kept| {
            // Each pool has a task of its own.
            let mine = kept.first().is_some_and(|kept| kept.counted.is_of(pool));
            let member = members.iter().find(|member| Arc::as_ptr(member) == backend);
            let is_wanted = member.is_some_and(|member| member.wants_sessions());
            if mine {
                kept.retain(|kept| {
                    let stays = is_wanted && now < kept.old_at && kept.socket.is_alive();
                    if !stays {
                        kept.socket.tcp_fd().may_close();
                    }
                    stays
                });
            }
            !kept.is_empty()
        });
    }

    pub(super) fn clear(&self, pool: &Pool) {
        self.kept.borrow_mut().retain(|_, kept| {
            kept.retain(|kept| {
                let stays = !kept.counted.is_of(pool);
                if !stays {
                    kept.socket.tcp_fd().may_close();
                }
                stays
            });
            !kept.is_empty()
        });
    }

    pub(super) fn count(&self, backend: &Arc<Backend>) -> usize {
        self.kept.borrow().get(&Arc::as_ptr(backend)).map_or(0, Vec::len)
    }
}
