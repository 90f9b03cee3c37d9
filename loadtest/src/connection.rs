//! A connection to the system under test: exchanges, and its end. Every byte that arrives is checked here.
//!
//! A connection has no buffer of its own. All connections of a thread use one scratch buffer, each for one system call at a time, to
//! compute outgoing bytes and to check incoming ones. So 2,000 connections cost little more than 2,000 sockets.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::counters::LiveCounters;
use crate::operation_error::{Mismatch, OperationError};
use crate::pattern::{Direction, Pattern};
use crate::protocol::{BAD_HEADER, Header};

pub(crate) struct Connection {
    stream: TcpStream,
    header: Header,
    plain_echo: bool,
    exchange: u64,
}

/// What all connections of a thread share.
pub(crate) struct ConnectionContext<'a> {
    pub(crate) scratch: &'a RefCell<Box<[u8]>>,
    pub(crate) counters: &'a LiveCounters,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, header: Header, plain_echo: bool) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, header, plain_echo, exchange: 0 })
    }

    /// Sends one request and checks its reply, up to its last byte. After an error the connection can't be used.
    pub(crate) async fn exchange(&mut self, context: &ConnectionContext<'_>) -> Result<(), OperationError> {
        let number = self.exchange;
        self.exchange += 1;
        let encoded = self.header.encode();
        let head = if number == 0 && !self.plain_echo { &encoded[..] } else { &[] };
        let up = self.header.pattern(number, Direction::Up);
        let down = if self.plain_echo { up } else { self.header.pattern(number, Direction::Down) };
        let to_send = head.len() as u64 + self.header.up;
        let to_receive = self.header.down;
        let (mut sent, mut received) = (0, 0);
        // Both directions in one loop: a plain echo server answers, and may stop reading, before it has the whole request.
        let result = poll_fn(|cx| {
            loop {
                let mut moved = false;
                if sent < to_send
                    && let Poll::Ready(written) = self.poll_send(cx, context, head, up, sent)
                {
                    sent += written?;
                    moved = true;
                }
                if received < to_receive
                    && let Poll::Ready(read) = self.poll_check(cx, context, down, received)
                {
                    received += read?;
                    moved = true;
                }
                if sent == to_send && received == to_receive {
                    return Poll::Ready(Ok(()));
                }
                if !moved {
                    return Poll::Pending;
                }
            }
        })
        .await;
        result.map_err(|error: OperationError| {
            error.at(format_args!("connection {}, exchange {number}", self.header.connection))
        })
    }

    /// Closes this side first, and waits until the other side closes too, without another byte.
    pub(crate) async fn close(mut self, context: &ConnectionContext<'_>) -> Result<(), OperationError> {
        let place = format!("connection {}, closing", self.header.connection);
        self.stream.shutdown().await.map_err(|error| OperationError::from(error).at(&place))?;
        self.closed(context).await
    }

    /// Waits until the other side closes, without another byte.
    pub(crate) async fn closed(mut self, context: &ConnectionContext<'_>) -> Result<(), OperationError> {
        let result = poll_fn(|cx| {
            let mut scratch = context.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            Poll::Ready(match buffer.filled().len() {
                0 => Ok(()),
                surplus => Err(surplus_error(surplus)),
            })
        })
        .await;
        result.map_err(|error: OperationError| {
            error.at(format_args!("connection {}, at its end", self.header.connection))
        })
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        context: &ConnectionContext<'_>,
        head: &[u8],
        up: Pattern,
        sent: u64,
    ) -> Poll<Result<u64, OperationError>> {
        // First, so that no content is computed for a full socket.
        ready!(self.stream.poll_write_ready(cx))?;
        let mut scratch = context.scratch.borrow_mut();
        let length = compose(&mut scratch, head, up, self.header.up, sent);
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &scratch[..length]))? as u64;
        LiveCounters::add(&context.counters.sent, written);
        Poll::Ready(Ok(written))
    }

    fn poll_check(
        &mut self,
        cx: &mut Context<'_>,
        context: &ConnectionContext<'_>,
        down: Pattern,
        received: u64,
    ) -> Poll<Result<u64, OperationError>> {
        let mut scratch = context.scratch.borrow_mut();
        // Always the whole buffer: this finds bytes beyond the reply, and a short read needs no second one.
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let data = buffer.filled();
        if data.is_empty() {
            let text = format!("the other side closed after {received} of {} bytes of the reply", self.header.down);
            return Poll::Ready(Err(OperationError::eof(text)));
        }
        LiveCounters::add(&context.counters.received, data.len() as u64);
        Poll::Ready(check(down, received, self.header.down, data).map(|()| data.len() as u64))
    }
}

/// Writes header and payload, without their first `sent` bytes, into `out`; returns the length.
fn compose(out: &mut [u8], head: &[u8], up: Pattern, size: u64, sent: u64) -> usize {
    let position = sent.saturating_sub(head.len() as u64);
    let head = head.get(sent as usize..).unwrap_or_default();
    out[..head.len()].copy_from_slice(head);
    let room = (out.len() - head.len()) as u64;
    let end = head.len() + room.min(size - position) as usize;
    up.fill(position, &mut out[head.len()..end]);
    end
}

/// Checks `data`, which follows the first `received` bytes of a reply of `size` bytes.
fn check(down: Pattern, received: u64, size: u64, data: &[u8]) -> Result<(), OperationError> {
    let due = data.len().min((size - received) as usize);
    if let Some(at) = down.mismatch(received, &data[..due]) {
        return Err(diagnose(down, received, at, &data[..due]));
    }
    if data.len() > due {
        return Err(surplus_error(data.len() - due));
    }
    Ok(())
}

fn diagnose(down: Pattern, received: u64, at: usize, data: &[u8]) -> OperationError {
    if received == 0 && data.starts_with(&BAD_HEADER) {
        let detail = "the server says that the header arrived wrong".into();
        return OperationError::Wrong { mismatch: Mismatch::Header, detail };
    }
    let inverted: Vec<u8> = data.iter().map(|byte| !byte).collect();
    if down.mismatch(received, &inverted).is_none() {
        let detail = "the server says that the request arrived wrong".into();
        return OperationError::Wrong { mismatch: Mismatch::Request, detail };
    }
    let position = received + at as u64;
    let detail = format!("byte {position} of the reply is {:#04x}, wanted {:#04x}", data[at], down.byte(position));
    OperationError::Wrong { mismatch: Mismatch::Content, detail }
}

fn surplus_error(surplus: usize) -> OperationError {
    OperationError::Wrong { mismatch: Mismatch::Surplus, detail: format!("{surplus} or more bytes too many") }
}
