//! One probe: connect, the PROXY header that sessions have, the kind's own exchange, one deadline over all, and a verdict
//! in words. Called by the probe's task. Whose fault an error is gets decided here: a backend is judged by what it did,
//! never by what this machine ran out of.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::config::{Check, CheckKind, ProxyVersion};
use crate::header::{Header, write_v1, write_v2};
use crate::health::{Certificate, ProbeResult, escaped, line};

use super::agent::Opinion;
use super::tls::Context;
use super::wire::Wire;
use super::{agent, exec, grpc, http, postgres, redis, script, tls};

/// Where a probe is. Kept outside of the exchange, so that a timeout can tell how far it got.
pub(super) struct Trace {
    /// See [`ProbeResult::asked`].
    pub(super) asked: String,
    /// See [`ProbeResult::wanted`].
    pub(super) wanted: String,
    /// What the backend sent, or as much of it as can matter.
    pub(super) came: Vec<u8>,
    /// Set once the verdict is a pass and only good manners are left.
    pub(super) settled: Option<String>,
    /// See [`ProbeResult::certificate`].
    pub(super) certificate: Option<Certificate>,
}

/// What a probe takes along from the one before it, and brings back.
pub(super) struct Luggage {
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

/// Probes once.
///
/// Cancel safe: dropping the future resets the connection.
///
/// # Errors
/// What this machine lacked (fds, ephemeral ports, memory). Then nothing is known about the backend.
pub(super) async fn attempt(address: SocketAddr, check: &Check, luggage: &mut Luggage) -> io::Result<ProbeResult> {
    let started = Instant::now();
    let mut trace = Trace {
        asked: format!("connect {address}"),
        wanted: String::new(),
        came: Vec::new(),
        settled: None,
        certificate: None,
    };
    let verdict = match timeout(check.timeout, exchange(address, check, luggage, &mut trace)).await {
        Ok(verdict) => verdict,
        Err(_) => trace.timed_out(check.timeout),
    };
    let (passed, got) = match verdict {
        Ok(got) => (true, got),
        Err(Miss::Failed(got)) => (false, got),
        Err(Miss::Local(error)) => return Err(error),
    };
    Ok(ProbeResult {
        kind: check.kind.name(),
        passed,
        duration: started.elapsed(),
        at: SystemTime::now(),
        asked: line(&trace.asked),
        wanted: line(&trace.wanted),
        got: line(&got),
        advice: luggage.opinion.advice(),
        certificate: trace.certificate,
    })
}

async fn exchange(
    address: SocketAddr,
    check: &Check,
    luggage: &mut Luggage,
    trace: &mut Trace,
) -> Result<String, Miss> {
    if let CheckKind::Exec(exec) = &check.kind {
        return exec::run(address, exec, check.timeout, trace).await;
    }
    let mut stream = connect(address).await?;
    if let Some(version) = check.send_proxy {
        stream.write_all(&header(version)).await?;
    }
    let mut stream = match (&check.tls, &luggage.context) {
        (Some(settings), Some(context)) => {
            Wire::Tls(tls::handshake(stream, address, settings, context.clone(), trace).await?)
        }
        _ => Wire::Plain(stream),
    };
    match &check.kind {
        // Neither `None` nor `Exec` gets here, see `Prober::subscribe` and above.
        CheckKind::None | CheckKind::Tcp | CheckKind::Exec(_) => Ok("connected".to_owned()),
        CheckKind::Http(check) => http::exchange(stream, address, check, trace).await,
        CheckKind::Script(steps) => script::exchange(&mut stream, steps, trace).await,
        CheckKind::Protocol(protocol) => script::exchange(&mut stream, script::of(*protocol), trace).await,
        CheckKind::Redis(check) => redis::exchange(&mut stream, check, trace).await,
        CheckKind::Tls => Ok(tls::told(&mut stream, trace).await),
        CheckKind::Postgres(check) => postgres::exchange(&mut stream, check, trace).await,
        CheckKind::Grpc(check) => grpc::exchange(stream, address, check, trace).await,
        CheckKind::Agent(check) => agent::exchange(&mut stream, check, &mut luggage.opinion, trace).await,
    }
}

/// A backend that expects the header of sessions expects it of probes too. It says that nobody is relayed, so that no
/// server logs a client that there never was.
fn header(version: ProxyVersion) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => write_v1(None),
        ProxyVersion::V2 => write_v2(&Header::Local, false),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Miss> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // However a probe ends, it leaves no TIME_WAIT behind: a probe every half second would eat the ephemeral ports.
    socket.set_zero_linger()?;
    socket.set_nodelay(true)?;
    let stream = socket.connect(address).await?;
    if is_own_reflection(&stream) {
        return Err(Miss::Failed("refused".to_owned()));
    }
    Ok(stream)
}

/// A connect to a local port in the ephemeral range that nobody listens on can be given that very port as its source,
/// and then TCP's simultaneous open connects the socket to itself: the dead backend would pass.
fn is_own_reflection(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

impl Trace {
    /// The verdict when time is up.
    fn timed_out(&mut self, limit: Duration) -> Result<String, Miss> {
        if let Some(got) = self.settled.take() {
            return Ok(got);
        }
        let what = format!("timeout after {limit:?}");
        Err(self.failed(what))
    }

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

    #[tokio::test]
    async fn a_socket_connected_to_itself_is_seen() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let itself = socket.local_addr().unwrap();
        assert!(is_own_reflection(&socket.connect(itself).await.unwrap()));

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!is_own_reflection(&stream));
    }
}
