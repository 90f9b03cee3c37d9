//! Who may use the admin side: its socket, its names and its tokens.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::faults::{Complaint, Reading};
use super::values::{Strings, Text};
use super::{Secret, address};

/// What fits in a `sockaddr_un`, without its final zero (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Admin {
    /// `None` = written as `bind = "off"`.
    pub bind: Option<SocketAddr>,
    /// A UNIX socket that only the process's own user may use, for everything.
    pub socket: AdminSocket,
    /// Names in a `Host` header that are this balancer's, lower case, besides its addresses.
    pub hosts: Vec<String>,
    /// Asked of who reads over TCP; `None` = anybody may.
    pub read_token: Option<AccessToken>,
    /// Asked of who changes things over TCP; `None` = nobody may.
    pub admin_token: Option<AccessToken>,
    /// How many backends get histograms of their own in `/metrics`; pools always have theirs.
    pub backend_histograms: usize,
}

/// What a client of the admin listener has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AccessToken {
    /// Never empty.
    Written(Secret),
    /// Read anew for each request that brings a token, so that it may rotate.
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

fn off<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("off")
}

/// `socket`
pub(super) fn socket(text: &str) -> Result<AdminSocket, Complaint> {
    if text == "off" {
        return Ok(AdminSocket::Off);
    }
    let path = path(text)?;
    if text.len() > LONGEST_SOCKET {
        let what = format!("{} bytes, and the kernel takes {LONGEST_SOCKET}", text.len());
        return Err(Complaint::new(what, "choose a shorter path, such as \"/run/evenkeel/admin.sock\""));
    }
    Ok(AdminSocket::At(path))
}

/// A path that can be one.
pub(super) fn path(text: &str) -> Result<PathBuf, Complaint> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Complaint::new("not a path", "write a path, or leave the key out"));
    }
    Ok(PathBuf::from(text))
}

/// `hosts`
pub(super) fn hosts(written: Option<&Strings>, reading: &mut Reading<'_>) -> Vec<String> {
    let items = written.iter().flat_map(|written| &written.items);
    let parse = |text: &str| address::host(text).map(|_| text.to_ascii_lowercase());
    items.filter_map(|item| reading.parsed_item("hosts", item, parse)).collect()
}

/// A token, written or in a file.
pub(super) fn token(keys: [&str; 2], written: &Text, file: &Text, reading: &mut Reading<'_>) -> Option<AccessToken> {
    if let (Some(_), Some(file)) = (written, file) {
        reading.fault(file.span(), format!("`{}` next to `{}`", keys[1], keys[0]), "keep one of the two");
    }
    let path = reading.parsed(keys[1], file, path);
    let text = reading.parsed(keys[0], written, |text| {
        if text.is_empty() {
            return Err(Complaint::new(
                "empty",
                "write a token, such as `openssl rand -hex 32` makes, or leave it out",
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let what = "it has a character that no header can carry";
            return Err(Complaint::new(what, "a token is visible ASCII without spaces"));
        }
        Ok(text.to_owned())
    });
    text.map(|text| AccessToken::Written(Secret(text))).or_else(|| path.map(AccessToken::File))
}
