//! `[admin]`: where the admin side is, and the tokens and names that it accepts.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::faults::Complaint;
use super::listeners::{ADMIN, TakenAddresses};
use super::table::Table;
use super::{Secret, address};

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Admin {
    /// `None` = written as `bind = "off"`.
    pub bind: Option<SocketAddr>,
    /// A UNIX socket that only the process's own user may use, for everything.
    pub socket: AdminSocket,
    /// Names in a `Host` header that are this balancer's, lower case, besides its addresses.
    pub hosts: Vec<String>,
    /// Needed to read over TCP; `None` = no token is needed.
    pub read_token: Option<AccessToken>,
    /// Needed to change anything over TCP; `None` = nothing can be changed there.
    pub admin_token: Option<AccessToken>,
    /// How many backends get histograms of their own in `/metrics`; pools always have theirs.
    pub backend_histograms: usize,
}

/// A token, or the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AccessToken {
    /// Never empty.
    Written(Secret),
    /// Read for each request that brings a token, so that it may rotate.
    File(PathBuf),
}

/// Where the UNIX socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AdminSocket {
    /// Nothing is written: at the first of the usual places that may be used.
    #[default]
    Usual,
    /// There.
    At(PathBuf),
    /// Written as `socket = "off"`.
    #[serde(serialize_with = "off")]
    Off,
}

impl Admin {
    pub(super) fn read(table: &Table<'_>, taken: &mut TakenAddresses) -> Self {
        let bind = table.parsed("bind", bind).unwrap_or_else(|| Some(usual_bind()));
        match (bind, table.value("bind")) {
            (Some(address), Some(written)) => taken.take(address, ADMIN, &written),
            // Not written, so the listener is told of a collision.
            (Some(address), None) => taken.add(address, &format!("{ADMIN} by default")),
            (None, _) => {}
        }
        Self {
            bind,
            socket: table.parsed("socket", socket).unwrap_or_default(),
            hosts: table
                .all_parsed("hosts", |text| address::host(text).map(|_| text.to_ascii_lowercase()))
                .unwrap_or_default(),
            read_token: AccessToken::read(table, "read_token", "read_token_file"),
            admin_token: AccessToken::read(table, "admin_token", "admin_token_file"),
            backend_histograms: table.number("backend_histograms", 0..=1_000_000).unwrap_or(50),
        }
    }
}

impl AccessToken {
    /// A token, written or in a file.
    pub(super) fn read(table: &Table<'_>, key: &'static str, file_key: &'static str) -> Option<Self> {
        table.exclusive(key, file_key);
        let written = table.parsed(key, |text| match text {
            "" => Err(Complaint::new("empty", "write a token, such as `openssl rand -hex 32` makes, or leave it out")),
            text => token(text),
        });
        let file = table.parsed(file_key, path);
        written.map(Self::Written).or_else(|| file.map(Self::File))
    }
}

fn off<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("off")
}

/// Where the admin side listens when nothing else is written.
pub(super) fn usual_bind() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9900))
}

/// `bind`
pub(super) fn bind(text: &str) -> Result<Option<SocketAddr>, Complaint> {
    if text == "off" { Ok(None) } else { address::bind(text).map(Some) }
}

/// `socket`
pub(super) fn socket(text: &str) -> Result<AdminSocket, Complaint> {
    /// What fits in a `sockaddr_un`, without its final zero (unix(7)).
    const LONGEST: usize = 107;
    if text == "off" {
        return Ok(AdminSocket::Off);
    }
    let path = path(text)?;
    if text.len() > LONGEST {
        let what = format!("{} bytes, and the kernel takes {LONGEST}", text.len());
        return Err(Complaint::new(what, "choose a shorter path, such as \"/run/evenkeel/admin.sock\""));
    }
    Ok(AdminSocket::At(path))
}

/// The path of a file, which is not looked at here.
pub(super) fn path(text: &str) -> Result<PathBuf, Complaint> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Complaint::new("not a path", "write a path, or leave the key out"));
    }
    Ok(PathBuf::from(text))
}

/// What a header can carry.
pub(super) fn token(text: &str) -> Result<Secret, Complaint> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let what = "it has a character that no header can carry";
        return Err(Complaint::new(what, "a token is visible ASCII without spaces"));
    }
    Ok(Secret(text.to_owned()))
}
