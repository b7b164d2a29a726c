//! Does a pod that joins late, is replaced, or whose Geth dies come back to a full mesh, without a dead entry left?

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Namespace, in_namespace};
use e2e::geth::Geth;
use e2e::network::Network;
use e2e::node::{self, Signal};
use e2e::{measure, mesh, pods, registry, wait};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use std::time::Instant;

/// For so long a Geth does not dial again whom it has dialed (`dialHistoryExpiration`, p2p/dial.go in v1.17.5).
const DIAL_HISTORY: jiff::SignedDuration = jiff::SignedDuration::from_secs(35);

#[tokio::test]
async fn is_one_that_joins_late_peered_and_forgotten_when_it_leaves_without_a_word() -> Result<()> {
    in_namespace(async |namespace| {
        let network = Network::of(2).labelled();
        let selector = network.selector();
        network.create(namespace).await?;
        mesh::full_and_registered(namespace, &selector, 2).await?;

        let start = Instant::now();
        network.scale(namespace, 3).await?;
        healed(namespace, &network, 3, "geth-2", "one more Geth", start).await?;

        // Its sidecar cannot withdraw the entry, so the others have to find out that the pod is gone.
        node::signal(namespace, "geth-2", pods::SIDECAR, Signal::Stop).await?;
        let start = Instant::now();
        network.scale(namespace, 2).await?;
        mesh::full_and_registered(namespace, &selector, 2).await?;
        measure::since("scaled down, sidecar deaf: until its entry is gone", start);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn is_one_that_was_deleted_or_killed_peered_again() -> Result<()> {
    in_namespace(async |namespace| {
        let network = Network::of(3).labelled();
        network.create(namespace).await?;
        let before = mesh::full_and_registered(namespace, &network.selector(), 3).await?;

        let after = delete(namespace, &network, "geth-1", "young network, pod deleted, new key and address").await?;
        ensure!(find(&before, "geth-1")?.key != find(&after, "geth-1")?.key, "the key was kept, which is another test");

        kill(namespace, &network, "geth-0", "young network, Geth killed with -9").await
    })
    .await
}

#[tokio::test]
async fn is_one_with_the_same_node_key_peered_again_at_a_new_address() -> Result<()> {
    in_namespace(async |namespace| {
        let network = Network::of(3).labelled().with_kept_keys();
        network.create(namespace).await?;
        let before = mesh::full_and_registered(namespace, &network.selector(), 3).await?;
        // In an old network none of the others dials a node again that it has dialed before it was replaced.
        wait::until("the network is older than what Geth remembers of its dials", wait::PODS, async || {
            let youngest = registry::entries(namespace).await?.values().map(|entry| entry.since).max();
            let age = youngest.map(|since| jiff::Timestamp::now().duration_since(since)).unwrap_or_default();
            ensure!(age > DIAL_HISTORY, "{age:#} old");
            Ok(())
        })
        .await?;

        let after = delete(namespace, &network, "geth-1", "old network, pod deleted, same key, new address").await?;
        let (before, after) = (find(&before, "geth-1")?, find(&after, "geth-1")?);
        ensure!(before.key == after.key && before.ip != after.ip, "not the case to be tried: {before:?}, {after:?}");

        // The others' Geths know it by an older address; whoever still dials that one is not coming back.
        kill(namespace, &network, "geth-1", "old network, that Geth killed with -9").await
    })
    .await
}

/// Deletes a pod and waits until its successor is peered.
async fn delete(namespace: &Namespace, network: &Network, pod: &str, case: &str) -> Result<Vec<Geth>> {
    let start = Instant::now();
    namespace.api::<Pod>().delete(pod, &DeleteParams::default()).await?;
    healed(namespace, network, 3, pod, case, start).await
}

/// Kills a Geth and waits until the one that kubelet starts in its place is peered.
async fn kill(namespace: &Namespace, network: &Network, pod: &str, case: &str) -> Result<()> {
    let start = Instant::now();
    node::kill_and_await_restart(namespace, pod, "geth").await?;
    healed(namespace, network, 3, pod, case, start).await?;
    Ok(())
}

/// Waits for the full mesh, shows how long the pod in question took, and for a registry without dead entries.
async fn healed(
    namespace: &Namespace,
    network: &Network,
    size: usize,
    pod: &str,
    case: &str,
    start: Instant,
) -> Result<Vec<Geth>> {
    let geths = mesh::full(namespace, &network.selector(), size).await?;
    let seconds = start.elapsed().as_secs_f64();
    registry::holds_exactly(namespace, &geths).await?;
    let answered = registry::entries(namespace).await?.get(pod).map(|entry| entry.since);
    let answered = answered.with_context(|| format!("no entry of {pod}"))?;
    let of_these = seconds - (start_of(start).duration_until(answered)).as_secs_f64();
    measure::figure(
        case,
        format_args!("full mesh after {seconds:.1} s, of these {of_these:.1} s after its Geth answered"),
    );
    Ok(geths)
}

/// The time of day at which an [`Instant`] was.
fn start_of(start: Instant) -> jiff::Timestamp {
    jiff::Timestamp::now() - start.elapsed()
}

fn find<'a>(geths: &'a [Geth], pod: &str) -> Result<&'a Geth> {
    geths.iter().find(|geth| geth.pod == pod).with_context(|| format!("{pod} is not among them"))
}
