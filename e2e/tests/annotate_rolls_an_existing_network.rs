//! Does `kubectl annotate statefulset` alone roll a network that exists into a mesh, and `disabled` out of it again?

use anyhow::{Result, ensure};
use e2e::cluster::{NAME, OPT_IN, in_namespace};
use e2e::network::Network;
use e2e::{mesh, pods, registry, wait};
use kube::ResourceExt;

#[tokio::test]
async fn does_an_annotation_alone_roll_a_running_network_into_peering_and_out_of_it() -> Result<()> {
    in_namespace(async |namespace| {
        let network = Network::of(2);
        let selector = network.selector();
        network.create(namespace).await?;
        let alone =
            wait::until("the Geths answer", wait::PODS, async || mesh::ask(namespace, &selector, 2).await).await?;
        ensure!(alone.iter().all(|geth| geth.links.is_empty()), "they are peered already: {alone:?}");

        network.annotate(namespace, OPT_IN, "enabled").await?;
        mesh::full_and_registered(namespace, &selector, 2).await?;

        network.annotate(namespace, OPT_IN, "disabled").await?;
        wait::until("all pods run without a sidecar", wait::PODS, async || {
            for pod in pods::exactly(namespace, &selector, 2).await? {
                ensure!(!pods::has_sidecar(&pod), "{} still has its sidecar", pod.name_any());
                ensure!(pods::is_ready(&pod), "{} is not Ready", pod.name_any());
            }
            Ok(())
        })
        .await?;
        wait::until("nobody is registered any more", wait::SOON, async || {
            if registry::api(namespace).get_opt(NAME).await?.is_some() {
                let entries = registry::entries(namespace).await?;
                ensure!(entries.is_empty(), "still there: {:?}", entries.keys());
            }
            Ok(())
        })
        .await
    })
    .await
}
