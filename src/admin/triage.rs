//! What can be told of a connection before anything is spent on it: the beginning of its request, which mostly is there when
//! it is accepted. The kernel's questions after our life never stand in line behind a crowd.

use std::os::fd::AsFd;

use rustix::net::{RecvFlags, SendFlags, recv, send};

/// Looked at of a request's head.
const LOOK: usize = 4 * 1024;

/// For one that finds no room, and may ask again.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
    X-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: 43\r\n\r\n{\"error\":\"too many ask at the same time\"}\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// It asks whether we live, or are ready.
    Vital,
    /// Its whole head is there, and shows no token.
    Anybody,
    /// The same with a token, or it came by the socket.
    Known,
    /// It has not said all yet.
    Silent,
}

/// Looks at what is there, and leaves it there.
pub(super) fn kind(stream: impl AsFd) -> RequestKind {
    let mut head = [0; LOOK];
    match recv(stream, &mut head[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((read, _)) => kind_of(&head[..read]),
        Err(_) => RequestKind::Silent,
    }
}

fn kind_of(head: &[u8]) -> RequestKind {
    let asks = |path: &[u8]| {
        let rest = head.strip_prefix(b"GET ").or_else(|| head.strip_prefix(b"HEAD "));
        let rest = rest.and_then(|rest| rest.strip_prefix(path));
        rest.is_some_and(|rest| rest.first().is_some_and(|next| matches!(next, b' ' | b'?')))
    };
    if asks(b"/live") || asks(b"/ready") {
        return RequestKind::Vital;
    }
    let is_whole = head.windows(4).any(|end| end == b"\r\n\r\n");
    let has_token = head.to_ascii_lowercase().windows(16).any(|name| name == b"\r\nauthorization:");
    match (is_whole, has_token) {
        (_, true) => RequestKind::Known,
        (true, false) => RequestKind::Anybody,
        (false, false) => RequestKind::Silent,
    }
}

/// Says that there is no room. It waits for nothing: what a client does not take is its own affair.
pub(super) fn refuse(stream: impl AsFd) {
    // What was not read would make a reset of the close, and the answer would be lost.
    let mut request = [0; LOOK];
    while recv(&stream, &mut request[..], RecvFlags::DONTWAIT).is_ok_and(|(read, _)| read == LOOK) {}
    let _ = send(&stream, REFUSAL, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_request_says_whose_it_is() {
        for (head, kind) in [
            ("GET /live HTTP/1.1\r\n", RequestKind::Vital),
            ("HEAD /ready?x HTTP/1.0\r\nAuthorization: Bearer a\r\n\r\n", RequestKind::Vital),
            ("GET /live", RequestKind::Silent),
            ("GET /lively HTTP/1.1\r\n\r\n", RequestKind::Anybody),
            ("POST /live HTTP/1.1\r\n\r\n", RequestKind::Anybody),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", RequestKind::Anybody),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n", RequestKind::Silent),
            ("GET /metrics HTTP/1.1\r\nauthoriZation: Bearer a\r\n\r\n", RequestKind::Known),
            ("", RequestKind::Silent),
        ] {
            assert_eq!(kind_of(head.as_bytes()), kind, "{head:?}");
        }
    }

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
