//! Do nodes find each other where each can be reached?

use std::net::SocketAddr;
use std::time::Duration;

use fakes::geth::Config as GethConfig;
use tokio::time::sleep;

use crate::network::{Network, PodUnderTest};

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn is_a_node_dialed_at_the_address_it_advertises() {
    let network = Network::new();
    let reached_at = addresses(&["203.0.113.7:31303"]);
    let hidden = GethConfig { reached_at, ..network.geth_config(0) };
    let _hidden = network.start_told(0, hidden, &[("PEERING_ADVERTISE", "203.0.113.7:31303")]);
    // The younger dials.
    sleep(Duration::from_secs(60)).await;
    let other = network.start(1);
    network.mesh(2).await;
    assert_eq!(other.geth.dialed(), 1);
    assert!(other.geth.statics()[0].ends_with("@203.0.113.7:31303"), "{:?}", other.geth.statics());
}

/// A pod with these addresses, the first of which is the one that Kubernetes prefers.
fn start(network: &Network, number: u16, ips: &[&str]) -> PodUnderTest {
    let port = GethConfig::new(number, "").port;
    let reached_at: Vec<_> = ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect();
    let config = GethConfig { ip: reached_at[0].ip(), reached_at, ..network.geth_config(number) };
    network.start_told(number, config, &[("PEERING_POD_IPS", &ips.join(","))])
}

#[tokio::test(start_paused = true)]
async fn do_nodes_of_one_family_and_of_both_become_one_mesh() {
    let network = Network::new();
    let pods = [
        start(&network, 0, &["fd00::1"]),
        start(&network, 1, &["10.0.0.2", "fd00::2"]),
        start(&network, 2, &["fd00::3", "10.0.0.3"]),
        start(&network, 3, &["fd00::4"]),
        start(&network, 4, &["10.0.0.5", "fd00::5"]),
    ];
    network.mesh(pods.len()).await;
    for pod in &pods {
        let mut status = pod.sidecar.status.clone();
        let status = status.wait_for(|status| status.connected == 4).await.unwrap().clone();
        let only_six = pod.number == 0 || pod.number == 3;
        assert!(
            !only_six || status.peers.iter().all(|peer| format!("{:?}", peer.enode).contains("fd00")),
            "{status:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn are_nodes_without_a_common_family_told_so_and_all_others_linked() {
    let network = Network::new();
    let six = start(&network, 0, &["fd00::1"]);
    let four = start(&network, 1, &["10.0.0.2"]);
    let _both = start(&network, 2, &["10.0.0.3", "fd00::3"]);
    network.until("all links that can be", || network.world.links() == 4).await;
    for (pod, other, words) in [
        (&six, "geth-1", "on IPv4 only, and this node on IPv6"),
        (&four, "geth-0", "on IPv6 only, and this node on IPv4"),
    ] {
        let mut status = pod.sidecar.status.clone();
        let status = status.wait_for(|status| status.peers.len() == 2 && status.connected == 1).await.unwrap().clone();
        let peer = status.peers.iter().find(|peer| peer.pod == other).unwrap();
        assert_eq!(peer.state, "mismatch");
        assert!(peer.reason.contains(words), "{}", peer.reason);
    }
}
