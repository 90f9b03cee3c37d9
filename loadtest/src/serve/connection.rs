//! One connection of the server: read, check, reply, until the client has closed or the agreed number is done.
//!
//! Like the client's link it owns no buffer: one scratch per thread, borrowed for one system call at a time.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::Atomics;
use super::intake::{Intake, Reply, Step};
use crate::protocol::BAD_HEADER;

/// Bytes per system call.
const SCRATCH: usize = 128 * 1024;

/// What the connections of one thread share.
pub(super) struct Counter {
    totals: Arc<Atomics>,
    scratch: RefCell<Box<[u8]>>,
}

impl Counter {
    pub(super) fn new(totals: Arc<Atomics>) -> Self {
        Self { totals, scratch: RefCell::new(vec![0; SCRATCH].into()) }
    }

    pub(super) fn accepted(&self) {
        add(&self.totals.connections);
    }
}

pub(super) async fn serve(counter: &Counter, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut intake = Intake::default();
    loop {
        match receive(counter, &mut stream, &mut intake).await? {
            Step::More => {}
            Step::Closed { clean } => {
                if !clean {
                    add(&counter.totals.bad_headers);
                }
                return Ok(());
            }
            Step::BadHeader => {
                add(&counter.totals.bad_headers);
                return stream.write_all(&BAD_HEADER).await;
            }
            Step::Reply(reply) => {
                add(if reply.inverted { &counter.totals.mismatches } else { &counter.totals.exchanges });
                send(counter, &mut stream, reply).await?;
                if reply.last || reply.inverted {
                    return Ok(());
                }
            }
        }
    }
}

async fn receive(counter: &Counter, stream: &mut TcpStream, intake: &mut Intake) -> io::Result<Step> {
    poll_fn(|cx| {
        let mut scratch = counter.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(intake.feed(buffer.filled())))
    })
    .await
}

async fn send(counter: &Counter, stream: &mut TcpStream, reply: Reply) -> io::Result<()> {
    let mut sent = 0;
    while sent < reply.length {
        sent += poll_fn(|cx| {
            // Asked first, so that content is not computed for a socket that takes none.
            ready!(stream.poll_write_ready(cx))?;
            let mut scratch = counter.scratch.borrow_mut();
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
