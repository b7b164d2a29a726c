//! What a network costs in which nothing happens.

use anyhow::{Result, ensure};
use e2e::api_requests::Requests;
use e2e::cluster::Namespace;
use e2e::geth::Geth;
use e2e::measure::figure;
use e2e::network::Network;
use e2e::{install, mesh, node, pods, wait};
use kube::ResourceExt;
use std::time::Duration;

/// Memory before and after `time`, and requests to the API server meanwhile.
pub(crate) async fn describe(namespace: &Namespace, network: &Network, geths: &[Geth], time: Duration) -> Result<()> {
    wait::until("all pods are Ready", wait::PODS, async || {
        let pods = pods::exactly(namespace, &network.selector(), geths.len()).await?;
        ensure!(pods.iter().all(pods::is_ready), "some are not");
        Ok(())
    })
    .await?;
    let (size, minutes) = (geths.len(), time.as_secs_f64() / 60.0);
    memory(namespace, geths, "at first").await?;
    let before = (Requests::so_far(&namespace.client).await?, mesh::api_requests(geths).await?);
    tokio::time::sleep(time).await;
    let asked = Requests::so_far(&namespace.client).await?.since(&before.0);
    let sidecars = mesh::api_requests(geths).await?;
    let a_minute = |count: u64| format!("{:.1}", count as f64 / minutes);
    let asked: Vec<_> =
        asked.iter().map(|((resource, verb), count)| format!("{} {verb} {resource}", a_minute(*count))).collect();
    figure(&format!("{size} Geths at rest, requests a minute in the whole cluster"), asked.join(", "));
    for ((geth, before), after) in geths.iter().zip(before.1).zip(sidecars) {
        // One that was restarted counts anew.
        let count = after.checked_sub(before).map_or("restarted meanwhile".into(), a_minute);
        figure(&format!("requests a minute of the sidecar of {}", geth.pod), count);
    }
    memory(namespace, geths, &format!("after {minutes:.0} min")).await
}

/// The memory of each sidecar and each injector, and `when` that was.
async fn memory(namespace: &Namespace, geths: &[Geth], when: &str) -> Result<()> {
    let told = |pod: &str, kib: u64| {
        figure(&format!("resident memory of {pod}, {when}"), format_args!("{:.1} MiB", kib as f64 / 1024.0));
    };
    for geth in geths {
        let kib = node::resident_kib(namespace, &geth.pod, pods::SIDECAR).await?;
        told(&format!("the sidecar of {}", geth.pod), kib);
    }
    let injectors = install::namespace(&namespace.client);
    for pod in install::injector_pods(&namespace.client).await? {
        for container in pods::containers(&pod) {
            told(&pod.name_any(), node::resident_kib(&injectors, &pod.name_any(), &container.name).await?);
        }
    }
    Ok(())
}
