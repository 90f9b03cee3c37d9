//! A backend within TLS, with a certificate from `tests/support/tls`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Backend;

/// `key.pem`, and two certificates for `backend.test` and 127.0.0.1: `certificate.pem` (until 2126), `expired.pem` (2021).
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name)
}

/// For an agent: `ca.pem`, and `agent.pem` with `agent.key` for 127.0.0.1, which it has signed.
pub fn agent_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("consul/tests/tls").join(name)
}

fn acceptor(certificate: &Path, key: &Path) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Passes what comes in TLS, as `agent.pem`, on to `to`.
pub async fn sealed_front(to: SocketAddr) -> Backend {
    let acceptor = acceptor(&agent_fixture("agent.pem"), &agent_fixture("agent.key"));
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
    let acceptor = acceptor(&fixture(certificate), &fixture("key.pem"));
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
