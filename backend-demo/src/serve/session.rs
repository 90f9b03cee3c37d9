//! One connection to a member: one request, one answer.
//!
//! A connection that sends nothing, such as a probe, is not stored. After the answer the member sends FIN and reads on until the
//! client closes, because a close with unread bytes sends a reset, and a reset can destroy the answer.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    member::MemberState,
    request::{Received, RequestHead, examine},
    store::Request,
};

/// Limit for a client to finish its request, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Limit for the rest of a possible HTTP method. A client that sends no more does not speak HTTP.
const DOUBT: Duration = Duration::from_secs(1);
/// When the member stops: limit for a first byte that is on its way.
const UNDERWAY: Duration = Duration::from_millis(100);
/// Limit for further bytes of a client after its answer.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one connection. When `stopping` resolves, a client that has sent nothing is not awaited any longer.
pub(super) async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    member: &MemberState,
    stopping: impl Future<Output = ()>,
) {
    let ended = async {
        let mut received = Vec::with_capacity(1024);
        tokio::select! {
            read = stream.read_buf(&mut received) => read.map(drop)?,
            () = async { stopping.await; tokio::time::sleep(UNDERWAY).await } => return Ok(()),
        }
        if received.is_empty() {
            return Ok(());
        }
        answer(&mut stream, peer, member, received).await
    };
    // The client sees the failure too.
    let _gone: io::Result<()> = ended.await;
}

async fn answer(
    stream: &mut TcpStream,
    peer: SocketAddr,
    member: &MemberState,
    mut received: Vec<u8>,
) -> io::Result<()> {
    let received_request = timeout(PATIENCE, finish(stream, &mut received))
        .await
        .unwrap_or(Ok(Received::Refused("408 Request Timeout")))?;
    let (length, head) = match received_request {
        Received::Refused(status) => return send(stream, &response(status, "", false)).await,
        Received::Http(head) if head.is_health => return send(stream, &health(member, &head)).await,
        Received::Http(head) => (head.length + head.body, Some(head)),
        Received::Raw | Received::Doubtful | Received::Unfinished => (received.len(), None),
    };
    if member.fails_now() {
        return stream.set_zero_linger();
    }
    tokio::time::sleep(member.delay()).await;
    if !member.record(Request::new(peer, length as u64, &received[..received.len().min(length)])).await {
        return stream.set_zero_linger();
    }
    let hello = member.hello();
    let bytes = match head {
        Some(head) => response("200 OK", hello, head.wants_head_only),
        None => hello.as_bytes().to_vec(),
    };
    send(stream, &bytes).await
}

/// Reads until the request is complete or the client has closed. The body is counted, not kept.
async fn finish(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Received> {
    let head = loop {
        match examine(received) {
            Received::Http(head) => break head,
            Received::Doubtful => match timeout(DOUBT, stream.read_buf(received)).await {
                Ok(Ok(1..)) => {}
                Ok(Err(error)) => return Err(error),
                Ok(Ok(0)) | Err(_) => return Ok(Received::Raw),
            },
            Received::Unfinished if stream.read_buf(received).await? > 0 => {}
            // The client closed within the head, so it is not HTTP.
            received_request => return Ok(received_request),
        }
    };
    let mut missing = (head.length + head.body).saturating_sub(received.len());
    let mut scratch = [0; 4096];
    while missing > 0 {
        let wanted = missing.min(scratch.len());
        match stream.read(&mut scratch[..wanted]).await? {
            0 => return Ok(Received::Refused("400 Bad Request")),
            read => missing -= read,
        }
    }
    Ok(Received::Http(head))
}

fn health(member: &MemberState, head: &RequestHead) -> Vec<u8> {
    let (status, words) =
        if member.is_healthy() { ("200 OK", "healthy\n") } else { ("503 Service Unavailable", "unhealthy\n") };
    response(status, words, head.wants_head_only)
}

fn response(status: &str, body: &str, head_only: bool) -> Vec<u8> {
    let length = body.len();
    let sent = if head_only { "" } else { body };
    format!(
        "HTTP/1.0 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{sent}"
    )
    .into_bytes()
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    timeout(PATIENCE, async {
        stream.write_all(bytes).await?;
        stream.shutdown().await
    })
    .await??;
    let mut scratch = [0; 4096];
    let rest = async { while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {} };
    // Bounded, because a client may send for ever.
    let _ended = timeout(LINGER, rest).await;
    Ok(())
}
