//! The program: reads its configuration, starts its parts, and stops them in order.

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use jiff::Timestamp;
use kube::client::ClientBuilder;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info};

use crate::clock::Clock;
use crate::config::{Config, LogFormat, LogLevel, env};
use crate::events::OwnPod;
use crate::http::{self, Inputs};
use crate::metrics::Metrics;
use crate::reconcile::{self, Outputs};
use crate::registry::key;
use crate::registry::store::Store;
use crate::requests::Counting;
use crate::status::Status;
use crate::{events, identity, telemetry};

/// Exit code for a wrong configuration (`EX_USAGE`, sysexits(3)).
const EX_USAGE: u8 = 64;
/// Where Kubernetes looks for the reason why a container ended.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Runs the sidecar until it is told to stop.
pub async fn main() -> ExitCode {
    let lookup = |name: &str| std::env::var(name).ok();
    let config = match Config::read(lookup, identity::local_ip) {
        Ok(config) => config,
        Err(error) => {
            let format = lookup(env::LOG_FORMAT).and_then(|format| format.parse().ok()).unwrap_or(LogFormat::Text);
            telemetry::init(LogLevel::Info.as_tracing(), format);
            return fail(&error.to_string(), EX_USAGE);
        }
    };
    telemetry::init(config.log_level.as_tracing(), config.log_format);
    match run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), 1),
    }
}

async fn run(mut config: Config) -> Result<()> {
    let listener = TcpListener::bind(config.http).await.with_context(|| format!("cannot listen on {}", config.http))?;
    let mut kube = kube::Config::incluster().context(
        "cannot read the service account's token and certificate: the sidecar runs in a pod, with its service account's token mounted",
    )?;
    // Its retries would outlast the deadlines that every call has here.
    kube.default_retry = false;
    let namespace = config.namespace.clone().unwrap_or_else(|| kube.default_namespace.clone());
    let own_namespace = kube.default_namespace.clone();
    let own_name = config.pod_name.clone();
    // From here on the pod goes by its key, which is its name unless the registry is another namespace's.
    config.pod_name = key::of(&config.pod_name, &own_namespace, &namespace);
    let metrics = Arc::new(Metrics::default());
    let client = ClientBuilder::try_from(kube)
        .context("cannot set up the connection to the API server")?
        .with_layer(&Counting(metrics.api_requests()))
        .build();
    let store = Store::new(client.clone(), &namespace, &config.configmap);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pod = config.pod_name,
        namespace,
        configmap = config.configmap,
        "starting"
    );

    let outputs = Outputs {
        status: watch::Sender::new(Status::new(&config.pod_name, Timestamp::now())),
        heartbeat: watch::Sender::new(Instant::now()),
        ready: watch::Sender::new(false),
        metrics,
    };
    let router = http::router(Inputs {
        status: outputs.status.subscribe(),
        heartbeat: outputs.heartbeat.subscribe(),
        ready: outputs.ready.subscribe(),
        metrics: Arc::clone(&outputs.metrics),
    });
    if let Some(uid) = config.pod_uid.clone() {
        let pod = OwnPod { namespace: own_namespace, name: own_name, uid };
        tokio::spawn(events::run(client, pod, outputs.status.subscribe(), Clock::system()));
    }
    let server = axum::serve(listener, router);
    let stop = terminated()?;
    tokio::select! {
        ended = async { server.await } => Err(anyhow::anyhow!("the HTTP server ended: {ended:?}")),
        ended = reconcile::run(config, store, Clock::system(), outputs, stop) => ended,
    }
}

/// Resolves when the process is told to stop.
///
/// # Errors
/// If signals cannot be listened to.
fn terminated() -> Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Says why the program ends, where people look for it.
fn fail(reason: &str, code: u8) -> ExitCode {
    error!("{reason}");
    let _not_in_a_pod = std::fs::write(TERMINATION_LOG, reason);
    ExitCode::from(code)
}
