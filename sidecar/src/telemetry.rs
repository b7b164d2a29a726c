//! Logging, the same for both programs: one line a change, to standard error.

use tracing::subscriber::set_global_default;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::config::LogFormat;

/// Starts logging. What libraries say is held to warnings unless `level` is `DEBUG`.
///
/// A second call in one process is ignored, which is what tests need.
pub fn init(level: Level, format: LogFormat) {
    let _already_started = set_global_default(subscriber(level, format, std::io::stderr));
}

/// What [`init`] starts, with another place to write to.
pub fn subscriber<W>(level: Level, format: LogFormat, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let libraries = if level == Level::DEBUG { Level::INFO } else { Level::WARN.min(level) };
    let filter = Targets::new().with_default(libraries).with_targets([("sidecar", level), ("injector", level)]);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let all = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => Box::new(all.with(lines.with_target(false))),
        LogFormat::Json => Box::new(all.with(lines.json().flatten_event(true))),
    }
}
