//! How an agent is reached, and the HTTP client that follows from it.

use std::fmt;
use std::path::PathBuf;

use registry_client::{Address, Tls, reqwest};

use crate::Error;

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
    let address = Address::parse("agent", &settings.address)?;
    let tls = Tls { ca_file: settings.ca_file.clone(), ..Tls::default() };
    let http = registry_client::http_client(&address, &tls)?;
    Ok((http, address.base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_in_debug() {
        let settings = Settings { token: Some("hunter2".to_owned()), ..Settings::new("http://a") };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
