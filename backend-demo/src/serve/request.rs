//! Tells HTTP requests from other bytes. Pure.
//!
//! The member answers any bytes. But for an HTTP request it waits for the end of the head.

pub(super) const MAX_HEAD: usize = 16 * 1024;
pub(super) const MAX_BODY: usize = 1024 * 1024;

const METHODS: [&[u8]; 7] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH "];

/// What a client has sent so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Not HTTP: all bytes are the request.
    Raw,
    /// Perhaps the beginning of an HTTP method.
    Doubtful,
    Unfinished,
    Http(RequestHead),
    /// HTTP that is refused with this status.
    Refused(&'static str),
}

/// The parts of a head that the member uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestHead {
    /// Bytes up to the end of the empty line.
    pub(super) length: usize,
    pub(super) body: usize,
    /// `GET /health`, which balancers send.
    pub(super) is_health: bool,
    /// `HEAD`: the answer has no body.
    pub(super) wants_head_only: bool,
}

pub(super) fn examine(bytes: &[u8]) -> Received {
    if !METHODS.iter().any(|method| bytes.starts_with(method)) {
        return if METHODS.iter().any(|method| method.starts_with(bytes)) { Received::Doubtful } else { Received::Raw };
    }
    let Some(length) = head_length(bytes) else {
        return if bytes.len() > MAX_HEAD {
            Received::Refused("431 Request Header Fields Too Large")
        } else {
            Received::Unfinished
        };
    };
    let head = String::from_utf8_lossy(&bytes[..length]);
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut body = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Received::Refused("411 Length Required");
        }
        if name.eq_ignore_ascii_case("content-length") {
            let Ok(length) = value.trim().parse() else { return Received::Refused("400 Bad Request") };
            body = length;
        }
    }
    if body > MAX_BODY {
        return Received::Refused("413 Content Too Large");
    }
    let path = target.split('?').next().unwrap_or_default();
    let is_health = path == "/health" && matches!(method, "GET" | "HEAD");
    Received::Http(RequestHead { length, body, is_health, wants_head_only: method == "HEAD" })
}

fn head_length(bytes: &[u8]) -> Option<usize> {
    // Bare line feeds too, as nc sends them.
    let end =
        |pattern: &[u8]| bytes.windows(pattern.len()).position(|window| window == pattern).map(|at| at + pattern.len());
    [end(b"\r\n\r\n"), end(b"\n\n")].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> RequestHead {
        match examine(text.as_bytes()) {
            Received::Http(head) => head,
            other => panic!("{text:?} is {other:?}"),
        }
    }

    #[test]
    fn every_prefix_of_a_request_waits_for_the_rest() {
        let request = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
        for length in 1..request.len() {
            let wanted = if length < "GET ".len() { Received::Doubtful } else { Received::Unfinished };
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
                matches!(examine(request.as_bytes()), Received::Refused(words) if words.starts_with(status)),
                "{refused}"
            );
        }
        let endless = format!("GET / HTTP/1.0\r\nX: {}", "x".repeat(MAX_HEAD));
        assert!(matches!(examine(endless.as_bytes()), Received::Refused(words) if words.starts_with("431")));
    }

    #[test]
    fn everything_else_is_raw() {
        for raw in ["hello\n", "get / HTTP/1.0\r\n\r\n", "GETTING", "\u{0}\u{1}", "PING\r\n"] {
            assert_eq!(examine(raw.as_bytes()), Received::Raw, "{raw:?}");
        }
    }
}
