//! `replay = "until_response"`: as long as the backend has sent nothing, what the client has said is kept, and said again
//! to another backend if this one resets, closes or stays silent. It stands between connect and relay: the first byte of
//! an answer, which is only looked at here, ends it, so whatever the client gets comes from one backend.
//!
//! Each search for another backend has `connect.deadline` and takes untried ones only, as many as there
//! are. When there is none, the session goes on with the one that failed, and ends as it does.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::client;
use super::context::SessionContext;
use super::dial::Connected;
use super::outcome::{Ended, SessionRecord};
use super::relay::{Before, Limits, Side, early_break};
use super::socket::Socket;
use super::upstream::Search;
use crate::config;
use crate::deadline::within;
use crate::metrics::{Direction, EarlyEnd, Outcome, Replay};
use crate::pool::{ByteCell, Pool};

/// Read from the client in one system call.
const PIECE: usize = 16 * 1024;

/// "Never" is a look once a day.
const DAY: Duration = Duration::from_secs(86_400);

/// What the client has said so far.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
    /// No more is kept.
    most: usize,
    has_finished: bool,
}

/// Makes the PROXY header for backends of a pool, if they get one.
pub(super) type HeaderOf<'a> = dyn Fn(&config::Pool, &mut SessionRecord) -> Option<Vec<u8>> + 'a;

/// What a relay is to go on with.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) connected: Connected,
    pub(super) bytes: ByteCell,
    /// Bytes of the client that this backend has not been sent.
    pub(super) early: Vec<u8>,
    pub(super) before: Option<Box<Before>>,
}

impl Request {
    /// Begins with what was read already.
    pub(super) fn new(early: Vec<u8>, most: usize) -> Self {
        Self { bytes: early, most, has_finished: false }
    }

    /// Finds a backend that answers, beginning with the one that is connected. `header` makes what each is told before all
    /// else. Each pool's own settings say how long its backends have, and whether another one may come after them.
    ///
    /// Not cancel safe: dropping it loses what was read.
    pub(super) async fn settle(
        mut self,
        mut connected: Connected,
        header: &HeaderOf<'_>,
        context: &SessionContext<'_>,
        search: &mut Search<'_>,
        record: &mut SessionRecord,
    ) -> Result<Settled, Ended> {
        let SessionContext { socket: client, worker, live, .. } = context;
        let mut replay: Option<Count> = None;
        loop {
            let (pool, settings) = (Arc::clone(connected.lease.pool()), Arc::clone(&connected.settings));
            let timeouts = &settings.timeouts;
            let limits = &Limits::new(timeouts.idle, timeouts.half_close, timeouts.first_byte);
            let header = header(&settings, record);
            let bytes = record.reached(&connected, worker.index);
            let mut attempt = Attempt::new(&mut self, client, &connected.socket, &bytes, limits);
            let verdict = tokio::select! {
                biased;
                verdict = attempt.run(header.as_deref(), settings.connect.timeout) => verdict,
                // Once it has finished, its errors are read nowhere else.
                error = client.error() => Verdict::GoOn(Some((Side::Client, error))),
                cut = live.cut() => return Err(cut.into()),
            };
            let Attempt { written, mut before, last_progress, .. } = attempt;
            before.last_progress = Some(last_progress);
            let failure = match verdict {
                Verdict::Answered(broken) => {
                    pool.retries.succeeded();
                    if let Some(replay) = replay.take() {
                        replay.became(Replay::Answered);
                    }
                    return Ok(self.hand_over(connected, bytes, written, Before { broken, ..before }));
                }
                Verdict::GoOn(broken) => {
                    return Ok(self.hand_over(connected, bytes, written, Before { broken, ..before }));
                }
                Verdict::Failed(failure) => failure,
            };
            if let Some(early) = failure.early().filter(|_| before.asked.is_some()) {
                connected.lease.ended_early(early);
                before.is_judged = true;
            }
            if let Some(replay) = replay.take() {
                replay.became(Replay::Failed);
            }
            search.failed(connected.lease.backend(), failure.says());
            let next = if settings.replay.is_none() {
                Err("its pool has no replay")
            } else {
                tokio::select! {
                    biased;
                    next = search.next(&mut record.attempts) => next.map_err(|refusal| refusal.given_up.says()),
                    error = client.error() => return Err(Ended::because(Outcome::ClientReset, error)),
                    cut = live.cut() => return Err(cut.into()),
                }
            };
            let next = match next {
                Ok(next) => next,
                Err(why) => {
                    pool.second.replays.count(Replay::NoBackend);
                    record.rare().not_replayed = Some(why);
                    before.broken = failure.broken();
                    return Ok(self.hand_over(connected, bytes, written, before));
                }
            };
            let rare = record.rare();
            rare.sent_before += written as u64;
            rare.replays = rare.replays.saturating_add(1);
            replay = Some(Count(pool, Replay::Ended));
            // Only now is the failed one let go: until then the session might have had to end as it does.
            connected = next;
        }
    }

    fn hand_over(mut self, connected: Connected, bytes: ByteCell, written: usize, before: Before) -> Settled {
        self.bytes.drain(..written);
        Settled { connected, bytes, early: self.bytes, before: Some(Box::new(before)) }
    }
}

/// What came of one backend.
enum Verdict {
    /// It has sent something; what broke meanwhile, if anything.
    Answered(Option<(Side, io::Error)>),
    /// No replay is possible any more; what broke, if anything.
    GoOn(Option<(Side, io::Error)>),
    Failed(AttemptFailure),
}

enum AttemptFailure {
    Broken(io::Error),
    Closed,
    Silent,
    /// It did not take the PROXY header.
    Deaf(io::Error),
}

impl AttemptFailure {
    fn early(&self) -> Option<EarlyEnd> {
        match self {
            Self::Broken(error) => Some(early_break(error)),
            Self::Closed => Some(EarlyEnd::Closed),
            Self::Silent => Some(EarlyEnd::Silent),
            Self::Deaf(_) => None,
        }
    }

    /// For the log.
    fn says(&self) -> &'static str {
        match self.early() {
            Some(EarlyEnd::Reset) => "reset before its first byte",
            Some(EarlyEnd::Closed) => "closed before its first byte",
            Some(EarlyEnd::Silent) => "silent",
            None => "does not take the PROXY header",
        }
    }

    /// A FIN and silence show to the relay again; an error is said once.
    fn broken(self) -> Option<(Side, io::Error)> {
        match self {
            Self::Broken(error) | Self::Deaf(error) => Some((Side::Backend, error)),
            Self::Closed | Self::Silent => None,
        }
    }
}

/// What happens while the timer is not due.
enum ReplayStep {
    Over(Verdict),
    /// The clock of the first byte has begun.
    Asked,
}

/// One backend's chance.
struct Attempt<'a> {
    request: &'a mut Request,
    client: &'a Socket,
    backend: &'a Socket,
    bytes: &'a ByteCell,
    limits: &'a Limits,
    /// Bytes of the request that the backend's socket took.
    written: usize,
    before: Before,
    last_progress: Instant,
}

impl<'a> Attempt<'a> {
    fn new(
        request: &'a mut Request,
        client: &'a Socket,
        backend: &'a Socket,
        bytes: &'a ByteCell,
        limits: &'a Limits,
    ) -> Self {
        let (before, last_progress) = (Before::default(), Instant::now());
        Self { request, client, backend, bytes, limits, written: 0, before, last_progress }
    }

    async fn run(&mut self, header: Option<&[u8]>, limit: Duration) -> Verdict {
        if let Some(header) = header {
            match within(limit, client::tell(self.backend, header)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Verdict::Failed(AttemptFailure::Deaf(error)),
                Err(_) => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, "it does not take the PROXY header");
                    return Verdict::Failed(AttemptFailure::Deaf(error));
                }
            }
        }
        loop {
            let (idle_limits, due) = self.deadlines();
            let limit = due.map_or(idle_limits, |due| idle_limits.min(due)).saturating_duration_since(Instant::now());
            match within(limit, poll_fn(|cx| self.poll(cx))).await {
                Ok(ReplayStep::Over(verdict)) => return verdict,
                Ok(ReplayStep::Asked) => continue,
                Err(_) => {}
            }
            let now = Instant::now();
            // The clocks may have been moved since the timer was set.
            let (idle_limits, due) = self.deadlines();
            if due.is_some_and(|due| now >= due) {
                return Verdict::Failed(AttemptFailure::Silent);
            }
            if now >= idle_limits {
                // The relay finds that the time is over.
                return Verdict::GoOn(None);
            }
        }
    }

    /// Until when all may be quiet, and by when the backend has to answer.
    fn deadlines(&self) -> (Instant, Option<Instant>) {
        let (idle_limits, first_byte) = self.limits.unanswered(self.before.has_finished);
        let due = self.before.asked.zip(first_byte).map(|(asked, limit)| asked + limit);
        (self.last_progress + idle_limits.unwrap_or(DAY), due)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ReplayStep> {
        let over = |verdict| Poll::Ready(ReplayStep::Over(verdict));
        let was_asked = self.before.asked.is_some();
        // The client first: a backend that has failed already is asked all the same, so that it is known for it.
        if let Err(error) = self.listen(cx) {
            return over(Verdict::GoOn(Some((Side::Client, error))));
        }
        let broken = self.tell(cx).err().map(|error| (Side::Backend, error));
        match self.backend.poll_peek(cx, &mut [0]) {
            Poll::Ready(Ok(1..)) => return over(Verdict::Answered(broken)),
            Poll::Ready(Ok(0)) if broken.is_none() => return over(Verdict::Failed(AttemptFailure::Closed)),
            Poll::Ready(Err(error)) => return over(Verdict::Failed(AttemptFailure::Broken(error))),
            Poll::Ready(Ok(0)) | Poll::Pending => {}
        }
        if let Some((_, error)) = broken {
            return over(Verdict::Failed(AttemptFailure::Broken(error)));
        }
        if self.request.bytes.len() >= self.request.most {
            return over(Verdict::GoOn(None));
        }
        let is_asked = !was_asked && self.before.asked.is_some();
        if is_asked { Poll::Ready(ReplayStep::Asked) } else { Poll::Pending }
    }

    /// Reads what the client says, as far as it can be kept.
    fn listen(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut piece = [0; PIECE];
        while !self.request.has_finished && self.request.bytes.len() < self.request.most {
            let room = (self.request.most - self.request.bytes.len()).min(PIECE);
            let Poll::Ready(read) = self.client.poll_read(cx, &mut piece[..room])? else { break };
            self.request.bytes.extend_from_slice(&piece[..read]);
            self.request.has_finished = read == 0;
            self.last_progress = Instant::now();
        }
        Ok(())
    }

    /// Sends the backend what it has not got yet, and the client's FIN behind it.
    fn tell(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.written < self.request.bytes.len() {
            self.before.asked.get_or_insert_with(Instant::now);
            let Poll::Ready(written) = self.backend.poll_write(cx, &self.request.bytes[self.written..])? else {
                return Ok(());
            };
            self.written += written;
            self.bytes.add(Direction::ToBackend, written as u64);
            self.last_progress = Instant::now();
        }
        if self.request.has_finished && !self.before.has_finished {
            self.backend.send_fin()?;
            self.before.has_finished = true;
        }
        Ok(())
    }
}

/// Counts a replay, whatever way it ends.
struct Count(Arc<Pool>, Replay);

impl Count {
    fn became(mut self, result: Replay) {
        self.1 = result;
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.second.replays.count(self.1);
    }
}
