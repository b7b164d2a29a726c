//! Logging, the same for both programs: one line a change, to standard error.

use tracing::Level;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging. What libraries say is held to warnings unless `level` is `DEBUG`.
///
/// A second call in one process is ignored, which is what tests need.
pub fn init(level: Level, format: LogFormat) {
    let libraries = if level == Level::DEBUG { Level::INFO } else { Level::WARN.min(level) };
    let filter =
        EnvFilter::builder().with_regex(false).parse_lossy(format!("{libraries},sidecar={level},injector={level}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let _already_started = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
