//! `tcp = { … }`: the same sub-table on a listener and on a pool, where one key has a meaning on one side only.

use std::time::Duration;

use toml::Spanned;

use super::faults::{Complaint, Reading, Zero, shown};
use super::shape::TcpShape;
use super::values::{KeepaliveSetting, Time};
use super::{Keepalive, TcpOptions, duration, size};

const DEFAULT_BACKLOG: u32 = 4096;
const DEFAULT_KEEPALIVE: Keepalive =
    Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` of the kernel, in seconds.
const LONGEST_KEEPALIVE: u64 = 32_767;
/// `MAX_TCP_KEEPCNT` of the kernel.
const MOST_KEEPALIVES: i64 = 127;
/// The kernel keeps `TCP_USER_TIMEOUT` as a signed number of milliseconds.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// What only a listening socket has.
pub(super) struct ListenOptions {
    pub(super) backlog: u32,
    pub(super) fast_open: bool,
    pub(super) defer_accept: Option<Duration>,
}

/// Of a listener: the options of its client sockets, and those of the listening ones.
pub(super) fn front(shape: Option<&TcpShape>, reading: &mut Reading<'_>) -> (TcpOptions, ListenOptions) {
    let backlog = shape.and_then(|shape| reading.number("backlog", &shape.backlog, 1..=i64::from(i32::MAX)));
    let fast_open = shape.and_then(|shape| shape.fast_open.as_ref()).is_some_and(|on| *on.get_ref());
    let defer_accept = shape.and_then(|shape| seconds("defer_accept", &shape.defer_accept, reading));
    let front = ListenOptions { backlog: backlog.unwrap_or(DEFAULT_BACKLOG), fast_open, defer_accept };
    (options(shape, reading), front)
}

/// Of a pool: the options of its backend sockets.
pub(super) fn back(shape: Option<&TcpShape>, reading: &mut Reading<'_>) -> TcpOptions {
    let of_listeners = shape.map(|shape| {
        [
            ("backlog", shape.backlog.as_ref().map(Spanned::span)),
            ("fast_open", shape.fast_open.as_ref().map(Spanned::span)),
            ("defer_accept", shape.defer_accept.as_ref().map(Spanned::span)),
        ]
    });
    for (key, span) in of_listeners.into_iter().flatten() {
        if let Some(span) = span {
            let hint = "move it to the `tcp` of the listener: only a listening socket has one";
            reading.fault(span, format!("`{key}` does not apply to a pool"), hint);
        }
    }
    options(shape, reading)
}

fn options(shape: Option<&TcpShape>, reading: &mut Reading<'_>) -> TcpOptions {
    let default = TcpShape::default();
    let shape = shape.unwrap_or(&default);
    let keepalive = match &shape.keepalive {
        None | Some(KeepaliveSetting::Switch(true)) => Some(DEFAULT_KEEPALIVE),
        Some(KeepaliveSetting::Switch(false)) => None,
        Some(KeepaliveSetting::Times(times)) => Some(Keepalive {
            idle: seconds("idle", &times.idle, reading).unwrap_or(DEFAULT_KEEPALIVE.idle),
            interval: seconds("interval", &times.interval, reading).unwrap_or(DEFAULT_KEEPALIVE.interval),
            count: reading.number("count", &times.count, 1..=MOST_KEEPALIVES).unwrap_or(DEFAULT_KEEPALIVE.count),
        }),
    };
    TcpOptions {
        nodelay: shape.nodelay.unwrap_or(true),
        keepalive,
        user_timeout: user_timeout(shape, reading),
        receive_buffer: reading.parsed("receive_buffer", &shape.receive_buffer, buffer),
        send_buffer: reading.parsed("send_buffer", &shape.send_buffer, buffer),
        dscp: reading.number("dscp", &shape.dscp, 0..=63),
    }
}

fn seconds(key: &str, value: &Time, reading: &mut Reading<'_>) -> Option<Duration> {
    let written = reading.duration(key, value, Zero::Refused)?;
    let span = value.as_ref()?.span();
    if written.subsec_nanos() != 0 {
        let complaint =
            Complaint::new("the kernel counts whole seconds here", format!("write \"{}s\"", written.as_secs() + 1));
        reading.refuse(span, key, &shown(&duration::written(written)), complaint);
        return None;
    }
    if written.as_secs() > LONGEST_KEEPALIVE {
        let complaint =
            Complaint::new("more than the kernel takes", format!("the longest is \"{LONGEST_KEEPALIVE}s\""));
        reading.refuse(span, key, &shown(&duration::written(written)), complaint);
        return None;
    }
    Some(written)
}

/// The kernel doubles what it is given and keeps it in 31 bits; its least is 2 KiB or so.
fn buffer(text: &str) -> Result<u32, Complaint> {
    let bytes = size::parse(text)?;
    match u32::try_from(bytes) {
        Ok(bytes) if (4_096..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err(Complaint::new("out of range", "write a size from \"4KiB\" to \"1GiB\"")),
    }
}

fn user_timeout(shape: &TcpShape, reading: &mut Reading<'_>) -> Option<Duration> {
    let written = reading.duration("user_timeout", &shape.user_timeout, Zero::Refused)?;
    if written > LONGEST_USER_TIMEOUT {
        let complaint = Complaint::new("more than the kernel takes", "the longest is \"596h\"");
        let span = shape.user_timeout.as_ref()?.span();
        reading.refuse(span, "user_timeout", &shown(&duration::written(written)), complaint);
        return None;
    }
    Some(written)
}
