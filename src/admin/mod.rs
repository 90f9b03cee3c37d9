//! The admin listener: metrics, liveness, readiness and what is known about pools, over HTTP. Reads the running set and
//! changes nothing. The door to axum.

mod config;
mod exposition;
mod pools;
mod ready;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::server::State;

/// What the admin side looks at.
#[derive(Clone)]
pub struct View {
    /// The running set.
    pub state: Arc<State>,
    /// Log lines dropped so far.
    pub log_lines_dropped: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// A bound admin listener; see [`Admin::serve`].
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
}

impl Admin {
    /// Binds.
    ///
    /// # Errors
    /// As `bind(2)` says.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As `getsockname(2)` says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`.
    ///
    /// # Errors
    /// None that a single connection could cause.
    pub async fn serve(self, view: View, stop: CancellationToken) -> io::Result<()> {
        let routes = Router::new()
            .route("/", get(index))
            .route("/metrics", get(metrics))
            .route("/live", get(|| async { "live\n" }))
            .route("/ready", get(readiness))
            .route("/api/v1/pools", get(|Shared(view): Shared<View>| async move { pools::answer(&view.state) }))
            .route("/api/v1/listeners", get(|Shared(view): Shared<View>| async move { config::listeners(&view.state) }))
            .route("/api/v1/config", get(|Shared(view): Shared<View>| async move { config::answer(&view.state) }))
            .with_state(view);
        tokio::select! {
            result = async { axum::serve(self.listener, routes).await } => result,
            () = stop.cancelled() => Ok(()),
        }
    }
}

async fn index() -> &'static str {
    concat!(
        "evenkeel ",
        env!("CARGO_PKG_VERSION"),
        "\n\n/metrics        for Prometheus\n/live           200 while the process works\n",
        "/ready          200 once every required pool is discovered and probed, 503 before that and while stopping\n",
        "/api/v1/pools      every pool and backend: facts, standing, reason\n",
        "/api/v1/listeners  every listener: addresses, sessions, limits\n",
        "/api/v1/config     what is in effect, secrets masked, and what became of the last reload\n"
    )
}

async fn metrics(Shared(view): Shared<View>) -> Response {
    match exposition::text(&view) {
        Ok(text) => ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn readiness(Shared(view): Shared<View>) -> Response {
    let waiting = ready::waiting_for(&view.state);
    if waiting.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, waiting.join("\n") + "\n").into_response()
}
