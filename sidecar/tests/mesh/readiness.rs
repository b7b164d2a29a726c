//! When is a pod ready that waits for more, or fewer, than one other?

use std::time::Duration;

use fakes::apiserver::Verb;
use fakes::geth::Stop;
use tokio::time::sleep;

use crate::network::{Network, PodUnderTest};

const MINUTE: Duration = Duration::from_secs(60);

/// Starts a pod that is ready once it is connected to `least` others.
fn start(network: &Network, number: u16, least: u16) -> PodUnderTest {
    network.start_told(number, network.geth_config(number), &[("PEERING_MIN_PEERS", &least.to_string())])
}

/// Pods number 1 to `count`, all registered, of which the last `away` have no Geth at the moment.
async fn others(network: &Network, count: u16, away: usize) -> Vec<PodUnderTest> {
    let mut others: Vec<_> = (1..=count).map(|number| network.start(number)).collect();
    network.mesh(others.len()).await;
    for pod in others.iter_mut().rev().take(away) {
        pod.geth.stop(Stop::Kill).await;
    }
    others
}

fn is_ready(pod: &PodUnderTest) -> bool {
    *pod.sidecar.ready.borrow()
}

fn connected(pod: &PodUnderTest) -> usize {
    pod.sidecar.status.borrow().connected
}

/// Expects that `pod` is connected to so many and not ready, and stays so.
async fn waits(network: &Network, pod: &PodUnderTest, links: usize) {
    network.until("the links", || connected(pod) == links).await;
    sleep(MINUTE).await;
    assert_eq!((connected(pod), is_ready(pod)), (links, false));
}

#[tokio::test(start_paused = true)]
async fn is_a_node_that_waits_for_three_ready_while_it_is_alone() {
    let network = Network::new();
    let pod = start(&network, 0, 3);
    network.until("that it is ready", || is_ready(&pod)).await;
}

#[tokio::test(start_paused = true)]
async fn do_nodes_that_each_wait_for_three_and_start_together_all_get_ready() {
    for count in [2, 4, 6] {
        let network = Network::new();
        let pods: Vec<_> = (0..count).map(|number| start(&network, number, 3)).collect();
        network.until("that all are ready", || pods.iter().all(is_ready)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_node_that_waits_for_three_wait_for_both_others_if_there_are_but_two() {
    let network = Network::new();
    let mut others = others(&network, 2, 1).await;
    let pod = start(&network, 0, 3);
    waits(&network, &pod, 1).await;
    others[1].geth.start();
    network.until("that it is ready", || is_ready(&pod)).await;
    assert_eq!(connected(&pod), 2);
}

#[tokio::test(start_paused = true)]
async fn does_a_node_that_waits_for_three_of_four_not_wait_for_the_fourth() {
    let network = Network::new();
    let mut others = others(&network, 4, 2).await;
    let pod = start(&network, 0, 3);
    waits(&network, &pod, 2).await;
    others[2].geth.start();
    network.until("that it is ready", || is_ready(&pod)).await;
    assert_eq!(connected(&pod), 3);
}

#[tokio::test(start_paused = true)]
async fn does_a_node_that_waits_for_nobody_wait_for_its_entry_alone() {
    let network = Network::new();
    let _others = others(&network, 2, 2).await;
    network.server.forbid(Verb::Patch, "configmaps");
    let pod = start(&network, 0, 0);
    waits(&network, &pod, 0).await;
    network.server.heal();
    network.until("that it is ready", || is_ready(&pod)).await;
    assert_eq!(connected(&pod), 0);
}
