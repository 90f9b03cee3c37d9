//! Sessions that the balancer ends although both sides work, and the list of running sessions.

mod list;
mod moved;
mod names;
mod pace;
mod policy;
mod rebalance;

use std::net::{Ipv4Addr, SocketAddr};

use backend_demo::registry::Status;
use evenkeel::metrics::{CloseCause, Outcome};
use evenkeel::proxy::{Phase, SessionView};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Registry, Rig, soon, until};

/// A balancer whose backends `a` and `b` are the test itself; only the registry's data of `a` changes.
struct Scene {
    registry: Registry,
    rig: Rig,
    a: TcpListener,
    b: Option<TcpListener>,
}

/// A session's two ends.
struct Session {
    client: TcpStream,
    backend: TcpStream,
}

impl Scene {
    /// With `a` alone. `more`: keys of the pool's table.
    async fn new(mode: (&str, &str), more: &str) -> Self {
        let a = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let registry = Registry::new().await;
        registry.add("web", "a", a.local_addr().unwrap());
        let rig = registry.rig("", &format!("check = {{ kind = \"none\" }}\n{}\n{more}", mode.1)).await;
        rig.until_standing(&registry.id("a"), "up").await;
        Self { registry, rig, a, b: None }
    }

    async fn with_b(mut self) -> Self {
        let b = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        self.registry.add("web", "b", b.local_addr().unwrap());
        self.rig.until_standing(&self.registry.id("b"), "up").await;
        self.b = Some(b);
        self
    }

    /// A session that the balancer knows to be connected.
    async fn session(&self) -> Session {
        let client = soon("a connect", TcpStream::connect(self.rig.front())).await.unwrap();
        let b = async {
            match &self.b {
                Some(b) => b.accept().await.unwrap().0,
                None => std::future::pending().await,
            }
        };
        let backend = soon("a backend", async {
            tokio::select! {
                accepted = self.a.accept() => accepted.unwrap().0,
                accepted = b => accepted,
            }
        })
        .await;
        let address = client.local_addr().unwrap();
        until("it is connected", || async { (self.listed(address)?.phase == Phase::Relaying).then_some(()) }).await;
        Session { client, backend }
    }

    fn listed(&self, client: SocketAddr) -> Option<SessionView> {
        self.rig.balancer().state().workers.list_sessions().into_iter().find(|session| session.client == client)
    }

    fn closed(&self, cause: CloseCause) -> u64 {
        self.rig.balancer().state().set().pools[0].closes.closed.read(cause)
    }

    async fn until_waiting(&self, sessions: f64) {
        self.rig.until_metric("evenkeel_pool_closing_sessions{pool=\"back\"}", sessions).await;
    }

    /// Waits until everything has come back, and all sessions have ended so.
    async fn ended(self, outcome: Outcome, count: u64) {
        self.all_ended(&[(outcome, count)]).await;
    }

    /// The same, for several outcomes in their own order.
    async fn all_ended(self, wanted: &[(Outcome, u64)]) {
        self.rig.until_no_sessions().await;
        let ended = |&outcome: &Outcome| (outcome.name(), self.rig.ended(outcome));
        let ended: Vec<_> = Outcome::ALL.iter().map(ended).filter(|(_, count)| *count > 0).collect();
        let wanted: Vec<_> = wanted.iter().map(|&(outcome, count)| (outcome.name(), count)).collect();
        assert_eq!(ended, wanted);
        self.until_waiting(0.0).await;
        assert!(self.rig.balancer().state().workers.list_sessions().is_empty());
        self.rig.stop().await;
    }

    fn happen(&self, backend: &str, cause: CloseCause) -> &'static str {
        match cause {
            CloseCause::BackendDown => {
                assert!(self.registry.set_status(backend, Status::Critical));
                "down"
            }
            CloseCause::BackendRemoved => {
                assert!(self.registry.deregister(backend));
                "removed"
            }
            CloseCause::Maintenance => {
                assert!(self.registry.maintenance(backend, true));
                "maintenance"
            }
            _ => panic!("nothing happens to `{backend}` then"),
        }
    }

    async fn until_happened(&self, cause: CloseCause) {
        self.until_happened_to("a", cause).await;
    }

    async fn until_happened_to(&self, backend: &str, cause: CloseCause) {
        let standing = self.happen(backend, cause);
        self.rig.until_standing(&self.registry.id(backend), standing).await;
    }
}

impl Session {
    /// A byte each way.
    async fn ping(&mut self) {
        soon("a byte each way", async {
            self.client.write_all(b"?").await.unwrap();
            self.backend.read_exact(&mut [0]).await.unwrap();
            self.backend.write_all(b"!").await.unwrap();
            self.client.read_exact(&mut [0]).await.unwrap();
        })
        .await;
    }

    async fn finish(mut self) {
        self.client.shutdown().await.unwrap();
        assert_eq!(soon("FIN", self.backend.read(&mut [0])).await.unwrap(), 0);
        self.backend.shutdown().await.unwrap();
        assert_eq!(soon("FIN", self.client.read(&mut [0])).await.unwrap(), 0);
    }
}
