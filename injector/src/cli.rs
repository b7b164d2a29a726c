//! The commands of the program.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config;

/// Puts the geth-peering sidecar into opted-in pods
#[derive(Debug, Parser)]
#[command(name = "injector", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer the API server about new pods: what the chart runs
    Serve(Box<config::Args>),
    /// Put the sidecar into manifests: they are written to standard output, and what was done to standard error
    Inject(Box<config::InjectArgs>),
    /// Take out of manifests what `inject` put in
    Uninject(UninjectArgs),
    /// Examine an installation, line by line, as the current kubeconfig's user; exit code 1 if something is wrong
    Check(CheckArgs),
}

/// What clap takes for `uninject`.
#[derive(Debug, Args)]
pub struct UninjectArgs {
    /// A file with manifests, YAML or JSON; - for standard input
    #[arg(short, long)]
    pub file: PathBuf,
}

/// What clap takes for `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Namespace in which the creation of a pod is tried, as a dry run
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Name of the MutatingWebhookConfiguration, if several are installed
    #[arg(long)]
    pub webhook_configuration: Option<String>,
}
