//! One probe: connect, the PROXY header that sessions have, the kind's own exchange, one deadline over all, a verdict in
//! words, and a goodbye. Called by the probe's task. Whose fault an error is gets decided here: a backend is judged by what
//! it did, never by what this machine ran out of.

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
use super::wire::{Goodbye, Wire};
use super::{agent, connect, exec, grpc, http, postgres, redis, script, tls};

/// For a server to end its side of a connection. Most do within a round trip.
const FAREWELL: Duration = Duration::from_millis(500);

/// Where a probe is. Kept outside of the exchange, so that a timeout can tell how far it got.
pub(super) struct Trace {
    /// See [`ProbeResult::asked`].
    pub(super) asked: String,
    /// See [`ProbeResult::wanted`].
    pub(super) wanted: String,
    /// What the backend sent, or as much of it as can matter.
    pub(super) came: Vec<u8>,
    /// How the connection ends.
    pub(super) goodbye: Goodbye,
    /// See [`ProbeResult::hearing`].
    pub(super) hearing: Option<Hearing>,
    /// See [`ProbeResult::certificate`].
    pub(super) certificate: Option<Certificate>,
}

/// What a probe takes along from the one before it, and brings back.
pub(super) struct AttemptContext {
    /// For TLS, where the check wants it.
    pub(super) context: Option<Context>,
    /// Of the kind `agent`.
    pub(super) opinion: Opinion,
}

/// Why a probe did not pass.
#[derive(Debug)]
pub(super) enum Miss {
    /// The backend's doing, in words.
    Failed(String),
    /// Ours.
    Local(io::Error),
}

/// What is left of a probe when its verdict stands.
pub(super) struct Farewell {
    /// `None` = nothing is: there is no connection, or its end is the kernel's business.
    wire: Option<Wire>,
    goodbye: Goodbye,
    limit: Duration,
}

impl Farewell {
    /// Ends the connection in order, which takes no longer than what was left of the probe's timeout.
    ///
    /// Cancel safe: dropping the future closes the connection.
    pub(super) async fn say(self) {
        if let Some(wire) = self.wire {
            wire.leave(self.goodbye, self.limit).await;
        }
    }
}

/// Probes once.
///
/// Cancel safe: dropping the future closes the connection.
///
/// # Errors
/// What this machine lacked (fds, ephemeral ports, memory). Then nothing is known about the backend.
pub(super) async fn attempt(
    address: SocketAddr,
    check: &Check,
    context: &mut AttemptContext,
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
    let verdict = match within(check.timeout, exchange(address, check, context, &mut wire, &mut trace)).await {
        Ok(verdict) => verdict,
        Err(_) => Err(trace.failed(format!("timeout after {:?}", check.timeout))),
    };
    let limit = FAREWELL.min(check.timeout.saturating_sub(started.elapsed()));
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
        advice: context.opinion.advice(),
        hearing: trace.hearing,
        certificate: trace.certificate,
    };
    Ok((result, farewell))
}

/// `wire` is where the connection is left.
async fn exchange(
    address: SocketAddr,
    check: &Check,
    context: &mut AttemptContext,
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
    let stream = match (&check.tls, &context.context) {
        (Some(settings), Some(context)) => {
            match tls::handshake(stream, address, settings, context.clone(), trace).await {
                Ok(stream) => wire.insert(Wire::Tls(stream)),
                Err((miss, stream)) => {
                    *wire = stream.map(Wire::Plain);
                    return Err(miss);
                }
            }
        }
        _ => wire.insert(Wire::Plain(stream)),
    };
    match &check.kind {
        // Neither `None` nor `Exec` gets here, see `Prober::subscribe` and above.
        CheckKind::None | CheckKind::Tcp | CheckKind::Exec(_) => Ok("connected".to_owned()),
        CheckKind::Http(check) => http::exchange(stream, address, check, trace).await,
        CheckKind::Script(script) => script::exchange(stream, &script.steps, trace).await,
        CheckKind::Memcached => script::converse(stream, &script::MEMCACHED, trace).await,
        CheckKind::Smtp => script::converse(stream, &script::SMTP, trace).await,
        CheckKind::Mysql => script::converse(stream, &script::MYSQL, trace).await,
        CheckKind::Redis(check) => redis::exchange(stream, check, trace).await,
        CheckKind::Tls => Ok(tls::told(stream, trace)),
        CheckKind::Postgres(check) => postgres::exchange(stream, check, trace).await,
        CheckKind::Grpc(check) => grpc::exchange(stream, address, check, trace).await,
        CheckKind::Agent(check) => agent::exchange(stream, check, &mut context.opinion, trace).await,
    }
}

/// A backend that expects the header of sessions expects it of probes too. Version 1 has no word for a connection that
/// nobody is relayed by but `UNKNOWN`, which some servers refuse: it names the probe's own addresses. Version 2 has one
/// (LOCAL), so that no server logs a client that there never was. HAProxy does the same in both.
fn header(version: ProxyVersion, stream: &TcpStream) -> io::Result<Vec<u8>> {
    Ok(match version {
        ProxyVersion::V1 => write_v1(Some(Addresses::between(stream.local_addr()?, stream.peer_addr()?))),
        ProxyVersion::V2 => write_v2(&Header::Local, false),
    })
}

impl Trace {
    /// A failure that quotes what came before it.
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

/// Whether an error says something about this machine and nothing about the backend.
fn is_local(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM)
    )
}

/// What happened on the network, in as few words as say it.
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
