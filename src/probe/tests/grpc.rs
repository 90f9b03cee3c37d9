//! gRPC health checks against a server of h2's own; the real one is in the interop tests.

use bytes::Bytes;
use hyper::http::{HeaderMap, Response};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::config::GrpcCheck;

/// What the server answers: status, message, and the status of gRPC at the end.
type Answer = (u16, &'static [u8], Option<&'static str>);

async fn server(answer: Answer) -> Backend {
    Backend::start(move |stream, _| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["te"], "trailers");
            tokio::spawn(async move {
                let mut body = request.into_body();
                let asked = body.data().await.unwrap().unwrap();
                assert_eq!(&asked[..], b"\0\0\0\0\x04\x0a\x02ab");
                let (status, message, end) = answer;
                let response = Response::builder().status(status).body(()).unwrap();
                let mut stream = respond.send_response(response, false).unwrap();
                stream.send_data(Bytes::from_static(message), end.is_none()).unwrap();
                if let Some(end) = end {
                    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), end.parse().unwrap())]);
                    stream.send_trailers(trailers).unwrap();
                }
            });
        }
    })
    .await
}

/// It serves, and says of each connection whether it ended in order.
pub(super) async fn serving() -> (Backend, UnboundedReceiver<bool>) {
    let (sender, ends) = unbounded_channel();
    let backend = Backend::start(move |stream, _| {
        let sender = sender.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut in_order = true;
            while let Some(request) = connection.accept().await {
                let Ok((_, mut respond)) = request else {
                    in_order = false;
                    break;
                };
                let response = Response::builder().status(200).body(()).unwrap();
                let mut stream = respond.send_response(response, false).unwrap();
                stream.send_data(Bytes::from_static(b"\0\0\0\0\x02\x08\x01"), false).unwrap();
                let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                stream.send_trailers(trailers).unwrap();
            }
            _ = sender.send(in_order);
        }
    })
    .await;
    (backend, ends)
}

fn kind() -> CheckKind {
    CheckKind::Grpc(GrpcCheck { service: "ab".to_owned(), host: None })
}

#[tokio::test]
async fn the_status_of_the_service_decides() {
    for (answer, passed, text) in [
        ((200, &b"\0\0\0\0\x02\x08\x01"[..], Some("0")), true, "SERVING"),
        ((200, b"\0\0\0\0\x02\x08\x02", Some("0")), false, "NOT_SERVING, wanted SERVING"),
        ((200, b"\0\0\0\0\x02\x08\x03", Some("0")), false, "SERVICE_UNKNOWN, wanted SERVING"),
        ((200, b"\0\0\0\0\0", Some("0")), false, "UNKNOWN, wanted SERVING"),
        ((200, b"", Some("5")), false, "the server does not know that service, wanted SERVING"),
        ((200, b"", Some("12")), false, "the server has no grpc.health.v1.Health, wanted SERVING"),
        ((200, b"\0\0\0\0\x02\x08\x01", Some("14")), false, "grpc-status \"14\", wanted SERVING"),
        ((404, b"not found", None), false, "status 404, wanted SERVING"),
        ((200, b"hello", None), false, "not a health answer: \"hello\", wanted SERVING"),
    ] {
        let backend = server(answer).await;
        let result = first(backend.address, &rare(kind())).await;
        assert_eq!(result.to_string(), format!("grpc health of ab: {text}"));
        assert_eq!(result.passed, passed);
    }
}

#[tokio::test]
async fn who_speaks_something_else_fails() {
    let http = Backend::start(|mut stream, _| async move {
        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await);
        drop(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await);
    })
    .await;
    let result = first(http.address, &rare(kind())).await;
    assert_eq!((result.passed, result.got.as_str()), (false, "not HTTP/2"));
    let closing = Backend::start(|stream, _| async move { drop(stream) }).await;
    let result = first(closing.address, &rare(kind())).await;
    assert!(!result.passed, "{result}");
    let silent = Backend::silent().await;
    let check = Check { timeout: Duration::from_millis(50), ..rare(kind()) };
    assert_eq!(first(silent.address, &check).await.got, "timeout after 50ms");
}
