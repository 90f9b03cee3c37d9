//! Keepalive, once a connection has lived for a while: it takes four system calls and a timer, which most short sessions
//! never need. (A client's socket inherits it, until it gets times of its own here.) Used by the worker alone.
//!
//! Every socket has times of its own, a little below those that are written. The kernel's timers are coarse: ten thousand
//! connections that fell silent together would ask in the same moment, again and again, more than loopback's or a card's
//! queue (`net.core.netdev_max_backlog`) takes, and be given up although both sides live.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::mem::take;
use std::os::fd::AsRawFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::socket::TcpFd;
use crate::config::Keepalive;

/// Whose first question is due sooner has no time to grow up.
const SOON: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LateKeepalive(RefCell<Generations>);

#[derive(Debug, Default)]
struct Generations {
    /// Since the latest [`LateKeepalive::grow`].
    new: Vec<(Weak<TcpFd>, Keepalive)>,
    /// Since the one before.
    old: Vec<(Weak<TcpFd>, Keepalive)>,
}

impl LateKeepalive {
    /// A connection is there.
    pub(super) fn add(&self, socket: &Rc<TcpFd>, keepalive: Keepalive) {
        if keepalive.idle < SOON {
            return set(socket, keepalive);
        }
        self.0.borrow_mut().new.push((Rc::downgrade(socket), keepalive));
    }

    /// To be called every few seconds. Those that live since the call before have keepalive from now on.
    pub(super) fn grow(&self) {
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
    // Of a TCP socket it does not fail; if it did, the session is better off without it than ended.
    let _ = socket.keep_alive(spread(keepalive, socket.as_raw_fd().unsigned_abs()));
}

/// Times for one of many sockets, by its number: three to four quarters of `idle`, half to all of `interval`, so that a peer
/// that is gone is found no later than is written. Numbers in a row, as descriptors are, are far from each other in both.
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
