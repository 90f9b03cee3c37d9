//! Which pool a session goes to, over real sockets: by server name, protocol, network and first bytes, by its share; what
//! was read of a client reaches the backend byte for byte.

mod bytes;
mod changes;
mod decisions;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::shape::{self, Shape};
use crate::support::{Backend, Rig, soon};

/// Nothing is probed, and what is open at the end of a test is not waited for.
const STOP: &str = "[shutdown]\ntimeout = \"10ms\"\n";

/// A ClientHello for that name.
fn hello(name: &str) -> Vec<u8> {
    Shape::named(name).bytes()
}

/// A pool with these backends; `more` are keys of it.
fn pool(name: &str, backend: &Backend, more: &str) -> String {
    format!("[pools.{name}]\nbackends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\n{more}\n", backend.address())
}

/// A listener with these keys, and these pools.
async fn routed(listener: &str, pools: &[String]) -> Rig {
    Rig::start(&format!("[listeners.front]\nbind = \"127.0.0.1:0\"\n{listener}\n{}{STOP}", pools.concat())).await
}

async fn connect(rig: &Rig) -> TcpStream {
    let stream = soon("a connect", TcpStream::connect(rig.front())).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn say(stream: &mut TcpStream, bytes: &[u8]) {
    soon("a write", stream.write_all(bytes)).await.unwrap();
}

/// Everything up to FIN.
async fn hear_out(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    soon("a FIN", stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Which backend answers a client that sends this at once.
async fn answer(rig: &Rig, bytes: &[u8]) -> String {
    let mut stream = connect(rig).await;
    say(&mut stream, bytes).await;
    hear_out(&mut stream).await
}
