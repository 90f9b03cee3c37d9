//! Keepalive for connections to backends, once they have lived for a while: it takes four system calls and a timer, which
//! most short sessions never need. (A client's socket inherits it.) Used by the worker alone.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::mem::take;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::socket::Bare;
use crate::config::Keepalive;

/// Whose first question is due sooner has no time to grow up.
const SOON: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Young(RefCell<Generations>);

#[derive(Debug, Default)]
struct Generations {
    /// Since the latest [`Young::grow`].
    new: Vec<(Weak<Bare>, Keepalive)>,
    /// Since the one before.
    old: Vec<(Weak<Bare>, Keepalive)>,
}

impl Young {
    /// A connection is there.
    pub(super) fn add(&self, socket: &Rc<Bare>, keepalive: Keepalive) {
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

fn set(socket: &Bare, keepalive: Keepalive) {
    // Of a TCP socket it does not fail; if it did, the session is better off without it than ended.
    let _ = socket.keep_alive(keepalive);
}
