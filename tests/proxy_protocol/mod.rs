//! The client's address passed on: headers of trusted peers, headers to backends and in probes, other programs on both
//! sides. Headers are written out here by hand, so that the codec is not its own witness.

mod accept;
mod interop;
mod peers;
mod refuse;
mod send;

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::{Backend, Rig, soon};

/// Version 2's beginning.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n";
/// What version 2 says instead of [`V1`].
const ENDS: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x67, 0x01, 0xbb];

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &u16::try_from(value.len()).unwrap().to_be_bytes()[..], value].concat()
}

/// What is open at the end of a test is not waited for.
const STOP: &str = "[shutdown]\ntimeout = \"10ms\"\n";

/// A backend whose connections are served by the test.
struct Desk {
    backend: Backend,
    arrived: mpsc::UnboundedReceiver<TcpStream>,
}

impl Desk {
    async fn open() -> Self {
        let (sender, arrived) = mpsc::unbounded_channel();
        let backend = Backend::serving(move |stream| {
            let _ = sender.send(stream);
            std::future::ready(())
        })
        .await;
        Self { backend, arrived }
    }

    async fn next(&mut self) -> TcpStream {
        soon("a connection to the backend", self.arrived.recv()).await.unwrap()
    }

    /// In front of it: a listener with an `accept_proxy` of these keys, or none if they are empty; nothing is probed.
    async fn behind(&self, accept: &str, pool: &str) -> Rig {
        let accept =
            if accept.is_empty() { String::new() } else { format!("[listeners.front.accept_proxy]\n{accept}") };
        let more = format!("check = {{ kind = \"none\" }}\n{pool}\n{accept}\n{STOP}");
        Rig::with_backends(&[&self.backend.address().to_string()], &more).await
    }

    fn bytes(&self, direction: &str) -> String {
        let backend = self.backend.address();
        format!("evenkeel_backend_bytes_total{{pool=\"back\",backend=\"{backend}\",direction=\"{direction}\"}}")
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = soon("a connect", TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn say(stream: &mut TcpStream, bytes: &[u8]) {
    soon("a write", stream.write_all(bytes)).await.unwrap();
}

/// Exactly so many bytes.
async fn hear(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    soon(&format!("{count} bytes"), stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// Everything up to FIN.
async fn hear_out(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon("a FIN", stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

/// Not a byte, and then a reset.
async fn is_reset(stream: &mut TcpStream) {
    let end = soon("a reset", stream.read(&mut [0; 64])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// A line up to its CRLF, and nothing behind it.
async fn hear_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(soon("a line", stream.read_u8()).await.unwrap());
    }
    String::from_utf8(line).unwrap()
}

/// A version 2 header: its command and family, its addresses, its typed values.
async fn hear_v2(stream: &mut TcpStream) -> ([u8; 2], Vec<u8>, Vec<(u8, Vec<u8>)>) {
    let fixed = hear(stream, 16).await;
    assert_eq!(&fixed[..12], SIGNATURE);
    let mut block = hear(stream, usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))).await;
    let mut values = block.split_off(match fixed[13] {
        0x11 => 12,
        0x21 => 36,
        _ => 0,
    });
    let mut tlvs = Vec::new();
    while !values.is_empty() {
        let rest = values.split_off(3 + usize::from(u16::from_be_bytes([values[1], values[2]])));
        tlvs.push((values[0], values[3..].to_vec()));
        values = rest;
    }
    ([fixed[12], fixed[13]], block, tlvs)
}

/// Bytes that differ everywhere, for streams that must arrive exactly.
fn noise(count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(5);
    (0..count).map(|_| random.u8(..)).collect()
}
