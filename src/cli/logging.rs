//! Logs go to stderr through a bounded queue that drops lines rather than make anybody wait. The door to
//! tracing-subscriber and tracing-appender.

use anyhow::Context;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Lines that may wait for stderr's reader: at 300 bytes a line, about 20 MB.
const WAITING: usize = 65_536;

/// A log that was started; writes out what waits when it is dropped.
pub struct Logging {
    _guard: WorkerGuard,
    pub(super) dropped: ErrorCounter,
}

/// Starts the log of this process.
///
/// # Errors
/// `log.level` is no filter, or the process has a log already.
pub fn start(log: &Log) -> anyhow::Result<Logging> {
    let filter = EnvFilter::try_new(&log.level).with_context(|| format!("log.level = \"{}\"", log.level))?;
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING).finish(std::io::stderr());
    let dropped = writer.error_counter();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    let result = match log.format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(false).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("logging can't be started: {error}"))?;
    Ok(Logging { _guard: guard, dropped })
}
