//! A watch: one message of JSON a line, without an end.

use std::time::Duration;

use registry_client::no_answer;
use registry_client::reqwest::Response;
use tokio::time::Instant;

use crate::Error;
use crate::model::{Changes, Header, Streamed, WatchAnswer, decoded};
use crate::transport::within;

/// Of a message: what changes in one transaction, or has changed since the revision that was asked for.
const MESSAGE_LIMIT: usize = 64 << 20;
/// From the first byte of a message to the last one.
const MESSAGE_TIME: Duration = Duration::from_secs(10);

/// What happens to the keys with a prefix, from a revision on. Its connection is closed when it is dropped.
#[derive(Debug)]
pub struct Watch {
    response: Response,
    /// What has come of the next message, and perhaps more.
    buffer: Vec<u8>,
    /// In its beginning there is no line's end.
    searched: usize,
    /// When the first byte of a message came that is not whole.
    begun: Option<Instant>,
    header: Header,
}

impl Watch {
    /// Waits for the message that says that it is made.
    pub(crate) async fn begin(response: Response, patience: Duration) -> Result<Self, Error> {
        let (buffer, header) = (Vec::new(), Header::default());
        let mut this = Self { response, buffer, searched: 0, begun: None, header };
        let made = within(patience, this.next()).await?;
        this.header = made.header;
        Ok(this)
    }

    /// How far the member was when the watch was made. If that is less than what was asked for, the watch is silent until the
    /// member is as far.
    pub fn header(&self) -> Header {
        self.header
    }

    /// The next message, whenever it comes: a member says at least every ten minutes how far it is.
    ///
    /// # Errors
    /// [`Error::Compacted`], or the watch is over for another reason. There is no next message then.
    ///
    /// # Cancel safety
    /// Safe: no message is lost.
    pub async fn next(&mut self) -> Result<Changes, Error> {
        loop {
            if let Some(line) = self.line() {
                return changes(&line);
            }
            let chunk = match self.begun {
                None => self.response.chunk().await,
                Some(begun) => {
                    let rest = tokio::time::timeout_at(begun + MESSAGE_TIME, self.response.chunk());
                    rest.await.map_err(|_| Error::Timeout { after: MESSAGE_TIME })?
                }
            };
            let chunk = chunk.map_err(|error| Error::of(no_answer(error)))?;
            let chunk = chunk.ok_or_else(|| Error::Broken("the watch has ended".into()))?;
            self.buffer.extend_from_slice(&chunk);
            if self.buffer.len() > MESSAGE_LIMIT {
                return Err(Error::TooLarge { limit: "64 MiB" });
            }
            self.begun.get_or_insert_with(Instant::now);
        }
    }

    /// A message that has come and was not taken yet: it belongs to the same moment as the one before. `None` = there is none.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn more(&mut self) -> Option<Result<Changes, Error>> {
        self.line().map(|line| changes(&line))
    }

    /// The next whole one that is not empty.
    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                if self.buffer.is_empty() {
                    self.begun = None;
                }
                return None;
            };
            let rest = self.buffer.split_off(self.searched + at + 1);
            let line = std::mem::replace(&mut self.buffer, rest);
            self.searched = 0;
            // Of the next message; how long that has been here is not known, and short.
            self.begun = (!self.buffer.is_empty()).then(Instant::now);
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }
}

fn changes(line: &[u8]) -> Result<Changes, Error> {
    let Streamed { result, error } = decoded::<Streamed<WatchAnswer>>("a message of a watch", line)?;
    match (result, error) {
        (_, Some(error)) => Err(Error::ended(error.code, &error.message)),
        (Some(answer), None) if answer.compact_revision > 0 => {
            Err(Error::Compacted { revision: answer.compact_revision })
        }
        (Some(answer), None) if answer.canceled => Err(Error::ended(None, &answer.cancel_reason)),
        (Some(answer), None) => Ok(answer.changes()),
        (None, None) => Err(Error::ended(None, "neither a result nor an error")),
    }
}
