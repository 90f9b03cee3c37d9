//! What the parser promises for any bytes. Called by the replay of the corpus and by the fuzzer (`fuzz/`), which takes this
//! file and the module beside it into a crate of its own.

use crate::proxy_protocol::{Header, LONGEST, Parsed, parse, write_v1, write_v2};

/// Of longer inputs only some prefixes are tried: the fuzzer needs speed.
const ALL_PREFIXES: usize = 300;

/// # Panics
/// If a promise is broken.
pub(crate) fn holds(bytes: &[u8]) {
    let parsed = parse(bytes);
    match &parsed {
        Parsed::NeedMore(missing) => {
            assert!(*missing > 0, "it waits for nothing");
            assert!(bytes.len() + missing <= LONGEST, "it waits for more than it takes");
        }
        Parsed::Done(header, length) => {
            assert!(*length <= bytes.len().min(LONGEST), "a header longer than what came, or than the bound");
            // The bytes after a header do not change what it says.
            assert_eq!(parse(&bytes[..*length]), parsed);
            comes_back(header);
        }
        Parsed::Invalid(_) => {}
    }
    let step = bytes.len() / ALL_PREFIXES + 1;
    for prefix in (0..bytes.len()).step_by(step) {
        match (parse(&bytes[..prefix]), &parsed) {
            // The result does not depend on the pieces in which the bytes come, and no parser waits for bytes that do not
            // come.
            (Parsed::NeedMore(missing), Parsed::Done(_, length)) => assert!(prefix + missing <= *length),
            (Parsed::NeedMore(missing), Parsed::NeedMore(later)) => {
                assert!(prefix + missing <= bytes.len() + later, "less is missing than was said");
            }
            (Parsed::NeedMore(_), Parsed::Invalid(_)) => {}
            (early, _) => assert_eq!(early, parsed, "the answer changed after {prefix} bytes"),
        }
    }
}

/// A header that we write is read as the same header.
fn comes_back(header: &Header) {
    for checksum in [false, true] {
        let written = write_v2(header, checksum);
        assert!(written.len() <= LONGEST);
        // A typed value may have been left out for the checksum.
        if !checksum || written.len() + 7 < LONGEST {
            assert_eq!(parse(&written), Parsed::Done(header.clone(), written.len()));
        }
    }
    if let Header::Proxy { addresses, .. } = header {
        let line = write_v1(*addresses);
        let without = Header::Proxy { addresses: *addresses, tlvs: Vec::new() };
        assert_eq!(parse(&line), Parsed::Done(without, line.len()));
    }
}
