//! Logs go to stderr, panics too, through a bounded queue that drops lines rather than make anybody wait. The door to
//! tracing-subscriber.

mod writer;

use std::panic::PanicHookInfo;
use std::thread;

use anyhow::Context;
use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use writer::{Flush, Writer};

/// A log that was started; writes out what waits when it is dropped.
pub struct Logging {
    _flush: Flush,
    writer: Writer,
}

impl Logging {
    /// Says how many lines have been dropped.
    pub(super) fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let writer = self.writer.clone();
        move || writer.dropped()
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
    let result = match log.format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(false).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("logging can't be started: {error}"))?;
    // The standard hook writes to stderr itself: a worker would wait for its reader, and JSON would not stay JSON.
    std::panic::set_hook(Box::new(report));
    Ok(Logging { _flush: flush, writer })
}

fn report(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(tracing::field::display);
    error!(thread = thread::current().name(), place, "panic: {}", panic.payload_as_str().unwrap_or("no text"));
}
