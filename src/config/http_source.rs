//! `http = { … }` of a pool: a URL that answers with a list of backends.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::Secret;
use super::access::{path, token};
use super::address;
use super::faults::Complaint;
use super::table::{Table, longer_than_zero};

const FORMS: &str = "write it like \"https://inventory.example/backends.json\"";

/// `http = { … }` of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HttpSource {
    /// `http://…` or `https://…`, without user and password.
    pub url: String,
    /// Between an answer and the next question.
    pub interval: Duration,
    /// For a whole answer.
    pub timeout: Duration,
    /// Sent as `Authorization: Bearer …`.
    pub token: Option<Secret>,
    /// Read for each question, so that a new one is picked up.
    pub token_file: Option<PathBuf>,
    /// PEM; added to the system's roots for https. Read for each question, as are the next two.
    pub ca_file: Option<PathBuf>,
    /// PEM; our own certificate for https.
    pub cert_file: Option<PathBuf>,
    /// PEM; its key.
    pub key_file: Option<PathBuf>,
}

impl Default for HttpSource {
    fn default() -> Self {
        Self {
            url: String::new(),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            token: None,
            token_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

impl HttpSource {
    pub(super) fn read(table: &Table<'_>) -> Self {
        if !table.has("url") {
            table.fault("`http` has no `url`", "add it: url = \"https://inventory.example/backends.json\"");
        }
        table.exclusive("token", "token_file");
        for (key, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
            if let Some(value) = table.value(key).filter(|_| !table.has(other)) {
                value.fault(
                    format!("`{key}` without `{other}`"),
                    format!("add it: {other} = \"/etc/evenkeel/own.pem\""),
                );
            }
        }
        let default = Self::default();
        let interval = table.time_with("interval", |time| {
            longer_than_zero(time)?;
            match time < Duration::from_secs(1) {
                true => Err(Complaint::new("too often", "write at least \"1s\"")),
                false => Ok(()),
            }
        });
        Self {
            url: table.parsed("url", url).unwrap_or_default(),
            interval: interval.unwrap_or(default.interval),
            timeout: table.time("timeout").unwrap_or(default.timeout),
            token: table.parsed("token", token).filter(|token| !token.0.is_empty()),
            token_file: table.parsed("token_file", path),
            ca_file: table.parsed("ca_file", path),
            cert_file: table.parsed("cert_file", path),
            key_file: table.parsed("key_file", path),
        }
    }
}

fn url(text: &str) -> Result<String, Complaint> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let rest = rest.ok_or_else(|| Complaint::new("it is no http:// and no https:// address", FORMS))?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('#') {
        return Err(Complaint::new("it has a character that no address of the web can have", FORMS));
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(Complaint::new(
            "user and password can't be in it",
            "write token = \"${…}\" or token_file beside it",
        ));
    }
    // Without a port it is the scheme's own.
    match address::registry(authority, 80) {
        Err(complaint) if authority.contains(':') => Err(complaint),
        Err(_) => address::host(authority).map(|_| text.to_owned()),
        Ok(_) => Ok(text.to_owned()),
    }
}
