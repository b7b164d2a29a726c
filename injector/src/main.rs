//! The injector's entry point.

use std::process::ExitCode;

use clap::Parser as _;
use injector::config::{Args, Config};
use injector::run::{Injector, Patience, terminated};

/// The command was used wrongly (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// What is written here shows up in `kubectl describe pod` (`terminationMessagePath`).
const TERMINATION_LOG: &str = "/dev/termination-log";

// One thread: an injection takes well below a millisecond, and every thread would cost memory.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (reason, code) = match Args::parse().check() {
        Ok(config) => match run(config).await {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (format!("{error:#}"), ExitCode::FAILURE),
        },
        Err(error) => (error.to_string(), ExitCode::from(USAGE)),
    };
    // Logging may be what failed.
    eprintln!("injector: {reason}");
    let _outside_a_pod_there_is_none = std::fs::write(TERMINATION_LOG, reason);
    code
}

async fn run(config: Config) -> anyhow::Result<()> {
    sidecar::telemetry::init(config.log_level.as_tracing(), config.log_format);
    let terminate = terminated()?;
    let client = injector::api::client().await?;
    Injector::bind(config, client).await?.run(terminate, Patience::default()).await
}
