//! Does a mesh form, and does it take in whatever comes and goes?

use std::time::Duration;

use fakes::geth::{Config as GethConfig, Stop};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::{Instant, sleep};

use crate::network::{NAMESPACE, Network};

#[tokio::test(start_paused = true)]
async fn does_a_network_that_starts_at_once_become_a_mesh() {
    for count in [2, 5, 10, 33] {
        let network = Network::new();
        let pods = network.start_many(count);
        network.mesh(count.into()).await;
        for pod in &pods {
            let status =
                pod.sidecar.status.clone().wait_for(|s| s.connected + 1 == usize::from(count)).await.unwrap().clone();
            assert_eq!(status.wanted, status.connected);
            assert!(*pod.sidecar.ready.borrow());
            assert_eq!(pod.geth.trusted().len() + 1, usize::from(count), "trusted on both sides");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_pod_that_joins_later_have_every_link_and_the_others_keep_theirs() {
    let network = Network::new();
    let _pods = network.start_many(4);
    network.mesh(4).await;
    sleep(Duration::from_secs(600)).await;
    let _fifth = network.start(4);
    network.mesh(5).await;
}

#[tokio::test(start_paused = true)]
async fn does_a_geth_killed_in_place_come_back_by_dialing_everyone_itself() {
    let network = Network::new();
    let mut pods = network.start_many(5);
    network.mesh(5).await;
    sleep(Duration::from_secs(600)).await;
    pods[0].geth.restart().await;
    network.mesh(5).await;
    let since = network.entry(0).unwrap().since;
    // Those who dialed it just now cannot do so again for 35 s: it has to help itself.
    sleep(Duration::from_secs(5)).await;
    pods[0].geth.restart().await;
    network.mesh(5).await;
    network.until("a younger entry", || network.entry(0).is_some_and(|entry| entry.since > since)).await;
    assert_eq!(pods[0].geth.dialed(), 4);
}

#[tokio::test(start_paused = true)]
async fn does_a_pod_with_the_same_key_and_a_new_address_come_back() {
    let network = Network::new();
    let mut pods = network.start_many(4);
    network.mesh(4).await;
    sleep(Duration::from_secs(60)).await;
    let mut lost = pods.remove(0);
    lost.geth.stop(Stop::Kill).await;
    drop(lost.sidecar);
    network.server.delete::<Pod>(NAMESPACE, "geth-0");
    sleep(Duration::from_secs(2)).await;
    let moved = GethConfig { ip: [10, 9, 9, 9].into(), ..network.geth_config(0) };
    let _back = network.start_with(0, moved);
    network.mesh(4).await;
    // Killed once more where it is, it is found at its new address by those who dial it.
    assert!(network.value(0).unwrap().contains("10.9.9.9"));
}

#[tokio::test(start_paused = true)]
async fn is_a_pod_that_vanished_without_a_word_taken_out_and_forgotten() {
    let network = Network::new();
    let mut pods = network.start_many(4);
    network.mesh(4).await;
    let mut lost = pods.remove(0);
    lost.geth.stop(Stop::PowerLoss).await;
    drop(lost.sidecar);
    network.server.delete::<Pod>(NAMESPACE, "geth-0");
    network.until("the entry's removal", || network.value(0).is_none()).await;
    network
        .until("nobody dials it", || {
            pods.iter().all(|pod| !pod.geth.statics().contains(&lost.geth.enode()) && pod.geth.trusted().len() == 2)
        })
        .await;
    network.mesh(3).await;
}

#[tokio::test(start_paused = true)]
async fn does_a_pod_that_ends_take_its_entry_along_and_a_sidecar_restarted_alone_leave_it() {
    let network = Network::new();
    let mut pods = network.start_many(3);
    network.mesh(3).await;
    sleep(Duration::from_secs(60)).await;

    let alone = pods.remove(0);
    let (value, uid) = (network.value(0).unwrap(), network.entry(0).unwrap().pod_uid.unwrap());
    network.server.forget_calls();
    alone.sidecar.terminate().await;
    let again = network.start_sidecar(&alone.geth.config(), alone.number, &uid);
    again.ready.clone().wait_for(|ready| *ready).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!((network.value(0).unwrap(), network.server.writes()), (value, 0), "its Geth never stopped");
    assert_eq!(network.world.links(), 6);

    network.server.edit(NAMESPACE, "geth-0", |pod: &mut Pod| {
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    });
    again.terminate().await;
    assert_eq!(network.value(0), None);
}

#[tokio::test(start_paused = true)]
async fn does_a_client_without_peer_events_come_back_too() {
    let network = Network::new();
    let mut pods = network.start_many(3);
    for pod in &mut pods {
        pod.geth.stop(Stop::Clean).await;
        pod.geth.quirks(|quirks| quirks.lacks = vec!["admin_subscribe"]);
        pod.geth.start();
    }
    network.mesh(3).await;
    pods[0].geth.restart().await;
    network.mesh(3).await;
}

#[tokio::test(start_paused = true)]
async fn does_a_mesh_form_though_geths_that_dial_each_other_refuse_each_other() {
    let network = Network::new();
    network.world.set_collisions(1000);
    let _pods = network.start_many(10);
    network.mesh(10).await;
}

#[tokio::test(start_paused = true)]
async fn do_two_geths_whose_dials_met_because_they_are_slow_not_meet_again() {
    let network = Network::new();
    network.world.set_collisions(1000);
    // A dial takes longer than the other side waits for it.
    network.world.set_latency(Duration::from_secs(4));
    let _pods = network.start_many(5);
    let started = Instant::now();
    network.mesh(5).await;
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn is_a_geth_of_another_genesis_left_alone_and_named() {
    let network = Network::new();
    let _pods = network.start_many(2);
    let strange = GethConfig { genesis: format!("0x{}", "11".repeat(32)), ..network.geth_config(2) };
    let stranger = network.start_with(2, strange);
    network.mesh(2).await;
    let status = stranger.sidecar.status.clone();
    let status = status.clone().wait_for(|status| status.peers.len() == 2).await.unwrap().clone();
    assert!(status.peers.iter().all(|peer| peer.state == "mismatch" && peer.reason.contains("genesis")), "{status:?}");
    assert!(stranger.geth.statics().is_empty());
}

#[tokio::test(start_paused = true)]
async fn does_a_geth_without_p2p_say_so_and_stay_out_of_the_registry() {
    let network = Network::new();
    let dev = network.start_with(0, GethConfig { p2p: false, ..network.geth_config(0) });
    let mut status = dev.sidecar.status.clone();
    let status = status.wait_for(|status| status.geth.state == "unpeerable").await.unwrap().clone();
    assert!(status.geth.reason.contains("--dev"), "{}", status.geth.reason);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(network.value(0), None);
}
