//! What a network costs in which nothing happens.

use anyhow::{Result, ensure};
use e2e::api_requests::Requests;
use e2e::cluster::Namespace;
use e2e::measure::figure;
use e2e::network::Network;
use e2e::{install, node, pods, wait};
use kube::ResourceExt;
use std::time::Duration;

/// How long a stable network is watched.
const MINUTE: Duration = Duration::from_secs(60);

/// Memory, and requests to the API server in a minute.
pub(crate) async fn describe(namespace: &Namespace, network: &Network, size: usize) -> Result<()> {
    wait::until("all pods are Ready", wait::PODS, async || {
        let pods = pods::exactly(namespace, &network.selector(), size).await?;
        ensure!(pods.iter().all(pods::is_ready), "some are not");
        Ok(())
    })
    .await?;
    let before = Requests::so_far(&namespace.client).await?;
    tokio::time::sleep(MINUTE).await;
    let asked = Requests::so_far(&namespace.client).await?.since(&before);
    let asked: Vec<_> = asked.iter().map(|((resource, verb), count)| format!("{count} {verb} {resource}")).collect();
    figure(&format!("{size} Geths at rest, requests a minute in the whole cluster"), asked.join(", "));
    for pod in pods::live(namespace, &network.selector()).await? {
        let name = pod.name_any();
        let kib = node::resident_kib(namespace, &name, pods::SIDECAR).await?;
        figure(&format!("resident memory of the sidecar of {name}"), format_args!("{:.1} MiB", kib as f64 / 1024.0));
    }
    let injectors = install::namespace(&namespace.client);
    for pod in install::injector_pods(&namespace.client).await? {
        for container in pods::containers(&pod) {
            let kib = node::resident_kib(&injectors, &pod.name_any(), &container.name).await?;
            figure(&format!("resident memory of {}", pod.name_any()), format_args!("{:.1} MiB", kib as f64 / 1024.0));
        }
    }
    Ok(())
}
