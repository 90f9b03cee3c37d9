//! Where a server is, and the HTTP client that asks there.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::failure::{Cause, Failure};
use crate::tls::Tls;

/// Well below the deadline of a question that waits: a server that is gone is noticed by the connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A host that vanished without a word is noticed this long after the keepalive's first probe (15 s), not at the end
/// of a wait of minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// What goes before the path of every request, without a slash at its end.
    pub base: String,
    /// The path of a unix socket.
    pub socket: Option<PathBuf>,
}

impl Address {
    /// `http://host:port`, `https://host:port` or `unix:///path`. `of` is what it is the address of, for errors.
    ///
    /// # Errors
    /// [`Failure::Setting`], without user and password where some are in it.
    pub fn parse(of: &str, address: &str) -> Result<Self, Failure> {
        let bad =
            |why: &str, source: Option<Cause>| Failure::setting(format!("{of} address {address:?} {why}"), source);
        match address.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => {
                Ok(Self { base: "http://localhost".to_owned(), socket: Some(PathBuf::from(path)) })
            }
            Some(_) => Err(bad("the path of a unix socket has to be absolute", None)),
            None => {
                let url = Url::parse(address)
                    .map_err(|error| bad("is not http://host:port, https://… or unix:///path", Some(error.into())))?;
                if !matches!(url.scheme(), "http" | "https") {
                    return Err(bad("has another scheme than http, https and unix", None));
                }
                if !url.username().is_empty() || url.password().is_some() {
                    // Not shown: it may be a secret.
                    let host = url.host_str().unwrap_or_default();
                    return Err(Failure::setting(format!("{of} address with credentials (host {host:?})"), None));
                }
                if url.query().is_some() || url.fragment().is_some() {
                    return Err(bad("has more than a host, a port and a path", None));
                }
                Ok(Self { base: url.as_str().trim_end_matches('/').to_owned(), socket: None })
            }
        }
    }

    /// Whether TLS is spoken there.
    pub fn is_https(&self) -> bool {
        self.base.starts_with("https:")
    }
}

/// A client for this address alone. It reads the files, and connects to nothing.
///
/// # Errors
/// [`Failure::Setting`] for files that can't be used.
pub fn http_client(address: &Address, tls: &Tls) -> Result<reqwest::Client, Failure> {
    // Proxies from the environment are for the web, not for a registry. A redirect would take the credentials elsewhere; no
    // registry has one.
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(USER_TIMEOUT);
    if let Some(path) = &address.socket {
        builder = builder.unix_socket(path.clone());
    }
    // Always handed over: without it reqwest wants a process-wide TLS provider and the system's CA files for http too.
    let built = builder.tls_backend_preconfigured(tls.config(address.is_https())?).build();
    built.map_err(|error| Failure::setting("can't build an HTTP client", Some(error.without_url().into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(address: &str) -> String {
        match Address::parse("agent", address) {
            Err(Failure::Setting { what, .. }) => what,
            other => panic!("{address}: {other:?}"),
        }
    }

    #[test]
    fn addresses_that_cannot_work_are_refused() {
        for address in ["", "127.0.0.1:8500", "localhost:8500", "ftp://a", "unix://relative", "http://a/?b"] {
            assert!(refusal(address).contains(address), "{address}");
        }
        assert!(!refusal("http://user:hunter2@agent:8500").contains("hunter2"));
    }

    #[test]
    fn the_base_has_no_slash_at_its_end() {
        let base = |address| Address::parse("agent", address).unwrap().base;
        assert_eq!(base("http://a:1/"), "http://a:1");
        assert_eq!(base("http://a:1/consul/"), "http://a:1/consul");
        assert_eq!(base("unix:///run/consul"), "http://localhost");
    }
}
