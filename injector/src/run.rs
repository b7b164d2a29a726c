//! The whole program: what runs, and how it stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::config::Config;
use crate::events;
use crate::handler::Webhook;
use crate::metrics::Metrics;
use crate::prepare::Preparer;
use crate::readiness::Readiness;
use crate::routes::{Inside, plain_router, router};
use crate::server::Bound;
use crate::tls::resolver::{Resolver, server_config};
use crate::tls::{Keeper, Source, folder};

/// How stopping is timed. Together this has to be less than the pod's `terminationGracePeriodSeconds`, 30 s by default.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long requests are served as before after readiness is withdrawn: API servers send them here until every
    /// kube-proxy has learnt better.
    pub unready: Duration,
    /// How long requests that are under way may take after that.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { unready: Duration::from_secs(5), drain: Duration::from_secs(10) }
    }
}

/// The injector, with its ports taken and nothing running yet.
pub struct Injector {
    /// Where webhooks are served.
    pub https: SocketAddr,
    /// Where probes and metrics are served.
    pub http: SocketAddr,
    parts: Parts,
}

struct Parts {
    https: Bound,
    http: Bound,
    webhook: Arc<Webhook>,
    inside: Arc<Inside>,
    background: Vec<(&'static str, Task)>,
}

type Task = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

impl Injector {
    /// Takes the ports and puts the parts together.
    ///
    /// # Errors
    /// If a port cannot be had.
    pub async fn bind(config: Config, client: Client) -> anyhow::Result<Self> {
        // Where logs go was settled before.
        let Config {
            tls,
            pod_name,
            sidecar_role,
            scope,
            inject,
            audit,
            https_port,
            http_port,
            log_level: _,
            log_format: _,
        } = config;
        let metrics = Arc::new(Metrics::default());
        let mut readiness = Readiness::default();
        let (certificate, bundle) = (readiness.latch("certificate"), readiness.latch("caBundle"));
        let synced = readiness.latch("namespaces");
        let resolver = Arc::new(Resolver::default());
        let https = Bound::bind(https_port, Some(Arc::new(server_config(resolver.clone())?)), metrics.clone()).await?;
        let http = Bound::bind(http_port, None, metrics.clone()).await?;

        let certificates: Task = match tls {
            Source::Own(settings) => {
                let (client, resolver) = (client.clone(), resolver.clone());
                let keeper = Keeper::new(client, settings, resolver, metrics.clone(), certificate, bundle);
                Box::pin(keeper.run())
            }
            Source::Folder(settings) => {
                // Whoever makes the certificate writes it.
                bundle.open();
                let reader = folder::Reader::new(settings, resolver.clone(), metrics.clone(), certificate);
                Box::pin(async { reader.run().await })
            }
        };
        let preparer = Arc::new(Preparer::new(client.clone(), &sidecar_role, scope, metrics.clone()));
        let (notices, reporter) = events::channel(client.clone(), &pod_name);
        let mut background: Vec<(&'static str, Task)> = vec![
            ("the keeper of certificates", certificates),
            ("the preparer of namespaces", Box::pin(preparer.clone().run(synced, notices.clone()))),
            (
                "the reporter of Events",
                Box::pin(async {
                    reporter.run().await;
                    Ok(())
                }),
            ),
        ];
        if audit {
            let audit = Audit::new(client, preparer.clone(), metrics.clone(), inject.clone(), &pod_name);
            background.push(("the audit of pods", Box::pin(async { audit.run().await })));
        }
        Ok(Self {
            https: https.address()?,
            http: http.address()?,
            parts: Parts {
                webhook: Arc::new(Webhook::new(inject, preparer, notices, metrics.clone())),
                inside: Arc::new(Inside { readiness: Arc::new(readiness), metrics, resolver }),
                https,
                http,
                background,
            },
        })
    }

    /// Works until `terminate`, then stops in two phases: first unready and serving as before, then finishing what is
    /// under way.
    ///
    /// # Errors
    /// If any part ends before that: a process of which a part is missing must not look alive.
    pub async fn run(self, terminate: impl Future<Output = ()>, patience: Patience) -> anyhow::Result<()> {
        let Parts { https, http, webhook, inside, background } = self.parts;
        let (stop_https, stop_http) = (CancellationToken::new(), CancellationToken::new());
        tracing::info!(https = %self.https, http = %self.http, "listening");

        let mut tasks = Tasks::default();
        for (name, task) in background {
            tasks.spawn(name, task);
        }
        let readiness = inside.readiness.clone();
        let serving = http.serve(plain_router(inside), stop_http.clone(), Duration::ZERO);
        tasks.spawn("the server of probes and metrics", Box::pin(done(serving)));
        // Outside `tasks`: it is what the end waits for.
        let serving = https.serve(router(webhook.clone()), stop_https.clone(), patience.drain);
        let mut webhooks = tokio::spawn(serving);

        tokio::select! {
            () = terminate => {}
            error = tasks.first_to_end() => return Err(error),
            ended = &mut webhooks => return Err(anyhow!("the server of webhooks ended: {ended:?}")),
        }
        tracing::info!("stopping");
        readiness.stop();
        webhook.stop();
        tokio::time::sleep(patience.unready).await;
        stop_https.cancel();
        webhooks.await.map_err(|error| anyhow!("the server of webhooks ended: {error}"))?;
        stop_http.cancel();
        tracing::info!("stopped");
        Ok(())
    }
}

async fn done(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

/// Tasks that have to run as long as the process does.
#[derive(Default)]
struct Tasks {
    set: JoinSet<anyhow::Result<()>>,
    names: Vec<(Id, &'static str)>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: Task) {
        self.names.push((self.set.spawn(task).id(), name));
    }

    /// Waits until one ends, which none should, and says which and why.
    async fn first_to_end(&mut self) -> anyhow::Error {
        let Some(ended) = self.set.join_next_with_id().await else { return std::future::pending().await };
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let name = self.names.iter().find(|(task, _)| *task == id).map_or("a task", |(_, name)| *name);
        match ended {
            Ok((_, Ok(()))) => anyhow!("{name} ended"),
            Ok((_, Err(error))) => error.context(format!("{name} failed")),
            Err(error) => anyhow!("{name} failed: {error}"),
        }
    }
}

/// When the process is told to end: SIGTERM by Kubernetes, SIGINT by a person at a terminal.
///
/// # Errors
/// If the system does not let us listen for signals.
pub fn terminated() -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn first(task: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> String {
        let mut tasks = Tasks::default();
        tasks.spawn("the patient one", Box::pin(std::future::pending()));
        tasks.spawn("the culprit", Box::pin(task));
        format!("{:#}", tasks.first_to_end().await)
    }

    #[tokio::test]
    async fn is_the_process_told_which_part_ended_and_why() {
        assert_eq!(first(async { Ok(()) }).await, "the culprit ended");
        assert_eq!(first(async { Err(anyhow!("no disk")) }).await, "the culprit failed: no disk");
        let panicked = first(async { panic!("index out of bounds") }).await;
        assert!(panicked.starts_with("the culprit failed: ") && panicked.contains("index out of bounds"), "{panicked}");
    }
}
