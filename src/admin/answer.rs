//! An answer on its way out: in slices, with a turn for the others after each, and its slot is told when the last has been
//! taken. A big answer is made away from the thread that answers all else.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body as AnyBody;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::{Mutex as Queue, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::refusal::Refusal;
use super::slots::{ConnectionSlot, SlotState};
use super::{AdminView, exposition};

/// What is written at a time: some ten microseconds of copying.
const SLICE: usize = 64 * 1024;

/// A smaller answer is no burden.
const SMALL: usize = 64 * 1024;

/// When more than so many ask for metrics at the same time, one answer serves for [`FRESH`]; and no more than so many wait
/// for the next one.
const CROWD: usize = 8;
const FRESH: Duration = Duration::from_secs(1);

/// Says of a response whose bytes others have, too, which they are.
#[derive(Clone, Copy)]
struct Shared(usize);

/// What makes big answers: one at a time, so that the rest of the process always has a processor left.
#[derive(Debug)]
pub(super) struct Maker {
    turn: Arc<Semaphore>,
    /// Held while metrics are read: those who wait get the same text if it was begun after they asked.
    metrics: Queue<Option<Text>>,
    /// The last one, for a crowd, which does not wait. A lock for a copy.
    last: Mutex<Option<Text>>,
    /// One for each request that waits for metrics or reads them.
    asking: Arc<()>,
}

#[derive(Clone, Debug)]
struct Text {
    bytes: Bytes,
    begun: Instant,
}

impl Maker {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            turn: Arc::new(Semaphore::new(1)),
            metrics: Queue::new(None),
            last: Mutex::new(None),
            asking: Arc::default(),
        })
    }

    /// A big answer, or a refusal where too many are on their way. It goes on to its end also when no request waits for it any
    /// more.
    pub(super) async fn make<T, F>(&self, slot: &ConnectionSlot, make: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if !slot.begin_big(Instant::now()) {
            return Err(crowded());
        }
        self.alone(make).await
    }

    /// `/metrics`: read once for all requests that wait for it.
    pub(super) async fn metrics(&self, slot: &ConnectionSlot, view: &AdminView) -> Result<Response, Refusal> {
        let asked = Instant::now();
        let asking = Arc::clone(&self.asking);
        let is_crowd = Arc::strong_count(&asking) > CROWD + 1;
        if !slot.begin_big(asked) {
            return Err(crowded());
        }
        let kept = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = match kept {
            Some(kept) if is_crowd && asked.saturating_duration_since(kept.begun) < FRESH => kept,
            _ => self.fresh(asked, view).await?,
        };
        let identity = Shared(text.bytes.as_ptr().addr());
        let mut response = Response::new(AnyBody::new(Counted { bytes: text.bytes, _asking: asking }));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(exposition::CONTENT_TYPE));
        response.extensions_mut().insert(identity);
        Ok(response)
    }

    async fn fresh(&self, asked: Instant, view: &AdminView) -> Result<Text, Refusal> {
        let mut latest = self.metrics.lock().await;
        if let Some(text) = latest.as_ref().filter(|text| text.begun >= asked) {
            return Ok(text.clone());
        }
        let (begun, view) = (Instant::now(), view.clone());
        let made = self.alone(move || exposition::text(&view)).await?;
        let bytes = made.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), ""))?;
        let text = Text { bytes: bytes.into(), begun };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
        Ok(latest.insert(text).clone())
    }

    /// For an answer that is made where it is asked for: none other is made meanwhile.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    async fn alone<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let stopping = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the balancer is stopping", "");
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| stopping())?;
        let made = spawn_blocking(move || {
            // Also when the client that asked has left.
            let _turn = turn;
            make()
        });
        made.await.map_err(|_| stopping())
    }
}

fn crowded() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many ask for big answers at the same time", "")
}

/// Bytes that are counted as long as a client reads them.
struct Counted {
    bytes: Bytes,
    _asking: Arc<()>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let bytes = &mut self.get_mut().bytes;
        if bytes.is_empty() {
            return Poll::Ready(None);
        }
        let slice = bytes.split_to(SLICE.min(bytes.len()));
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

pub(super) struct SentBody {
    body: AnyBody,
    /// Of a frame that is longer than a slice.
    rest: Bytes,
    /// The others have had their turn.
    is_next: bool,
    slot: Arc<ConnectionSlot>,
    follows: bool,
}

/// The answer, as it is written; its slot knows of it.
pub(super) fn written(answer: Response, slot: &Arc<ConnectionSlot>) -> Response<SentBody> {
    let (parts, body) = answer.into_parts();
    let size = usize::try_from(body.size_hint().exact().unwrap_or_default()).unwrap_or(usize::MAX);
    if size > SMALL {
        slot.hold(parts.extensions.get().map(|Shared(identity)| *identity), size);
    }
    let follows = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    let body = SentBody { body, rest: Bytes::new(), is_next: true, slot: Arc::clone(slot), follows };
    Response::from_parts(parts, body)
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if !this.is_next {
            // The thread has other connections.
            this.is_next = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(bytes) => this.rest = bytes,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let slice = this.rest.split_to(SLICE.min(this.rest.len()));
        this.is_next = slice.len() < SLICE;
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(body.lower() + rest);
        hint
    }
}

impl Drop for SentBody {
    fn drop(&mut self) {
        // What is left is a slice in the connection's buffer.
        if !self.follows {
            self.slot.set(SlotState::Idle);
        }
    }
}
