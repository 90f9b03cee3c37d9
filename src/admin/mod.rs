//! The admin side, over TCP and a UNIX socket: metrics, liveness, readiness, and the API that shows and changes what
//! runs. `access` says who may, `serve` and `slots` bound what a client can cost. The door to axum.

mod access;
mod answer;
mod bodies;
mod clients;
mod config;
mod dashboard;
mod events;
mod explain;
mod exposition;
mod level;
mod openapi;
mod operate;
mod place;
mod pools;
mod process;
mod rate;
mod ready;
mod rebalance;
mod refusal;
mod routing;
mod serve;
mod sessions;
mod slots;
mod socket;
mod status;
mod sticky;
mod triage;
mod troubles;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{DefaultBodyLimit, Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Admin as Settings;
use crate::server::ServerState;
use access::{Access, Caller, Class, Need};
use answer::Maker;
pub(crate) use bodies::{BackendBody, OverrideBody, PoolBody, RejectedBody, SourceBody, TimesBody};
pub(crate) use clients::ClientsBody;
pub(crate) use config::ConfigBody;
use events::Followers;
pub use level::{LogLevel, SetLevel};
pub(crate) use operate::OverrideRequest;
pub(crate) use place::trusted;
pub use place::{shared, usual_sockets};
pub(crate) use pools::{ExplainedBody, PoolsBody};
use rate::Rate;
pub(crate) use rebalance::RebalanceBody;
use refusal::Refusal;
pub(crate) use routing::{RouteBody, RoutedSessionBody, RoutedSessionsBody};
use serve::AdminFront;
pub(crate) use sessions::{SessionBody, SessionSort, SessionsBody, SessionsQuery};
use slots::ConnectionSlot;
pub(crate) use status::{LimitBody, ListenerBody, PoolSummary, StatusBody};
pub(crate) use sticky::{ForgetRequest, ForgottenAnswer, StickyBody};

/// Of a change: some words of JSON.
const LONGEST_BODY: usize = 16 * 1024;

/// For a whole request, but for those that follow events.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1_024;

/// Requests a second, and at once: a dozen scrapers and a console, far below what would be felt by the keepers.
const PER_SECOND: u32 = 100;
const BURST: u32 = 200;

/// What the admin side looks at.
#[derive(Clone)]
pub struct AdminView {
    /// The running set.
    pub state: Arc<ServerState>,
    /// Log lines dropped so far.
    pub log_lines_dropped: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What the log says; `None` = it is not ours to change.
    pub log_level: Option<LogLevel>,
    /// Has the file read again, and is told when that is done; `None` = there is no file.
    pub reload: Option<mpsc::Sender<oneshot::Sender<()>>>,
    /// Says what is wrong around the balancer; `None` = it is not watched.
    pub troubles: Option<Arc<dyn Fn() -> Vec<String> + Send + Sync>>,
    /// Where the socket is, for clients that ask over TCP.
    pub socket: Option<PathBuf>,
}

/// What all requests share.
#[derive(Clone)]
struct AdminState {
    view: AdminView,
    access: Arc<Access>,
    maker: Arc<Maker>,
    /// Of this way in.
    followers: Arc<Followers>,
    /// When the balancer started.
    started: SystemTime,
    /// Ends what would last: streams of events.
    stop: CancellationToken,
}

/// One way in.
#[derive(Clone)]
struct AdminListener {
    admin: AdminState,
    /// Of this way in, by [`Class`]. A lock, because each connection is a task; held for some arithmetic.
    rates: Arc<Mutex<[Rate; 2]>>,
}

/// Bound, not yet answering; see [`Admin::serve`].
#[derive(Debug, Default)]
pub struct Admin {
    fronts: Vec<AdminFront>,
}

impl Admin {
    /// Adds a TCP address, and returns where it is.
    ///
    /// # Errors
    /// As `bind(2)` says.
    pub async fn bind(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // As the library's own way to bind does it, but for the queue: of a crowd of scrapers none has to call again, a
        // second later.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        self.fronts.push(AdminFront::Tcp(listener));
        Ok(address)
    }

    /// Adds a UNIX socket of mode 0600. A stale one is replaced.
    ///
    /// # Errors
    /// Another process listens there, something else is there, or as `bind(2)` says.
    pub async fn bind_socket(&mut self, path: &Path) -> io::Result<()> {
        let (listener, file) = socket::bind(path).await?;
        self.fronts.push(AdminFront::Socket { listener, _file: file });
        Ok(())
    }

    /// Adds a UNIX socket at the first of these places that may be used, and returns where it is.
    ///
    /// # Errors
    /// Why none of them may be.
    pub async fn bind_usual_socket(&mut self, places: &[PathBuf]) -> Result<PathBuf, String> {
        let mut tried = Vec::new();
        for place in places {
            let why = match shared(place) {
                Some(why) => why,
                None => match self.bind_socket(place).await {
                    Ok(()) => return Ok(place.clone()),
                    Err(error) => error.to_string(),
                },
            };
            tried.push(format!("{}: {why}", place.display()));
        }
        Err(tried.join("; "))
    }

    /// Answers until `stop`.
    pub async fn serve(self, view: AdminView, settings: Settings, stop: CancellationToken) {
        let admin = AdminState {
            access: Arc::new(Access::new(&settings, view.socket.clone())),
            view,
            maker: Maker::new(),
            followers: Arc::new(Followers::new(0)),
            started: SystemTime::now(),
            stop: stop.clone(),
        };
        let mut serving = tokio::task::JoinSet::new();
        for front in self.fronts {
            let rate = || Rate::new(PER_SECOND, BURST, Instant::now());
            let rates = Arc::new(Mutex::new([rate(), rate()]));
            let admin = AdminState { followers: Arc::new(Followers::new(front.most_followers())), ..admin.clone() };
            serving.spawn(serve::serve(front, routes(&AdminListener { admin, rates })));
        }
        stop.cancelled().await;
        serving.shutdown().await;
    }
}

fn routes(listener: &AdminListener) -> Router {
    let api = Router::new()
        .route("/version", get(status::version))
        .route("/status", get(status::status))
        .route("/listeners", get(status::listeners))
        .route("/listeners/{listener}/route", get(routing::route))
        .route("/listeners/{listener}/routed", get(routing::sessions))
        .route("/config", get(config::config))
        .route("/config/reload", post(config::reload))
        .route("/pools", get(pools::all))
        .route("/pools/{pool}", get(pools::one).patch(operate::pool))
        .route("/pools/{pool}/release", post(operate::release))
        .route("/pools/{pool}/rebalance", get(rebalance::dry_run).post(rebalance::begin))
        .route("/pools/{pool}/sticky", get(sticky::list))
        .route("/pools/{pool}/sticky/clear", post(sticky::forget))
        .route("/backends/{pool}/{*backend}", get(pools::backend).patch(operate::backend))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{id}", get(sessions::one))
        .route("/sessions/close", post(sessions::close))
        .route("/clients", get(clients::list))
        .route("/events", get(events::follow))
        .route("/log", get(level::read).put(level::write))
        .route("/openapi.json", get(openapi::document));
    Router::new()
        .route("/", get(index))
        .route("/dashboard.css", get(dashboard::style))
        .route("/dashboard.js", get(dashboard::script))
        .route("/metrics", get(metrics))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(readiness))
        .nest("/api/v1", api)
        .route_layer(from_fn_with_state(listener.clone(), let_in))
        .fallback(|| async { Refusal::not_found("there is nothing here; / says what there is") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "that can't be done here; /api/v1/openapi.json says what can",
                "",
            )
        })
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(from_fn(bounded))
        .with_state(listener.admin.clone())
}

/// Each request for so long.
async fn bounded(request: Request, next: Next) -> Response {
    match timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request took too long", "").into_response(),
    }
}

impl AdminListener {
    /// Whether one more request of that class is answered.
    fn has_time_for(&self, class: Class) -> bool {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)[class as usize].allow(Instant::now())
    }
}

/// Who may, and how often.
async fn let_in(Shared(listener): Shared<AdminListener>, mut request: Request, next: Next) -> Response {
    let need = match (request.uri().path(), request.method()) {
        ("/live" | "/ready" | "/dashboard.css" | "/dashboard.js", _) => Need::Nothing,
        ("/", &Method::GET | &Method::HEAD) if dashboard::is_wanted(request.headers()) => Need::Nothing,
        (_, &Method::GET | &Method::HEAD) => Need::Read,
        _ => Need::Write,
    };
    // `serve` puts it there.
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let judged = listener.admin.access.judge(&caller, need, request.headers()).await;
    let class = judged.as_ref().map_or(Class::Anybody, |(_, class)| *class);
    // A program that asks whether we live must not be told no because another one asks too much.
    let is_vital = matches!(request.uri().path(), "/live" | "/ready");
    if !is_vital && !listener.has_time_for(class) {
        return Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many requests", "").into_response();
    }
    match judged {
        Ok((who, _)) => {
            request.extensions_mut().insert(operate::Who(who));
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// For a browser the dashboard, for others what there is.
async fn index(headers: HeaderMap) -> Response {
    if dashboard::is_wanted(&headers) {
        return dashboard::page();
    }
    let text = concat!(
        "evenkeel ",
        env!("CARGO_PKG_VERSION"),
        "\n\n/metrics        for Prometheus\n/live           200 while the process works\n",
        "/ready          200 once every required pool is discovered and probed, 503 before that and while stopping\n",
        "/api/v1/pools   every pool and backend: facts, standing, reason\n",
        "/api/v1/config  what is in effect, secrets masked, and what became of the last reload\n",
        "/api/v1/openapi.json   everything else that can be read and changed here\n"
    );
    // Which of the two it is depends on the client.
    ([(header::VARY, "accept")], text).into_response()
}

async fn metrics(
    Shared(admin): Shared<AdminState>,
    Extension(slot): Extension<Arc<ConnectionSlot>>,
) -> Result<Response, Refusal> {
    admin.maker.metrics(&slot, &admin.view).await
}

async fn readiness(Shared(admin): Shared<AdminState>) -> Response {
    let waiting = ready::waiting_for(&admin.view.state);
    if waiting.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, waiting.join("\n") + "\n").into_response()
}
