//! Logging, the same for both programs: one line a change, to standard error.

use tracing::subscriber::set_global_default;
use tracing::{Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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
    let filter =
        EnvFilter::builder().with_regex(false).parse_lossy(format!("{libraries},sidecar={level},injector={level}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    match format {
        LogFormat::Text => Box::new(builder.with_target(false).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}
