//! Does a person learn what only a person can put right, wherever they look?

use anyhow::{Context, Result, ensure};
use e2e::cluster::in_namespace;
use e2e::network::Network;
use e2e::{mesh, pods, wait};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;

/// Three Geths need two peers each.
const TOO_FEW: usize = 1;

/// What has to stand there: how large `--maxpeers` has to be.
const REMEDY: &str = "--maxpeers 2";

#[tokio::test]
async fn is_a_mesh_that_maxpeers_cannot_hold_told_on_the_page_as_a_metric_and_as_an_event() -> Result<()> {
    in_namespace(async |namespace| {
        Network::of(3).with_max_peers(TOO_FEW).labelled().create(namespace).await?;
        wait::until("the page of the sidecar says it", wait::PODS, async || {
            let page = pods::request(namespace, "geth-0", mesh::SIDECAR_PORT, "", None).await?;
            ensure!(page.contains("<h1>geth-0</h1>") && page.contains(REMEDY), "{page}");
            Ok(())
        })
        .await?;
        wait::until("the metric says it", wait::SOON, async || {
            let metrics = pods::request(namespace, "geth-0", mesh::SIDECAR_PORT, "metrics", None).await?;
            let told = r#"geth_peering_concerns{concern="MeshTooLarge"} 1"#;
            ensure!(metrics.contains(told), "{metrics}");
            Ok(())
        })
        .await?;
        wait::until("kubectl describe pod says it", wait::SOON, async || {
            let of_pod = ListParams::default().fields("involvedObject.name=geth-0,reason=MeshTooLarge");
            let events = namespace.api::<Event>().list(&of_pod).await?.items;
            let event = events.first().context("no Event of that reason")?;
            let message = event.message.as_deref().unwrap_or_default();
            ensure!(events.len() == 1 && event.type_.as_deref() == Some("Warning"), "{events:?}");
            ensure!(message.contains(REMEDY), "{message}");
            Ok(())
        })
        .await
    })
    .await
}
