//! Does a StatefulSet with one label in its pod template become a full mesh?

use anyhow::{Result, ensure};
use e2e::cluster::in_namespace;
use e2e::network::Network;
use e2e::{measure, mesh, pods, registry, wait};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;

#[tokio::test]
async fn is_one_label_in_the_pod_template_all_it_takes() -> Result<()> {
    in_namespace(async |namespace| {
        let network = Network::of(5).labelled();
        network.create(namespace).await?;
        let geths = mesh::full_and_registered(namespace, &network.selector(), 5).await?;
        let entries = registry::entries(namespace).await?;
        if let Some(last) = entries.values().map(|entry| entry.since).max() {
            let seconds = jiff::Timestamp::now().duration_since(last).as_secs_f64();
            measure::figure(
                "5 Geths: last one answers to full mesh and registry, at most",
                format_args!("{seconds:.1} s"),
            );
        }

        let set = namespace.api::<StatefulSet>().get("geth").await?;
        let args = args_of_geth(set.spec.and_then(|spec| spec.template.spec));
        for geth in &geths {
            // Once its own Geth is known and its links are up, a pod is Ready and says the same as its Geth.
            let pod = wait::until("the pod is Ready and its sidecar content", wait::SOON, async || {
                let pod = namespace.api::<Pod>().get(&geth.pod).await?;
                ensure!(pods::is_ready(&pod), "{} is not Ready", geth.pod);
                let status = mesh::status(namespace, &geth.pod).await?;
                ensure!(status["wanted"] == 4 && status["connected"] == 4, "{} says {status}", geth.pod);
                Ok(pod)
            })
            .await?;
            ensure!(pods::has_sidecar(&pod), "{} is peered without a sidecar", geth.pod);
            ensure!(pod.annotations().contains_key(pods::MARKER), "{} does not tell that it was injected", geth.pod);
            ensure!(args_of_geth(pod.spec) == args, "the arguments of {} changed", geth.pod);
        }
        Ok(())
    })
    .await
}

fn args_of_geth(spec: Option<PodSpec>) -> Option<Vec<String>> {
    spec?.containers.into_iter().find(|container| container.name == "geth")?.args
}
