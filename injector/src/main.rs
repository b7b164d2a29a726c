//! The injector's entry point.

use std::fs::OpenOptions;
use std::io::Write as _;
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
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => return ended(&error.to_string(), USAGE.into()),
        Err(help_or_version) => help_or_version.exit(),
    };
    match args.check() {
        Err(error) => ended(&error.to_string(), USAGE.into()),
        Ok(config) => match run(config).await {
            Err(error) => ended(&format!("{error:#}"), ExitCode::FAILURE),
            Ok(()) => ExitCode::SUCCESS,
        },
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    sidecar::telemetry::init(config.log_level.as_tracing(), config.log_format);
    let terminate = terminated()?;
    let client = injector::api::client().await?;
    Injector::bind(config, client).await?.run(terminate, Patience::default()).await
}

/// Says why the process ends where people look. Not through the log, which may be what failed.
fn ended(reason: &str, code: ExitCode) -> ExitCode {
    eprintln!("injector: {reason}");
    // Outside a pod there is no such file, and it is not ours to make.
    let log = OpenOptions::new().write(true).truncate(true).open(TERMINATION_LOG);
    let _best_effort = log.and_then(|mut log| log.write_all(reason.as_bytes()));
    code
}
