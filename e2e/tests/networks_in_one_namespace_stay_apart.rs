//! Do two networks that share a namespace and a genesis stay apart where their pods name different networks?

use anyhow::{Result, ensure};
use e2e::cluster::{Namespace, in_namespace};
use e2e::network::Network;
use e2e::{mesh, wait};
use serde_json::Value;

#[tokio::test]
async fn do_geths_peer_only_within_the_network_that_their_pods_name() -> Result<()> {
    in_namespace(async |namespace| {
        let network =
            |name: &'static str| Network::of(2).named(name).labelled().with_annotation("geth-peering/network", name);
        let (red, blue) = (network("red"), network("blue"));
        red.create(namespace).await?;
        blue.create(namespace).await?;
        mesh::full(namespace, &red.selector(), 2).await?;
        mesh::full(namespace, &blue.selector(), 2).await?;
        for pod in ["red-0", "red-1"] {
            wait::until("the other network is seen, and told apart", wait::SOON, async || {
                tells_apart(namespace, pod).await
            })
            .await?;
        }
        for network in [red, blue] {
            for geth in mesh::ask(namespace, &network.selector(), 2).await? {
                ensure!(geth.links.len() == 1, "{} is peered beyond its network: {:?}", geth.pod, geth.links);
            }
        }
        Ok(())
    })
    .await
}

/// Whether the sidecar of a red pod shows both blue ones as a mismatch.
async fn tells_apart(namespace: &Namespace, pod: &str) -> Result<()> {
    let status = mesh::status(namespace, pod).await?;
    for other in ["blue-0", "blue-1"] {
        let is_other = |peer: &&Value| peer["pod"] == other;
        let peer = status["peers"].as_array().into_iter().flatten().find(is_other);
        ensure!(peer.is_some_and(|peer| peer["state"] == "mismatch"), "{other} is {peer:?} to {pod}");
    }
    Ok(())
}
