//! Who may do what: the socket's user everything; over TCP who knows a token, from a page that is ours, by a name that is
//! ours. The door to subtle.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq;

use super::refusal::Refusal;
use crate::config::{self, AccessToken, file};

/// On whose behalf a connection is.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// A user that the socket's mode lets in, by name.
    Socket(Arc<str>),
    /// From anywhere.
    Tcp(SocketAddr),
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Liveness and readiness, asked by clients that have no token and know no name; pages that say nothing of this balancer.
    Nothing,
    Read,
    Write,
}

/// For whom a request counts: a flood of one kind takes nothing from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Shown by a token, or by the socket.
    Known,
    /// All others, also those that were refused.
    Anybody,
}

#[derive(Debug)]
pub(super) struct Access {
    hosts: Vec<String>,
    read: Option<AccessToken>,
    write: Option<AccessToken>,
    /// Where the socket is.
    socket: Option<PathBuf>,
}

impl Access {
    pub(super) fn new(settings: &config::Admin, socket: Option<PathBuf>) -> Self {
        let mut hosts = settings.hosts.clone();
        hosts.push("localhost".to_owned());
        // The machine's own name, so that Prometheus may scrape by it.
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        hosts.push(own.trim().to_ascii_lowercase());
        hosts.retain(|host| !host.is_empty());
        Self { hosts, read: settings.read_token.clone(), write: settings.admin_token.clone(), socket }
    }

    /// Lets a request in, and says on whose behalf it is, or refuses it.
    pub(super) async fn judge(
        &self,
        caller: &Caller,
        need: Need,
        headers: &HeaderMap,
    ) -> Result<(Arc<str>, Class), Refusal> {
        let (who, class) = match caller {
            Caller::Socket(user) => (Arc::clone(user), Class::Known),
            Caller::Tcp(_) if need == Need::Nothing => return Ok(("anybody".into(), Class::Anybody)),
            Caller::Tcp(peer) => {
                self.host(headers)?;
                let class = self.token(*peer, need, headers).await?;
                (format!("{} with a token", peer.ip()).into(), class)
            }
        };
        if need == Need::Write {
            no_other_site(headers)?;
            is_json(headers)?;
        }
        Ok((who, class))
    }

    /// A foreign page whose name was made to point here sends its own name. An address can't be such a name.
    fn host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let name = host_name(host);
        if is_address(name) || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        let error = format!("the name `{}` is not known to be this balancer's", name.escape_debug());
        let hint = "ask by address, or write the name in admin.hosts of the configuration";
        Err(Refusal::new(StatusCode::FORBIDDEN, error, hint))
    }

    async fn token(&self, peer: SocketAddr, need: Need, headers: &HeaderMap) -> Result<Class, Refusal> {
        let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let given = given
            .and_then(|value| value.split_at_checked(7))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let given = given.map(|(_, token)| token.trim_ascii());
        let accepted = match (need, &self.read, &self.write) {
            (Need::Write, _, None) => {
                // Every user of this machine can use it.
                let socket = match &self.socket {
                    Some(path) if peer.ip().to_canonical().is_loopback() => format!("--admin {}", path.display()),
                    _ => "admin.socket".to_owned(),
                };
                let hint = format!("use the UNIX socket ({socket}), or set admin.admin_token in the configuration");
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "nothing can be changed over TCP without an admin token",
                    hint,
                ));
            }
            (Need::Write, _, Some(write)) => [Some(write), None],
            (_, None, _) => return Ok(Class::Anybody),
            (_, Some(read), write) => [Some(read), write.as_ref()],
        };
        let Some(given) = given else {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "a token is needed",
                "send `Authorization: Bearer TOKEN`",
            ));
        };
        let mut fits = false;
        for token in accepted.into_iter().flatten() {
            // All of them are compared, each to its end: the time that it takes says nothing.
            fits |= bool::from(known(token).await?.ct_eq(given));
        }
        if fits {
            return Ok(Class::Known);
        }
        Err(Refusal::new(StatusCode::UNAUTHORIZED, "the token is wrong", "send `Authorization: Bearer TOKEN`"))
    }
}

async fn known(token: &AccessToken) -> Result<Vec<u8>, Refusal> {
    let path = match token {
        AccessToken::Written(text) => return Ok(text.0.clone().into_bytes()),
        AccessToken::File(path) => path.clone(),
    };
    let shown = path.display().to_string();
    // A file may be on a disk that hangs; the control plane's threads do not wait for it.
    let read = tokio::task::spawn_blocking(move || file::small(&path, file::LARGEST_TOKEN)).await;
    let failed = |error: String| {
        tracing::warn!("the admin token can't be read: {shown}: {error}");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the token's file can't be read", "the balancer's log says why")
    };
    let bytes = read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
    let token = bytes.trim_ascii().to_vec();
    if token.is_empty() { Err(failed("it is empty".to_owned())) } else { Ok(token) }
}

/// A browser says from where a page writes; programs say nothing.
fn no_other_site(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = text("sec-fetch-site").unwrap_or("none");
    let origin = text("origin").map(|origin| origin.split_once("://").map_or(origin, |(_, authority)| authority));
    let own = text("host").unwrap_or_default();
    if matches!(site, "none" | "same-origin") && origin.is_none_or(|origin| origin.eq_ignore_ascii_case(own)) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, "a page of another site may not change anything here", ""))
}

/// A form of another site can't send that without asking first.
fn is_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let hint = "send `Content-Type: application/json`";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "changes are JSON", hint))
}

fn host_name(host: &str) -> &str {
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or(host);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn is_address(name: &str) -> bool {
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    inner.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn token(text: &str) -> Option<AccessToken> {
        Some(AccessToken::Written(Secret(text.to_owned())))
    }

    /// The status of a refusal, or 200.
    async fn judged(access: &Access, need: Need, pairs: &[(&'static str, &'static str)]) -> u16 {
        let caller = Caller::Tcp(([192, 0, 2, 1], 1).into());
        match access.judge(&caller, need, &headers(pairs)).await {
            Ok(_) => 200,
            Err(refusal) => refusal.status.as_u16(),
        }
    }

    const OURS: (&str, &str) = ("host", "127.0.0.1:9900");
    const JSON: (&str, &str) = ("content-type", "application/json");

    #[tokio::test]
    async fn tokens() {
        let access = |read: &str, write: &str| Access {
            hosts: vec!["localhost".to_owned()],
            read: token(read).filter(|_| !read.is_empty()),
            write: token(write).filter(|_| !write.is_empty()),
            socket: None,
        };
        let none: Option<(&'static str, &'static str)> = None;
        let bearer = |value: &'static str| Some(("authorization", value));
        for (read, write, given, reads, writes) in [
            ("", "", none, 200, 403),
            ("", "", bearer("Bearer x"), 200, 403),
            ("", "w", none, 200, 401),
            ("", "w", bearer("Bearer w"), 200, 200),
            ("r", "", none, 401, 403),
            ("r", "", bearer("bearer r"), 200, 403),
            ("r", "w", bearer("Bearer r"), 200, 401),
            ("r", "w", bearer("Bearer w"), 200, 200),
            ("r", "w", bearer("Bearer ww"), 401, 401),
            ("r", "w", bearer("Bearer "), 401, 401),
            ("r", "w", bearer("Basic cg=="), 401, 401),
            ("r", "w", bearer("Bearer"), 401, 401),
            ("r", "w", bearer(""), 401, 401),
        ] {
            let pairs: Vec<_> = [Some(OURS), Some(JSON), given].into_iter().flatten().collect();
            let access = access(read, write);
            let found = (judged(&access, Need::Read, &pairs).await, judged(&access, Need::Write, &pairs).await);
            assert_eq!(found, (reads, writes), "{read:?} {write:?} {given:?}");
            assert_eq!(judged(&access, Need::Nothing, &[]).await, 200);
        }
    }

    #[tokio::test]
    async fn names() {
        let access = Access {
            hosts: vec!["localhost".to_owned(), "lb.example".to_owned()],
            read: None,
            write: None,
            socket: None,
        };
        for (host, status) in [
            ("127.0.0.1:9900", 200),
            ("[::1]:9900", 200),
            ("[::1]", 200),
            ("10.1.2.3", 200),
            ("localhost:1", 200),
            ("LB.example", 200),
            ("evil.example:9900", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("", 403),
            ("[::1", 403),
        ] {
            assert_eq!(judged(&access, Need::Read, &[("host", host)]).await, status, "{host}");
        }
        assert_eq!(judged(&access, Need::Read, &[]).await, 403);
    }

    #[tokio::test]
    async fn pages_of_other_sites() {
        let access = Access { hosts: Vec::new(), read: None, write: token("w"), socket: None };
        for (more, status) in [
            (vec![JSON], 200),
            (vec![("content-type", "application/json; charset=utf-8")], 200),
            (vec![JSON, ("origin", "http://127.0.0.1:9900"), ("sec-fetch-site", "same-origin")], 200),
            (vec![JSON, ("origin", "http://evil.example")], 403),
            (vec![JSON, ("origin", "null")], 403),
            (vec![JSON, ("sec-fetch-site", "cross-site")], 403),
            (vec![JSON, ("sec-fetch-site", "same-site")], 403),
            (vec![("content-type", "text/plain")], 415),
            (vec![], 415),
        ] {
            let pairs = [vec![OURS, ("authorization", "Bearer w")], more.clone()].concat();
            assert_eq!(judged(&access, Need::Write, &pairs).await, status, "{more:?}");
        }
    }
}
