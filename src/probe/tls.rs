//! TLS of probes: what is trusted, the handshake, and what the certificate says. The one door to rustls.
//! Called by `attempt` and `Prober`.
//! Probes that trust the same share a context, which is rebuilt every minute so that a renewed file takes effect.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::config::{self, Check, CheckKind, TlsCheck};
use crate::health::Certificate;

use super::attempt::{Miss, Trace};
use super::certificate;
use super::wire::Wire;

/// How long a context is used. Renewals are days apart, so a minute is soon enough, and the cost is small.
const CONTEXT_LIFETIME: Duration = Duration::from_secs(60);

pub(super) type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// A client configuration with its trusted certificates.
pub(super) type Context = Arc<ClientConfig>;

#[derive(Default)]
pub(super) struct Contexts {
    /// An asynchronous lock, because files are read under it: probes that need the same context wait for one reading.
    made: Mutex<HashMap<TlsTrust, (Context, Instant)>>,
}

/// The settings that a context depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TlsTrust {
    verify: bool,
    ca_file: Option<PathBuf>,
    protocols: Vec<Vec<u8>>,
}

impl TlsTrust {
    fn of(tls: &TlsCheck, kind: &CheckKind) -> Self {
        let protocols = match kind {
            CheckKind::Http(_) => vec![b"http/1.1".to_vec()],
            CheckKind::Grpc(_) => vec![b"h2".to_vec()],
            _ => tls.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect(),
        };
        Self { verify: tls.verify, ca_file: tls.ca_file.clone().filter(|_| tls.verify), protocols }
    }
}

impl Contexts {
    /// The context for a check; `None` if it needs none.
    ///
    /// # Errors
    /// What is wrong with the file of authorities. It says nothing about the backend.
    pub(super) async fn of(&self, check: &Check) -> io::Result<Option<Context>> {
        let Some(tls) = &check.tls else { return Ok(None) };
        let trust = TlsTrust::of(tls, &check.kind);
        let mut made = self.made.lock().await;
        let old = match made.get(&trust) {
            Some((context, at)) if at.elapsed() < CONTEXT_LIFETIME => return Ok(Some(Arc::clone(context))),
            old => old.map(|(context, _)| Arc::clone(context)),
        };
        let wanted = trust.clone();
        // On a thread for blocking: the file may be on a network.
        let built = tokio::task::spawn_blocking(move || context(&wanted)).await.map_err(io::Error::other)?;
        let context = match (built, old) {
            (Ok(context), _) => context,
            (Err(error), Some(old)) => {
                tracing::warn!("probes go on with the authorities that they had: {error}");
                old
            }
            (Err(error), None) => return Err(error),
        };
        made.insert(trust, (Arc::clone(&context), Instant::now()));
        Ok(Some(context))
    }
}

/// The wall clock. That of rustls panics before 1970.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// Whether the authorities of a check can be read.
///
/// # Errors
/// Why not, with the name of the file.
pub(super) fn ready(check: &Check) -> io::Result<()> {
    check.tls.as_ref().map_or(Ok(()), |tls| context(&TlsTrust::of(tls, &check.kind)).map(drop))
}

fn context(trust: &TlsTrust) -> io::Result<Context> {
    let provider = Arc::new(ring::default_provider());
    let verifier = if trust.verify { Some(authorities(trust.ca_file.as_deref(), &provider)?) } else { None };
    let verifier = Arc::new(Verifier { authorities: verifier, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_details(provider, Arc::new(Clock)).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?;
    let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols.clone_from(&trust.protocols);
    // A resumed session would not show the certificate again.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

struct Authorities {
    webpki: Arc<WebPkiServerVerifier>,
    /// The certificates of `ca_file`: a server may be trusted by its own.
    named: Vec<CertificateDer<'static>>,
}

fn authorities(file: Option<&Path>, provider: &Arc<CryptoProvider>) -> io::Result<Authorities> {
    let named = file.map_or(Ok(Vec::new()), read)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in &named {
        // A certificate that is no authority may still be the server's own.
        let _ = roots.add(certificate.clone());
    }
    if roots.is_empty() {
        return Err(io::Error::other("this system has no certificate authorities; write ca_file, or verify = false"));
    }
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    Ok(Authorities { webpki: webpki.map_err(io::Error::other)?, named })
}

fn read(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let wrong = |what: String| io::Error::other(format!("ca_file {}: {what}", file.display()));
    let text =
        config::file::small(file, config::file::LARGEST_CERTIFICATES).map_err(|error| wrong(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong("no certificate in it".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Trusts the authorities, or every certificate.
#[derive(Debug)]
struct Verifier {
    authorities: Option<Authorities>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorities").field("named", &self.named.len()).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(Authorities { webpki, named }) = &self.authorities else {
            return Ok(ServerCertVerified::assertion());
        };
        if !named.iter().any(|known| known == end_entity) {
            return webpki.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        }
        // This exact certificate is trusted. Most self-signed certificates need that: they are made as authorities, and
        // webpki does not accept an authority as a server's certificate.
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
        let ends = certificate::not_after(end_entity).and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok());
        match ends {
            Some(end) if end.as_secs() >= now.as_secs() => Ok(ServerCertVerified::assertion()),
            Some(_) => Err(CertificateError::Expired.into()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Makes the handshake, and notes in `trace` what was learned. If it fails, the connection is given back where it is still
/// usable.
pub(super) async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    tls: &TlsCheck,
    context: Context,
    trace: &mut Trace,
) -> Result<Box<TlsStream>, (Miss, Option<TcpStream>)> {
    let shown = tls.server_name.clone().unwrap_or_else(|| address.ip().to_string());
    trace.asked = format!("TLS handshake with {shown}");
    let name = match &tls.server_name {
        Some(name) => {
            ServerName::try_from(name.clone()).map_err(|_| (Miss::Failed(format!("{name} is no server name")), None))?
        }
        None => ServerName::IpAddress(address.ip().into()),
    };
    let connected = TlsConnector::from(context).connect(name, stream).into_fallible().await;
    let stream = connected.map_err(|(error, stream)| (handshake_failure(error, &shown, trace), Some(stream)))?;
    let session = stream.get_ref().1;
    trace.certificate =
        session.peer_certificates().and_then(|chain| certificate::not_after(chain.first()?)).map(|not_after| {
            let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
            Certificate { not_after, expires_soon: tls.expires_within.is_some_and(|within| left < within) }
        });
    // A server may ignore ALPN (RFC 7301, 3.2), but then it does not serve a client that needs it.
    if !tls.alpn.is_empty() && session.alpn_protocol().is_none() {
        trace.wanted = format!("alpn {}", tls.alpn.join(", "));
        return Err((Miss::Failed("no protocol was chosen".to_owned()), Some(stream.into_inner().0)));
    }
    Ok(Box::new(stream))
}

/// The result of the `tls` kind, which only makes the handshake.
pub(super) fn summary(stream: &Wire, trace: &Trace) -> String {
    let Wire::Right(tls) = stream else { return "connected".to_owned() };
    let version = tls.get_ref().1.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
    let version = version.replace("TLSv", "TLS ").replace('_', ".");
    let protocol = tls.get_ref().1.alpn_protocol().map(|protocol| format!("alpn {}", protocol.escape_ascii()));
    let certificate = trace.certificate.map(|certificate| certificate.to_string());
    [Some(version), protocol, certificate].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn handshake_failure(error: io::Error, name: &str, trace: &Trace) -> Miss {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) else {
        return trace.missed(error);
    };
    Miss::Failed(match cause {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "certificate expired".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "certificate not valid yet".to_owned()
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => "certificate of an unknown issuer".to_owned(),
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("certificate is not for {name}"),
        // These are webpki's words; rustls has no variant for it.
        Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string().contains("CaUsedAsEndEntity") =>
        {
            "certificate is signed by itself; name it in ca_file to trust it".to_owned()
        }
        Error::InvalidMessage(_) => "not TLS".to_owned(),
        other => other.to_string(),
    })
}
