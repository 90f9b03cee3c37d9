//! One question to the servers of names, in turn: over UDP, over TCP where the answer was cut, each within its time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::message::{Asked, Packet, Question, Reply, ReplyCode};
use crate::config::{DnsSource, file};
use crate::deadline::within;
use crate::discovery::error::AskError;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The largest packet that there is.
const LARGEST: usize = 65_535;

pub(super) struct Asker {
    source: DnsSource,
    /// Which resolver answered last; a hint, so that one that is dead is not waited for each time.
    last: AtomicUsize,
}

impl Asker {
    pub(super) fn new(source: &DnsSource) -> Self {
        Self { source: source.clone(), last: AtomicUsize::new(0) }
    }

    /// The first answer of a resolver that has one, be it that there is no such name. Cancel safe.
    pub(super) async fn ask(&self, name: &str, asked: Asked) -> Result<Reply, AskError> {
        let resolvers = self.resolvers().await?;
        let first = self.last.load(Ordering::Relaxed);
        let mut failure = None;
        for turn in 0..resolvers.len() {
            let number = (first + turn) % resolvers.len();
            match self.ask_one(resolvers[number], name, asked).await {
                Ok(reply) => {
                    // Only a hint: no order with anything else matters.
                    self.last.store(number, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(failed) => failure = Some(failed),
            }
        }
        Err(failure.unwrap_or_else(|| failed("no_resolver", format!("{RESOLV_CONF} names no server"))))
    }

    /// As they are now: a container's may change while it runs.
    async fn resolvers(&self) -> Result<Vec<SocketAddr>, AskError> {
        if !self.source.resolvers.is_empty() {
            return Ok(self.source.resolvers.clone());
        }
        let read = || file::small(Path::new(RESOLV_CONF), file::LARGEST_TOKEN);
        let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other).flatten();
        let bytes = read.map_err(|error| failed("no_resolver", format!("{RESOLV_CONF}: {error}")))?;
        Ok(listed(&String::from_utf8_lossy(&bytes)))
    }

    async fn ask_one(&self, resolver: SocketAddr, name: &str, asked: Asked) -> Result<Reply, AskError> {
        let mut reply = self.ask_with(resolver, name, asked, true).await?;
        if reply.code == ReplyCode::NotUnderstood {
            reply = self.ask_with(resolver, name, asked, false).await?;
        }
        let said = match &reply.code {
            ReplyCode::Good | ReplyCode::NoSuchName => return Ok(reply),
            ReplyCode::NotUnderstood => "it does not understand the question",
            ReplyCode::Failed(said) => said,
        };
        Err(failed("server_failure", format!("{resolver} has no answer for {name}: {said}")))
    }

    async fn ask_with(
        &self,
        resolver: SocketAddr,
        name: &str,
        asked: Asked,
        with_edns: bool,
    ) -> Result<Reply, AskError> {
        let refuse = |kind, why: String| failed(kind, format!("{resolver}, asked for {name}: {why}"));
        let question = Question::new(name, asked).ok_or_else(|| refuse("invalid", "no name of DNS".to_owned()))?;
        let bytes = question.bytes(with_edns).map_err(|why| refuse("invalid", why))?;
        let mut last = None;
        if !self.source.tcp {
            let answer = within(self.source.timeout, by_udp(resolver, &question, &bytes, &mut last)).await;
            match answer {
                Ok(Ok(Some(reply))) => return Ok(reply),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => return Err(refuse("connect", error.to_string())),
                Err(_) => {
                    // A packet that is not the answer may come from anybody: it ends nothing.
                    return Err(match last {
                        Some(why) => refuse("invalid", why),
                        None => refuse("timeout", format!("no answer within {:?}", self.source.timeout)),
                    });
                }
            }
        }
        match within(self.source.timeout, by_tcp(resolver, &bytes)).await {
            Err(_) => Err(refuse("timeout", format!("no answer over TCP within {:?}", self.source.timeout))),
            Ok(Err(error)) => Err(refuse("connect", format!("over TCP: {error}"))),
            Ok(Ok(packet)) => match question.packet(&packet) {
                Packet::Reply(reply) => Ok(reply),
                Packet::Truncated => Err(refuse("invalid", "the answer over TCP is cut, too".to_owned())),
                Packet::Other(why) => Err(refuse("invalid", why)),
            },
        }
    }
}

/// `None` = the answer was cut. What comes and is no answer is noted in `last`.
async fn by_udp(
    resolver: SocketAddr,
    question: &Question,
    bytes: &[u8],
    last: &mut Option<String>,
) -> io::Result<Option<Reply>> {
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A socket, and so a port, for each question; connected, so that only this server is heard.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match question.packet(&buffer[..length]) {
            Packet::Reply(reply) => return Ok(Some(reply)),
            Packet::Truncated => return Ok(None),
            Packet::Other(why) => *last = Some(why),
        }
    }
}

async fn by_tcp(resolver: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut packet = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

/// The servers of a `resolv.conf`.
fn listed(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let address = line.trim().strip_prefix("nameserver")?.trim();
        // The zone of a link-local address is a name here, which no socket takes.
        address.parse().ok().map(|ip| SocketAddr::new(ip, 53))
    };
    text.lines().filter_map(server).collect()
}

pub(super) fn failed(kind: &'static str, text: String) -> AskError {
    AskError { kind, text: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_the_machine_are_found() {
        let text =
            "# generated\nsearch example.com\nnameserver 127.0.0.11\n nameserver\t::1\noptions ndots:0\nnameserver x\n";
        assert_eq!(listed(text), ["127.0.0.11:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }
}
