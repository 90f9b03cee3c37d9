//! What TLS needs: authorities, and a certificate of our own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::failure::{Cause, Failure};
use crate::file;

/// Of a file of certificates: all authorities of a system are 250 KiB.
const LIMIT: u64 = 4 << 20;

/// The files of a server that is asked over https. They are read once, when the client is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// PEM certificates, added to the system's roots.
    pub ca_file: Option<PathBuf>,
    /// The certificate that we show, and its chain, in PEM. It needs the key.
    pub cert_file: Option<PathBuf>,
    /// Its key, in PEM.
    pub key_file: Option<PathBuf>,
}

impl Tls {
    /// With no roots at all where no TLS is spoken: a machine without CA files can have a registry.
    pub(crate) fn config(&self, is_used: bool) -> Result<rustls::ClientConfig, Failure> {
        let mut roots = rustls::RootCertStore::empty();
        if is_used {
            // Unreadable system roots matter only if nothing else is there; then there is nothing in `roots`.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if let Some(path) = &self.ca_file {
                add_authorities(&mut roots, path)?;
            }
            if roots.is_empty() {
                return Err(Failure::setting("no CA certificates on this system: https needs a CA file", None));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_details(provider, Arc::new(Clock))
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::setting("can't set up TLS", Some(error.into())))?
            .with_root_certificates(roots);
        match (&self.cert_file, &self.key_file) {
            (Some(chain), Some(key)) if is_used => {
                let (chain_pem, key_der) = (certificates(chain)?, private_key(key)?);
                builder.with_client_auth_cert(chain_pem, key_der).map_err(|error| {
                    let what = format!("certificate {} and key {} don't fit", chain.display(), key.display());
                    Failure::setting(what, Some(error.into()))
                })
            }
            (Some(_), None) | (None, Some(_)) => {
                Err(Failure::setting("a client certificate needs its key, and a key its certificate", None))
            }
            _ => Ok(builder.with_no_client_auth()),
        }
    }
}

/// The wall clock. That of rustls panics before 1970.
#[derive(Debug)]
struct Clock;

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let time = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        time.ok().map(rustls::pki_types::UnixTime::since_unix_epoch)
    }
}

fn bad(kind: &str, path: &Path, why: &str, source: Option<Cause>) -> Failure {
    Failure::setting(format!("{kind} {} {why}", path.display()), source)
}

fn add_authorities(roots: &mut rustls::RootCertStore, path: &Path) -> Result<(), Failure> {
    for certificate in certificates_of("CA file", path)? {
        roots
            .add(certificate)
            .map_err(|error| bad("CA file", path, "has a certificate that can't be used", Some(error.into())))?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    certificates_of("certificate file", path)
}

fn certificates_of(kind: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = file::read(path, LIMIT).map_err(|error| bad(kind, path, "can't be read", Some(error.into())))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| bad(kind, path, "is not PEM", Some(error.into())))?;
    if all.is_empty() { Err(bad(kind, path, "has no certificate in it", None)) } else { Ok(all) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    let kind = "key file";
    let pem = file::read(path, LIMIT).map_err(|error| bad(kind, path, "can't be read", Some(error.into())))?;
    // The cause is left out: nothing that has seen a key is shown.
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| bad(kind, path, "has no private key in PEM in it", None))
}
