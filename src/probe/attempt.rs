//! One attempt of a probe: connect, PROXY header, the exchange of the kind, within one deadline; its result in words; the
//! close.
//! Called by the probe's task.
//! It also decides which errors are local: a backend is judged by what it did, never by what this machine lacked.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::config::{Check, CheckKind, ProxyVersion};
use crate::deadline::within;
use crate::health::{Certificate, Hearing, ProbeResult, escaped, line};
use crate::proxy_protocol::{Addresses, Header, write_v1, write_v2};

use super::agent::Opinion;
use super::tls::Context;
use super::wire::{self, Goodbye, Wire};
use super::{agent, connect, exec, grpc, http, postgres, redis, script, tls};

/// How long a server gets to end its side of a connection. Most do so within a round trip.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How far an attempt got. It lives outside of the exchange, so that a timeout can say what it interrupted.
pub(super) struct Trace {
    /// See [`ProbeResult::asked`].
    pub(super) asked: String,
    /// See [`ProbeResult::wanted`].
    pub(super) wanted: String,
    /// What the backend sent, as far as it is kept.
    pub(super) came: Vec<u8>,
    /// How the connection is to end.
    pub(super) goodbye: Goodbye,
    /// See [`ProbeResult::hearing`].
    pub(super) hearing: Option<Hearing>,
    /// See [`ProbeResult::certificate`].
    pub(super) certificate: Option<Certificate>,
}

/// Why a probe did not pass.
#[derive(Debug)]
pub(super) enum Miss {
    /// The backend's fault, in words.
    Failed(String),
    /// This machine's fault.
    Local(io::Error),
}

/// The connection after the result, and how to end it.
pub(super) struct Farewell {
    /// `None` = nothing to do: there is no connection, or dropping it is enough.
    wire: Option<Wire>,
    goodbye: Goodbye,
    limit: Duration,
}

impl Farewell {
    /// Ends the connection in order, within the time that was left of the probe's timeout.
    ///
    /// Cancel safe: dropping the future closes the connection.
    pub(super) async fn say(self) {
        if let Some(wire) = self.wire {
            wire::leave(wire, self.goodbye, self.limit).await;
        }
    }
}

/// Probes once.
///
/// Cancel safe: dropping the future closes the connection.
///
/// # Errors
/// What this machine lacked (fds, ephemeral ports, memory). It says nothing about the backend.
pub(super) async fn attempt(
    address: SocketAddr,
    check: &Check,
    tls: Option<Context>,
    opinion: &mut Opinion,
) -> io::Result<(ProbeResult, Farewell)> {
    let started = Instant::now();
    let mut trace = Trace {
        asked: format!("connect {address}"),
        wanted: String::new(),
        came: Vec::new(),
        goodbye: Goodbye::Close,
        hearing: matches!(check.kind, CheckKind::Agent(_)).then_some(Hearing::Unreachable),
        certificate: None,
    };
    let mut wire = None;
    let verdict = match within(check.timeout, exchange(address, check, tls, opinion, &mut wire, &mut trace)).await {
        Ok(verdict) => verdict,
        Err(_) => Err(trace.failed(format!("timeout after {:?}", check.timeout))),
    };
    let limit = CLOSE_TIMEOUT.min(check.timeout.saturating_sub(started.elapsed()));
    let farewell = Farewell { wire: wire.filter(|_| connect::ends_in_order(check)), goodbye: trace.goodbye, limit };
    let (passed, got) = match verdict {
        Ok(got) => (true, got),
        Err(Miss::Failed(got)) => (false, got),
        Err(Miss::Local(error)) => return Err(error),
    };
    let result = ProbeResult {
        kind: check.kind.name(),
        passed,
        duration: started.elapsed(),
        at: SystemTime::now(),
        asked: line(&trace.asked),
        wanted: line(&trace.wanted),
        got: line(&got),
        advice: opinion.advice(),
        hearing: trace.hearing,
        certificate: trace.certificate,
    };
    Ok((result, farewell))
}

/// The connection is left in `wire`, also if the future is dropped.
async fn exchange(
    address: SocketAddr,
    check: &Check,
    tls: Option<Context>,
    opinion: &mut Opinion,
    wire: &mut Option<Wire>,
    trace: &mut Trace,
) -> Result<String, Miss> {
    if let CheckKind::Exec(exec) = &check.kind {
        return exec::run(address, exec, check.timeout, trace).await;
    }
    let mut stream = connect::connect(address, check).await?;
    if let Some(version) = check.send_proxy {
        let header = header(version, &stream)?;
        stream.write_all(&header).await?;
    }
    let stream = match (&check.tls, tls) {
        (Some(settings), Some(context)) => match tls::handshake(stream, address, settings, context, trace).await {
            Ok(stream) => wire.insert(Wire::Right(stream)),
            Err((miss, stream)) => {
                *wire = stream.map(Wire::Left);
                return Err(miss);
            }
        },
        _ => wire.insert(Wire::Left(stream)),
    };
    match &check.kind {
        // `None` and `Exec` do not get here: see `Prober::subscribe` and above.
        CheckKind::None | CheckKind::Tcp | CheckKind::Exec(_) => Ok("connected".to_owned()),
        CheckKind::Http(check) => http::exchange(stream, address, check, trace).await,
        CheckKind::Script(script) => script::exchange(stream, &script.steps, trace).await,
        CheckKind::Memcached => script::converse(stream, &script::MEMCACHED, trace).await,
        CheckKind::Smtp => script::converse(stream, &script::SMTP, trace).await,
        CheckKind::Mysql => script::converse(stream, &script::MYSQL, trace).await,
        CheckKind::Redis(check) => redis::exchange(stream, check, trace).await,
        CheckKind::Tls => Ok(tls::summary(stream, trace)),
        CheckKind::Postgres(check) => postgres::exchange(stream, check, trace).await,
        CheckKind::Grpc(check) => grpc::exchange(stream, address, check, trace).await,
        CheckKind::Agent(check) => agent::exchange(stream, check, opinion, trace).await,
    }
}

/// A backend that expects the header of sessions expects it of probes too. In version 1 a connection of the balancer itself
/// could only be `UNKNOWN`, which some servers refuse, so the header names the probe's own addresses. Version 2 has LOCAL,
/// so no server logs a client that did not exist. HAProxy does the same in both versions.
fn header(version: ProxyVersion, stream: &TcpStream) -> io::Result<Vec<u8>> {
    Ok(match version {
        ProxyVersion::V1 => write_v1(Some(Addresses::between(stream.local_addr()?, stream.peer_addr()?))),
        ProxyVersion::V2 => write_v2(&Header::Local, false),
    })
}

impl Trace {
    /// A failure that quotes what was received.
    pub(super) fn failed(&self, what: impl Into<String>) -> Miss {
        let what = what.into();
        if self.came.is_empty() {
            return Miss::Failed(what);
        }
        Miss::Failed(format!("{what}, came {}", escaped(&self.came)))
    }
}

impl From<io::Error> for Miss {
    fn from(error: io::Error) -> Self {
        if is_local(&error) { Self::Local(error) } else { Self::Failed(words(&error)) }
    }
}

/// Whether an error is about this machine and not about the backend.
fn is_local(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM)
    )
}

/// What happened on the network, in few words.
pub(super) fn words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => "reset".to_owned(),
        ErrorKind::HostUnreachable => "unreachable: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "unreachable: no route to network".to_owned(),
        ErrorKind::UnexpectedEof => "closed".to_owned(),
        ErrorKind::TimedOut => "timeout of the kernel".to_owned(),
        _ => {
            let text = error.to_string();
            text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text).to_lowercase()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_not_the_backends_fault() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM] {
            assert!(matches!(Miss::from(io::Error::from(errno)), Miss::Local(_)), "{errno:?}");
        }
        for (errno, expected) in [
            (Errno::CONNREFUSED, "refused"),
            (Errno::CONNRESET, "reset"),
            (Errno::PIPE, "reset"),
            (Errno::HOSTUNREACH, "unreachable: no route to host"),
            (Errno::NETUNREACH, "unreachable: no route to network"),
            (Errno::ACCESS, "permission denied"),
        ] {
            let Miss::Failed(got) = Miss::from(io::Error::from(errno)) else { panic!("{errno:?}") };
            assert_eq!(got, expected);
        }
    }
}
