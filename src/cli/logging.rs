//! Logs go to stderr, panics too, through a bounded queue that drops lines rather than make anybody wait. The door to
//! tracing-subscriber.

mod writer;

use std::panic::PanicHookInfo;
use std::thread;

use anyhow::Context;
use tracing::error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

use crate::config::{Log, LogFormat};
use writer::{Flush, Writer};

/// A log that was started; writes out what waits when it is dropped.
pub struct Logging {
    _flush: Flush,
    writer: Writer,
    level: Handle<EnvFilter, Registry>,
}

impl Logging {
    /// Says how many lines have been dropped.
    pub(super) fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let writer = self.writer.clone();
        move || writer.dropped()
    }

    /// Changes the level.
    pub(super) fn level(&self) -> impl Fn(&str) -> Result<(), String> + Send + Sync + use<> {
        let level = self.level.clone();
        move |text| {
            let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
            level.reload(filter).map_err(|error| error.to_string())
        }
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
    let (filter, level) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(move || make_writer.clone()).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let result = match log.format {
        LogFormat::Text => registry.with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("logging can't be started: {error}"))?;
    // The standard hook writes to stderr itself: a worker would wait for its reader, and JSON would not stay JSON.
    std::panic::set_hook(Box::new(report));
    Ok(Logging { _flush: flush, writer, level })
}

fn report(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(tracing::field::display);
    error!(thread = thread::current().name(), place, "panic: {}", panic.payload_as_str().unwrap_or("no text"));
}
