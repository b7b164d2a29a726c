//! Does a mesh as large as Geth's dial slots allow get whole, whatever the order in which its nodes come?
//!
//! 33 nodes fit Geth's default of 50 peers to the last slot, and 21 fit 30 peers as
//! tightly; most tests take those, because they cost a quarter.

use std::time::Duration;

use fakes::geth::Stop;
use tokio::time::{Instant, sleep};

use crate::network::{Network, PodUnderTest};

/// As many nodes as [`start`]'s peers allow.
const FULL: u16 = 21;

fn start(network: &Network, number: u16) -> PodUnderTest {
    let config = fakes::geth::Config { max_peers: 30, ..network.geth_config(number) };
    let pod = network.start_with(number, config);
    // What it takes a busy Geth to forget a connection that it has ended.
    pod.geth.quirks(|quirks| quirks.remove_takes = Duration::from_millis(200));
    pod
}

fn start_many(network: &Network, count: u16) -> Vec<PodUnderTest> {
    (0..count).map(|number| start(network, number)).collect()
}

#[tokio::test(start_paused = true)]
async fn does_a_mesh_of_30_take_in_three_more() {
    let network = Network::new();
    let mut pods = network.start_many(30);
    network.mesh(30).await;
    for number in 30..33 {
        sleep(Duration::from_secs(5)).await;
        pods.push(network.start(number));
    }
    network.mesh(33).await;
}

#[tokio::test(start_paused = true)]
async fn does_a_mesh_that_grows_node_by_node_get_whole() {
    for gap in [0, 37, 1000] {
        let network = Network::new();
        let mut pods = Vec::new();
        for number in 0..FULL {
            pods.push(start(&network, number));
            sleep(Duration::from_millis(gap)).await;
        }
        network.mesh(FULL.into()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_mesh_whose_nodes_see_each_other_late_and_in_parts_not_wait_for_dial_histories() {
    for seed in 0..3 {
        let network = Network::new();
        network.server.lag(Duration::from_millis(1500), seed);
        network.world.set_latency(Duration::from_millis(300));
        let mut pods = Vec::new();
        for number in 0..FULL {
            sleep(Duration::from_millis((u64::from(number) * 7919 + seed * 104_729) % 100)).await;
            pods.push(start(&network, number));
        }
        let all_are_there = Instant::now();
        network.mesh(FULL.into()).await;
        assert!(all_are_there.elapsed() < Duration::from_secs(10), "{seed}: {:?}", all_are_there.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn does_the_other_side_dial_where_busy_geths_did_not_get_through_to_each_other() {
    let network = Network::new();
    network.world.lose_dials(10);
    let _pods = network.start_many(12);
    let all_are_there = Instant::now();
    network.mesh(12).await;
    assert_eq!(network.world.dials_to_lose(), 0);
    assert!(all_are_there.elapsed() < Duration::from_secs(15), "{:?}", all_are_there.elapsed());
}

#[tokio::test(start_paused = true)]
async fn does_a_mesh_without_a_slot_to_spare_get_whole_though_dials_are_lost() {
    for lost in [1, 10, 100] {
        let network = Network::new();
        network.world.lose_dials(lost);
        let _pods = start_many(&network, FULL);
        network.mesh(FULL.into()).await;
        assert_eq!(network.world.dials_to_lose(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn does_an_old_mesh_that_is_scaled_up_to_the_last_slot_not_wait_for_dial_histories() {
    for gap in [300, 1500, 2500] {
        let network = Network::new();
        let mut pods = start_many(&network, 3);
        network.mesh(3).await;
        sleep(Duration::from_secs(60)).await;
        for number in 3..FULL {
            sleep(Duration::from_millis(gap)).await;
            pods.push(start(&network, number));
        }
        let all_are_there = Instant::now();
        network.mesh(FULL.into()).await;
        assert!(all_are_there.elapsed() < Duration::from_secs(5), "{gap} ms: {:?}", all_are_there.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_mesh_whose_geths_all_restart_at_once_come_back() {
    for count in [14, 19, FULL] {
        let network = Network::new();
        let mut pods = start_many(&network, count);
        network.mesh(count.into()).await;
        sleep(Duration::from_secs(600)).await;
        for pod in &mut pods {
            pod.geth.stop(Stop::Kill).await;
        }
        sleep(Duration::from_secs(3)).await;
        for pod in &mut pods {
            pod.geth.start();
        }
        network.mesh(count.into()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_mesh_whose_geths_restart_one_by_one_come_back() {
    let network = Network::new();
    let mut pods = start_many(&network, FULL);
    network.mesh(FULL.into()).await;
    sleep(Duration::from_secs(600)).await;
    for pod in &mut pods {
        pod.geth.restart().await;
        sleep(Duration::from_millis(37)).await;
    }
    network.mesh(FULL.into()).await;
}

#[tokio::test(start_paused = true)]
async fn does_a_node_that_was_away_for_seconds_come_back_whatever_a_call_costs() {
    for (victim, cost) in [(4, 0), (10, 0), (4, 1), (10, 1)] {
        let network = Network::new();
        let mut pods = start_many(&network, FULL);
        network.mesh(FULL.into()).await;
        sleep(Duration::from_secs(600)).await;
        pods[victim].geth.stop(Stop::Kill).await;
        pods[victim].geth.quirks(|quirks| quirks.add_takes = Duration::from_millis(cost));
        sleep(Duration::from_secs(3)).await;
        pods[victim].geth.start();
        network.mesh(FULL.into()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn is_a_mesh_that_maxpeers_cannot_hold_the_best_that_fits_and_said_so_by_all() {
    let network = Network::new();
    let pods = start_many(&network, 24);
    // A Geth may dial more than it has slots for, and so leave another nobody to dial.
    let fits = |pod: &PodUnderTest| pod.geth.dialed() >= 10 || pod.geth.peers().len() == 23;
    network.until("every dial slot used that there is a link for", || pods.iter().all(fits)).await;
    for pod in &pods {
        let status = pod.sidecar.status.clone().wait_for(|status| !status.concerns.is_empty()).await.unwrap().clone();
        assert!(status.concerns[0].to_string().contains("--maxpeers 36"), "{:?}", status.concerns);
    }
    sleep(Duration::from_secs(120)).await;
    let before = network.world.links();
    pods.iter().for_each(|pod| pod.geth.forget_calls());
    sleep(Duration::from_secs(300)).await;
    assert_eq!(network.world.links(), before, "nothing flaps");
    assert!(pods.iter().all(|pod| !pod.geth.methods().contains(&"admin_removePeer".to_owned())));
}
