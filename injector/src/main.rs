//! The injector's entry point.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use injector::check::{self, Verdict};
use injector::cli::{CheckArgs, Cli, Command};
use injector::config::Config;
use injector::manifest::{self, Rewritten};
use injector::run::{Injector, Patience, terminated};

/// The command was used wrongly (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// What is written here shows up in `kubectl describe pod` (`terminationMessagePath`).
const TERMINATION_LOG: &str = "/dev/termination-log";

// One thread: an injection takes well below a millisecond, and every thread would cost memory.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(Cli { command }) => command,
        Err(error) if error.use_stderr() => return ended(&error.to_string(), USAGE.into()),
        Err(help_or_version) => help_or_version.exit(),
    };
    let done = match command {
        Command::Serve(args) => match args.check() {
            Ok(config) => serve(config).await,
            Err(error) => return ended(&error.to_string(), USAGE.into()),
        },
        Command::Inject(args) => match args.check() {
            Ok((file, injection)) => rewrite(&file, |text| manifest::inject(text, &injection)),
            Err(error) => return ended(&error.to_string(), USAGE.into()),
        },
        Command::Uninject(args) => rewrite(&args.file, manifest::uninject),
        Command::Check(args) => examine(&args).await,
    };
    match done {
        Err(error) => ended(&format!("{error:#}"), ExitCode::FAILURE),
        Ok(()) => ExitCode::SUCCESS,
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    sidecar::telemetry::init(config.log_level.as_tracing(), config.log_format);
    let terminate = terminated()?;
    let client = injector::api::client().await?;
    Injector::bind(config, client).await?.run(terminate, Patience::default()).await
}

/// Examines an installation, and prints each finding as it comes.
async fn examine(args: &CheckArgs) -> anyhow::Result<()> {
    let client = injector::api::client().await.context("there is no cluster to examine: set KUBECONFIG")?;
    let findings = check::examine(&client, args.webhook_configuration.as_deref(), &args.namespace).await;
    let mut out = std::io::stdout();
    for finding in &findings {
        writeln!(out, "{finding}").context("cannot write to standard output")?;
    }
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count();
    anyhow::ensure!(failed == 0, "{failed} of {} checks failed", findings.len());
    Ok(())
}

/// Reads manifests, and writes what becomes of them; nothing is written if that fails.
fn rewrite(file: &Path, change: impl FnOnce(&str) -> Result<Rewritten, manifest::ManifestError>) -> anyhow::Result<()> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    let Rewritten { text, report } = change(&text)?;
    eprint!("{report}");
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// Says why the process ends where people look. Not through the log, which may be what failed.
fn ended(reason: &str, code: ExitCode) -> ExitCode {
    eprintln!("injector: {reason}");
    // Outside a pod there is no such file, and it is not ours to make.
    let log = OpenOptions::new().write(true).truncate(true).open(TERMINATION_LOG);
    let _best_effort = log.and_then(|mut log| log.write_all(reason.as_bytes()));
    code
}
