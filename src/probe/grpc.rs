//! The `grpc` kind: one call of `grpc.health.v1.Health/Check` over HTTP/2, and its two messages. The one door to h2.
//! Called by `attempt`.
//! The connection is driven within the probe's own future, so dropping that future leaves nothing behind.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use hyper::http::uri::{Authority, Scheme};
use hyper::http::{HeaderMap, Request, Uri};
use tokio::time::timeout;

use crate::config::GrpcCheck;
use crate::health::escaped;

use super::attempt::{Miss, Trace, words};
use super::wire::Wire;

/// The answer has seven bytes. This also is less than the first window of HTTP/2, so no window is ever renewed.
const MESSAGE_LIMIT: usize = 4096;

pub(super) async fn exchange(
    stream: &mut Wire,
    address: SocketAddr,
    check: &GrpcCheck,
    trace: &mut Trace,
) -> Result<String, Miss> {
    trace.asked = match check.service.as_str() {
        "" => "health".to_owned(),
        service => format!("health of {service}"),
    };
    trace.wanted = "SERVING".to_owned();
    let tls = matches!(stream, Wire::Right(_));
    let handshake = h2::client::Builder::new().max_header_list_size(MESSAGE_LIMIT as u32).handshake::<_, Bytes>(stream);
    let (sender, mut connection) = handshake.await.map_err(|error| explained(&error))?;
    let answer = async move {
        let mut sender = sender.ready().await.map_err(|error| explained(&error))?;
        let response = call(&mut sender, address, check, tls)?;
        judged(response.await.map_err(|error| explained(&error))?).await
    };
    let answer = tokio::select! {
        answer = answer => answer,
        // The connection ends only with an error, or after the answer, which the other branch returns.
        ended = async { match (&mut connection).await { Ok(()) => std::future::pending().await, Err(error) => error } } => {
            return Err(explained(&ended));
        }
    };
    // There is no request any more: send GOAWAY, if that needs no wait.
    let _ = timeout(Duration::ZERO, connection).await;
    answer
}

fn call(
    sender: &mut SendRequest<Bytes>,
    address: SocketAddr,
    check: &GrpcCheck,
    tls: bool,
) -> Result<ResponseFuture, Miss> {
    let not_a_request = |error: &dyn std::fmt::Display| Miss::Failed(format!("not a request: {error}"));
    let authority = check.host.clone().unwrap_or_else(|| address.to_string());
    let authority = Authority::try_from(authority).map_err(|error| not_a_request(&error))?;
    let uri = Uri::builder()
        .scheme(if tls { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(authority)
        .path_and_query("/grpc.health.v1.Health/Check")
        .build()
        .map_err(|error| not_a_request(&error))?;
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", concat!("evenkeel/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(|error| not_a_request(&error))?;
    let (response, mut body) = sender.send_request(request, false).map_err(|error| explained(&error))?;
    body.send_data(framed(&check.service), true).map_err(|error| explained(&error))?;
    Ok(response)
}

/// `HealthCheckRequest { string service = 1 }`, uncompressed, with its length.
fn framed(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

async fn judged(response: hyper::http::Response<RecvStream>) -> Result<String, Miss> {
    let (head, mut body) = response.into_parts();
    if head.status != 200 {
        return Err(Miss::Failed(format!("status {}", head.status.as_u16())));
    }
    // An answer that is only an error has no body, and has its trailers in the place of headers.
    status(&head.headers)?;
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| explained(&error))?;
        if message.len() + data.len() > MESSAGE_LIMIT {
            return Err(Miss::Failed(format!("more than {MESSAGE_LIMIT} bytes")));
        }
        message.extend_from_slice(&data);
    }
    if let Some(trailers) = body.trailers().await.map_err(|error| explained(&error))? {
        status(&trailers)?;
    }
    match serving(&message) {
        Some(1) => Ok("SERVING".to_owned()),
        Some(0) => Err(Miss::Failed("UNKNOWN".to_owned())),
        Some(2) => Err(Miss::Failed("NOT_SERVING".to_owned())),
        Some(3) => Err(Miss::Failed("SERVICE_UNKNOWN".to_owned())),
        _ => Err(Miss::Failed(format!("not a health answer: {}", escaped(&message)))),
    }
}

/// `grpc-status`: 0 = success, 5 = the service is not known, 12 = there are no health checks.
fn status(headers: &HeaderMap) -> Result<(), Miss> {
    let Some(status) = headers.get("grpc-status") else { return Ok(()) };
    let what = match status.as_bytes() {
        b"0" => return Ok(()),
        b"5" => "the server does not know that service".to_owned(),
        b"12" => "the server has no grpc.health.v1.Health".to_owned(),
        other => format!("grpc-status {}", escaped(other)),
    };
    let text = headers.get("grpc-message").map(|text| format!(": {}", escaped(text.as_bytes()))).unwrap_or_default();
    Err(Miss::Failed(what + &text))
}

/// The status in a `HealthCheckResponse { ServingStatus status = 1 }` with its length; a missing field means 0.
fn serving(framed: &[u8]) -> Option<u8> {
    let (head, message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    match (head[0], message) {
        (0, []) if length == 0 => Some(0),
        (0, [0x08, status]) if length == 2 => Some(*status),
        _ => None,
    }
}

fn explained(error: &h2::Error) -> Miss {
    match error.get_io() {
        Some(error) => Miss::Failed(words(error)),
        None if error.is_go_away() && error.is_library() => Miss::Failed("not HTTP/2".to_owned()),
        None => Miss::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_and_read() {
        assert_eq!(&framed("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&framed("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(&framed(&"x".repeat(300))[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [&[][..], &[0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 3, 8, 1], &[0, 0, 0, 0, 2, 9, 1]] {
            assert_eq!(serving(wrong), None, "{wrong:?}");
        }
    }
}
