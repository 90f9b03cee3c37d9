//! A backend within TLS, with a certificate from `tests/support/tls`.

#[path = "tls/acceptor.rs"]
mod acceptor;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use super::Backend;
pub use acceptor::fixture;

/// For an agent: `ca.pem`, and `agent.pem` with `agent.key` for 127.0.0.1, which it has signed.
pub fn agent_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("consul/tests/tls").join(name)
}

/// Passes what comes in TLS, as `agent.pem`, on to `to`.
pub async fn sealed_front(to: SocketAddr) -> Backend {
    let acceptor = acceptor::acceptor_with(&agent_fixture("agent.pem"), &agent_fixture("agent.key"));
    Backend::serving(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Ok(mut behind) = TcpStream::connect(to).await else { return };
            // Either side may end it in any way.
            let _ = copy_bidirectional(&mut stream, &mut behind).await;
        }
    })
    .await
}

/// Sends back what it gets.
pub async fn sealed(certificate: &str) -> Backend {
    let acceptor = acceptor::acceptor(certificate);
    Backend::serving(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}
