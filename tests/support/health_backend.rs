//! A backend that answers sessions with its name and `GET /health` with a status, and fails as the test says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Backend, Rig, reset, until};

/// What it does with connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Good,
    /// Answers `GET /health` with 503.
    Unhealthy,
    /// Takes a request and closes without an answer.
    ClosesAfterRequest,
    ClosesAtAccept,
    ResetsAtAccept,
}

pub struct HealthBackend {
    pub backend: Backend,
    state: Arc<Mutex<State>>,
}

struct State {
    behaviour: Behaviour,
    /// The statuses of the next probes.
    script: VecDeque<u16>,
    /// The status after them; 0 = no answer.
    then: u16,
    probes: usize,
}

impl HealthBackend {
    pub async fn new(name: &'static str, behaviour: Behaviour) -> Self {
        let state = Arc::new(Mutex::new(State { behaviour, script: VecDeque::new(), then: 200, probes: 0 }));
        let shared = Arc::clone(&state);
        let backend = Backend::serving(move |stream| serve(stream, name, Arc::clone(&shared))).await;
        Self { backend, state }
    }

    /// A good one whose health has this status.
    pub async fn with_status(name: &'static str, status: u16) -> Self {
        let backend = Self::new(name, Behaviour::Good).await;
        backend.set_health(&[], status);
        backend
    }

    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.state.lock().unwrap().behaviour = behaviour;
    }

    /// The statuses of the next probes, and the status after them; 0 = no answer.
    pub fn set_health(&self, script: &[u16], then: u16) {
        let mut state = self.state.lock().unwrap();
        state.script = script.iter().copied().collect();
        state.then = then;
    }

    /// Number of probes so far.
    pub fn probes(&self) -> usize {
        self.state.lock().unwrap().probes
    }

    pub async fn until_probes(&self, count: usize) {
        until(&format!("{count} probes"), || async { (self.probes() >= count).then_some(()) }).await;
    }

    /// Its identity in a static list.
    pub fn id(&self) -> String {
        self.backend.address().to_string()
    }
}

impl Rig {
    /// As [`Rig::with_backends`].
    pub async fn with_health_backends(backends: &[&HealthBackend], more: &str) -> Self {
        let ids: Vec<_> = backends.iter().map(|backend| backend.id()).collect();
        Self::with_backends(&ids.iter().map(String::as_str).collect::<Vec<_>>(), more).await
    }
}

impl State {
    fn next_status(&mut self) -> u16 {
        self.probes += 1;
        match self.behaviour {
            Behaviour::Unhealthy => 503,
            _ => self.script.pop_front().unwrap_or(self.then),
        }
    }
}

async fn serve(mut stream: TcpStream, name: &'static str, state: Arc<Mutex<State>>) {
    let behaviour = state.lock().unwrap().behaviour;
    match behaviour {
        Behaviour::ClosesAtAccept => return,
        Behaviour::ResetsAtAccept => return reset(stream),
        Behaviour::Good | Behaviour::Unhealthy | Behaviour::ClosesAfterRequest => {}
    }
    let mut request = [0; 1024];
    let Ok(n @ 1..) = stream.read(&mut request).await else { return };
    if behaviour == Behaviour::ClosesAfterRequest {
        return;
    }
    let answer = if request[..n].starts_with(b"GET /health") {
        let status = state.lock().unwrap().next_status();
        if status == 0 {
            // Until the other side gives up.
            while stream.read(&mut request).await.is_ok_and(|n| n > 0) {}
            return;
        }
        format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    } else {
        name.to_owned()
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    while stream.read(&mut request).await.is_ok_and(|n| n > 0) {}
}
