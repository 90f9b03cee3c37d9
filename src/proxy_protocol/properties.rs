//! What holds for the parser whatever the bytes are: asked by the replay of the corpus and by the fuzzer (`fuzz/`), which
//! takes this file and the module beside it into a crate of its own.

use crate::proxy_protocol::{Header, LONGEST, Parsed, parse, write_v1, write_v2};

/// Prefixes of longer inputs are not all tried: the fuzzer lives on speed.
const ALL_PREFIXES: usize = 300;

/// # Panics
/// If something does not hold.
pub(crate) fn holds(bytes: &[u8]) {
    let parsed = parse(bytes);
    match &parsed {
        Parsed::NeedMore(missing) => {
            assert!(*missing > 0, "it waits for nothing");
            assert!(bytes.len() + missing <= LONGEST, "it waits for more than it takes");
        }
        Parsed::Done(header, length) => {
            assert!(*length <= bytes.len().min(LONGEST), "a header longer than what came, or than the bound");
            // What follows a header is the client's, and says nothing about it.
            assert_eq!(parse(&bytes[..*length]), parsed);
            comes_back(header);
        }
        Parsed::Invalid(_) => {}
    }
    let step = bytes.len() / ALL_PREFIXES + 1;
    for prefix in (0..bytes.len()).step_by(step) {
        match (parse(&bytes[..prefix]), &parsed) {
            // However the bytes are cut up, the answer is one, and nobody waits for bytes that do not come.
            (Parsed::NeedMore(missing), Parsed::Done(_, length)) => assert!(prefix + missing <= *length),
            (Parsed::NeedMore(missing), Parsed::NeedMore(later)) => {
                assert!(prefix + missing <= bytes.len() + later, "less is missing than was said");
            }
            (Parsed::NeedMore(_), Parsed::Invalid(_)) => {}
            (early, _) => assert_eq!(early, parsed, "the answer changed after {prefix} bytes"),
        }
    }
}

/// What we write of a header, we read as the same.
fn comes_back(header: &Header) {
    for checksum in [false, true] {
        let written = write_v2(header, checksum);
        assert!(written.len() <= LONGEST);
        // A typed value may have had to make room for the checksum.
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
