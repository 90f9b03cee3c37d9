//! Logs go to stderr, panics too, through a bounded queue that drops lines rather than make a thread wait. The door to
//! tracing-subscriber.

mod writer;

use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

use crate::admin::LogLevel;
use crate::config::{Log, LogFormat};
use writer::{Flush, Writer};

/// A log that was started; writes out what waits when it is dropped.
pub struct Logging {
    _flush: Flush,
    writer: Writer,
    level: LogLevel,
}

impl Logging {
    /// What it says, for callers that may change it.
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }

    /// Says how many lines have been dropped.
    pub(super) fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let writer = self.writer.clone();
        move || writer.dropped()
    }

    /// Says why it can't be written, while it can't.
    pub(super) fn trouble(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let writer = self.writer.clone();
        move || writer.trouble()
    }
}

/// Starts the log of this process.
///
/// # Errors
/// `log.level` is no filter, or the process has a log already.
pub fn start(log: &Log) -> anyhow::Result<Logging> {
    let filter = EnvFilter::try_new(&log.level).with_context(|| format!("log.level = \"{}\"", log.level))?;
    let (writer, flush) = Writer::start().context("logging can't be started")?;
    let make_writer = writer.clone();
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || make_writer.clone()).with_target(false);
    // The type of the handle has the whole subscriber in it, so each format makes its own.
    let (level, result) = match log.format {
        LogFormat::Text => {
            let subscriber = subscriber.with_ansi(false).with_filter_reloading();
            (level(&log.level, subscriber.reload_handle()), subscriber.try_init())
        }
        LogFormat::Json => {
            let subscriber = subscriber.json().flatten_event(true).with_current_span(false).with_filter_reloading();
            (level(&log.level, subscriber.reload_handle()), subscriber.try_init())
        }
    };
    result.map_err(|error| anyhow::anyhow!("logging can't be started: {error}"))?;
    // The standard hook writes to stderr itself: a worker would wait for its reader, and JSON would not stay JSON.
    std::panic::set_hook(Box::new(report));
    Ok(Logging { _flush: flush, writer, level })
}

/// A lock around the words, because the filter itself shows others; held for a copy.
fn level<S: 'static>(written: &str, handle: Handle<EnvFilter, S>) -> LogLevel {
    let words = Arc::new(Mutex::new(written.to_owned()));
    let read = {
        let words = Arc::clone(&words);
        Arc::new(move || words.lock().unwrap_or_else(PoisonError::into_inner).clone())
    };
    let write = Arc::new(move |level: &str| {
        let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        handle.reload(filter).map_err(|error| error.to_string())?;
        level.clone_into(&mut words);
        Ok(())
    });
    LogLevel::new(read, write)
}

fn report(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(tracing::field::display);
    error!(thread = thread::current().name(), place, "panic: {}", panic.payload_as_str().unwrap_or("no text"));
}
