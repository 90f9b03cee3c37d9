//! Makes a probe's connection, from the addresses that the pool's sessions use.
//! Called by `attempt`.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream};

use crate::config::{Check, CheckKind};

use super::attempt::Miss;
use super::kernel;

/// Whether the connection ends with a FIN: if bytes are exchanged, or the check says so. Otherwise it ends with a reset,
/// which leaves no TIME_WAIT on either side.
pub(super) fn ends_in_order(check: &Check) -> bool {
    check.kind != CheckKind::Tcp || check.linger || check.send_proxy.is_some()
}

/// Connects from the first usable source address of the pool.
pub(super) async fn connect(address: SocketAddr, check: &Check) -> Result<TcpStream, Miss> {
    let mut last = io::Error::new(ErrorKind::AddrNotAvailable, "no `source` of the backend's address family");
    let of_its_family = check.sources.iter().filter(|source| source.is_ipv4() == address.is_ipv4());
    let anywhere = check.sources.is_empty().then_some(None);
    for source in of_its_family.copied().map(Some).chain(anywhere) {
        match connect_from(address, source, ends_in_order(check)).await {
            Ok(stream) if is_own_reflection(&stream) => return Err(Miss::Failed("refused".to_owned())),
            Ok(stream) => return Ok(stream),
            // The address is not on this machine now, or has no free port towards that backend.
            Err(error) if source.is_some() && error.kind() == ErrorKind::AddrNotAvailable => last = error,
            Err(error) => return Err(error.into()),
        }
    }
    Err(Miss::Local(last))
}

async fn connect_from(address: SocketAddr, source: Option<IpAddr>, in_order: bool) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if !in_order {
        socket.set_zero_linger()?;
    }
    socket.set_nodelay(true)?;
    if let Some(source) = source {
        // The kernel chooses the port at connect, when it knows the whole pair. Otherwise all backends share 28,000 ports.
        kernel::bind_address_no_port(&socket)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}

/// A connect to a local port in the ephemeral range without a listener can get that same port as its source. By TCP's
/// simultaneous open the socket then connects to itself, and a dead backend would pass.
fn is_own_reflection(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_connected_to_itself_is_seen() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let itself = socket.local_addr().unwrap();
        assert!(is_own_reflection(&socket.connect(itself).await.unwrap()));

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!is_own_reflection(&stream));
    }
}
