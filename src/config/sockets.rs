//! `tcp = { … }`: the same keys on a listener and on a pool, but for those that only a listening socket has.

use std::time::Duration;

use serde::Serialize;

use super::faults::Complaint;
use super::size;
use super::table::{Table, longer_than_zero};
use super::value::Form;

/// Options of one side's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TcpOptions {
    /// `TCP_NODELAY`
    pub nodelay: bool,
    /// `SO_KEEPALIVE` and its times; `None` = off.
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`: unacknowledged data older than this breaks the connection; `None` = the kernel's way.
    pub user_timeout: Option<Duration>,
    /// `SO_RCVBUF` in bytes, which also ends the kernel's own tuning; `None` = that tuning.
    pub receive_buffer: Option<u32>,
    /// `SO_SNDBUF` in bytes; the same.
    pub send_buffer: Option<u32>,
    /// Differentiated services code point of what is sent (RFC 2474), 0 to 63.
    pub dscp: Option<u8>,
}

/// `keepalive = { … }`, whole seconds as the kernel has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Keepalive {
    /// Quiet time before the first probe (`TCP_KEEPIDLE`).
    pub idle: Duration,
    /// Between probes (`TCP_KEEPINTVL`).
    pub interval: Duration,
    /// Unanswered probes that break the connection (`TCP_KEEPCNT`).
    pub count: u32,
}

/// What only a listening socket has.
pub(super) struct ListenOptions {
    pub(super) backlog: u32,
    pub(super) fast_open: bool,
    pub(super) defer_accept: Option<Duration>,
}

impl TcpOptions {
    fn read(tcp: &Table<'_>) -> Self {
        // The kernel doubles what it is given and keeps it in 31 bits; its least is 2 KiB or so.
        let buffer = |text: &str| size::between(text, 4 << 10, 1 << 30);
        Self {
            nodelay: tcp.switch("nodelay").unwrap_or(true),
            keepalive: Keepalive::read(tcp),
            // The kernel keeps it as a signed number of milliseconds.
            user_timeout: tcp.time_with("user_timeout", |time| {
                longer_than_zero(time)?;
                no_longer_than(time, Duration::from_millis(i32::MAX as u64), "596h")
            }),
            receive_buffer: tcp.parsed("receive_buffer", buffer),
            send_buffer: tcp.parsed("send_buffer", buffer),
            dscp: tcp.number("dscp", 0..=63),
        }
    }

    /// Of a listener: the options of its client sockets, and those of the listening ones.
    pub(super) fn front(tcp: &Table<'_>) -> (Self, ListenOptions) {
        let of_listening = ListenOptions {
            backlog: tcp.number("backlog", 1..=i64::from(i32::MAX)).unwrap_or(4096),
            fast_open: tcp.switch("fast_open").unwrap_or(false),
            defer_accept: tcp.time_with("defer_accept", seconds),
        };
        (Self::read(tcp), of_listening)
    }

    /// Of a pool: the options of its backend sockets.
    pub(super) fn back(tcp: &Table<'_>) -> Self {
        for key in ["backlog", "fast_open", "defer_accept"] {
            if let Some(value) = tcp.value(key) {
                let hint = "move it to the `tcp` of the listener: only a listening socket has one";
                value.fault(format!("`{key}` does not apply to a pool"), hint);
            }
        }
        Self::read(tcp)
    }
}

impl Keepalive {
    fn read(tcp: &Table<'_>) -> Option<Self> {
        let usual = Self { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
        let Some(value) = tcp.value("keepalive") else { return Some(usual) };
        match value.form() {
            Form::Switch(on) => on.then_some(usual),
            Form::Table => value.table().map(|table| Self {
                idle: table.time_with("idle", seconds).unwrap_or(usual.idle),
                interval: table.time_with("interval", seconds).unwrap_or(usual.interval),
                // `MAX_TCP_KEEPCNT` of the kernel.
                count: table.number("count", 1..=127).unwrap_or(usual.count),
            }),
            _ => value.wrong("true, false or a table { idle, interval, count }"),
        }
    }
}

/// Whole seconds, up to `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` of the kernel.
fn seconds(time: Duration) -> Result<(), Complaint> {
    longer_than_zero(time)?;
    if time.subsec_nanos() != 0 {
        let hint = format!("write \"{}s\"", time.as_secs() + 1);
        return Err(Complaint::new("the kernel counts whole seconds here", hint));
    }
    no_longer_than(time, Duration::from_secs(32_767), "32767s")
}

fn no_longer_than(time: Duration, longest: Duration, written: &str) -> Result<(), Complaint> {
    if time > longest {
        return Err(Complaint::new("more than the kernel takes", format!("the longest is \"{written}\"")));
    }
    Ok(())
}
