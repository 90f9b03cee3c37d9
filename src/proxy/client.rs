//! A session's client: its peer, or the client that a trusted peer's PROXY header names; and telling a backend. Used by
//! the session, before a backend is picked and right after it is reached. The bytes of headers count nowhere.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::socket::{Socket, plain};
use crate::config::{AcceptProxy, Authority, ProxyValues, SendProxy};
use crate::deadline::within;
use crate::proxy_protocol::{self, ALPN, AUTHORITY, Addresses, Header, HeaderError, Parsed, Tlv, UNIQUE_ID};
use crate::route::hello::ClientHello;
use crate::route::{ClientFacts, Hello};

/// Read in one system call: a header and the first request behind it, seldom more.
const PIECE: usize = 1_024;

/// What is known of a client before its session begins.
#[derive(Debug)]
pub(super) struct Client {
    /// The client that the session is for.
    pub(super) address: SocketAddr,
    /// Read from the client already, and meant for the backend.
    pub(super) early: Vec<u8>,
    /// Its TLS ClientHello, if that was read.
    pub(super) hello: Option<Arc<ClientHello>>,
    /// It asked for TLS in the clear, and was told to begin.
    pub(super) starttls: bool,
    /// What the client connected to, if a header says so.
    destination: Option<SocketAddr>,
    tlvs: Vec<Tlv>,
}

/// A header for a backend.
pub(super) struct Greeting {
    pub(super) bytes: Vec<u8>,
    /// The id of the session in it.
    pub(super) unique_id: Option<Vec<u8>>,
    /// Types of the values that it has no room for.
    pub(super) left_out: Vec<u8>,
}

/// Why a client gets no session.
#[derive(Debug)]
pub(super) enum IdentifyError {
    /// It did not begin with a header, and has to.
    Refused(String),
    /// It left before it said anything, or broke.
    Gone(String),
}

impl Client {
    /// The peer that connected.
    pub(super) fn is(peer: SocketAddr) -> Self {
        Self { address: peer, early: Vec::new(), hello: None, starttls: false, destination: None, tlvs: Vec::new() }
    }

    /// The id that the session was given by a proxy in front; one that no proxy may give counts as none.
    pub(super) fn unique_id(&self) -> Option<&[u8]> {
        self.value(UNIQUE_ID).filter(|id| (1..=proxy_protocol::LONGEST_ID).contains(&id.len()))
    }

    /// For its route and what follows from that. The destination is known only if a header says it.
    pub(super) fn facts(&self) -> ClientFacts<'_> {
        ClientFacts {
            destination: self.destination,
            tlvs: &self.tlvs,
            first_bytes: &self.early,
            hello: self.hello.as_deref().map_or(Hello::None, Hello::Read),
            ..ClientFacts::of(self.address)
        }
    }

    /// What it connected to: what a header says, else our own end of the connection. `socket` is the client's; asking it
    /// costs a system call.
    pub(super) fn destination(&self, socket: &Socket) -> Option<SocketAddr> {
        self.destination.or_else(|| socket.local_address().ok())
    }

    /// What a backend is told. `socket` is the client's, `own_id` is for clients that came without one.
    pub(super) fn header(&self, settings: &SendProxy, socket: &Socket, own_id: &str) -> Greeting {
        let addresses = self.destination(socket).map(|destination| Addresses::between(self.address, destination));
        let values = match settings {
            SendProxy::V1 => {
                return Greeting { bytes: proxy_protocol::write_v1(addresses), unique_id: None, left_out: Vec::new() };
            }
            SendProxy::V2(values) => values,
        };
        let unique_id = values.unique_id.then(|| self.unique_id().unwrap_or(own_id.as_bytes()).to_vec());
        let tlvs = self.tlvs(values, unique_id.as_deref());
        let (bytes, left_out) = proxy_protocol::write_v2_and_tell(&Header::Proxy { addresses, tlvs }, values.crc32c);
        Greeting { bytes, unique_id, left_out }
    }

    fn tlvs(&self, values: &ProxyValues, unique_id: Option<&[u8]>) -> Vec<Tlv> {
        let authority = match &values.authority {
            Authority::None => None,
            Authority::Received => self.value(AUTHORITY).or_else(|| self.server_name()),
            Authority::Fixed(name) => Some(name.as_bytes()),
        };
        let protocol = self.protocol().filter(|_| values.tlvs && self.value(ALPN).is_none());
        // These first: should it become too long, what is passed on is left out.
        let ours = [(AUTHORITY, authority), (ALPN, protocol), (UNIQUE_ID, unique_id)];
        let ours = ours.into_iter().filter_map(|(kind, value)| Some(Tlv { kind, value: value?.to_vec() }));
        let others = self.tlvs.iter().filter(|tlv| values.tlvs && ![AUTHORITY, UNIQUE_ID].contains(&tlv.kind));
        ours.chain(others.cloned()).collect()
    }

    /// What the client asks for in its ClientHello.
    fn server_name(&self) -> Option<&[u8]> {
        self.hello.as_ref()?.server_name.as_deref().map(str::as_bytes)
    }

    /// The protocol that the client likes best. The one that is used is not known: the backend chooses it.
    fn protocol(&self) -> Option<&[u8]> {
        self.hello.as_ref()?.alpn.first().map(|protocol| &**protocol)
    }

    fn value(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs.iter().find(|tlv| tlv.kind == kind).map(|tlv| tlv.value.as_slice())
    }
}

/// Reads the header of a trusted peer; what came behind it is kept.
///
/// Not cancel safe: dropping it loses what was read.
pub(super) async fn identify(
    socket: &Socket,
    peer: SocketAddr,
    settings: &AcceptProxy,
) -> Result<Client, IdentifyError> {
    let mut bytes = Vec::new();
    let header = match within(settings.timeout, read_header(socket, &mut bytes)).await {
        Ok(Ok(found)) => found,
        Ok(Err(Unread::HeaderError(HeaderError::NoSignature))) if !settings.required => None,
        Ok(Err(Unread::HeaderError(fault))) => return Err(IdentifyError::Refused(fault.to_string())),
        // It has begun nothing that only a header could be: a client that waits for the server to speak first, perhaps.
        Ok(Err(Unread::Finished)) | Err(_) if !settings.required && !proxy_protocol::is_announced(&bytes) => None,
        Ok(Err(Unread::Finished)) if bytes.is_empty() => return Err(IdentifyError::Gone("it left at once".to_owned())),
        Ok(Err(Unread::Finished)) => return Err(IdentifyError::Refused("half a PROXY header, then FIN".to_owned())),
        Ok(Err(Unread::Broken(error))) => return Err(IdentifyError::Gone(error.to_string())),
        Err(_) => return Err(IdentifyError::Refused(format!("no PROXY header within {:?}", settings.timeout))),
    };
    let Some((header, length)) = header else { return Ok(Client { early: bytes, ..Client::is(peer) }) };
    bytes.drain(..length);
    let client = Client { early: bytes, ..Client::is(peer) };
    Ok(match header {
        // The proxy speaks for itself, and all else that it says is to be discarded.
        Header::Local => client,
        Header::Proxy { addresses, tlvs } => Client {
            address: addresses.map_or(peer, |addresses| plain(addresses.source())),
            destination: addresses.map(Addresses::destination),
            tlvs,
            ..client
        },
    })
}

/// Why there is no header.
enum Unread {
    HeaderError(HeaderError),
    /// FIN before its end.
    Finished,
    Broken(io::Error),
}

/// `bytes` holds all that was read, also when this is dropped.
async fn read_header(socket: &Socket, bytes: &mut Vec<u8>) -> Result<Option<(Header, usize)>, Unread> {
    loop {
        match proxy_protocol::parse(bytes) {
            Parsed::Done(header, length) => return Ok(Some((header, length))),
            Parsed::Invalid(fault) => return Err(Unread::HeaderError(fault)),
            // Never more than the longest header and a piece: what would need more is invalid.
            Parsed::NeedMore(_) => {}
        }
        let mut piece = [0; PIECE];
        let read = poll_fn(|cx| socket.poll_read(cx, &mut piece)).await.map_err(Unread::Broken)?;
        if read == 0 {
            return Err(Unread::Finished);
        }
        bytes.extend_from_slice(&piece[..read]);
    }
}

/// Writes a header. A new connection takes it at once.
///
/// Not cancel safe: dropping it may leave half a header written.
pub(super) async fn tell(backend: &Socket, header: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < header.len() {
        written += poll_fn(|cx| backend.poll_write(cx, &header[written..])).await?;
    }
    Ok(())
}
