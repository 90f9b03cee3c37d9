//! One connection of the server: read, check, reply, until the client closes or the number of exchanges is done.
//!
//! Like the client it has no buffer per connection, but one scratch buffer per thread.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::ServerCounters;
use super::request_reader::{Reply, RequestReader, ServerAction};
use crate::protocol::BAD_HEADER;

const SCRATCH: usize = 128 * 1024;

/// What the connections of one thread share.
pub(super) struct ServeContext {
    totals: Arc<ServerCounters>,
    scratch: RefCell<Box<[u8]>>,
}

impl ServeContext {
    pub(super) fn new(totals: Arc<ServerCounters>) -> Self {
        Self { totals, scratch: RefCell::new(vec![0; SCRATCH].into()) }
    }

    pub(super) fn accepted(&self) {
        add(&self.totals.connections);
    }
}

pub(super) async fn serve(context: &ServeContext, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request_reader = RequestReader::default();
    loop {
        match receive(context, &mut stream, &mut request_reader).await? {
            ServerAction::More => {}
            ServerAction::Closed { clean } => {
                if !clean {
                    add(&context.totals.bad_headers);
                }
                return Ok(());
            }
            ServerAction::BadHeader => {
                add(&context.totals.bad_headers);
                return stream.write_all(&BAD_HEADER).await;
            }
            ServerAction::Reply(reply) => {
                add(if reply.inverted { &context.totals.mismatches } else { &context.totals.exchanges });
                send(context, &mut stream, reply).await?;
                if reply.last || reply.inverted {
                    return Ok(());
                }
            }
        }
    }
}

async fn receive(
    context: &ServeContext,
    stream: &mut TcpStream,
    request_reader: &mut RequestReader,
) -> io::Result<ServerAction> {
    poll_fn(|cx| {
        let mut scratch = context.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(request_reader.feed(buffer.filled())))
    })
    .await
}

async fn send(context: &ServeContext, stream: &mut TcpStream, reply: Reply) -> io::Result<()> {
    let mut sent = 0;
    while sent < reply.length {
        sent += poll_fn(|cx| {
            // First, so that no content is computed for a full socket.
            ready!(stream.poll_write_ready(cx))?;
            let mut scratch = context.scratch.borrow_mut();
            let length = (reply.length - sent).min(scratch.len() as u64) as usize;
            let out = &mut scratch[..length];
            reply.fill(sent, out);
            Pin::new(&mut *stream).poll_write(cx, out)
        })
        .await? as u64;
    }
    Ok(())
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
