//! Ways to a running balancer, and which of them is believed: what a command needs in an emergency is found without a valid
//! configuration, and nothing secret goes to a place that another user named or made.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::CommandError;
use crate::admin::{trusted, usual_sockets};
use crate::config::{AccessToken, AdminSocket, Whereabouts, file};

/// For a connect: it is near, or it is not there.
const CONNECT: Duration = Duration::from_secs(5);

/// Before another connect where the backlog is full.
const PAUSE: Duration = Duration::from_millis(20);

/// Where a balancer may be.
#[derive(Clone, Debug)]
pub(super) struct AdminAddresses {
    /// All of them are looked at. Several may answer only if that is no doubt about which balancer is meant.
    sockets: Vec<PathBuf>,
    /// `host:port`; tried when no socket answers.
    tcp: Option<String>,
    /// Goes over TCP alone.
    pub(super) token: Option<String>,
    /// By `--admin`.
    is_said: bool,
    /// What told us where, for errors.
    told_by: String,
    /// What was not understood of the file, for errors.
    troubles: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AdminAddress {
    Socket(PathBuf),
    /// `host:port`
    Tcp(String),
}

/// The text of a configuration file, and whether its owner is this user or root.
pub(super) struct FileText {
    pub(super) text: String,
    /// What is no UTF-8 was replaced in it.
    pub(super) is_lossy: bool,
    pub(super) is_trusted: bool,
}

/// Reads a file for commands that talk to an admin side. Of a file that another user owns, variables are not filled in and
/// no other file is read: the directory may be that user's, and the environment is ours.
pub(super) fn written(config: &Path) -> io::Result<FileText> {
    let opened = file::open(config)?;
    let owner = opened.metadata()?.uid();
    let mut bytes = Vec::new();
    // Not as `file::text` has it: a file that is no UTF-8 may still say where the balancer is.
    opened.take(file::LARGEST).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let is_lossy = matches!(text, Cow::Owned(_));
    Ok(FileText { text: text.into_owned(), is_lossy, is_trusted: owner == 0 || owner == geteuid().as_raw() })
}

/// What variables hold for a file.
pub(super) fn variable(written: &FileText, name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|_| written.is_trusted)
}

/// Said of a file whose variables are not filled in.
pub(super) fn foreign(config: &Path) -> String {
    format!(
        "{} belongs to another user: no variable of it is filled in, no token is read or sent; --admin says where the \
         balancer is",
        config.display()
    )
}

impl AdminAddresses {
    /// As `--admin` says, or else the configuration file, or else where a balancer usually is.
    pub(super) fn new(admin: Option<&str>, config: &Path) -> Result<Self, CommandError> {
        let token = std::env::var("EVENKEEL_TOKEN").ok().filter(|token| !token.is_empty());
        if let Some(text) = admin.filter(|text| !text.is_empty()) {
            let (sockets, tcp) = match way(text)? {
                AdminAddress::Socket(path) => (vec![path], None),
                AdminAddress::Tcp(authority) => (Vec::new(), Some(authority)),
            };
            let told_by = "--admin or $EVENKEEL_ADMIN says where it is".to_owned();
            return Ok(Self { sockets, tcp, token, is_said: true, told_by, troubles: Vec::new() });
        }
        let name = config.display();
        let (mut found, is_trusted) = match written(config) {
            Ok(file) => (Whereabouts::of(&file.text, &|name| variable(&file, name)), file.is_trusted),
            Err(error) => {
                let troubles = vec![format!("it can't be read: {error}")];
                (Whereabouts { troubles, ..Whereabouts::usual() }, true)
            }
        };
        let (sockets, told_by) = match found.socket.take() {
            Some(AdminSocket::At(path)) => (vec![path], format!("{name} says where it is")),
            Some(AdminSocket::Off) => (Vec::new(), format!("{name} says where it is")),
            Some(AdminSocket::Usual) => {
                (usual_sockets(), format!("{name} names no socket, these are the usual places"))
            }
            None => (usual_sockets(), format!("{name} names a socket that is not to be understood here")),
        };
        if !is_trusted {
            found.troubles.push(foreign(config));
        }
        let written = found.token.filter(|_| is_trusted).and_then(token_of);
        let troubles = found.troubles.into_iter().map(|trouble| format!("{name}: {trouble}")).collect();
        let tcp = found.bind.filter(|bind| bind.port() != 0).map(|mut bind| {
            if bind.ip().is_unspecified() {
                bind.set_ip(if bind.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
            }
            bind.to_string()
        });
        let token = token.filter(|_| is_trusted).or(written);
        let this = Self { sockets, tcp, token, is_said: false, told_by, troubles };
        if this.sockets.is_empty() && this.tcp.is_none() {
            let error =
                format!("{name} has neither admin.socket nor an admin.bind with a port of its own; say --admin URL");
            return Err(CommandError::Config(this.with_troubles(error)));
        }
        Ok(this)
    }

    /// Connects to the balancer: over the one socket that answers, or else over TCP.
    pub(super) async fn connect(&self) -> Result<(Box<dyn ByteStream>, AdminAddress), CommandError> {
        let mut tried = Vec::new();
        let mut found: Vec<(Box<dyn ByteStream>, PathBuf)> = Vec::new();
        for path in &self.sockets {
            match at_socket(path).await {
                Ok(_) if found.iter().any(|(_, other)| is_same(other, path)) => {}
                Ok(stream) => found.push((stream, path.clone())),
                Err(error) => tried.push(format!("{}: {error}", path.display())),
            }
        }
        match found.pop() {
            Some((_, path)) if !found.is_empty() => {
                let others: Vec<_> = found.iter().map(|(_, other)| other.display().to_string()).collect();
                let error = format!(
                    "several balancers answer, at {} and at {}: say which with --admin PATH",
                    others.join(", at "),
                    path.display()
                );
                return Err(CommandError::Config(error));
            }
            Some((stream, path)) => return Ok((stream, AdminAddress::Socket(path))),
            None => {}
        }
        if let Some(authority) = &self.tcp {
            match patient(TcpStream::connect(authority)).await {
                Ok(stream) => return Ok((Box::new(stream), AdminAddress::Tcp(authority.clone()))),
                Err(error) => tried.push(format!("http://{authority}: {error}")),
            }
        }
        let tried = tried.join(", nor at ");
        let error = format!("the balancer can't be reached at {tried} ({}); does it run?", self.told_by);
        Err(CommandError::Runtime(anyhow::anyhow!("{}", self.with_troubles(error))))
    }

    /// Whether the balancer is to be asked for its socket: no other way is named, and there is no token for this one.
    pub(super) fn may_look_further(&self, way: &AdminAddress) -> bool {
        matches!(way, AdminAddress::Tcp(_)) && self.token.is_none() && !self.is_said
    }

    fn with_troubles(&self, mut error: String) -> String {
        for trouble in &self.troubles {
            error += &format!("\n{trouble}");
        }
        error
    }
}

/// Connects to a socket, and says nothing to whom it can't trust.
pub(super) async fn at_socket(path: &Path) -> io::Result<Box<dyn ByteStream>> {
    let deadline = Instant::now() + CONNECT;
    let stream = loop {
        match patient(UnixStream::connect(path)).await {
            // The backlog is full: it lives, and is busy.
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => sleep(PAUSE).await,
            connected => break connected?,
        }
    };
    // The user that listened there, whatever the file's owner is now (`SO_PEERCRED`, unix(7)). Before the first byte is sent.
    let peer = stream.peer_cred()?.uid();
    trusted(path, peer).map_err(io::Error::other)?;
    Ok(Box::new(stream))
}

async fn patient<T>(connect: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(CONNECT, connect).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Whether two paths lead to one socket.
fn is_same(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    identity(a).is_some() && identity(a) == identity(b)
}

/// A user that may not read its file asks without it.
fn token_of(token: AccessToken) -> Option<String> {
    match token {
        AccessToken::Written(secret) => Some(secret.0),
        AccessToken::File(path) => {
            let bytes = file::small(&path, file::LARGEST_TOKEN).ok()?;
            String::from_utf8(bytes).ok().map(|text| text.trim().to_owned())
        }
    }
    .filter(|token| !token.is_empty())
}

fn way(text: &str) -> Result<AdminAddress, CommandError> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
    if let Some(path) = path.or_else(|| text.contains('/').then_some(text).filter(|text| !text.contains("://"))) {
        return Ok(AdminAddress::Socket(PathBuf::from(path)));
    }
    let wrong = |why: &str| {
        // An URL may hold a password.
        let shown = if text.contains('@') { "…".to_owned() } else { text.escape_debug().to_string() };
        let error = format!("--admin \"{shown}\": {why}; write http://127.0.0.1:9900, or the path of a socket");
        CommandError::Config(error)
    };
    let authority = match text.split_once("://") {
        Some(("http", rest)) => rest.trim_end_matches('/'),
        Some(_) => return Err(wrong("only http is spoken")),
        None => text,
    };
    if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
        return Err(wrong("that is no address"));
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(AdminAddress::Tcp(if has_port { authority.to_owned() } else { format!("{authority}:9900") }))
}

pub(super) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

impl std::fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_balancer_is() {
        for (text, wanted) in [
            ("http://127.0.0.1:9900", "http://127.0.0.1:9900"),
            ("http://lb:1/", "http://lb:1"),
            ("lb", "http://lb:9900"),
            ("[::1]:7", "http://[::1]:7"),
            ("/run/a.sock", "/run/a.sock"),
            ("unix:///run/a.sock", "/run/a.sock"),
            ("./a", "./a"),
        ] {
            let way = way(text).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(way.to_string(), wanted);
        }
        for text in ["https://a", "", "http://", "http://a/b", "http://u@a"] {
            assert!(way(text).is_err(), "{text}");
        }
    }
}
