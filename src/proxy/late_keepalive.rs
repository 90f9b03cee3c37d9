//! Sets keepalive on connections that have lasted for a few seconds. It takes four system calls and a timer, which most
//! short sessions never need. (A client's socket inherits it from the listening socket, until it gets its own times here.)
//! Used by the worker alone.
//!
//! Every socket has its own times, a little below the configured ones. The kernel's timers are coarse: ten thousand
//! connections that became silent together would send their probes in the same moment. That is more than the queue of
//! loopback or a card (`net.core.netdev_max_backlog`) takes, and connections would be given up although both sides live.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::mem::take;
use std::os::fd::AsRawFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::socket::TcpFd;
use crate::config::Keepalive;

/// Keepalive with a shorter `idle` is set at once.
const IMMEDIATE_BELOW: Duration = Duration::from_secs(10);

/// Connections that get keepalive later.
#[derive(Debug, Default)]
pub(super) struct LateKeepalive(RefCell<Generations>);

#[derive(Debug, Default)]
struct Generations {
    /// Added since the last [`LateKeepalive::advance`].
    new: Vec<(Weak<TcpFd>, Keepalive)>,
    /// Added between the last two.
    old: Vec<(Weak<TcpFd>, Keepalive)>,
}

impl LateKeepalive {
    /// Adds a connection.
    pub(super) fn add(&self, socket: &Rc<TcpFd>, keepalive: Keepalive) {
        if keepalive.idle < IMMEDIATE_BELOW {
            return set(socket, keepalive);
        }
        self.0.borrow_mut().new.push((Rc::downgrade(socket), keepalive));
    }

    /// Call it every few seconds. It sets keepalive on connections that have lived since the call before.
    pub(super) fn advance(&self) {
        let mut generations = self.0.borrow_mut();
        let grown = take(&mut generations.old);
        generations.old = take(&mut generations.new);
        for (socket, keepalive) in grown {
            if let Some(socket) = socket.upgrade() {
                set(&socket, keepalive);
            }
        }
    }
}

fn set(socket: &TcpFd, keepalive: Keepalive) {
    // It does not fail on a TCP socket. If it did, a session without keepalive is better than none.
    let _ = socket.keep_alive(spread(keepalive, socket.as_raw_fd().unsigned_abs()));
}

/// Times for one of many sockets, by its number: three to four quarters of `idle`, half to all of `interval`, so that a lost
/// peer is found no later than configured. Descriptors are numbers in a row; their times are far from each other in both.
pub(super) fn spread(keepalive: Keepalive, number: u32) -> Keepalive {
    let part = |of: Duration, most: u64, by: u32| {
        let room = most + 1;
        let place = (u64::from(number.wrapping_mul(by)) * room) >> 32;
        of.saturating_sub(Duration::from_secs(place))
    };
    let (idle, interval) = (keepalive.idle, keepalive.interval);
    // Odd parts of 2^32: the golden ratio, and the root of two.
    let idle = part(idle, idle.as_secs() / 4, 0x9e37_79b9);
    let interval = part(interval, interval.as_secs() / 2, 0x6a09_e667);
    Keepalive { idle, interval, ..keepalive }
}
