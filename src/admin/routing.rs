//! `/api/v1/listeners/NAME/route`: where a client would get, without a client; and `…/routed`: what its live sessions were
//! routed by, from which `evenkeel plan` tells who would go elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::AdminState;
use super::refusal::Refusal;
use super::slots::ConnectionSlot;
use crate::config::{self, HashBy, Target, parse_server_name};
use crate::metrics;
use crate::pool::{Chain, ChainPool, PickContext, Pool, Prospect};
use crate::proxy::{Listener, SessionView, Settings};
use crate::route::hello::ClientHello;
use crate::route::{ClientFacts, Decision, Hello, affinity};

/// Sessions in an answer, at most.
const MOST: usize = 100_000;

/// A client that is thought of.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RouteQuery {
    from: Option<String>,
    sni: Option<String>,
    /// Several with commas between them.
    alpn: Option<String>,
    starts_with: Option<String>,
    tls: bool,
}

/// Where it would get.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RouteBody {
    pub(crate) listener: String,
    /// The number of the route; `None` = the listener's own pool, or refused.
    pub(crate) route: Option<usize>,
    /// Why it would be refused.
    pub(crate) refused: Option<String>,
    pub(crate) why: String,
    /// Whether its first bytes are waited for.
    pub(crate) is_read: bool,
    /// Several where the session is drawn.
    pub(crate) pools: Vec<RoutedPoolBody>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RoutedPoolBody {
    pub(crate) pool: String,
    pub(crate) percent: f64,
    /// The pool that would serve it: this one, or a fallback of it; `None` = none can now.
    pub(crate) served_by: Option<String>,
    /// It would get one of these.
    pub(crate) backends: Vec<String>,
    pub(crate) why: String,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RoutedSessionsBody {
    pub(crate) sessions: Vec<RoutedSessionBody>,
    /// Also those that are left out.
    pub(crate) all: usize,
}

/// What a live session was routed by.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RoutedSessionBody {
    /// `None` = it has no route yet.
    pub(crate) pool: Option<String>,
    pub(crate) client: String,
    /// `None` = no ClientHello was read.
    pub(crate) hello: Option<HelloBody>,
    /// In hexadecimal digits.
    pub(crate) first_bytes: String,
    /// Whether these are all bytes that were known of it.
    pub(crate) is_all: bool,
    /// The random number of the session, in hexadecimal digits.
    pub(crate) lot: String,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct HelloBody {
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Vec<String>,
}

pub(super) async fn route(
    Shared(admin): Shared<AdminState>,
    Path(name): Path<String>,
    wanted: Result<Query<RouteQuery>, QueryRejection>,
) -> Result<Json<RouteBody>, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::bad(error.body_text(), ""))?;
    let listener = named(&admin, &name)?;
    let thought = Thought::of(&wanted)?;
    let settings = listener.settings();
    Ok(Json(thought.routed(&listener.name, &settings)))
}

pub(super) async fn sessions(
    Shared(admin): Shared<AdminState>,
    Extension(slot): Extension<Arc<ConnectionSlot>>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let listener = named(&admin, &name)?;
    let state = Arc::clone(&admin.view.state);
    let make = move || {
        let mut sessions = state.workers.list_sessions();
        sessions.retain(|session| session.listener.name == listener.name);
        let all = sessions.len();
        Json(RoutedSessionsBody { sessions: sessions.iter().take(MOST).map(session_body).collect(), all })
            .into_response()
    };
    admin.maker.make(&slot, make).await
}

fn named(admin: &AdminState, name: &str) -> Result<Arc<Listener>, Refusal> {
    let set = admin.view.state.set();
    let found = set.listeners.iter().find(|listener| *listener.name == *name).cloned();
    found.ok_or_else(|| Refusal::not_found(format!("there is no listener `{}`", name.escape_debug())))
}

fn session_body(session: &SessionView) -> RoutedSessionBody {
    let by = session.routed_by.as_ref();
    let pool = session.fallback_of.as_ref().or(session.pool.as_ref());
    let hello = by.and_then(|by| by.hello.as_ref()).map(|hello| HelloBody {
        sni: hello.server_name.as_deref().map(str::to_owned),
        alpn: hello.alpn.iter().map(|protocol| String::from_utf8_lossy(protocol).into_owned()).collect(),
    });
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    RoutedSessionBody {
        pool: pool.map(|pool| pool.name.to_string()),
        client: session.client.to_string(),
        hello,
        first_bytes: by.map_or_else(String::new, |by| digits(&by.first_bytes)),
        is_all: by.is_some_and(|by| by.is_all),
        lot: by.map_or_else(String::new, |by| format!("{:x}", by.lot)),
    }
}

/// The client, as far as it is said.
struct Thought {
    address: SocketAddr,
    has_port: bool,
    hello: Option<ClientHello>,
    first_bytes: Vec<u8>,
}

impl Thought {
    fn of(wanted: &RouteQuery) -> Result<Self, Refusal> {
        let from = wanted.from.as_deref().unwrap_or_default();
        let address = from.parse().ok().or_else(|| from.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0)));
        let address = address.ok_or_else(|| {
            let error = format!("`from`: \"{}\" is no address of a client", from.escape_debug());
            Refusal::bad(error, "write it like 10.0.0.1, 10.0.0.1:5000 or 2001:db8::1")
        })?;
        let server_name = wanted.sni.as_deref().map(parse_server_name).transpose();
        let server_name = server_name.map_err(|error| Refusal::bad(format!("`sni`: {error}"), ""))?;
        let alpn: Vec<Box<[u8]>> = match wanted.alpn.as_deref() {
            Some(list) => list.split(',').map(|protocol| protocol.as_bytes().into()).collect(),
            None => Vec::new(),
        };
        let is_tls = wanted.tls || server_name.is_some() || !alpn.is_empty();
        if is_tls && wanted.starts_with.is_some() {
            return Err(Refusal::bad(
                "`starts_with` next to `sni`, `alpn` or `tls`",
                "a client begins with one of them",
            ));
        }
        Ok(Self {
            address,
            has_port: address.port() != 0,
            hello: is_tls.then(|| ClientHello { server_name: server_name.map(Into::into), alpn }),
            // A TLS client begins with a record of the handshake.
            first_bytes: if is_tls { vec![0x16] } else { wanted.starts_with.clone().unwrap_or_default().into() },
        })
    }

    fn facts(&self) -> ClientFacts<'_> {
        ClientFacts {
            first_bytes: &self.first_bytes,
            hello: self.hello.as_ref().map_or(Hello::None, Hello::Read),
            ..ClientFacts::of(self.address)
        }
    }

    fn routed(&self, listener: &str, settings: &Settings) -> RouteBody {
        let facts = self.facts();
        let unread = ClientFacts { first_bytes: &[], hello: Hello::Open, is_all: false, ..facts };
        let mut body = RouteBody {
            listener: listener.to_owned(),
            route: None,
            refused: None,
            why: String::new(),
            is_read: matches!(settings.routes.decide(&unread), Decision::NeedsBytes),
            pools: Vec::new(),
        };
        if settings.access.as_ref().is_some_and(|access| !access.admits(self.address.ip())) {
            body.refused = Some(metrics::Refusal::Denied.name().to_owned());
            body.why = "`allow` and `deny` of the listener do not admit its address".to_owned();
            return body;
        }
        match settings.routes.decide(&facts) {
            Decision::Pool(pool, number) => {
                let route = number.and_then(|number| settings.file.routes.get(number));
                body.route = number;
                body.why = match (number, route) {
                    (Some(number), Some(route)) => format!("routes[{number}] holds: {}", self.why(route)),
                    _ if settings.file.routes.is_empty() => "the listener has this pool alone".to_owned(),
                    _ => "no route holds, and the listener has a pool for the rest".to_owned(),
                };
                body.pools = self.pools(pool, route, settings);
            }
            // With all that is known, no rule asks for more.
            Decision::Refused(_) | Decision::NeedsBytes => {
                body.refused = Some(metrics::Refusal::NoRoute.name().to_owned());
                body.why = "no route holds, and the listener has no pool for the rest".to_owned();
            }
        }
        body
    }

    /// What of the client each condition of a route holds for.
    fn why(&self, route: &config::Route) -> String {
        let hello = self.hello.as_ref();
        let name = hello.and_then(|hello| hello.server_name.as_deref());
        let sni = route.sni.iter().find(|wanted| name.is_some_and(|name| wanted.holds(name)));
        let offers =
            |wanted: &&String| hello.is_some_and(|hello| hello.alpn.iter().any(|one| **one == *wanted.as_bytes()));
        let alpn = route.alpn.iter().find(offers);
        let from = route.from.iter().find(|network| network.contains(self.address.ip()));
        let begins = route.prefixes().find(|prefix| self.first_bytes.starts_with(prefix));
        let all = [
            sni.map(|name| format!("sni {name}")),
            alpn.map(|protocol| format!("alpn {}", protocol.escape_debug())),
            from.map(|network| format!("from {network}")),
            begins.map(|prefix| format!("starts with \"{}\"", prefix.escape_ascii())),
            route.tls.map(|tls| format!("tls {tls}")),
        ];
        let all: Vec<_> = all.into_iter().flatten().collect();
        if all.is_empty() { "it has no condition".to_owned() } else { all.join(", ") }
    }

    fn pools(&self, pool: &Arc<Pool>, route: Option<&config::Route>, settings: &Settings) -> Vec<RoutedPoolBody> {
        let drawn = match route.map(|route| &route.target) {
            Some(Target::Split { split, hash }) if hash.is_none_or(|by| !self.is_known(by)) => split,
            _ => return vec![self.pool(pool, 100.0)],
        };
        let sum: u32 = drawn.iter().map(|(_, share)| share).sum();
        let part = |(name, share): &(String, u32)| {
            let pool = settings.routes.pools().find(|pool| *pool.name == **name)?;
            (*share > 0).then(|| self.pool(pool, 100.0 * f64::from(*share) / f64::from(sum)))
        };
        drawn.iter().filter_map(part).collect()
    }

    /// Whether what is said of the client is enough for a hash of it.
    fn is_known(&self, by: HashBy) -> bool {
        match by {
            HashBy::ClientAddress(_) => true,
            HashBy::ClientAndPort => self.has_port,
            HashBy::Sni => self.hello.as_ref().is_some_and(|hello| hello.server_name.is_some()),
            HashBy::Destination | HashBy::ProxyTlv(_) => false,
        }
    }

    fn pool(&self, pool: &Arc<Pool>, percent: f64) -> RoutedPoolBody {
        let chain = Chain::new(pool, |settings| affinity(settings.hashing.by, settings.sticky, &self.facts()));
        let serves = |one: &&ChainPool| {
            let context = PickContext { affinity: one.affinity, ..PickContext::FIRST };
            matches!(one.pool.prospect(&context), Prospect::Serves | Prospect::LastResort)
        };
        let Some(serving) = chain.pools().find(serves) else {
            let why = "no backend can take a session now".to_owned();
            return RoutedPoolBody { pool: pool.name.to_string(), percent, served_by: None, backends: Vec::new(), why };
        };
        let balance = serving.settings.balance;
        let is_fixed = balance.hashes() && self.is_known(serving.settings.hashing.by);
        let backends = serving.pool.foreseen(is_fixed.then_some(serving.affinity));
        let fallback = if Arc::ptr_eq(&serving.pool, pool) { "" } else { "; nothing of the pool itself can serve now" };
        let by = if is_fixed { "the client's hash leads there" } else { "one of them" };
        RoutedPoolBody {
            pool: pool.name.to_string(),
            percent,
            served_by: Some(serving.pool.name.to_string()),
            backends: backends.iter().map(|backend| backend.id.to_string()).collect(),
            why: format!("balance {}: {by}{fallback}", balance.name()),
        }
    }
}
