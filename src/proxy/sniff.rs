//! What a client sends first, read for as long as the routes of its listener need more of it. All of it reaches the backend,
//! but for the requests that are answered here (`sniff.starttls`).
//! Used by `routing`.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::outcome::Ended;
use super::socket::Socket;
use crate::config;
use crate::deadline::within;
use crate::metrics::{Outcome, Refusal};
use crate::route::hello::{ClientHello, HelloReader, Reading};
use crate::route::postgres::{self, NO, Request, SSL_REQUEST, YES};
use crate::route::{ClientFacts, Hello};

/// Read in one system call: most hellos fit, and those with post-quantum keys need two.
const PIECE: usize = 2 * 1_024;

/// What is known of a client's first bytes.
pub(super) struct Sniffed<'a> {
    socket: &'a Socket,
    /// How long and how much is read.
    limits: &'a config::Sniff,
    /// When the first wait is over; `None` = there was none.
    until: Option<Instant>,
    /// From the client's first byte on.
    pub(super) bytes: Vec<u8>,
    reader: HelloReader,
    hello: HelloState,
    /// Nothing more is read.
    pub(super) is_all: bool,
    /// The random number of the session.
    pub(super) lot: u64,
    in_clear: InClear,
    /// The client asked for TLS, and was told to begin.
    pub(super) is_starttls: bool,
}

/// How far a client is that may ask for TLS in the clear.
enum InClear {
    /// It is past that, or its listener does not ask for it.
    Over,
    Begun,
    /// It has asked for GSSAPI and was told no, which it is told once.
    WithoutGss,
}

enum HelloState {
    Open,
    None,
    Read(Arc<ClientHello>),
}

impl<'a> Sniffed<'a> {
    /// Begins with what was read already.
    pub(super) fn new(socket: &'a Socket, limits: &'a config::Sniff, bytes: Vec<u8>, lot: u64) -> Self {
        let is_all = bytes.len() >= limits.max;
        let mut sniffed = Self {
            socket,
            limits,
            until: None,
            bytes,
            reader: HelloReader::default(),
            hello: HelloState::Open,
            is_all,
            lot,
            in_clear: if limits.starttls.is_some() { InClear::Begun } else { InClear::Over },
            is_starttls: false,
        };
        if *limits != config::Sniff::NOTHING {
            sniffed.look();
        }
        sniffed
    }

    /// What is known of the client now, who is this one.
    pub(super) fn facts<'b>(&'b self, client: ClientFacts<'b>) -> ClientFacts<'b> {
        let hello = match &self.hello {
            HelloState::Open => Hello::Open,
            HelloState::None => Hello::None,
            HelloState::Read(hello) => Hello::Read(hello),
        };
        ClientFacts { first_bytes: &self.bytes, hello, is_all: self.is_all, lot: self.lot, ..client }
    }

    /// Whether it can't be told yet if there is a hello.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.hello, HelloState::Open) && !self.is_all
    }

    pub(super) fn hello(&self) -> Option<&Arc<ClientHello>> {
        match &self.hello {
            HelloState::Read(hello) => Some(hello),
            HelloState::Open | HelloState::None => None,
        }
    }

    /// The client may not have a session. If it has spoken it is reset, as the kernel does it where bytes have not been read.
    pub(super) fn refused(&self, why: Refusal) -> Ended {
        let has_spoken = !self.bytes.is_empty() || self.is_starttls || matches!(self.in_clear, InClear::WithoutGss);
        if !has_spoken {
            self.socket.tcp_fd().may_close();
        }
        Ended::refused(why, None)
    }

    /// Answers a request of the client, or waits for more, until the time is over, counted from the first wait. A client that
    /// has finished, or that has sent the most that is read, has said all.
    ///
    /// # Errors
    /// The connection is broken, or the client breaks the rules.
    ///
    /// Not cancel safe: dropping it spoils `bytes`.
    pub(super) async fn read_more(&mut self) -> Result<(), Ended> {
        match self.request() {
            Request::Tls => self.begin_tls(),
            Request::Gss => self.refuse_gss(),
            Request::NeedMore | Request::Other => self.read().await.map_err(gone),
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + self.limits.timeout);
        let (before, room) = (self.bytes.len(), (self.limits.max - self.bytes.len()).min(PIECE));
        self.bytes.resize(before + room, 0);
        let read = match self.socket.read_now(&mut self.bytes[before..]) {
            // Most have spoken at once: nothing to wait for.
            Ok(Some(read)) => Ok(read),
            Ok(None) => {
                let (socket, piece) = (self.socket, &mut self.bytes[before..]);
                let left = until.saturating_duration_since(Instant::now());
                within(left, poll_fn(|cx| socket.poll_read(cx, piece))).await.unwrap_or(Ok(0))
            }
            Err(error) => Err(error),
        };
        self.bytes.truncate(before + *read.as_ref().unwrap_or(&0));
        self.is_all = read? == 0 || self.bytes.len() >= self.limits.max;
        self.look();
        Ok(())
    }

    /// What it asks for now.
    fn request(&self) -> Request {
        match (&self.in_clear, postgres::read(&self.bytes)) {
            (InClear::Over, _) | (InClear::WithoutGss, Request::Gss) => Request::Other,
            (_, request) => request,
        }
    }

    /// A client waits for the answer. Anything before it was not said by a client that means it: what is taken for a part of
    /// the TLS connection must not come in the clear (CVE-2021-23214).
    fn begin_tls(&mut self) -> Result<(), Ended> {
        if self.bytes.len() > SSL_REQUEST.len() {
            let what = "it sent more with SSLRequest, before it was answered".to_owned();
            return Err(Ended::refused(Refusal::Starttls, Some(what)));
        }
        self.answer(YES)?;
        (self.in_clear, self.is_starttls) = (InClear::Over, true);
        Ok(())
    }

    fn refuse_gss(&mut self) -> Result<(), Ended> {
        self.answer(NO)?;
        self.in_clear = InClear::WithoutGss;
        self.look();
        Ok(())
    }

    /// The request is over, and goes to no backend. The answer fits: the client has been sent nothing, or one byte.
    fn answer(&mut self, answer: u8) -> Result<(), Ended> {
        self.bytes.drain(..SSL_REQUEST.len());
        self.socket.write_now(&[answer]).map(drop).map_err(gone)
    }

    fn look(&mut self) {
        if self.request() != Request::Other {
            return;
        }
        self.in_clear = InClear::Over;
        if let HelloState::Open = self.hello {
            self.hello = match self.reader.read(&self.bytes) {
                Reading::NeedMore => HelloState::Open,
                Reading::NotHello => HelloState::None,
                Reading::Hello(hello) => HelloState::Read(Arc::new(hello)),
            };
        }
    }
}

fn gone(error: io::Error) -> Ended {
    Ended::because(Outcome::ClientGone, error)
}
