//! One connection to a member: one request, one answer, the end.
//!
//! A connection that sends nothing is a probe or a mistake: it leaves no trace. After the answer the member first says
//! that it is done (FIN) and then reads what the client still sends, because closing on unread bytes is a reset, which
//! can take the answer with it.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    member::Member,
    request::{Head, Shape, examine},
    store::Request,
};

/// For a client that has begun to send: to finish its request, to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the rest of what may become the method of a request. Who says nothing more does not speak HTTP.
const DOUBT: Duration = Duration::from_secs(1);
/// For a first byte that is on its way when the member stops.
const UNDERWAY: Duration = Duration::from_millis(100);
/// For what a client still sends after its answer.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one connection. `stopping` resolves when clients that have sent nothing yet are to be let go.
pub(super) async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    member: &Member,
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
    // Whatever failed, failed between the client and us: there is nobody else to tell.
    let _gone: io::Result<()> = ended.await;
}

async fn answer(stream: &mut TcpStream, peer: SocketAddr, member: &Member, mut received: Vec<u8>) -> io::Result<()> {
    let shape =
        timeout(PATIENCE, finish(stream, &mut received)).await.unwrap_or(Ok(Shape::Refused("408 Request Timeout")))?;
    let (length, head) = match shape {
        Shape::Refused(status) => return send(stream, &response(status, "", false)).await,
        Shape::Http(head) if head.is_health => return send(stream, &health(member, &head)).await,
        Shape::Http(head) => (head.length + head.body, Some(head)),
        Shape::Raw | Shape::Doubtful | Shape::Unfinished => (received.len(), None),
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

/// Reads on until the request is whole, or the client has ended. A body is counted and not kept.
async fn finish(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Shape> {
    let head = loop {
        match examine(received) {
            Shape::Http(head) => break head,
            Shape::Doubtful => match timeout(DOUBT, stream.read_buf(received)).await {
                Ok(Ok(1..)) => {}
                Ok(Err(error)) => return Err(error),
                Ok(Ok(0)) | Err(_) => return Ok(Shape::Raw),
            },
            Shape::Unfinished if stream.read_buf(received).await? > 0 => {}
            // Half a head and no more to come: some other protocol after all.
            shape => return Ok(shape),
        }
    };
    let mut missing = (head.length + head.body).saturating_sub(received.len());
    let mut scratch = [0; 4096];
    while missing > 0 {
        let wanted = missing.min(scratch.len());
        match stream.read(&mut scratch[..wanted]).await? {
            0 => return Ok(Shape::Refused("400 Bad Request")),
            read => missing -= read,
        }
    }
    Ok(Shape::Http(head))
}

fn health(member: &Member, head: &Head) -> Vec<u8> {
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
    // A client that never stops is cut.
    let _ended = timeout(LINGER, rest).await;
    Ok(())
}
