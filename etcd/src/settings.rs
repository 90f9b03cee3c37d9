//! How a cluster is reached.

use std::fmt;
use std::path::PathBuf;

use registry_client::Tls;

/// How a cluster is reached.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// `http://host:port`, `https://host:port` or `unix:///path` each; at least one. They are tried in this order.
    pub endpoints: Vec<String>,
    /// Whose token is asked for. A cluster without authentication is asked without one.
    pub user: Option<String>,
    /// The user's.
    pub password: Option<String>,
    /// Read each time a token is asked for, so that a new password is used. Goes before `password`.
    pub password_file: Option<PathBuf>,
    /// The files for https.
    pub tls: Tls,
}

impl Settings {
    /// One endpoint that wants no user and needs no CA of its own.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self { endpoints: vec![endpoint.into()], ..Self::default() }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("password_file", &self.password_file)
            .field("tls", &self.tls)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_in_debug() {
        let settings = Settings { password: Some("hunter2".to_owned()), ..Settings::new("http://a") };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
