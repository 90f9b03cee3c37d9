//! `http = { … }`: a document behind an URL, asked for every `interval`; unchanged it costs one line (`ETag`). What is no whole
//! document is an error.

use std::path::PathBuf;
use std::sync::Arc;

use registry_client::reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use registry_client::reqwest::{Client, Response, Url};
use registry_client::{Address, Failure, OneAtATime, Tls, beginning, http_client, no_answer, shown, whole};
use tokio::time::sleep;

use super::Tuning;
use super::document;
use super::error::AskError;
use super::feed::{Feed, Heard};
use super::instance::Instance;
use super::outages::Outages;
use super::pace::Backoff;
use super::update_sender::Closed;
use crate::config::{self, HttpSource, Secret, file};
use crate::deadline::within;
use crate::endpoint::Rejections;

/// Some 100,000 backends; more is no list but a fault.
const LARGEST: usize = 16 << 20;

/// Kinds of errors.
pub(super) const HTTP_ERRORS: &[&str] =
    &["resolve", "settings", "connect", "broken", "timeout", "too_large", "forbidden", "status", "invalid"];

/// Follows a URL.
pub(super) struct WebDocument {
    source: HttpSource,
    pub(super) outages: Arc<Outages>,
    tuning: Tuning,
    asker: Asker,
}

/// The client, and the files that it was made with: other ones make another client.
struct Asker {
    made: Option<(Files, Client)>,
    files: OneAtATime,
}

/// What is in the files that the settings name, in their order: token, authorities, certificate, key.
type Files = Vec<Option<Vec<u8>>>;

/// Why the settings can't work.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct SettingsError(String);

/// A document that was good.
struct Known {
    instances: Vec<Instance>,
    refused: Rejections,
    etag: Option<HeaderValue>,
}

/// `None` = as it was.
type Fetched = Option<Known>;

impl WebDocument {
    /// # Errors
    /// Files that can't be used, or no address of the web.
    pub(super) fn new(source: &HttpSource, tuning: Tuning) -> Result<Self, SettingsError> {
        client(source).map_err(|error| SettingsError(error.text.to_string()))?;
        let asker = Asker { made: None, files: OneAtATime::default() };
        Ok(Self { source: source.clone(), outages: Outages::of_source(shown_url(source)), tuning, asker })
    }

    /// What is asked for. The token and the rest do not matter.
    pub(super) fn subject(&self) -> &str {
        &self.source.url
    }

    /// Until the receiver of the feed is gone.
    pub(super) async fn follow(mut self, feed: &mut Feed) -> Result<(), Closed> {
        const HEARD: Heard = Heard::Answer { restarted: false, filtered: false };
        let (mut backoff, mut random) =
            (Backoff::new(self.tuning.retry_first, self.tuning.retry_last), fastrand::Rng::new());
        let (mut known, mut is_failing) = (None::<Known>, false);
        loop {
            let limit = self.source.timeout;
            let etag = known.as_ref().and_then(|known| known.etag.clone());
            let fetched = feed.until(within(limit, self.asker.fetch(&self.source, etag))).await?;
            let late = || failed(&self.source, "timeout", &format!("no whole answer within {limit:?}"));
            let pause = match fetched.unwrap_or_else(|_| Err(late())) {
                Ok(None) if !is_failing => {
                    feed.confirm();
                    self.source.interval
                }
                Ok(news) => {
                    known = news.or(known);
                    if let Some(Known { instances, refused, .. }) = &known {
                        feed.put(instances.clone(), refused.clone(), HEARD).await?;
                    }
                    (is_failing, backoff) = (false, Backoff::new(self.tuning.retry_first, self.tuning.retry_last));
                    self.source.interval
                }
                Err(failure) => {
                    is_failing = true;
                    feed.failed(failure).await?;
                    backoff.next(&mut random)
                }
            };
            // Balancers that began together ask at different times.
            feed.until(sleep(pause.mul_f64(random.f64().mul_add(0.1, 0.9)))).await?;
        }
    }
}

impl Asker {
    /// The document, if it is another one than that of the tag.
    async fn fetch(&mut self, source: &HttpSource, etag: Option<HeaderValue>) -> Result<Fetched, AskError> {
        let fail = |failure| of_failure(source, failure);
        let files = {
            let named = source.clone();
            let read = self.files.run(move || Ok(contents(&named))).await;
            read.map_err(|error| failed(source, "settings", &error.to_string()))?
        };
        let token = token(source, files.first().and_then(Option::as_deref))?;
        let client = match &self.made {
            Some((made_with, client)) if made_with[1..] == files[1..] => client.clone(),
            _ => {
                let client = client(source)?;
                self.made = Some((files, client.clone()));
                client
            }
        };
        let mut request = client.get(&source.url).header(ACCEPT, "application/json, application/toml");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let has_etag = etag.is_some();
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let mut response = request.send().await.map_err(|error| fail(no_answer(error)))?;
        match response.status().as_u16() {
            200 => {}
            304 if has_etag => return Ok(None),
            status => return Err(refusal(source, status, &beginning(&mut response).await)),
        }
        let body = whole(&mut response, LARGEST).await.map_err(fail)?;
        read(source, &response, body).map(Some)
    }
}

fn read(source: &HttpSource, response: &Response, body: Vec<u8>) -> Result<Known, AskError> {
    let invalid = |why: String| failed(source, "invalid", &why);
    let header = |name| response.headers().get(name).cloned();
    let is_toml = header(CONTENT_TYPE).is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.contains("toml")));
    let text = String::from_utf8(body).map_err(|_| invalid("it is no UTF-8".to_owned()))?;
    let tree = if is_toml { config::toml_tree(&text) } else { config::json_tree(&text) };
    let documents = [(shown_url(source).to_owned(), tree.map_err(invalid)?)];
    let (instances, refused) =
        document::all(&documents).map_err(|why| AskError { kind: "invalid", text: why.into() })?;
    Ok(Known { instances, refused, etag: header(ETAG) })
}

fn refusal(source: &HttpSource, status: u16, body: &[u8]) -> AskError {
    let kind = if matches!(status, 401 | 403) { "forbidden" } else { "status" };
    let said = if body.is_empty() { String::new() } else { format!(": {}", shown(body)) };
    failed(source, kind, &format!("status {status}{said}"))
}

fn client(source: &HttpSource) -> Result<Client, AskError> {
    let settings = |why: String| failed(source, "settings", &why);
    let url = Url::parse(&source.url).map_err(|error| settings(error.to_string()))?;
    let address = Address { base: format!("{}://", url.scheme()), socket: None };
    let HttpSource { ca_file, cert_file, key_file, .. } = source.clone();
    http_client(&address, &Tls { ca_file, cert_file, key_file }).map_err(|failure| of_failure(source, failure))
}

/// What can't be read is not there here; whoever needs it says so.
fn contents(source: &HttpSource) -> Files {
    let HttpSource { token_file, ca_file, cert_file, key_file, .. } = source;
    let read = |(path, largest): (&Option<PathBuf>, u64)| file::small(path.as_ref()?, largest).ok();
    let of_tls = [ca_file, cert_file, key_file].map(|path| (path, file::LARGEST_CERTIFICATES));
    [(token_file, file::LARGEST_TOKEN)].into_iter().chain(of_tls).map(read).collect()
}

/// Never shown: its header is marked as such.
fn token(source: &HttpSource, in_file: Option<&[u8]>) -> Result<Option<HeaderValue>, AskError> {
    let token = match (&source.token, &source.token_file) {
        (Some(Secret(token)), _) => token.as_bytes(),
        (None, None) => return Ok(None),
        (None, Some(path)) => {
            let why = || failed(source, "settings", &format!("token_file {} can't be read", path.display()));
            in_file.ok_or_else(why)?.trim_ascii()
        }
    };
    let mut header = HeaderValue::from_bytes(&[b"Bearer ", token].concat())
        .map_err(|_| failed(source, "settings", "the token has a character that no header can carry"))?;
    header.set_sensitive(true);
    Ok(Some(header))
}

fn of_failure(source: &HttpSource, failure: Failure) -> AskError {
    match failure {
        Failure::Setting { what, source: cause } => {
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            failed(source, "settings", &format!("{what}{cause}"))
        }
        Failure::Connect(cause) => failed(source, "connect", &format!("can't connect: {cause}")),
        Failure::Closed => failed(source, "broken", "closed without an answer"),
        Failure::Broken(cause) => failed(source, "broken", &format!("the answer breaks off: {cause}")),
        Failure::TooLarge(limit) => failed(source, "too_large", &format!("the answer is larger than {limit} bytes")),
    }
}

fn failed(source: &HttpSource, kind: &'static str, why: &str) -> AskError {
    AskError { kind, text: format!("{}: {why}", shown_url(source)).into() }
}

/// A query may hold what is for no log.
fn shown_url(source: &HttpSource) -> &str {
    source.url.split('?').next().unwrap_or_default()
}
