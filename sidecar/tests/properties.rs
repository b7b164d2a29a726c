//! What holds for any registry, whoever wrote it: nothing in it makes a peer but a valid
//! entry of the own network, and whoever reads it dials what the others do not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use proptest::sample::Index;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use sidecar::enode::{Enode, PublicKey};
use sidecar::plan::concern::needed;
use sidecar::plan::dialer::{Node, Order, slots};
use sidecar::plan::{Action, Call, Now, Outcome, Own, Plan, Planner, Situation};
use sidecar::registry::entry::{Entry, MAX_LENGTH};
use sidecar::registry::view::View;

fn key(node: u8) -> PublicKey {
    format!("{node:02x}").repeat(64).parse().unwrap()
}

prop_compose! {
    fn enodes()(node: u8, ip: IpAddr, port in 1u16..) -> Option<Enode> {
        Enode::new(key(node), SocketAddr::new(ip, port)).ok()
    }
}

prop_compose! {
    /// Any entry that there can be, whatever its texts hold.
    fn entries()(
        enode in enodes().prop_filter_map("an address that can be dialed", |enode| enode),
        network_id: u64,
        genesis in "0x[0-9a-f]{64}",
        pod_uid in prop::option::of("\\PC{0,40}"),
        since in -9_000_000_000_000_000i64..9_000_000_000_000_000,
        client in any::<String>(),
        max_peers: Option<u32>,
        network in prop::option::of(any::<String>()),
        alternates in prop::collection::vec(enodes(), 0..4),
    ) -> Entry {
        let since = Timestamp::from_microsecond(since).unwrap();
        let alternates = alternates.into_iter().flatten().map(|enode| enode.address).collect();
        Entry { enode, network_id, genesis, pod_uid, since, client, max_peers, network, alternates }
    }
}

/// An entry of one network, as young as `since` seconds.
fn entry(node: u8, since: i64) -> Entry {
    Entry {
        enode: Enode::new(key(node), SocketAddr::from(([10, 0, 0, node], 30303))).unwrap(),
        network_id: 1337,
        genesis: format!("0x{}", "0d".repeat(32)),
        pod_uid: Some(format!("uid-{node}")),
        since: Timestamp::from_second(since).unwrap(),
        client: "Geth".into(),
        max_peers: None,
        network: None,
        alternates: Vec::new(),
    }
}

/// Values as a stranger may write them: entries, entries of other networks, entries with damage, and any text.
fn values() -> impl Strategy<Value = String> {
    let entry = (1u8.., -100i64..100).prop_map(|(node, since)| entry(node, since));
    let good = entry.clone().prop_map(|entry| entry.to_value());
    let foreign =
        (entry.clone(), any::<u64>()).prop_map(|(entry, network_id)| Entry { network_id, ..entry }.to_value());
    let damaged = (entry, any::<Index>(), any::<char>(), 0usize..8).prop_map(|(entry, at, put, cut)| {
        let mut value: Vec<char> = entry.to_value().chars().collect();
        let at = at.index(value.len());
        let to = value.len().min(at + cut);
        value.splice(at..to, [put]);
        value.into_iter().collect()
    });
    prop_oneof![3 => good, 1 => foreign, 3 => damaged, 1 => any::<String>()]
}

fn view(data: &BTreeMap<String, String>) -> View {
    let metadata = ObjectMeta { resource_version: Some("1".into()), ..ObjectMeta::default() };
    View::default().next(&ConfigMap { metadata, data: Some(data.clone()), ..ConfigMap::default() })
}

/// All calls that node 0 makes within ten seconds, all of which succeed and none of which makes a link.
fn calls(data: &BTreeMap<String, String>) -> Vec<Call> {
    let (mut planner, mut rng) = (Planner::default(), SmallRng::seed_from_u64(1));
    let (own, view) = (Own::Ready(entry(0, 0)), view(data));
    planner.geth_connected(true);
    let situation = Situation { pod: "own", own: &own, registry: Some(&view), peers: Some(&[]) };
    let mut calls = Vec::new();
    for second in 0..10 {
        let now = Now { elapsed: Duration::from_secs(second), wall: Timestamp::UNIX_EPOCH };
        let Plan { actions, .. } = planner.plan(&situation, now, &mut rng);
        for action in actions {
            if let Action::Tell { key, calls: told } = action {
                calls.extend(&told);
                planner.note(Outcome::Told { key, accepted: told, failure: None }, now, &mut rng);
            }
        }
    }
    calls
}

proptest! {
    #[test]
    fn does_every_entry_read_back_as_it_was_written(entry in entries()) {
        let value = entry.to_value();
        prop_assert!(!value.contains(['\n', '\r']), "more than a line: {}", value);
        if value.len() <= MAX_LENGTH {
            let again = Entry::parse(&value);
            prop_assert_eq!(again.as_ref().map(Entry::to_value), Ok(value));
            prop_assert_eq!(again, Ok(entry));
        }
    }

    #[test]
    fn does_nobody_become_a_peer_but_by_a_valid_entry_of_the_same_network(
        data in prop::collection::btree_map("[a-z.-]{1,8}", values(), 0..12),
    ) {
        let valid: BTreeSet<_> = data
            .iter()
            .filter(|(pod, _)| *pod != "own")
            .filter_map(|(_, value)| Entry::parse(value).ok())
            .filter(|other| other.mismatch(&entry(0, 0)).is_none())
            .map(|entry| entry.enode)
            .collect();
        for call in calls(&data) {
            if let Call::Add(enode) | Call::Trust(enode) = call {
                prop_assert!(valid.contains(&enode), "{} is in no entry", enode);
            }
        }
    }

    #[test]
    fn does_everybody_with_a_valid_entry_become_a_peer_whatever_the_other_values_are(
        data in prop::collection::btree_map("[a-z.-]{1,8}", values(), 0..12),
        nodes in prop::collection::btree_map(200u8.., -100i64..100, 0..6),
    ) {
        let mut data = data;
        data.retain(|_, value| Entry::parse(value).is_ok_and(|entry| entry.enode.key < key(200)) || Entry::parse(value).is_err());
        data.extend(nodes.iter().map(|(node, since)| (format!("GETH-{node}"), entry(*node, *since).to_value())));
        let calls = calls(&data);
        for (node, since) in nodes {
            let enode = entry(node, since).enode;
            prop_assert!(calls.contains(&Call::Add(enode)), "{} is not dialed", enode);
            prop_assert!(calls.contains(&Call::Trust(enode)), "{} is not trusted", enode);
        }
    }

    #[test]
    fn does_exactly_one_of_two_begin_and_one_make_room_for_the_link(
        nodes in prop::collection::btree_map("[a-z]{0,3}-?[0-9]{0,3}", (-100i64..100, prop::option::of(0u32..60)), 2..20),
    ) {
        let entry = |(since, max_peers): &(i64, _)| Entry { max_peers: *max_peers, ..entry(1, *since) };
        let entries: BTreeMap<_, _> = nodes.iter().map(|(pod, node)| (pod.as_str(), entry(node))).collect();
        let nodes: Vec<_> = entries.iter().map(|(pod, entry)| Node { pod, entry }).collect();
        let order = Order::of(nodes.iter().copied(), 0);
        for own in &nodes {
            for peer in nodes.iter().filter(|peer| peer.pod != own.pod) {
                prop_assert_ne!(order.begins(*own, *peer), order.begins(*peer, *own));
                prop_assert_ne!(order.is_share(*own, *peer), order.is_share(*peer, *own));
            }
        }
    }

    #[test]
    fn does_nobody_dial_more_than_geth_has_slots_for_in_a_mesh_that_fits_whatever_its_pods_are_called(
        pods in prop::collection::btree_set("[a-z]{1,2}-[a-z0-9]{1,3}", 2..60),
        external in 0usize..4,
        more in 0u32..8,
    ) {
        let mut entry = entry(1, 0);
        entry.max_peers = Some(needed(pods.len() + external, external) as u32 + more);
        let nodes: Vec<_> = pods.iter().map(|pod| Node { pod, entry: &entry }).collect();
        let order = Order::of(nodes.iter().copied(), external);
        for own in &nodes {
            let share = nodes.iter().filter(|peer| peer.pod != own.pod && order.is_share(*own, **peer)).count();
            prop_assert!(share + external <= slots(&entry), "{}: {} and {}", own.pod, share, external);
        }
    }

    #[test]
    fn do_the_pods_of_a_statefulset_dial_whom_they_dial_whichever_others_they_see(
        name in "[a-z]{1,4}(-[a-z0-9]{1,4}){0,2}",
        count in 2usize..120,
        unseen in prop::collection::vec(any::<Index>(), 0..10),
    ) {
        let mut entry = entry(1, 0);
        entry.max_peers = Some(needed(count, 0) as u32);
        let pods: Vec<_> = (0..count).map(|number| format!("{name}-{number}")).collect();
        let nodes: Vec<_> = pods.iter().map(|pod| Node { pod, entry: &entry }).collect();
        let unseen: BTreeSet<_> = unseen.iter().map(|at| at.get(&pods)).collect();
        let all = Order::of(nodes.iter().copied(), 0);
        let seen = Order::of(nodes.iter().filter(|node| !unseen.contains(&node.pod.to_owned())).copied(), 0);
        for own in &nodes {
            for peer in nodes.iter().filter(|peer| peer.pod != own.pod) {
                prop_assert_eq!(all.is_share(*own, *peer), seen.is_share(*own, *peer));
            }
        }
    }
}
