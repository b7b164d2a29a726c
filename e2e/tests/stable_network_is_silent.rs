//! Does a network at rest leave the API server in peace?

use anyhow::{Result, ensure};
use e2e::api_requests::Requests;
use e2e::cluster::{NAME, Namespace, in_namespace};
use e2e::network::Network;
use e2e::{cluster, measure, mesh, registry};
use std::time::Duration;

/// How long the network is watched: several times any period at which something might poll.
const WINDOW: Duration = Duration::from_secs(40);

/// How often it is watched at most. What else goes on in the cluster is counted too; a network that writes or polls
/// does so in every window, so one silent window is enough.
const WINDOWS: usize = 3;

#[tokio::test]
async fn does_a_stable_network_neither_write_nor_poll_its_configmap() -> Result<()> {
    in_namespace(async |namespace| {
        let network = Network::of(3).labelled();
        network.create(namespace).await?;
        mesh::full_and_registered(namespace, &network.selector(), 3).await?;
        cluster::other_tests_are_gone(&namespace.client).await?;
        let mut heard = Ok(());
        for _ in 0..WINDOWS {
            heard = is_silent(namespace).await;
            if heard.is_ok() {
                break;
            }
        }
        heard
    })
    .await
}

async fn is_silent(namespace: &Namespace) -> Result<()> {
    let (map, requests) = (registry::api(namespace).get(NAME).await?, Requests::so_far(&namespace.client).await?);
    // Nothing is awaited: that nothing happens is the question.
    tokio::time::sleep(WINDOW).await;
    let asked = Requests::so_far(&namespace.client).await?.since(&requests);
    let after = registry::api(namespace).get(NAME).await?;
    ensure!(map.metadata.resource_version == after.metadata.resource_version, "written to: {map:?}, then {after:?}");

    // A write that changes nothing leaves no trace in the object, but in the API server's count; nobody else in a
    // cluster at rest reads single ConfigMaps or changes any, and the one GET is this test's own.
    let count = |verb: &str| asked.get(&("configmaps".to_owned(), verb.to_owned())).copied().unwrap_or_default();
    let (reads, lists, writes) = (count("GET"), count("LIST"), count("PATCH") + count("PUT"));
    let counts = format!("{} reads, {lists} lists and {writes} writes", reads.saturating_sub(1));
    measure::figure(&format!("ConfigMaps of the whole cluster in {WINDOW:?}"), &counts);
    ensure!(reads <= 1 && lists == 0 && writes == 0, "{counts} of ConfigMaps in {WINDOW:?}");
    Ok(())
}
