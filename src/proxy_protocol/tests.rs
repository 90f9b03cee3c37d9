use proptest::prelude::*;

use super::*;

const V4: &str = "PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n";
const V6: &str = "PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n";

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses::between(source.parse().unwrap(), destination.parse().unwrap())
}

fn proxy(addresses: Option<Addresses>) -> Header {
    Header::Proxy { addresses, tlvs: Vec::new() }
}

/// A version 2 header by hand.
fn raw(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [binary::SIGNATURE, &[command, family], &length, block].concat()
}

fn fault(bytes: &[u8]) -> HeaderError {
    match parse(bytes) {
        Parsed::Invalid(fault) => fault,
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
}

#[test]
fn lines_of_version_1() {
    for (line, wanted) in [
        (V4, Some(addresses("192.0.2.1:4711", "198.51.100.2:443"))),
        (V6, Some(addresses("[2001:db8::1]:1", "[2001:db8::2]:65535"))),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some(addresses("0.0.0.0:0", "0.0.0.0:0"))),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff::1 what \x01 ever\r\n", None),
    ] {
        let with_more = format!("{line}GET / HTTP/1.1\r\n\r\n");
        assert_eq!(parse(with_more.as_bytes()), Parsed::Done(proxy(wanted), line.len()), "{line}");
    }
    let longest = format!(
        "PROXY UNKNOWN {} {} 65535 65535\r\n",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    );
    assert_eq!(longest.len(), 107);
    assert_eq!(parse(longest.as_bytes()), Parsed::Done(proxy(None), longest.len()));
    let exactly = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
    assert_eq!(parse(exactly.as_bytes()), Parsed::Done(proxy(None), 107));
}

#[test]
fn lines_that_are_none_of_version_1() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 4711 443\r\n",
        "PROXY TCP5 192.0.2.1 198.51.100.2 4711 443\r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.2 4711 443\r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.2 4711 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4711 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4711 443 x\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +471 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 0471 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 00 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 1 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.2 1 443\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 1 443\r\n",
        "PROXY TCP6 fe80::1%eth0 fe80::2 1 443\r\n",
        "PROXY TCP4 \u{e9} 198.51.100.2 1 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 443\n\r\n",
    ] {
        assert_eq!(fault(line.as_bytes()), HeaderError::Line, "{line:?}");
    }
    assert_eq!(fault(b"PROXY TCP4 \xff 198.51.100.2 1 443\r\n"), HeaderError::Line);
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    assert_eq!(fault(endless.as_bytes()), HeaderError::TooLong);
    assert_eq!(fault(&endless.as_bytes()[..106]), HeaderError::TooLong, "two more do not fit");
    assert_eq!(parse(&endless.as_bytes()[..105]), Parsed::NeedMore(2));
    for text in
        ["GET / HTTP/1.1\r\n", "proxy TCP4", "PROXYING", "PROXY\r\n", "\r\n\r\n\r\n", "\0", "\r\n\r\n\0\r\nQUIT\r"]
    {
        assert_eq!(fault(text.as_bytes()), HeaderError::NoSignature, "{text:?}");
        assert!(!is_announced(text.as_bytes()));
    }
}

#[test]
fn headers_of_version_2() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x67, 0x01, 0xbb];
    let wanted = addresses("192.0.2.1:4711", "198.51.100.2:443");
    assert_eq!(parse(&raw(0x21, 0x11, &v4)), Parsed::Done(proxy(Some(wanted)), 28));

    let with_values = [&v4[..], &[NOOP, 0, 1, 9, 0xe0, 0, 2, 7, 8, 0xe0, 0, 0]].concat();
    let tlvs = vec![Tlv { kind: 0xe0, value: vec![7, 8] }, Tlv { kind: 0xe0, value: vec![] }];
    let Parsed::Done(header, 40) = parse(&raw(0x21, 0x11, &with_values)) else { panic!() };
    assert_eq!(header, Header::Proxy { addresses: Some(wanted), tlvs: tlvs.clone() });

    // Addresses that no TCP client has count as unknown; what follows them is read all the same.
    for (family, size) in [(0x12, 12), (0x10, 12), (0x22, 36), (0x31, 216), (0x32, 216), (0x00, 0)] {
        let block = [&vec![1; size][..], &[0xe0, 0, 2, 7, 8, 0xe0, 0, 0]].concat();
        let Parsed::Done(header, _) = parse(&raw(0x21, family, &block)) else { panic!("{family:#x}") };
        assert_eq!(header, Header::Proxy { addresses: None, tlvs: tlvs.clone() });
    }
    assert_eq!(parse(&raw(0x21, 0x00, &[1, 2])), Parsed::Done(proxy(None), 18), "to be skipped");

    // LOCAL: whatever follows is discarded, but never left for the stream.
    for (family, block) in [(0x00, &[][..]), (0x11, &v4), (0xff, &[1, 2, 3]), (0x21, &[0; 5])] {
        assert_eq!(parse(&raw(0x20, family, block)), Parsed::Done(Header::Local, 16 + block.len()));
    }
}

#[test]
fn headers_that_are_none_of_version_2() {
    for command in [0x00, 0x01, 0x11, 0x22, 0x2f, 0x31, 0xff] {
        assert_eq!(fault(&raw(command, 0x11, &[0; 12])), HeaderError::Command);
        assert_eq!(fault(&raw(command, 0x11, &[0; 12])[..13]), HeaderError::Command, "at once");
    }
    for (family, size) in [(0x11, 11), (0x21, 35), (0x31, 215), (0x41, 300), (0x13, 12), (0x01 | 0xf0, 0), (0x11, 0)] {
        assert_eq!(fault(&raw(0x21, family, &vec![0; size])), HeaderError::Family, "{family:#x}");
    }
    for values in [&[0xe0][..], &[0xe0, 0], &[0xe0, 0, 1], &[0xe0, 0xff, 0xff, 1, 2], &[NOOP, 0, 0, 0xe0, 0, 1]] {
        assert_eq!(fault(&raw(0x21, 0x11, &[&[0; 12], values].concat())), HeaderError::Tlv);
    }
    let mut long = raw(0x21, 0x00, &[0; LONGEST - 16]);
    assert!(matches!(parse(&long), Parsed::Done(_, LONGEST)));
    long[15] += 1;
    assert_eq!(fault(&long[..16]), HeaderError::TooLong, "before anything of it is read");
}

#[test]
fn the_checksum_is_verified_where_it_is() {
    let header = Header::Proxy {
        addresses: Some(addresses("[2001:db8::1]:1", "[2001:db8::2]:2")),
        tlvs: vec![Tlv { kind: UNIQUE_ID, value: b"id".to_vec() }],
    };
    let sound = write_v2(&header, true);
    assert_eq!(parse(&sound), Parsed::Done(header, sound.len()));
    for at in 16..sound.len() {
        for bit in 0..8 {
            let mut broken = sound.clone();
            broken[at] ^= 1 << bit;
            assert!(matches!(parse(&broken), Parsed::Invalid(_)) || at == sound.len() - 7, "byte {at} bit {bit}");
        }
    }
    // A checksum of another length is none; one in the middle covers what is behind it, too.
    assert_eq!(fault(&raw(0x21, 0x00, &[CRC32C, 0, 2, 0, 0])), HeaderError::Checksum);
    let mut early = raw(0x21, 0x00, &[CRC32C, 0, 4, 0, 0, 0, 0, 0xe0, 0, 1, 5]);
    let sum = crc32c::crc32c(early.clone());
    early[19..23].copy_from_slice(&sum.to_be_bytes());
    assert!(matches!(parse(&early), Parsed::Done(..)));
    *early.last_mut().unwrap() = 6;
    assert_eq!(fault(&early), HeaderError::Checksum);
}

#[test]
fn what_is_written() {
    let v4 = addresses("192.0.2.1:4711", "198.51.100.2:443");
    assert_eq!(write_v1(Some(v4)), V4.as_bytes());
    assert_eq!(write_v1(Some(addresses("[2001:db8::1]:1", "[2001:db8::2]:65535"))), V6.as_bytes());
    assert_eq!(write_v1(None), b"PROXY UNKNOWN\r\n");
    assert_eq!(write_v2(&Header::Local, false), raw(0x20, 0x00, &[]));
    assert_eq!(
        write_v2(&proxy(Some(v4)), false),
        raw(0x21, 0x11, &[192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x67, 0x01, 0xbb])
    );
    // A socket that takes both families names IPv4 clients in IPv6.
    assert_eq!(addresses("[::ffff:192.0.2.1]:4711", "[::ffff:198.51.100.2]:443"), v4);
    assert!(matches!(addresses("[::ffff:192.0.2.1]:1", "[2001:db8::2]:2"), Addresses::V6(..)));
    assert_eq!(
        write_v1(Some(addresses("192.0.2.1:1", "[2001:db8::2]:2"))),
        b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n"
    );
}

#[test]
fn what_does_not_fit_is_left_out() {
    let tlv = |kind, length| Tlv { kind, value: vec![0; length] };
    let tlvs = vec![tlv(1, 5), tlv(0xe0, 70_000), tlv(0xe1, 4_000), tlv(0xe2, 100), tlv(0xe3, 10)];
    for checksum in [false, true] {
        let bytes = write_v2(&Header::Proxy { addresses: None, tlvs: tlvs.clone() }, checksum);
        let Parsed::Done(Header::Proxy { tlvs, .. }, length) = parse(&bytes) else { panic!() };
        assert_eq!(length, bytes.len());
        assert_eq!(tlvs.iter().map(|tlv| tlv.kind).collect::<Vec<_>>(), [1, 0xe1, 0xe3]);
    }
}

fn some_addresses() -> impl Strategy<Value = Option<Addresses>> {
    let ends = prop_oneof![
        any::<(SocketAddrV4, SocketAddrV4)>().prop_map(|(from, to)| Some(Addresses::V4(from, to))),
        any::<(SocketAddrV6, SocketAddrV6)>().prop_map(|(from, to)| {
            let plain = |address: SocketAddrV6| SocketAddrV6::new(*address.ip(), address.port(), 0, 0);
            Some(Addresses::V6(plain(from), plain(to)))
        }),
        Just(None),
    ];
    ends.boxed()
}

fn some_header() -> impl Strategy<Value = Header> {
    let kind = any::<u8>().prop_filter("not kept", |kind| ![CRC32C, NOOP].contains(kind));
    let tlv = (kind, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(kind, value)| Tlv { kind, value });
    let tlvs = prop::collection::vec(tlv, 0..6);
    prop_oneof![
        1 => Just(Header::Local),
        9 => (some_addresses(), tlvs).prop_map(|(addresses, tlvs)| Header::Proxy { addresses, tlvs }),
    ]
}

/// Every shorter piece of a header asks for more, and never for more than there is; every longer one is the same header.
fn holds_in_pieces(written: &[u8], header: &Header, behind: &[u8]) {
    for end in 0..written.len() {
        match parse(&written[..end]) {
            Parsed::NeedMore(n) => assert!(0 < n && end + n <= written.len(), "{n} at {end}"),
            other => panic!("{other:?} at {end} of {}", written.escape_ascii()),
        }
    }
    let longer = [written, behind].concat();
    for end in written.len()..=longer.len() {
        assert_eq!(parse(&longer[..end]), Parsed::Done(header.clone(), written.len()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn version_1_comes_back_however_it_is_cut(
        addresses in some_addresses(),
        behind in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let written = write_v1(addresses);
        prop_assert!(written.len() <= 107);
        holds_in_pieces(&written, &proxy(addresses), &behind);
    }

    #[test]
    fn version_2_comes_back_however_it_is_cut(
        header in some_header(),
        checksum in any::<bool>(),
        behind in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        holds_in_pieces(&write_v2(&header, checksum), &header, &behind);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        is_sane(&bytes);
        is_sane(&[text::SIGNATURE, &bytes].concat());
        is_sane(&[binary::SIGNATURE, &bytes].concat());
    }
}

/// No panic, no more than there is, and no change of mind when more comes.
fn is_sane(bytes: &[u8]) {
    match parse(bytes) {
        Parsed::Done(_, consumed) => {
            assert!(consumed <= bytes.len() && consumed <= LONGEST);
            assert_eq!(parse(&bytes[..consumed]), parse(bytes), "nothing behind it counts");
            assert!(matches!(parse(&bytes[..consumed - 1]), Parsed::NeedMore(1)), "nothing of it is spare");
        }
        Parsed::NeedMore(n) => assert!(n > 0 && bytes.len() + n <= LONGEST),
        Parsed::Invalid(_) => {
            assert!(matches!(parse(&[bytes, b"\r\n\0PROXY"].concat()), Parsed::Invalid(_)), "for good");
        }
    }
}

/// Sound headers with a few bytes changed, put in or taken out: nearer to the edges than random bytes come.
#[test]
fn a_hundred_thousand_mutants_are_survived() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut random = fastrand::Rng::with_seed(seed);
    let tlvs = vec![Tlv { kind: UNIQUE_ID, value: vec![1; 20] }, Tlv { kind: AUTHORITY, value: b"a.example".to_vec() }];
    let v4 = Some(addresses("192.0.2.1:4711", "198.51.100.2:443"));
    let v6 = Some(addresses("[2001:db8::1]:1", "[2001:db8::2]:65535"));
    let stock = [
        V4.into(),
        V6.into(),
        write_v1(None),
        write_v2(&Header::Local, false),
        write_v2(&proxy(v4), false),
        write_v2(&Header::Proxy { addresses: v6, tlvs: tlvs.clone() }, true),
        write_v2(&Header::Proxy { addresses: None, tlvs }, false),
    ];
    let mut outcomes = [0; 3];
    for _ in 0..100_000 {
        let mut bytes = stock[random.usize(..stock.len())].clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u8(..8),
                2 => bytes.insert(at, b"\r\n 0\x00\xff"[random.usize(..6)]),
                _ => drop(bytes.remove(at)),
            }
        }
        is_sane(&bytes);
        outcomes[match parse(&bytes) {
            Parsed::NeedMore(_) => 0,
            Parsed::Done(..) => 1,
            Parsed::Invalid(_) => 2,
        }] += 1;
    }
    assert!(outcomes.iter().all(|&count| count > 2_000), "seed {seed}: {outcomes:?}");
}

/// What the fuzzer found worth keeping. A finding of it is added to the corpus.
#[test]
fn the_fuzzers_corpus() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/proxy_header");
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        properties::holds(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 20, "{inputs} inputs in {corpus}");
}
