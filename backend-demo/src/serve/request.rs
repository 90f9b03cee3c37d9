//! What the first bytes of a client are. Pure.
//!
//! The member answers anything, but an HTTP client gets HTTP: then the end of the head decides, not the first packet.

/// A head longer than this is refused.
pub(super) const MAX_HEAD: usize = 16 * 1024;
/// A body longer than this is refused.
pub(super) const MAX_BODY: usize = 1024 * 1024;

const METHODS: [&[u8]; 7] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH "];

/// What has come so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Not HTTP: whatever came is the request.
    Raw,
    /// The beginning of a method, maybe; or not HTTP.
    Doubtful,
    /// HTTP whose head has not ended yet.
    Unfinished,
    /// HTTP with a whole head.
    Http(Head),
    /// HTTP that is not answered with 200, with the status line's words.
    Refused(&'static str),
}

/// The part of a head that matters here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes up to and with the empty line.
    pub(super) length: usize,
    /// Bytes that follow it.
    pub(super) body: usize,
    /// `GET /health`, from a balancer and not from a client.
    pub(super) is_health: bool,
    /// `HEAD`: the answer has no body.
    pub(super) wants_head_only: bool,
}

/// Says what these bytes are.
pub(super) fn examine(bytes: &[u8]) -> Shape {
    if !METHODS.iter().any(|method| bytes.starts_with(method)) {
        return if METHODS.iter().any(|method| method.starts_with(bytes)) { Shape::Doubtful } else { Shape::Raw };
    }
    let Some(length) = head_length(bytes) else {
        return if bytes.len() > MAX_HEAD {
            Shape::Refused("431 Request Header Fields Too Large")
        } else {
            Shape::Unfinished
        };
    };
    let head = String::from_utf8_lossy(&bytes[..length]);
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut body = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Shape::Refused("411 Length Required");
        }
        if name.eq_ignore_ascii_case("content-length") {
            let Ok(length) = value.trim().parse() else { return Shape::Refused("400 Bad Request") };
            body = length;
        }
    }
    if body > MAX_BODY {
        return Shape::Refused("413 Content Too Large");
    }
    let path = target.split('?').next().unwrap_or_default();
    let is_health = path == "/health" && matches!(method, "GET" | "HEAD");
    Shape::Http(Head { length, body, is_health, wants_head_only: method == "HEAD" })
}

fn head_length(bytes: &[u8]) -> Option<usize> {
    // Bare line feeds too: people type them into nc.
    let end =
        |pattern: &[u8]| bytes.windows(pattern.len()).position(|window| window == pattern).map(|at| at + pattern.len());
    [end(b"\r\n\r\n"), end(b"\n\n")].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        match examine(text.as_bytes()) {
            Shape::Http(head) => head,
            other => panic!("{text:?} is {other:?}"),
        }
    }

    #[test]
    fn every_prefix_of_a_request_waits_for_the_rest() {
        let request = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
        for length in 1..request.len() {
            let wanted = if length < "GET ".len() { Shape::Doubtful } else { Shape::Unfinished };
            assert_eq!(examine(&request.as_bytes()[..length]), wanted, "{length}");
        }
        let head = head(request);
        assert_eq!(head.length, request.len());
        assert!(head.is_health && !head.wants_head_only);
    }

    #[test]
    fn bodies_are_measured_and_bounded() {
        assert_eq!(head("POST / HTTP/1.0\r\ncontent-length: 12\r\n\r\nhello").body, 12);
        assert!(!head("POST /health HTTP/1.0\r\n\r\n").is_health);
        assert!(head("HEAD / HTTP/1.0\n\n").wants_head_only);
        for (refused, status) in
            [("Content-Length: 99999999", "413"), ("Content-Length: -1", "400"), ("Transfer-Encoding: chunked", "411")]
        {
            let request = format!("POST / HTTP/1.1\r\n{refused}\r\n\r\n");
            assert!(
                matches!(examine(request.as_bytes()), Shape::Refused(words) if words.starts_with(status)),
                "{refused}"
            );
        }
        let endless = format!("GET / HTTP/1.0\r\nX: {}", "x".repeat(MAX_HEAD));
        assert!(matches!(examine(endless.as_bytes()), Shape::Refused(words) if words.starts_with("431")));
    }

    #[test]
    fn everything_else_is_raw() {
        for raw in ["hello\n", "get / HTTP/1.0\r\n\r\n", "GETTING", "\u{0}\u{1}", "PING\r\n"] {
            assert_eq!(examine(raw.as_bytes()), Shape::Raw, "{raw:?}");
        }
    }
}
