use proptest::prelude::*;

use super::shape::{Shape, counted, records, server_names};
use super::*;
use crate::seeds::seeds;

fn hello(bytes: &[u8]) -> ClientHello {
    match read(bytes) {
        Reading::Hello(hello) => hello,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

fn name_in(content: Vec<u8>) -> Option<Box<str>> {
    hello(&Shape::default().with(0, content).bytes()).server_name
}

fn name(name: &[u8]) -> Option<Box<str>> {
    name_in(server_names(&[(0, name)]))
}

/// Reads as NotHello once byte `at` is there, and NeedMore before.
fn is_ruled_out_at(bytes: &[u8], at: usize) {
    for length in 0..=at {
        assert_eq!(read(&bytes[..length]), Reading::NeedMore, "{length} of {}", bytes.escape_ascii());
    }
    for length in at + 1..=bytes.len() {
        assert_eq!(read(&bytes[..length]), Reading::NotHello, "{length} of {}", bytes.escape_ascii());
    }
}

#[test]
fn a_usual_hello() {
    let bytes = Shape::named("DB.Example.com").alpn(&[b"\x2a\x2a", b"h2", b"http/1.1"]).bytes();
    let hello = hello(&bytes);
    assert_eq!(hello.server_name.as_deref(), Some("db.example.com"));
    assert_eq!(hello.alpn, [b"h2".as_slice().into(), b"http/1.1".as_slice().into()]);
    let with_more = [&bytes, &b"\x14\x03\x03\x00\x01\x01"[..]].concat();
    assert_eq!(read(&with_more), Reading::Hello(hello));
    properties::holds(&with_more);
}

#[test]
fn a_hello_says_nothing_about_the_route() {
    for shape in [
        Shape::default(),
        Shape { extensions: None, ..Shape::default() },
        Shape { extensions: Some(Vec::new()), session_id: Vec::new(), ..Shape::default() },
    ] {
        assert_eq!(hello(&shape.bytes()), ClientHello::default());
        properties::holds(&shape.bytes());
    }
}

#[test]
fn the_shortest_and_the_longest_message() {
    let (session_id, cipher_suites) = (Vec::new(), vec![0x13, 0x01]);
    let shortest = Shape { session_id, cipher_suites, extensions: None, ..Shape::default() };
    assert_eq!(shortest.message().len(), 4 + SHORTEST);
    hello(&shortest.bytes());
    let cipher_suites = vec![0x13; 65_534];
    let longest = Shape { cipher_suites, compression: vec![0; 255], extensions: Some(Vec::new()), ..Shape::default() };
    let longest = longest.with(0xfe0d, vec![0; 65_535 - 4]);
    assert_eq!(longest.message().len(), 4 + LONGEST);
    hello(&longest.bytes());
    properties::holds(&longest.bytes());
}

#[test]
fn names_are_read_as_they_are_compared() {
    for (sent, read) in [
        ("a", "a"),
        ("Db.EXAMPLE.com.", "db.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_sip.a-b.example", "_sip.a-b.example"),
        ("1.2.3.4.in-addr.arpa", "1.2.3.4.in-addr.arpa"),
        ("4711", "4711"),
    ] {
        assert_eq!(name(sent.as_bytes()).as_deref(), Some(read), "{sent}");
    }
    let longest = format!("{}.{}", ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join("."), "d".repeat(61));
    assert_eq!(longest.len(), LONGEST_NAME);
    assert_eq!(name(longest.as_bytes()).as_deref(), Some(&*longest));
    assert_eq!(name(format!("{longest}.").as_bytes()).as_deref(), Some(&*longest));
    assert_eq!(name(format!("{longest}d").as_bytes()), None);
}

#[test]
fn what_is_no_host_name_is_no_name() {
    for sent in [
        "",
        ".",
        "..",
        ".a",
        "a..b",
        "a..",
        "a b",
        "a\0",
        "a\n",
        "b\u{fc}cher.example",
        "a/b",
        "a:1",
        "*.a",
        "192.0.2.1",
        "192.0.2.1.",
        "2001:db8::1",
        "[2001:db8::1]",
        "a@b",
        "a%41",
    ] {
        assert_eq!(name(sent.as_bytes()), None, "{sent:?}");
    }
    assert_eq!(name(b"\xff\xfe"), None);
    assert_eq!(name("a".repeat(64).as_bytes()), None);
    assert_eq!(name("a".repeat(60_000).as_bytes()), None);
    // Lists without a host name.
    assert_eq!(name_in(Vec::new()), None);
    assert_eq!(name_in(server_names(&[])), None);
    assert_eq!(name_in(server_names(&[(7, b"other.example")])), None);
    assert_eq!(name_in(server_names(&[(7, b""), (0, b"a.example"), (9, b"other")])).as_deref(), Some("a.example"));
}

#[test]
fn with_ech_it_is_the_outer_name() {
    // Type outer, cipher suite, configuration, and 32 bytes each of key and payload, among which a name seems to be.
    let sealed = server_names(&[(0, b"secret.example"), (0, b"more.secret.example")]);
    let ech = [&[0, 0, 1, 0, 1, 42][..], &counted::<2>(&[5; 32]), &counted::<2>(&sealed)].concat();
    let bytes = Shape::default().with(0xfe0d, ech).with(0, server_names(&[(0, b"public.example")])).bytes();
    assert_eq!(hello(&bytes).server_name.as_deref(), Some("public.example"));
}

/// A key share of X25519MLKEM768 is 1,216 bytes; several of them make a hello that fits into no segment.
fn post_quantum() -> Shape {
    let share = |group: u16, length| [&group.to_be_bytes()[..], &counted::<2>(&vec![0xa5; length])].concat();
    let shares = [share(0x2a2a, 1), share(0x11ec, 1_216), share(0x11ed, 1_665), share(0x11ee, 1_665)].concat();
    Shape::default().with(51, counted::<2>(&shares)).with(0, server_names(&[(0, b"pq.example")])).alpn(&[b"h2"])
}

#[test]
fn a_hello_of_several_kib_in_any_records() {
    let message = post_quantum().message();
    assert!(message.len() > 4_500);
    let whole = hello(&records(&message, 1 << 14));
    assert_eq!(whole.server_name.as_deref(), Some("pq.example"));
    for each in [1, 2, 3, 5, 47, 1_000, message.len() - 1] {
        let bytes = records(&message, each);
        assert_eq!(hello(&bytes), whole, "{each} bytes a record");
        properties::holds(&bytes);
    }
}

/// One byte in each record, and each byte in a segment of its own: all 750,000 of them would be read as often.
#[test]
fn each_byte_is_read_once() {
    let longest = Shape { cipher_suites: vec![0x13; 65_534], ..Shape::named("a.example") }.with(21, vec![0; 60_000]);
    let bytes = records(&longest.message(), 1);
    let mut reader = HelloReader::default();
    for length in 0..bytes.len() {
        assert_eq!(reader.read(&bytes[..length]), Reading::NeedMore);
    }
    assert_eq!(reader.read(&bytes), Reading::Hello(hello(&bytes)));
}

#[test]
fn other_protocols_are_ruled_out_at_their_first_byte() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2p1\r\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        // A hello as SSL 2 wrote it.
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\x01\x00\x80",
        // Alert, change of cipher spec, application data, and DTLS with its handshake type.
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x14\x03\x03\x00\x01\x01",
        b"\x17\x03\x03\x00\x01\x01",
    ] {
        is_ruled_out_at(bytes, 0);
    }
    is_ruled_out_at(b"\x16\xfe\xff\x00\x00", 1);
    is_ruled_out_at(b"\x16\x02\x00\x00\x40\x01", 1);
}

#[test]
fn records_are_checked() {
    // Empty, one byte too long, and far too long.
    is_ruled_out_at(b"\x16\x03\x01\x00\x00\x16", 4);
    is_ruled_out_at(b"\x16\x03\x01\x40\x01\x01", 4);
    is_ruled_out_at(b"\x16\x03\x01\x41\x00\x01", 3);
    assert_eq!(read(b"\x16\x03\x01\x40\x00\x01"), Reading::NeedMore);
    // The low byte of the version is to be ignored.
    assert_eq!(read(b"\x16\x03\xff\x02\x00\x01"), Reading::NeedMore);
    let message = Shape::named("a.example").message();
    let (first, second) = message.split_at(50);
    let record = |kind: u8, part: &[u8]| [&[kind, 3, 3][..], &counted::<2>(part)].concat();
    hello(&[record(22, first), record(22, second)].concat());
    // Something else than the rest of the message comes next.
    is_ruled_out_at(&[record(22, first), record(21, &[1, 0])].concat(), 55);
    is_ruled_out_at(&[record(22, first), record(22, &[])].concat(), 59);
}

/// `change` makes a sound message wrong; the byte in it that shows it has the place `at`, from the end if it is negative.
fn is_wrong(shape: &Shape, at: isize, change: impl Fn(&mut Vec<u8>)) {
    let mut message = shape.message();
    change(&mut message);
    let at = if at < 0 { message.len().wrapping_add_signed(at) } else { at as usize };
    is_ruled_out_at(&records(&message, 1 << 14), 5 + at);
}

#[test]
fn the_header_of_the_message_is_checked() {
    let shape = Shape::named("a.example");
    // A ServerHello.
    is_wrong(&shape, 0, |message| message[0] = 2);
    is_wrong(&shape, 3, |message| message[1..4].copy_from_slice(&[0, 0, SHORTEST as u8 - 1]));
    is_wrong(&shape, 1, |message| message[1] = 3);
    is_wrong(&shape, 3, |message| message[1..4].copy_from_slice(&(LONGEST as u32 + 1).to_be_bytes()[1..]));
}

#[test]
fn lengths_that_contradict_each_other() {
    let shape = Shape { session_id: vec![], cipher_suites: vec![0x13, 1], extensions: None, ..Shape::default() };
    // Session id, cipher suites (none, an odd number, more than there is), compression (none, more than there is).
    is_wrong(&shape, 38, |message| message[38] = 1);
    is_wrong(&Shape::named("a.example"), 38, |message| message[38] = 33);
    is_wrong(&shape, 40, |message| message[40] = 0);
    is_wrong(&Shape::named("a.example"), 38 + 32 + 2, |message| message[38 + 32 + 2] = 7);
    is_wrong(&shape, 39, |message| message[39] = 1);
    is_wrong(&shape, -2, |message| message[43] = 0);
    is_wrong(&shape, -2, |message| message[43] = 2);
    // A byte that is no list of extensions, and a list that is shorter or longer than the rest.
    let end = Shape { extensions: Some(vec![]), ..shape.clone() };
    is_wrong(&end, 43, |message| message[43] = 2);
    is_wrong(&end, -1, |message| message[46] = 1);
    is_wrong(&shape.clone().with(10, vec![]), -5, |message| message[46] = 3);
    // Extensions: beyond the list, a rest that is too short for one more.
    is_wrong(&shape.clone().with(10, vec![1]), -2, |message| message[50] = 2);
    is_wrong(&shape.clone().with(10, vec![1, 2]), -3, |message| message[50] = 1);
    is_wrong(&shape.with(10, vec![0; 6]), -7, |message| message[50] = 3);
}

#[test]
fn server_names_that_contradict_themselves() {
    let plain = Shape { extensions: None, ..Shape::default() };
    let content = server_names(&[(0, b"abc")]);
    assert_eq!(content, [0, 6, 0, 0, 3, 97, 98, 99]);
    let with = |content: &[u8]| plain.clone().with(0, content.to_vec());
    // At the length of the extension, where no list can follow.
    is_wrong(&with(&[0]), -2, |_| {});
    is_wrong(&with(&[0, 1, 0]), -4, |_| {});
    // The list is shorter or longer than the extension.
    is_wrong(&with(&content), -7, |message| message[plain.message().len() + 2 + 4 + 1] = 5);
    is_wrong(&with(&content), -7, |message| message[plain.message().len() + 2 + 4 + 1] = 7);
    // The name is longer than the list, or followed by too little for one more.
    is_wrong(&with(&[0, 6, 0, 0, 4, 97, 98, 99]), -4, |_| {});
    is_wrong(&with(&[0, 6, 0, 0, 2, 97, 98, 99]), -4, |_| {});
    // Two host names, two extensions: which of them a server takes is not known.
    is_wrong(&with(&server_names(&[(0, b"a"), (0, b"b")])), -2, |_| {});
    is_wrong(&with(&content).with(0, content.clone()), -11, |_| {});
    is_wrong(&with(&[]).with(0, vec![]), -3, |_| {});
}

#[test]
fn protocols_that_contradict_themselves() {
    let plain = Shape { extensions: None, ..Shape::default() };
    let with = |content: &[u8]| plain.clone().with(16, content.to_vec());
    hello(&with(&[0, 2, 1, 97]).bytes());
    is_wrong(&with(&[]), -1, |_| {});
    is_wrong(&with(&[0]), -2, |_| {});
    is_wrong(&with(&[0, 0]), -3, |_| {});
    is_wrong(&with(&[0, 1, 0]), -4, |_| {});
    is_wrong(&with(&[0, 3, 1, 97]), -3, |_| {});
    is_wrong(&with(&[0, 2, 0, 97]), -2, |_| {});
    is_wrong(&with(&[0, 2, 2, 97]), -2, |_| {});
    is_wrong(&with(&[0, 3, 1, 97, 0]), -3, |_| {});
    is_wrong(&plain.clone().alpn(&[b"h2"]).alpn(&[b"h2"]), -8, |_| {});
}

/// A sound message, and what has to be read of it.
fn some_hello() -> impl Strategy<Value = (Shape, ClientHello)> {
    let extensions = prop::collection::vec((100..0xffff_u16, prop::collection::vec(any::<u8>(), 0..600)), 0..6);
    let name = prop::option::of("[a-z0-9]{1,20}(\\.[a-z0-9-]{0,10}[a-z]){0,3}");
    let alpn = prop::collection::vec("[a-z]{3,10}", 0..4);
    (extensions, name, alpn, 0..=32_usize, 1..50_usize).prop_map(|(extensions, name, alpn, session_id, suites)| {
        let (session_id, cipher_suites) = (vec![1; session_id], vec![0x13; 2 * suites]);
        let mut shape = Shape { session_id, cipher_suites, extensions: Some(extensions), ..Shape::default() };
        if let Some(name) = &name {
            shape = shape.with(0, server_names(&[(0, name.to_uppercase().as_bytes())]));
        }
        if !alpn.is_empty() {
            shape = shape.alpn(&alpn.iter().map(String::as_bytes).collect::<Vec<_>>());
        }
        let alpn = alpn.into_iter().map(|protocol| protocol.into_bytes().into()).collect();
        (shape, ClientHello { server_name: name.map(Into::into), alpn })
    })
}

proptest! {
    #[test]
    fn a_hello_is_read_however_it_is_cut(
        (shape, wanted) in some_hello(),
        each in 1..3_000_usize,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        behind in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let bytes = records(&shape.message(), each);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        let mut reader = HelloReader::default();
        for cut in cuts {
            prop_assert_eq!(reader.read(&bytes[..cut]), Reading::NeedMore);
        }
        prop_assert_eq!(reader.read(&[bytes, behind].concat()), Reading::Hello(wanted));
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        properties::holds(&bytes);
        properties::holds(&records(&bytes, 100));
        properties::holds(&[&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], &bytes].concat());
    }
}

/// Sound hellos with a few bytes changed, put in or taken out: nearer to the edges than random bytes come.
#[test]
fn mutants_are_survived() {
    let stock = [
        Shape::named("a.example").alpn(&[b"h2", b"http/1.1"]).bytes(),
        Shape { extensions: None, ..Shape::default() }.bytes(),
        records(&Shape::named("b.example").alpn(&[b"x"]).message(), 11),
        records(&Shape::default().with(0, server_names(&[(3, b"x"), (0, b"y")])).message(), 1),
    ];
    let mut readings = [0; 3];
    for seed in seeds(1, 1) {
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..10_000 {
            let mut bytes = stock[random.usize(..stock.len())].clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..4) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes[at] ^= 1 << random.u8(..8),
                    2 => bytes.insert(at, [0, 1, 3, 22, 255][random.usize(..5)]),
                    _ => drop(bytes.remove(at)),
                }
            }
            properties::holds(&bytes);
            readings[match read(&bytes) {
                Reading::NeedMore => 0,
                Reading::NotHello => 1,
                Reading::Hello(_) => 2,
            }] += 1;
        }
    }
    assert!(readings.iter().all(|&count| count > 100), "{readings:?}");
}

/// Recorded from the programs; `tests/interop/hellos.rs` asks those that are installed.
#[test]
fn recorded_hellos_of_real_programs() {
    for (program, server_name, alpn) in [
        ("openssl-3.0", Some("db.example.com"), &["postgresql", "h2"][..]),
        ("openssl-3.0-tls1.2-no-name", None, &[]),
        ("curl-7.88", Some("curl.example"), &["h2", "http/1.1"]),
        // Written as `Bücher.example`.
        ("python-3.11", Some("xn--bcher-kva.example"), &["imap"]),
        // With GREASE, an encrypted ClientHello and a post-quantum key.
        ("chromium", Some("chromium.example"), &["h2", "http/1.1"]),
        ("go-1.19-etcdctl", Some("localhost"), &["h2"]),
        ("records-of-one-byte", Some("db.example.com"), &["postgresql", "h2"]),
        ("records-of-50-bytes", Some("db.example.com"), &["postgresql", "h2"]),
    ] {
        let path = format!("{}/fuzz/corpus/client_hello/{program}", env!("CARGO_MANIFEST_DIR"));
        let alpn = alpn.iter().map(|protocol| protocol.as_bytes().into()).collect();
        let wanted = ClientHello { server_name: server_name.map(Into::into), alpn };
        assert_eq!(hello(&std::fs::read(path).unwrap()), wanted, "{program}");
    }
}

/// What the fuzzer found worth keeping, and what it began with. A finding of it is added to the corpus.
#[test]
fn the_fuzzers_corpus() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/client_hello");
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        properties::holds(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 20, "{inputs} inputs in {corpus}");
}
