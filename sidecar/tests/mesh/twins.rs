//! What happens where two Geths have one node key, as after a datadir was copied? Everybody can be connected
//! to one of the two only, and nobody can put that right but a person: who has to be told, while all else is left alone.

use std::collections::BTreeMap;
use std::time::Duration;

use fakes::apiserver::Verb;
use fakes::geth::Config as GethConfig;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use sidecar::plan::concern::Concern;
use tokio::time::sleep;

use crate::network::{NAME, NAMESPACE, Network, PodUnderTest};
use crate::told::write_events;

/// Starts pod 1 with the node key of pod 0.
fn start_twin(network: &Network) -> PodUnderTest {
    let key = network.geth_config(0).key;
    network.start_with(1, GethConfig { key, ..network.geth_config(1) })
}

/// Waits until each of two pods names the other as its twin, and nobody else.
async fn name_each_other(network: &Network, one: &PodUnderTest, other: &PodUnderTest) {
    for (pod, twin) in [(one, other), (other, one)] {
        let named = [Concern::DuplicateNodeKey { pod: format!("geth-{}", twin.number) }];
        network.until("the twin's name", || pod.sidecar.status.borrow().concerns == named).await;
    }
}

/// Who is connected to whom.
fn links(pods: &[PodUnderTest]) -> Vec<Vec<String>> {
    pods.iter().map(|pod| pod.geth.peers()).collect()
}

/// What the registry says of everybody.
fn registry(network: &Network) -> Option<BTreeMap<String, String>> {
    network.server.get::<ConfigMap>(NAMESPACE, NAME)?.data
}

/// Expects that for ten minutes no link changes and no Geth is told to hang up. Returns how often was written.
async fn stay(network: &Network, pods: &[PodUnderTest]) -> usize {
    let before = links(pods);
    pods.iter().for_each(|pod| pod.geth.forget_calls());
    network.server.forget_calls();
    for _ in 0..6000 {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(links(pods), before, "nothing flaps");
    }
    for pod in pods {
        assert!(!pod.geth.methods().contains(&"admin_removePeer".to_owned()), "{}: {:?}", pod.number, pod.geth.calls());
    }
    network.server.writes()
}

#[tokio::test(start_paused = true)]
async fn are_two_geths_with_one_key_that_start_together_named_by_both_and_everything_left_as_it_is() {
    // Whoever comes later dials.
    for others_after in [0, 10] {
        let network = Network::new();
        let mut pods = vec![network.start(0), start_twin(&network)];
        sleep(Duration::from_secs(others_after)).await;
        pods.extend([network.start(2), network.start(3)]);
        let _writers: Vec<_> = pods.iter().map(|pod| write_events(&network, pod)).collect();
        name_each_other(&network, &pods[0], &pods[1]).await;
        // The others are linked, and each of them to one of the two.
        network.until("all links that can be", || network.world.links() == 6).await;
        sleep(Duration::from_secs(60)).await;
        let before = registry(&network);
        assert_eq!((stay(&network, &pods).await, registry(&network)), (0, before));
        let events = network.server.list::<Event>(NAMESPACE);
        let mut told: Vec<_> =
            events.iter().map(|event| (event.involved_object.name.as_deref(), event.reason.as_deref())).collect();
        told.sort_unstable();
        assert_eq!(told, ["geth-0", "geth-1"].map(|pod| (Some(pod), Some("DuplicateNodeKey"))));
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_mesh_keep_its_links_when_a_geth_comes_with_the_key_of_one_of_its_nodes() {
    let network = Network::new();
    let mut pods = vec![network.start(0)];
    sleep(Duration::from_secs(10)).await;
    // These come later, and so are told of the first one's address.
    pods.extend([network.start(2), network.start(3)]);
    network.mesh(3).await;
    sleep(Duration::from_secs(60)).await;
    let before = links(&pods);
    pods.push(start_twin(&network));
    name_each_other(&network, &pods[0], &pods[3]).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(links(&pods)[..3], before);
    assert_eq!(stay(&network, &pods).await, 0);
    assert!((0..4).all(|number| network.entry(number).is_some()));
}

#[tokio::test(start_paused = true)]
async fn does_the_elder_of_two_geths_with_one_key_get_its_links_when_the_younger_is_deleted() {
    let network = Network::new();
    let mut pods = vec![network.start(0), start_twin(&network), network.start(2), network.start(3)];
    name_each_other(&network, &pods[0], &pods[1]).await;
    sleep(Duration::from_secs(60)).await;
    drop(pods.remove(1));
    network.server.delete::<Pod>(NAMESPACE, "geth-1");
    network.mesh(3).await;
    network.until("the entry's removal", || network.value(1).is_none()).await;
    network.until("no concern", || pods[0].sidecar.status.borrow().concerns.is_empty()).await;
}

/// Without that right a node is taken for dead that has no link for five minutes, as each of the two has none to those who
/// are connected to the other. These write themselves back at once.
#[tokio::test(start_paused = true)]
async fn do_all_links_stay_and_all_entries_come_back_beside_two_geths_with_one_key_if_nobody_may_look_at_pods() {
    let network = Network::new();
    network.server.forbid(Verb::Get, "pods");
    let pods = [network.start(0), start_twin(&network), network.start(2), network.start(3)];
    name_each_other(&network, &pods[0], &pods[1]).await;
    network.until("all links that can be", || network.world.links() == 6).await;
    sleep(Duration::from_secs(60)).await;
    let before = registry(&network);
    let writes = stay(&network, &pods).await;
    // Of two links missing, each twice in ten minutes: an eviction, the entry, and little else.
    assert!((4..=12).contains(&writes), "{writes}");
    network.until("that all are back", || registry(&network) == before).await;
}
