//! The `http` kind: one HTTP/1.1 request, judged by its status, headers and body. The one door to hyper's client.
//! Called by `attempt`.
//! The connection is driven within the probe's own future, so dropping that future leaves nothing behind.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::http::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::HttpCheck;
use crate::health::escaped;

use super::attempt::{Miss, Trace, words};
use super::wire::{Goodbye, Wire};

/// The longest head that is accepted, in bytes (hyper looks between reads, so up to twice that may be read). Servers send
/// far less.
const HEAD_LIMIT: usize = 64 * 1024;
/// The part of a body that is read and judged, in bytes: enough for a health page, and a bound for a download.
const BODY_LIMIT: usize = 64 * 1024;
/// Bytes read by one attempt in all. Interim answers, tiny chunks and trailers have no bound of their own, and a server that
/// sends them fast would keep a thread of all probes busy for the whole timeout.
const ANSWER_LIMIT: usize = 256 * 1024;
/// How much is quoted if the answer is not HTTP, in bytes.
const QUOTE_LIMIT: usize = 256;

/// Sends the request and judges the answer.
pub(super) async fn exchange(
    stream: &mut Wire,
    address: SocketAddr,
    check: &HttpCheck,
    trace: &mut Trace,
) -> Result<String, Miss> {
    trace.asked = format!("{} {}", check.method, check.path);
    trace.wanted = check.status.to_string();
    let request = request(address, check).map_err(|error| Miss::Failed(format!("not a request: {error}")))?;

    // The request says `connection: close`.
    trace.goodbye = Goodbye::Asked;
    let Trace { wanted, came, .. } = &mut *trace;
    let io = TokioIo::new(RecordingStream { stream, record: came, left: ANSWER_LIMIT });
    let answered = match http1::Builder::new().max_buf_size(HEAD_LIMIT).handshake(io).await {
        Ok((sender, connection)) => tokio::select! {
            answered = judged(sender, request, check, wanted) => answered,
            never = driven(connection) => match never {},
        },
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(|error| Err(trace.failed(explained(&error))))
}

fn request(address: SocketAddr, check: &HttpCheck) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let mut request = Request::builder()
        .method(check.method.as_str())
        .uri(check.path.as_str())
        .header(HOST, check.host.clone().unwrap_or_else(|| address.to_string()));
    if !check.headers.contains_key(USER_AGENT.as_str()) {
        request = request.header(USER_AGENT, concat!("evenkeel/", env!("CARGO_PKG_VERSION")));
    }
    for (name, value) in &check.headers {
        request = request.header(name, value.0.as_str());
    }
    let body = check.request_body.as_ref().map(|body| Bytes::from(body.0.clone()));
    request.header(CONNECTION, "close").body(Full::new(body.unwrap_or_default()))
}

/// Moves the connection's bytes. How it ended is reported by the request's side.
async fn driven(connection: Connection<TokioIo<RecordingStream<'_>>, Full<Bytes>>) -> Infallible {
    // An error, if any, is also the result of the request.
    let _ = connection.await;
    std::future::pending().await
}

async fn judged(
    mut sender: SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    check: &HttpCheck,
    wanted: &mut String,
) -> hyper::Result<Result<String, Miss>> {
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let got = format!("status {status}");
    if !check.status.contains(status) {
        return Ok(Err(Miss::Failed(got)));
    }
    let headers = response.headers();
    for (name, wish) in &check.expect_headers {
        let values = || headers.get_all(name).iter().map(HeaderValue::as_bytes);
        if !wish.is_met(values()) {
            *wanted = format!("header {name}: {wish}");
            let seen = values()
                .next()
                .map_or_else(|| "no such header".to_owned(), |value| format!("{name}: {}", escaped(value)));
            return Ok(Err(Miss::Failed(format!("{got}, {seen}"))));
        }
    }
    if check.body.is_none() && check.expect_not.is_none() {
        return Ok(Ok(got));
    }

    let without = check.expect_not.as_ref().map(|unwanted| format!("body without {unwanted}"));
    let with = check.body.as_ref().map(|expected| format!("body with {expected}"));
    *wanted = [with, without].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let mut body = Vec::new();
    if let Err(error) = read(response.into_body(), &mut body).await {
        let what = explained(&error);
        return Ok(Err(Miss::Failed(format!("{got}, {what} in the body after {}", escaped(&body)))));
    }
    let got = format!("{got}, body {}", escaped(&body));
    let passes = check.body.as_ref().is_none_or(|expected| expected.is_in(&body))
        && !check.expect_not.as_ref().is_some_and(|unwanted| unwanted.is_in(&body));
    Ok(if passes { Ok(got) } else { Err(Miss::Failed(got)) })
}

/// Reads a body to its end or to the limit.
async fn read(mut body: Incoming, into: &mut Vec<u8>) -> hyper::Result<()> {
    while into.len() < BODY_LIMIT
        && let Some(frame) = body.frame().await
    {
        // Frames without data are trailers, which are not judged.
        if let Ok(data) = frame?.into_data() {
            into.extend_from_slice(&data[..data.len().min(BODY_LIMIT - into.len())]);
        }
    }
    Ok(())
}

fn explained(error: &hyper::Error) -> String {
    let io_error = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    match io_error {
        Some(error) if error.kind() == ErrorKind::FileTooLarge => return "more than 256 KiB".to_owned(),
        Some(error) => return words(error),
        None => {}
    }
    if error.is_parse_too_large() {
        return "a head of more than 64 KiB".to_owned();
    }
    if error.is_parse() {
        return "not HTTP/1".to_owned();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "closed".to_owned();
    }
    error.to_string()
}

/// A stream that keeps the first bytes received, because hyper's errors don't quote them, and that fails at the limit.
struct RecordingStream<'a> {
    stream: &'a mut Wire,
    record: &'a mut Vec<u8>,
    left: usize,
}

impl AsyncRead for RecordingStream<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(ErrorKind::FileTooLarge.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, buffer))?;
        let fresh = &buffer.filled()[before..];
        self.left = self.left.saturating_sub(fresh.len());
        let room = QUOTE_LIMIT.saturating_sub(self.record.len());
        self.record.extend_from_slice(&fresh[..fresh.len().min(room)]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RecordingStream<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    /// The sending side stays open until the result: some servers take a FIN for a client that left, and don't answer.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
