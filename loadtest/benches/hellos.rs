//! The cost of reading a ClientHello, of those that `fuzz/corpus` has from real programs: `cargo bench --profile dist -p loadtest
//! --bench hellos`.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput};
use evenkeel::route::hello::{HelloReader, Reading, read};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, file) in [
        ("OpenSSL, 340 bytes", "openssl-3.0"),
        ("Chromium with a post-quantum key, 2 KiB", "chromium"),
        ("OpenSSL in records of one byte", "records-of-one-byte"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/client_hello").join(file);
        let bytes = std::fs::read(path).expect("it is recorded");
        assert!(matches!(read(&bytes), Reading::Hello(_)), "{file}");
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("whole", |bencher| bencher.iter(|| read(black_box(&bytes))));
        group.bench_function("byte by byte", |bencher| bencher.iter(|| in_pieces(black_box(&bytes))));
        group.finish();
    }
    criterion.final_summary();
}

fn in_pieces(bytes: &[u8]) -> Reading {
    let mut reader = HelloReader::default();
    (1..=bytes.len()).map(|length| reader.read(&bytes[..length])).last().expect("it has bytes")
}
