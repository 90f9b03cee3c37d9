//! What the reader promises for any bytes. Called by the replay of the corpus and by the fuzzer (`fuzz/`), which takes this
//! file and the module beside it into a crate of its own.

use super::{ClientHello, HelloReader, Reading, read};

/// Of longer inputs only some prefixes are tried: the fuzzer needs speed.
const ALL_PREFIXES: usize = 300;

/// # Panics
/// If a promise is broken.
pub(crate) fn holds(bytes: &[u8]) {
    let whole = read(bytes);
    let mut in_pieces = HelloReader::default();
    let step = bytes.len() / ALL_PREFIXES + 1;
    for prefix in (0..bytes.len()).step_by(step) {
        let early = in_pieces.read(&bytes[..prefix]);
        assert_eq!(early, read(&bytes[..prefix]), "the pieces matter, after {prefix} bytes");
        assert!(early == Reading::NeedMore || early == whole, "the answer changed after {prefix} bytes");
    }
    assert_eq!(in_pieces.read(bytes), whole, "the pieces matter");
    assert_eq!(in_pieces.read(bytes), whole, "asked again");
    match whole {
        Reading::NeedMore | Reading::NotHello => {
            let more = [bytes, &[0; 40]].concat();
            assert!(whole == Reading::NeedMore || read(&more) == Reading::NotHello, "no hello, and then one");
        }
        Reading::Hello(hello) => is_sound(&hello),
    }
}

fn is_sound(ClientHello { server_name, alpn }: &ClientHello) {
    if let Some(name) = server_name {
        assert!((1..=253).contains(&name.len()) && name.is_ascii() && !name.ends_with('.'), "{name:?}");
        assert!(
            !name.bytes().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_control() || byte == b' '),
            "{name:?}"
        );
    }
    assert!(alpn.iter().all(|protocol| (1..=255).contains(&protocol.len())));
}
