//! PURE. What a PostgreSQL client says before its login, as far as it is about TLS.
//!
//! Source: the manual of PostgreSQL, "Message Formats" and "Message Flow", sections "SSL Session Encryption" and "GSSAPI
//! Session Encryption". Each of the two requests is a length and a number, and is sent at the very beginning, in place of a
//! StartupMessage or a CancelRequest.

/// Asks for TLS.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// Asks for encryption by GSSAPI (Kerberos).
pub const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// The answer to a request: yes.
pub const YES: u8 = b'S';
/// The answer to a request: no, and the client may ask for something else.
pub const NO: u8 = b'N';

/// What a client begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The beginning of one of the two requests.
    NeedMore,
    /// It asks for TLS.
    Tls,
    /// It asks for encryption by GSSAPI.
    Gss,
    /// None of the two requests: a login without encryption, a CancelRequest, or a ClientHello without a request before it
    /// (`sslnegotiation=direct`).
    Other,
}

/// Reads the beginning of what a client has said.
pub fn read(bytes: &[u8]) -> Request {
    if bytes.starts_with(&SSL_REQUEST) {
        Request::Tls
    } else if bytes.starts_with(&GSSENC_REQUEST) {
        Request::Gss
    } else if SSL_REQUEST.starts_with(bytes) || GSSENC_REQUEST.starts_with(bytes) {
        Request::NeedMore
    } else {
        Request::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_at_its_first_byte() {
        let cancel = [0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 1, 0, 0, 0, 2];
        let login = [0, 0, 0, 17, 0, 3, 0, 0, b'u', b's', b'e', b'r', 0, b'a', 0, 0];
        // As long as a request, and no request: what a client of another protocol could send.
        let other = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x31];
        for (bytes, at, told) in [
            (&SSL_REQUEST[..], 8, Request::Tls),
            (&GSSENC_REQUEST[..], 8, Request::Gss),
            (&cancel[..], 4, Request::Other),
            (&login[..], 4, Request::Other),
            (&other[..], 8, Request::Other),
            (&b"\x16\x03\x01"[..], 1, Request::Other),
        ] {
            for length in 0..=bytes.len() {
                let wanted = if length < at { Request::NeedMore } else { told };
                assert_eq!(read(&bytes[..length]), wanted, "{length} of {}", bytes.escape_ascii());
            }
            assert_eq!(read(&[bytes, &b"more"[..]].concat()), told);
        }
    }
}
