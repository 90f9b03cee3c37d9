//! How an agent is reached, and the HTTP client that follows from it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::Error;

/// Well below a blocking query's deadline: an agent that is gone is noticed by the connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A host that vanished without a word is noticed this long after the keepalive's first probe (15 s), not at the end
/// of a five minute wait.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How an agent is reached.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// `http://host:port`, `https://host:port` or `unix:///path`.
    pub address: String,
    /// Sent as `X-Consul-Token` with every request.
    pub token: Option<String>,
    /// Read before each request, so that a new token is used at once. Goes before `token` unless it is empty.
    pub token_file: Option<PathBuf>,
    /// PEM certificates, added to the system's roots; https only.
    pub ca_file: Option<PathBuf>,
}

impl Settings {
    /// An agent that wants no token and needs no CA of its own.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), ..Self::default() }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("token_file", &self.token_file)
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

/// The HTTP client, and what goes before the path of every request, without a slash at its end.
pub(crate) fn http_client(settings: &Settings) -> Result<(reqwest::Client, String), Error> {
    // Proxies from the environment are for the web, not for the agent on this machine. A redirect would take the
    // token elsewhere; Consul's API has none.
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(USER_TIMEOUT);
    let (builder, base, https) = match settings.address.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => {
            (builder.unix_socket(PathBuf::from(path)), "http://localhost".to_owned(), false)
        }
        Some(_) => return Err(bad_address(&settings.address, "the path of a unix socket has to be absolute", None)),
        None => {
            let url = parse_address(&settings.address)?;
            let https = url.scheme() == "https";
            (builder, url.as_str().trim_end_matches('/').to_owned(), https)
        }
    };
    // Always handed over: without it reqwest wants a process-wide TLS provider and the system's CA files for http too.
    let tls = tls_config(https, settings.ca_file.as_deref())?;
    let client = builder.tls_backend_preconfigured(tls).build().map_err(|error| Error::Config {
        what: "can't build an HTTP client".to_owned(),
        source: Some(error.without_url().into()),
    })?;
    Ok((client, base))
}

fn parse_address(address: &str) -> Result<Url, Error> {
    let url = Url::parse(address).map_err(|error| {
        bad_address(address, "is not http://host:port, https://… or unix:///path", Some(error.into()))
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad_address(address, "has another scheme than http, https and unix", None));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not shown: it may be a secret.
        return Err(Error::Config {
            what: format!(
                "agent address with credentials (host {:?}): use a token",
                url.host_str().unwrap_or_default()
            ),
            source: None,
        });
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad_address(address, "has more than a host, a port and a path", None));
    }
    Ok(url)
}

fn bad_address(address: &str, why: &str, source: Option<crate::error::Cause>) -> Error {
    Error::Config { what: format!("agent address {address:?} {why}"), source }
}

/// With no roots at all where no TLS is spoken: a machine without CA files can have an agent.
fn tls_config(https: bool, ca_file: Option<&Path>) -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    if https {
        // Unreadable system roots matter only if nothing else is there; then there is nothing in `roots`.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca_file {
            add_ca_file(&mut roots, path)?;
        }
        if roots.is_empty() {
            let what = "no CA certificates on this system: https needs a CA file".to_owned();
            return Err(Error::Config { what, source: None });
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_details(provider, Arc::new(Clock))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config { what: "can't set up TLS".to_owned(), source: Some(error.into()) })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
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

/// Of a file of authorities: all of a system are 250 KiB.
const CA_LIMIT: u64 = 4 << 20;

fn add_ca_file(roots: &mut rustls::RootCertStore, path: &Path) -> Result<(), Error> {
    let bad = |why: &str, source: Option<crate::error::Cause>| Error::Config {
        what: format!("CA file {} {why}", path.display()),
        source,
    };
    let before = roots.len();
    let pem = crate::file::read(path, CA_LIMIT).map_err(|error| bad("can't be read", Some(error.into())))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad("is not PEM", Some(error.into())))?;
        roots.add(certificate).map_err(|error| bad("has a certificate that can't be used", Some(error.into())))?;
    }
    if roots.len() == before {
        return Err(bad("has no certificate in it", None));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_error(address: &str) -> String {
        match http_client(&Settings::new(address)) {
            Err(error @ Error::Config { .. }) => error.to_string(),
            other => panic!("{address}: {:?}", other.map(|(_, base)| base)),
        }
    }

    #[test]
    fn addresses_that_cannot_work_are_refused() {
        for address in ["", "127.0.0.1:8500", "localhost:8500", "ftp://a", "unix://relative", "http://a/?b"] {
            assert!(config_error(address).contains(address), "{address}");
        }
        assert!(!config_error("http://user:hunter2@agent:8500").contains("hunter2"));
    }

    #[test]
    fn the_base_has_no_slash_at_its_end() {
        assert_eq!(http_client(&Settings::new("http://a:1/")).unwrap().1, "http://a:1");
        assert_eq!(http_client(&Settings::new("http://a:1/consul/")).unwrap().1, "http://a:1/consul");
        assert_eq!(http_client(&Settings::new("unix:///run/consul")).unwrap().1, "http://localhost");
    }

    #[test]
    fn no_token_in_debug() {
        let settings = Settings { token: Some("hunter2".to_owned()), ..Settings::new("http://a") };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
