//! The server's end of TLS with a certificate from this directory, for the tests of the library and of the whole program.
#![allow(unreachable_pub, reason = "a module of two crates")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// `key.pem`, and two certificates for `backend.test` and 127.0.0.1: `certificate.pem` (until 2126), `expired.pem` (2021).
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name)
}

pub fn acceptor(certificate: &str) -> TlsAcceptor {
    acceptor_with(&fixture(certificate), &fixture("key.pem"))
}

/// With a certificate, and the authorities above it, from elsewhere.
pub fn acceptor_with(certificate: &Path, key: &Path) -> TlsAcceptor {
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
