//! The webhooks that are measured, as running programs.

use crate::client::Webhook;
use crate::world::{self, CONFIGURATION, OWN_NAMESPACE, SERVICE, World, free_port};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The core on which webhooks run. Nothing else that is started here does.
const CORE: &str = "0";

/// What the kernel counts processor time in (`USER_HZ`, the same on all of Linux's architectures but one).
const TICKS_A_SECOND: u64 = 100;

/// After that long, a webhook that has not answered never will.
const NEVER: Duration = Duration::from_secs(30);

/// How long to wait before asking again one that does not answer yet.
const SHORTLY: Duration = Duration::from_millis(1);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours.
    Injector,
    /// The same in Go.
    ControllerRuntime,
    /// The fastest other one known, which does less.
    EksPodIdentity,
}

impl Kind {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Injector => "injector",
            Self::ControllerRuntime => "controller-runtime",
            Self::EksPodIdentity => "eks-pod-identity-webhook",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Injector | Self::ControllerRuntime => "/mutate/pods",
            Self::EksPodIdentity => "/mutate",
        }
    }
}

/// A program on disk.
pub(crate) struct Program {
    pub(crate) kind: Kind,
    file: PathBuf,
}

impl Program {
    /// From `NAME=FILE`.
    ///
    /// # Errors
    /// When there is no such program.
    pub(crate) fn named(argument: &str) -> Result<Self> {
        let (name, file) = argument.split_once('=').with_context(|| format!("no NAME=FILE: {argument}"))?;
        let all = [Kind::Injector, Kind::ControllerRuntime, Kind::EksPodIdentity];
        let kind = all.into_iter().find(|kind| kind.name() == name).with_context(|| format!("who is {name}?"))?;
        Ok(Self { kind, file: file.into() })
    }

    /// Its size, megabytes.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn megabytes(&self) -> Result<f64> {
        Ok(std::fs::metadata(&self.file)?.len() as f64 / 1e6)
    }

    /// Starts it and waits until it answers `review`.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) async fn start(&self, world: &World, review: &Value) -> Result<Server> {
        let name = self.kind.name();
        let log = world.folder().join(format!("{name}.log"));
        let (port, file) = (free_port()?, std::fs::File::create(&log)?);
        let start = Instant::now();
        let process = Command::new("taskset")
            .args(["--cpu-list", CORE])
            .arg(&self.file)
            .args(self.arguments(world, port)?)
            .env("KUBECONFIG", world.folder().join("kubeconfig"))
            // The API server here is one of those that know no lists by watch.
            .env("KUBE_FEATURE_WatchListClient", "false")
            .stdin(Stdio::null())
            .stderr(file.try_clone()?)
            .stdout(file)
            .kill_on_drop(true)
            .spawn()?;
        let webhook = Webhook { port, path: self.kind.path(), name: world::name(), bundle: world.certificate.clone() };
        let mut server = Server { kind: self.kind, process, webhook, first_answer: Duration::ZERO, idle: 0.0 };
        loop {
            if self.kind == Kind::Injector {
                server.webhook.bundle = world.bundle();
            }
            let Err(error) = server.webhook.ask(review).await else { break };
            if start.elapsed() > NEVER || server.process.try_wait()?.is_some() {
                bail!("{name} does not answer: {error:#}\n{}", end_of(&log));
            }
            tokio::time::sleep(SHORTLY).await;
        }
        server.first_answer = start.elapsed();
        Ok(server)
    }

    fn arguments(&self, world: &World, port: u16) -> Result<Vec<String>> {
        let flags = |pairs: &[(&str, &str)]| pairs.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
        let command = |name: &str, flags: Vec<String>| [vec![name.to_owned()], flags].concat();
        let folder = |file: &str| world.folder().join(file).display().to_string();
        let (port, other) = (port.to_string(), free_port()?.to_string());
        Ok(match self.kind {
            Kind::Injector => command(
                "serve",
                flags(&[
                    ("namespace", OWN_NAMESPACE),
                    ("pod-name", "geth-peering-injector-0"),
                    ("deployment", SERVICE),
                    ("service", SERVICE),
                    ("webhook-configuration", CONFIGURATION),
                    ("ca-secret", "geth-peering-ca"),
                    ("sidecar-role", "geth-peering-sidecar"),
                    ("sidecar-image", "geth-peering/sidecar:0.1.0"),
                    ("https-port", &port),
                    ("http-port", &other),
                ]),
            ),
            Kind::ControllerRuntime => flags(&[("port", &port), ("cert-dir", &folder(""))]),
            Kind::EksPodIdentity => flags(&[
                ("in-cluster", "false"),
                ("kube-api", &world.api_url),
                ("tls-cert", &folder("tls.crt")),
                ("tls-key", &folder("tls.key")),
                ("port", &port),
                ("metrics-port", &other),
            ]),
        })
    }
}

/// A program that runs.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) webhook: Webhook,
    /// From its start to its first answer.
    pub(crate) first_answer: Duration,
    /// Resident memory before any load, MiB.
    pub(crate) idle: f64,
    process: Child,
}

impl Server {
    /// Memory, MiB: `VmRSS`, what it has now, or `VmHWM`, the most it ever had.
    ///
    /// # Errors
    /// When it no longer runs.
    pub(crate) fn memory(&self, field: &str) -> Result<f64> {
        let status = std::fs::read_to_string(self.proc()?.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        Ok(kib.with_context(|| format!("no {field}"))? / 1024.0)
    }

    /// The processor time it has taken so far.
    ///
    /// # Errors
    /// When it no longer runs.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(self.proc()?.join("stat"))?;
        // The name, in brackets, may hold anything; behind it stand the state and the others (proc(5)).
        let (_, fields) = stat.rsplit_once(") ").context("no fields")?;
        let ticks: Vec<u64> = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        ensure!(ticks.len() == 2, "no times: {stat}");
        Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / TICKS_A_SECOND))
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it did not run any more.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let ended = self.process.try_wait()?;
        ensure!(ended.is_none(), "{} ended while it was measured: {ended:?}", self.kind.name());
        Ok(self.process.kill().await?)
    }

    fn proc(&self) -> Result<PathBuf> {
        let id = self.process.id().with_context(|| format!("{} has ended", self.kind.name()))?;
        Ok(Path::new("/proc").join(id.to_string()))
    }
}

fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn does_the_injector_take_what_it_is_told_here() {
        let world = World::new().await.unwrap();
        let arguments = Program { kind: Kind::Injector, file: PathBuf::new() }.arguments(&world, 8443).unwrap();
        let told = ["injector".to_owned()].into_iter().chain(arguments);
        let cli = <injector::cli::Cli as clap::Parser>::try_parse_from(told).unwrap_or_else(|error| panic!("{error}"));
        let injector::cli::Command::Serve(args) = cli.command else { panic!("it is not told to serve") };
        assert!(args.check().is_ok());
    }
}
