//! One connection to the system under test: exchanges, and its end. Every byte that arrives is checked here, and nowhere else.
//!
//! A link owns no buffer: outgoing bytes are computed into, and incoming bytes checked in, one scratch buffer per thread, which
//! is borrowed for one system call at a time. 2,000 links cost 2,000 sockets and little more.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::fault::{Fault, Mismatch};
use crate::pattern::{Direction, Pattern};
use crate::protocol::{BAD_HEADER, Header};
use crate::tally::Meter;

pub(crate) struct Link {
    stream: TcpStream,
    header: Header,
    plain_echo: bool,
    exchange: u64,
}

/// What a link borrows from its thread.
pub(crate) struct Desk<'a> {
    pub(crate) scratch: &'a RefCell<Box<[u8]>>,
    pub(crate) meter: &'a Meter,
}

impl Link {
    pub(crate) async fn open(address: SocketAddr, header: Header, plain_echo: bool) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, header, plain_echo, exchange: 0 })
    }

    /// Sends one request and checks its reply, up to its last byte. After a fault the link is of no use.
    pub(crate) async fn exchange(&mut self, desk: &Desk<'_>) -> Result<(), Fault> {
        let number = self.exchange;
        self.exchange += 1;
        let encoded = self.header.encode();
        let head = if number == 0 && !self.plain_echo { &encoded[..] } else { &[] };
        let up = self.header.pattern(number, Direction::Up);
        let down = if self.plain_echo { up } else { self.header.pattern(number, Direction::Down) };
        let to_send = head.len() as u64 + self.header.up;
        let to_receive = self.header.down;
        let (mut sent, mut received) = (0, 0);
        // Both directions in one loop: a plain echo server starts to answer, and may stop to read, before it has it all.
        let result = poll_fn(|cx| {
            loop {
                let mut moved = false;
                if sent < to_send
                    && let Poll::Ready(written) = self.poll_send(cx, desk, head, up, sent)
                {
                    sent += written?;
                    moved = true;
                }
                if received < to_receive
                    && let Poll::Ready(read) = self.poll_check(cx, desk, down, received)
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
        result
            .map_err(|fault: Fault| fault.at(format_args!("connection {}, exchange {number}", self.header.connection)))
    }

    /// Closes this side first, and waits until the other side closes too, without another byte.
    pub(crate) async fn close(mut self, desk: &Desk<'_>) -> Result<(), Fault> {
        let place = format!("connection {}, closing", self.header.connection);
        self.stream.shutdown().await.map_err(|error| Fault::from(error).at(&place))?;
        self.closed(desk).await
    }

    /// Waits until the other side closes, without another byte.
    pub(crate) async fn closed(mut self, desk: &Desk<'_>) -> Result<(), Fault> {
        let result = poll_fn(|cx| {
            let mut scratch = desk.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            Poll::Ready(match buffer.filled().len() {
                0 => Ok(()),
                surplus => Err(surplus_fault(surplus)),
            })
        })
        .await;
        result.map_err(|fault: Fault| fault.at(format_args!("connection {}, at its end", self.header.connection)))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        desk: &Desk<'_>,
        head: &[u8],
        up: Pattern,
        sent: u64,
    ) -> Poll<Result<u64, Fault>> {
        // Asked first, so that content is not computed for a socket that takes none.
        ready!(self.stream.poll_write_ready(cx))?;
        let mut scratch = desk.scratch.borrow_mut();
        let length = compose(&mut scratch, head, up, self.header.up, sent);
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &scratch[..length]))? as u64;
        Meter::add(&desk.meter.sent, written);
        Poll::Ready(Ok(written))
    }

    fn poll_check(
        &mut self,
        cx: &mut Context<'_>,
        desk: &Desk<'_>,
        down: Pattern,
        received: u64,
    ) -> Poll<Result<u64, Fault>> {
        let mut scratch = desk.scratch.borrow_mut();
        // Always the whole scratch: bytes beyond the reply show at once, and a read that is not full needs no second one.
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let data = buffer.filled();
        if data.is_empty() {
            let text = format!("the other side closed after {received} of {} bytes of the reply", self.header.down);
            return Poll::Ready(Err(Fault::eof(text)));
        }
        Meter::add(&desk.meter.received, data.len() as u64);
        Poll::Ready(check(down, received, self.header.down, data).map(|()| data.len() as u64))
    }
}

/// Puts the bytes after the first `sent` of header and payload together into `out`; returns how many.
fn compose(out: &mut [u8], head: &[u8], up: Pattern, size: u64, sent: u64) -> usize {
    let position = sent.saturating_sub(head.len() as u64);
    let head = head.get(sent as usize..).unwrap_or_default();
    out[..head.len()].copy_from_slice(head);
    let room = (out.len() - head.len()) as u64;
    let end = head.len() + room.min(size - position) as usize;
    up.fill(position, &mut out[head.len()..end]);
    end
}

/// Whether `data`, after the first `received` bytes of a reply of `size` bytes, is right.
fn check(down: Pattern, received: u64, size: u64, data: &[u8]) -> Result<(), Fault> {
    let due = data.len().min((size - received) as usize);
    if let Some(at) = down.mismatch(received, &data[..due]) {
        return Err(diagnose(down, received, at, &data[..due]));
    }
    if data.len() > due {
        return Err(surplus_fault(data.len() - due));
    }
    Ok(())
}

fn diagnose(down: Pattern, received: u64, at: usize, data: &[u8]) -> Fault {
    if received == 0 && data.starts_with(&BAD_HEADER) {
        let detail = "the server says that the header arrived wrong".into();
        return Fault::Wrong { mismatch: Mismatch::Header, detail };
    }
    let inverted: Vec<u8> = data.iter().map(|byte| !byte).collect();
    if down.mismatch(received, &inverted).is_none() {
        let detail = "the server says that the request arrived wrong".into();
        return Fault::Wrong { mismatch: Mismatch::Request, detail };
    }
    let position = received + at as u64;
    let detail = format!("byte {position} of the reply is {:#04x}, wanted {:#04x}", data[at], down.byte(position));
    Fault::Wrong { mismatch: Mismatch::Content, detail }
}

fn surplus_fault(surplus: usize) -> Fault {
    Fault::Wrong { mismatch: Mismatch::Surplus, detail: format!("{surplus} or more bytes too many") }
}
