//! What a person would ask of the plan.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// One sidecar's planner in a world that the test moves.
struct Bench {
    planner: Planner,
    rng: SmallRng,
    now: Now,
    own: Own,
    data: BTreeMap<String, String>,
    peers: Vec<Peer>,
}

fn entry(node: u8, since: i64) -> Entry {
    Entry {
        enode: format!("enode://{}@10.0.0.{node}:30303", format!("{node:02x}").repeat(64)).parse().unwrap(),
        network_id: 1337,
        genesis: format!("0x{}", "0d".repeat(32)),
        pod_uid: Some(format!("uid-{node}")),
        since: Timestamp::from_second(since).unwrap(),
        client: "Geth".into(),
        max_peers: None,
        network: None,
    }
}

fn peer(node: u8, eth: Eth, inbound: bool) -> Peer {
    let key = entry(node, 0).enode.key;
    Peer { key, name: String::new(), remote: None, inbound, static_node: !inbound, trusted: false, eth, caps: vec![] }
}

impl Bench {
    /// The sidecar of node 1 (pod `geth-1`), whose Geth started at second 0 of 1000.
    fn new() -> Self {
        let wall = Timestamp::from_second(1000).unwrap();
        let mut bench = Self {
            planner: Planner::default(),
            rng: SmallRng::seed_from_u64(1),
            now: Now { elapsed: Duration::ZERO, wall },
            own: Own::Ready(entry(1, 1000)),
            data: BTreeMap::new(),
            peers: Vec::new(),
        };
        bench.planner.geth_connected(true);
        bench.register(1, 1000);
        bench
    }

    fn register(&mut self, node: u8, since: i64) -> &mut Self {
        self.data.insert(format!("geth-{node}"), entry(node, since).to_value());
        self
    }

    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now.elapsed += time;
        self.now.wall += time;
        self
    }

    fn plan(&mut self) -> Plan {
        let configmap = ConfigMap {
            metadata: ObjectMeta { resource_version: Some("1".into()), ..ObjectMeta::default() },
            data: Some(self.data.clone()),
            ..ConfigMap::default()
        };
        let registry = View::default().next(&configmap);
        let situation =
            Situation { pod: "geth-1", own: &self.own, registry: Some(&registry), peers: Some(&self.peers) };
        self.planner.plan(&situation, self.now, &mut self.rng)
    }

    /// Plans, and lets everything that is planned succeed. Returns what was planned.
    fn act(&mut self) -> Vec<Action> {
        let plan = self.plan();
        for action in &plan.actions {
            let outcome = match action.clone() {
                Action::Tell { key, calls } => Outcome::Told { key, accepted: calls, failure: None },
                Action::Assert(entry) => {
                    self.data.insert("geth-1".into(), entry.to_value());
                    Outcome::Wrote { ok: true }
                }
                Action::Withdraw { .. } => {
                    self.data.remove("geth-1");
                    Outcome::Wrote { ok: true }
                }
                Action::Look { pod, value } => {
                    let uid = pod.replace("geth", "uid");
                    Outcome::Looked { pod, value, state: Ok(PodState::Alive { uid, terminating: false }) }
                }
                Action::Evict { pod, .. } => {
                    self.data.remove(&pod);
                    Outcome::Evicted { pod }
                }
            };
            self.planner.note(outcome, self.now, &mut self.rng);
        }
        plan.actions
    }

    /// The calls planned, once the ring has settled.
    fn calls(&mut self) -> Vec<Call> {
        let mut actions = self.act();
        self.pass(SECOND);
        actions.extend(self.act());
        calls(&actions)
    }

    fn state_of(&mut self, node: u8) -> (LinkState, String) {
        let pod = format!("geth-{node}");
        self.plan().links.into_iter().find(|link| link.pod == pod).map(|link| (link.state, link.reason)).unwrap()
    }
}

fn calls(actions: &[Action]) -> Vec<Call> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Tell { calls, .. } => Some(calls.clone()),
            _ => None,
        })
        .flatten()
        .collect()
}

fn at(node: u8) -> Enode {
    entry(node, 0).enode
}

#[test]
fn does_the_younger_node_dial_at_once_and_the_older_only_trust() {
    let mut bench = Bench::new();
    bench.register(2, 900).register(3, 1100);
    assert_eq!(calls(&bench.act()), [Call::Add(at(2)), Call::Trust(at(2)), Call::Trust(at(3))]);
}

#[test]
fn does_a_pair_of_one_age_have_one_dialer_which_waits_until_the_ring_holds_still() {
    let mut bench = Bench::new();
    bench.register(2, 1000);
    assert_eq!(calls(&bench.act()), [Call::Trust(at(2))]);
    assert!(bench.plan().wake.unwrap() <= Duration::from_millis(100));
    bench.pass(Duration::from_millis(100));
    assert_eq!(calls(&bench.act()), [Call::Add(at(2))], "key 1 is the smaller of two");
}

#[test]
fn does_a_ring_that_never_holds_still_keep_nobody_waiting_for_long() {
    let mut bench = Bench::new();
    bench.register(2, 1000).act();
    let mut told = Vec::new();
    for step in 0..8 {
        bench.register(10, 1000 + step).pass(Duration::from_millis(80));
        told.extend(calls(&bench.act()));
    }
    assert!(told.contains(&Call::Add(at(2))), "{told:?}");
}

#[test]
fn does_the_other_side_step_in_after_three_to_four_seconds() {
    let mut bench = Bench::new();
    bench.register(2, 1100).act();
    assert_eq!(bench.state_of(2).0, LinkState::Waiting);
    assert_eq!(calls(&bench.pass(SECOND * 5 / 2).act()), []);
    assert_eq!(calls(&bench.pass(SECOND * 2).act()), [Call::Add(at(2))]);
    assert_eq!(bench.state_of(2).0, LinkState::Dialing);
}

#[test]
fn does_a_geth_restarted_before_the_others_can_dial_it_again_not_wait_for_them() {
    let mut bench = Bench::new();
    bench.register(2, 1000).register(3, 1000).act();
    bench.pass(SECOND * 10).planner.geth_connected(true);
    bench.own = Own::Ready(entry(1, 1010));
    bench.act();
    bench.pass(SECOND / 2);
    let told = calls(&bench.act());
    assert!(told.contains(&Call::Add(at(3))), "the ring has 3 dial 1, which 3 did ten seconds ago: {told:?}");
}

#[test]
fn is_a_link_that_is_up_left_alone_whoever_dialed() {
    for inbound in [true, false] {
        let mut bench = Bench::new();
        bench.register(2, 1000).peers = vec![peer(2, Eth::Up, inbound)];
        bench.act();
        for _ in 0..100 {
            assert_eq!(bench.pass(SECOND).act(), [], "a link that is up needs nothing");
        }
    }
}

#[test]
fn is_a_connection_without_the_eth_handshake_no_peer() {
    let mut bench = Bench::new();
    bench.register(2, 1000).peers = vec![peer(2, Eth::Handshake, true)];
    assert_eq!(bench.state_of(2).0, LinkState::Handshake);
}

#[test]
fn is_a_node_that_moved_removed_before_it_is_added_at_its_new_address() {
    let mut bench = Bench::new();
    bench.register(2, 900).act();
    bench.peers = vec![peer(2, Eth::Up, false)];
    bench.act();
    bench.peers.clear();
    let moved = Enode::new(at(2).key, "10.9.9.9:30303".parse().unwrap()).unwrap();
    bench.data.insert("geth-2".into(), Entry { enode: moved, ..entry(2, 900) }.to_value());
    assert_eq!(bench.calls(), [Call::Remove(moved), Call::Add(moved)]);
}

#[test]
fn is_a_connection_in_its_handshake_left_alone() {
    let mut bench = Bench::new();
    bench.register(2, 900).act();
    let moved = Enode::new(at(2).key, "10.9.9.9:30303".parse().unwrap()).unwrap();
    bench.data.insert("geth-2".into(), Entry { enode: moved, ..entry(2, 900) }.to_value());
    bench.peers = vec![peer(2, Eth::Handshake, true)];
    assert_eq!(bench.calls(), []);
    bench.peers.clear();
    assert_eq!(bench.calls(), [Call::Remove(moved), Call::Add(moved)]);
}

#[test]
fn is_nobody_hung_up_on_who_moved_and_dials_itself() {
    let mut bench = Bench::new();
    bench.register(2, 900).act();
    let moved = Enode::new(at(2).key, "10.9.9.9:30303".parse().unwrap()).unwrap();
    bench.data.insert("geth-2".into(), Entry { enode: moved, ..entry(2, 1100) }.to_value());
    assert_eq!(calls(&bench.act()), [], "it may be arriving at this moment");
    assert_eq!(calls(&bench.pass(SECOND * 5).act()), [Call::Remove(moved), Call::Add(moved)]);
}

#[test]
fn is_a_geth_that_was_restarted_told_everything_again_and_dials_everyone() {
    let mut bench = Bench::new();
    bench.register(2, 1000).register(3, 1000).act();
    bench.peers = vec![peer(2, Eth::Up, true), peer(3, Eth::Up, true)];
    bench.act();
    bench.pass(SECOND * 60);
    bench.peers.clear();
    bench.planner.geth_connected(true);
    bench.own = Own::Ready(entry(1, 1060));
    let told = calls(&bench.act());
    for call in [Call::Add(at(2)), Call::Trust(at(2)), Call::Add(at(3)), Call::Trust(at(3))] {
        assert!(told.contains(&call), "{call:?} in {told:?}");
    }
}

#[test]
fn is_a_geth_that_ran_before_this_sidecar_freed_of_addresses_nobody_remembers() {
    let mut bench = Bench::new();
    bench.planner.geth_connected(false);
    bench.register(2, 900);
    assert_eq!(calls(&bench.act()), [Call::Remove(at(2)), Call::Add(at(2)), Call::Trust(at(2))]);
}

#[test]
fn does_a_node_that_leaves_the_registry_keep_its_link_as_long_as_it_lasts() {
    let mut bench = Bench::new();
    bench.register(2, 900).act();
    bench.peers = vec![peer(2, Eth::Up, false)];
    bench.act();
    bench.data.remove("geth-2");
    for _ in 0..100 {
        assert_eq!(bench.pass(SECOND).act(), [], "its other end lives, whatever the registry has lost");
    }
    bench.peers.clear();
    assert_eq!(bench.act(), []);
    let gone = calls(&bench.pass(SECOND).act());
    assert!(matches!(gone[..], [Call::Remove(a), Call::Distrust(b)] if a.key == at(2).key && b.key == at(2).key));
    assert_eq!(bench.pass(SECOND).act(), [], "once is enough");
}

#[test]
fn is_an_address_that_an_earlier_run_of_the_sidecar_left_behind_taken_back() {
    let mut bench = Bench::new();
    bench.planner.geth_connected(false);
    bench.register(2, 1100).act();
    bench.data.remove("geth-2");
    bench.act();
    let gone = calls(&bench.pass(SECOND).act());
    assert!(matches!(gone[..], [Call::Remove(a), Call::Distrust(_)] if a.key == at(2).key), "{gone:?}");
}

#[test]
fn is_a_node_that_left_without_a_connection_no_longer_dialed_after_a_second() {
    let mut bench = Bench::new();
    bench.register(2, 900).act();
    bench.data.remove("geth-2");
    assert_eq!(bench.act(), [], "the registry may be whole again in a moment");
    let gone = calls(&bench.pass(SECOND).act());
    assert!(matches!(gone[..], [Call::Remove(a), Call::Distrust(_)] if a.key == at(2).key), "{gone:?}");
}

#[test]
fn are_peers_that_somebody_else_added_never_removed() {
    let mut bench = Bench::new();
    bench.peers = vec![peer(9, Eth::Up, false)];
    for _ in 0..20 {
        assert_eq!(bench.pass(SECOND).act(), []);
    }
}

#[test]
fn are_nodes_of_another_network_shown_and_not_dialed() {
    let mut bench = Bench::new();
    bench.data.insert("geth-2".into(), Entry { network_id: 1, ..entry(2, 900) }.to_value());
    bench.data.insert("geth-3".into(), "garbage".into());
    bench.register(4, 900).data.insert("geth-4".into(), Entry { enode: at(1), ..entry(4, 900) }.to_value());
    assert_eq!(calls(&bench.act()), []);
    for (node, state, word) in [
        (2, LinkState::Mismatch, "network id 1"),
        (3, LinkState::Invalid, "not an entry"),
        (4, LinkState::Duplicate, "same node key"),
    ] {
        let (found, reason) = bench.state_of(node);
        assert!(found == state && reason.contains(word), "{found:?}: {reason}");
    }
}

#[test]
fn does_the_younger_of_two_pods_with_one_key_count() {
    let mut bench = Bench::new();
    bench.register(2, 900);
    bench.data.insert(
        "geth-9".into(),
        Entry { enode: Enode::new(at(2).key, "10.0.0.9:1".parse().unwrap()).unwrap(), ..entry(9, 950) }.to_value(),
    );
    assert_eq!(bench.state_of(2).0, LinkState::Duplicate);
    assert_eq!(bench.state_of(9).0, LinkState::Dialing);
}

#[test]
fn is_the_own_entry_asserted_again_whenever_it_is_missing_or_differs() {
    let mut bench = Bench::new();
    let mine = [Action::Assert(entry(1, 1000))];
    assert_eq!(bench.act(), []);
    for value in [None, Some("garbage".to_owned()), Some(entry(1, 999).to_value())] {
        match value {
            Some(value) => drop(bench.data.insert("geth-1".into(), value)),
            None => bench.data.clear(),
        }
        assert_eq!(bench.pass(SECOND).act(), mine);
        assert_eq!(bench.act(), []);
    }
}

#[test]
fn is_a_write_that_failed_tried_again_and_never_twice_at_a_time() {
    let mut bench = Bench::new();
    bench.data.clear();
    assert_eq!(bench.plan().actions.len(), 1);
    assert_eq!(bench.plan().actions.len(), 0, "the first is under way");
    bench.planner.note(Outcome::Wrote { ok: false }, bench.now, &mut bench.rng);
    let plan = bench.plan();
    assert!(plan.actions.is_empty() && plan.wake.is_some());
    assert_eq!(bench.pass(SECOND).plan().actions.len(), 1);
}

#[test]
fn is_the_entry_of_a_geth_that_cannot_have_peers_withdrawn() {
    let mut bench = Bench::new();
    bench.own = Own::Unpeerable;
    assert_eq!(bench.act(), [Action::Withdraw { value: entry(1, 1000).to_value() }]);
    assert_eq!(bench.act(), []);
}

/// What comes of a missing link when the API server says `state` of the pod.
fn verdict(state: Result<PodState, StoreErrorKind>) -> Vec<Action> {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    bench.act();
    let looked = bench.pass(SECOND * 2).plan().actions;
    let value = entry(2, 1100).to_value();
    assert!(looked.contains(&Action::Look { pod: "geth-2".into(), value: value.clone() }), "{looked:?}");
    bench.planner.note(Outcome::Looked { pod: "geth-2".into(), value, state }, bench.now, &mut bench.rng);
    bench.plan().actions
}

#[test]
fn is_an_entry_removed_only_when_its_pod_is_known_to_be_gone() {
    let evict = vec![Action::Evict { pod: "geth-2".into(), value: entry(2, 1100).to_value() }];
    assert_eq!(verdict(Ok(PodState::Gone)), evict);
    assert_eq!(verdict(Ok(PodState::Finished)), evict);
    assert_eq!(verdict(Ok(PodState::Alive { uid: "another".into(), terminating: false })), evict);
    assert_eq!(verdict(Ok(PodState::Alive { uid: "uid-2".into(), terminating: false })), []);
    assert_eq!(verdict(Err(StoreErrorKind::Other)), []);
    assert_eq!(verdict(Err(StoreErrorKind::Forbidden)), []);
}

#[test]
fn is_silence_a_reason_only_for_those_who_may_not_look_and_only_after_minutes() {
    let mut bench = Bench::new();
    bench.register(2, 1100).act();
    let mut evicted_after = None;
    for second in 0..400 {
        for action in bench.pass(SECOND).plan().actions {
            match action {
                Action::Look { pod, value } => {
                    let state = Err(StoreErrorKind::Forbidden);
                    bench.planner.note(Outcome::Looked { pod, value, state }, bench.now, &mut bench.rng);
                }
                Action::Evict { .. } => evicted_after = evicted_after.or(Some(second)),
                _ => {}
            }
        }
    }
    assert!(evicted_after.is_some_and(|second| second >= 295), "{evicted_after:?}");
}

#[test]
fn does_a_stranger_nobody_may_look_at_keep_the_sidecar_asleep() {
    let mut bench = Bench::new();
    bench.data.insert("geth-2".into(), Entry { network_id: 1, ..entry(2, 900) }.to_value());
    for _ in 0..1000 {
        let plan = bench.pass(SECOND).plan();
        for action in plan.actions {
            if let Action::Look { pod, value } = action {
                let state = Err(StoreErrorKind::Forbidden);
                bench.planner.note(Outcome::Looked { pod, value, state }, bench.now, &mut bench.rng);
            }
        }
        assert!(bench.plan().wake.is_none_or(|wake| wake > bench.now.elapsed));
    }
}

#[test]
fn is_nobody_suspected_while_the_own_geth_is_silent() {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    bench.own = Own::Silent;
    for _ in 0..60 {
        assert_eq!(bench.pass(SECOND).act(), []);
    }
}

#[test]
fn is_a_pod_that_lives_looked_for_less_and_less_often() {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    let looks = (0..600)
        .filter(|_| bench.pass(SECOND).act().iter().any(|action| matches!(action, Action::Look { .. })))
        .count();
    assert!((8..30).contains(&looks), "{looks} looks in ten minutes");
}

#[test]
fn is_a_pod_that_is_being_deleted_looked_for_until_it_is_gone() {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    let mut looks = 0;
    for _ in 0..30 {
        for action in bench.pass(SECOND).plan().actions {
            if let Action::Look { pod, value } = action {
                looks += 1;
                let state = Ok(PodState::Alive { uid: "uid-2".into(), terminating: true });
                bench.planner.note(Outcome::Looked { pod, value, state }, bench.now, &mut bench.rng);
            }
        }
    }
    assert!(looks >= 8, "{looks} looks in half a minute");
}

#[test]
fn is_a_state_dated_from_when_it_began() {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    let first = bench.plan().links[0].since;
    assert_eq!(bench.pass(SECOND).plan().links[0].since, first);
    bench.peers = vec![peer(2, Eth::Up, true)];
    assert_eq!(bench.pass(SECOND).plan().links[0].since, bench.now.wall);
}

/// Node 1 of seven, whose keys follow it on the ring in order, with two dial slots. Both
/// are used, for 5 which is in that node's own share and for 3; 2 is dialed by nobody else.
fn without_slots() -> Bench {
    let mut bench = Bench::new();
    bench.own = Own::Ready(Entry { max_peers: Some(6), ..entry(1, 1000) });
    bench.data.insert("geth-1".into(), Entry { max_peers: Some(6), ..entry(1, 1000) }.to_value());
    for node in 2..=7 {
        bench.register(node, 1000);
    }
    bench.peers = [4, 6, 7].map(|node| peer(node, Eth::Up, true)).into();
    bench.calls();
    assert_eq!(calls(&bench.pass(SECOND * 20).act()), [Call::Add(at(5))], "it steps in for 5");
    bench.peers.extend([peer(3, Eth::Up, false), peer(5, Eth::Up, false)]);
    bench
}

#[test]
fn is_a_dial_slot_freed_for_a_link_that_nobody_else_dials() {
    let mut bench = without_slots();
    assert_eq!(calls(&bench.act()), [Call::Remove(at(5))], "5 itself dials next");
    assert_eq!(bench.state_of(2).0, LinkState::NoSlot);
    // Nobody else is hung up on before that one is seen to be gone.
    assert_eq!(calls(&bench.act()), []);
    bench.peers.retain(|peer| peer.key != at(5).key);
    bench.peers.push(peer(2, Eth::Up, false));
    for _ in 0..60 {
        assert_eq!(calls(&bench.pass(SECOND).act()), [], "both slots are used, and 5 has to make room");
    }
}

#[test]
fn is_a_link_that_was_given_up_for_its_slot_not_dialed_again_at_once() {
    let mut bench = without_slots();
    bench.act();
    bench.peers.retain(|peer| peer.key != at(5).key);
    assert_eq!(calls(&bench.pass(SECOND).act()), [], "the slot is for 2, which Geth has been told to dial");
}

#[test]
fn is_nobody_hung_up_on_where_slots_are_used_for_the_own_share_alone() {
    let mut bench = without_slots();
    bench.peers = [5, 6, 7].map(|node| peer(node, Eth::Up, true)).into();
    bench.peers.extend([peer(3, Eth::Up, false), peer(4, Eth::Up, false)]);
    for _ in 0..60 {
        assert_eq!(calls(&bench.pass(SECOND).act()), [], "hanging up on one would only lose another");
    }
    let (state, reason) = bench.state_of(2);
    assert!(state == LinkState::NoSlot && reason.contains("all 2 slots"), "{state:?}: {reason}");
}

#[test]
fn is_a_mesh_too_large_for_the_smallest_maxpeers_named_with_the_number_it_needs() {
    let mut bench = Bench::new();
    for node in 2..=33 {
        bench.register(node, 1000);
    }
    let needed: Vec<_> = [1, 2, 3, 5, 33, 34].map(concern::needed).into();
    assert_eq!(needed, [0, 1, 2, 6, 48, 51]);
    assert_eq!(bench.plan().concerns, []);
    bench.data.insert("geth-7".into(), Entry { max_peers: Some(47), ..entry(7, 1000) }.to_value());
    let concerns = bench.plan().concerns;
    let words = concerns[0].to_string();
    assert!(words.contains("--maxpeers 48") && words.contains("geth-7 has 47"), "{words}");
}

#[test]
fn is_a_pod_with_the_own_node_key_named() {
    let mut bench = Bench::new();
    bench.data.insert("geth-4".into(), Entry { enode: at(1), ..entry(4, 900) }.to_value());
    assert_eq!(bench.plan().concerns, [Concern::DuplicateNodeKey { pod: "geth-4".into() }]);
}

#[test]
fn is_a_node_that_geth_refuses_shown_with_geths_words_and_tried_less_and_less_often() {
    let mut bench = Bench::new();
    bench.register(2, 900);
    let mut adds = 0;
    for _ in 0..600 {
        for action in bench.pass(SECOND).plan().actions {
            if let Action::Tell { key, calls } = action {
                adds += 1;
                let failure = Failure { call: calls[0], error: "invalid public key".into(), refused: true };
                let told = Outcome::Told { key, accepted: Vec::new(), failure: Some(failure) };
                bench.planner.note(told, bench.now, &mut bench.rng);
            }
        }
    }
    assert!((8..25).contains(&adds), "{adds} tries in ten minutes");
    let (state, reason) = bench.state_of(2);
    assert!(state == LinkState::Refused && reason.contains("invalid public key"), "{state:?}: {reason}");
    // A corrected entry is tried at once.
    bench.register(2, 901);
    assert!(calls(&bench.act()).contains(&Call::Add(at(2))));
}

#[test]
fn is_the_reason_of_geths_last_drop_told_until_the_link_is_up() {
    let mut bench = Bench::new();
    bench.register(2, 900).act();
    bench.planner.dropped(&at(2).key.node_id(), "useless peer");
    assert!(bench.state_of(2).1.contains("useless peer"));
    bench.peers = vec![peer(2, Eth::Up, false)];
    assert!(!bench.state_of(2).1.contains("useless peer"));
    bench.peers.clear();
    assert!(!bench.state_of(2).1.contains("useless peer"));
}

#[test]
fn does_a_node_that_comes_back_have_its_turn_to_dial_again() {
    let mut bench = Bench::new();
    bench.register(2, 1100).act();
    bench.pass(SECOND * 2).register(2, 1110);
    assert_eq!(calls(&bench.act()), []);
    assert_eq!(calls(&bench.pass(SECOND * 5 / 2).act()), [], "less than three seconds since it came back");
    assert_eq!(calls(&bench.pass(SECOND * 2).act()), [Call::Add(at(2))]);
}

#[test]
fn is_an_answer_about_a_record_that_was_replaced_meanwhile_ignored() {
    let mut bench = Bench::new();
    bench.register(2, 1100).act();
    let looked = bench.pass(SECOND * 2).plan().actions;
    assert!(looked.iter().any(|action| matches!(action, Action::Look { .. })));
    // The link comes up and goes down again before the answer arrives, with another entry.
    bench.peers = vec![peer(2, Eth::Up, true)];
    bench.act();
    bench.peers.clear();
    bench.register(2, 1200).plan();
    let late = Outcome::Looked { pod: "geth-2".into(), value: entry(2, 1100).to_value(), state: Ok(PodState::Gone) };
    bench.planner.note(late, bench.now, &mut bench.rng);
    assert!(!bench.plan().actions.iter().any(|action| matches!(action, Action::Evict { .. })));
}

#[test]
fn do_two_sidecars_of_one_pod_name_write_a_bounded_number_of_times_and_say_so() {
    let mut bench = Bench::new();
    let mut writes = 0;
    for _ in 0..6000 {
        bench.register(1, 999); // the other one's
        for action in bench.pass(Duration::from_millis(10)).act() {
            writes += usize::from(matches!(action, Action::Assert(_)));
        }
    }
    assert!((10..40).contains(&writes), "{writes} writes in a minute");
    assert_eq!(bench.plan().concerns, [Concern::EntryContested]);
    bench.register(1, 1000).pass(SECOND * 120);
    assert_eq!(bench.plan().concerns, []);
}

#[test]
fn is_an_eviction_that_fails_tried_less_and_less_often() {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    let mut evictions = 0;
    for _ in 0..600 {
        for action in bench.pass(SECOND).plan().actions {
            let outcome = match action {
                Action::Look { pod, value } => Outcome::Looked { pod, value, state: Ok(PodState::Gone) },
                Action::Evict { pod, .. } => {
                    evictions += 1;
                    Outcome::Evicted { pod }
                }
                _ => continue,
            };
            bench.planner.note(outcome, bench.now, &mut bench.rng);
        }
    }
    assert!((4..15).contains(&evictions), "{evictions} evictions in ten minutes");
}

proptest! {
    #[test]
    fn does_acting_on_a_plan_leave_nothing_to_do(
        nodes in prop::collection::btree_map(2u8..40, (900i64..1100, 0u8..4), 0..20),
        fresh: bool,
        seconds in 0u64..100,
    ) {
        let mut bench = Bench::new();
        bench.planner.geth_connected(fresh);
        for (node, (since, link)) in &nodes {
            bench.register(*node, *since);
            match link {
                0 => bench.peers.push(peer(*node, Eth::Up, false)),
                1 => bench.peers.push(peer(*node, Eth::Up, true)),
                2 => bench.peers.push(peer(*node, Eth::Handshake, true)),
                _ => {}
            }
        }
        bench.act();
        bench.pass(Duration::from_secs(seconds));
        bench.act();
        // Looks come again with time, and eviction follows a look; in one instant nothing does.
        let again = bench.act();
        prop_assert!(again.is_empty(), "{:?}", again);
        let wake = bench.plan().wake;
        prop_assert!(wake.is_none_or(|wake| wake > bench.now.elapsed), "the loop would never rest: {wake:?}");
    }

    #[test]
    fn does_no_registry_value_make_the_plan_panic_or_dial_what_is_no_entry(
        data in prop::collection::btree_map("[a-z.-]{1,20}", "\\PC{0,200}", 0..10),
    ) {
        let mut bench = Bench::new();
        bench.data.extend(data);
        prop_assert_eq!(bench.calls(), vec![]);
    }
}

#[test]
fn do_all_sidecars_together_dial_every_link_once() {
    for count in [2u8, 5, 10, 33] {
        let mut dialed: BTreeMap<(IpAddr, IpAddr), usize> = BTreeMap::new();
        for own in 1..=count {
            let mut bench = Bench::new();
            bench.data.clear();
            for node in 1..=count {
                bench.register(node, 1000);
            }
            let pod = format!("geth-{own}");
            bench.own = Own::Ready(entry(own, 1000));
            let value = bench.data.remove(&pod).unwrap();
            // The bench is always geth-1: swap the names.
            let other = bench.data.insert("geth-1".into(), value);
            if own != 1 {
                bench.data.insert(pod, other.unwrap());
            }
            for call in bench.calls() {
                if let Call::Add(enode) = call {
                    let (a, b) = (IpAddr::from(Ipv4Addr::new(10, 0, 0, own)), enode.address.ip());
                    *dialed.entry((a.min(b), a.max(b))).or_default() += 1;
                }
            }
        }
        let links = usize::from(count) * usize::from(count - 1) / 2;
        assert_eq!((dialed.len(), dialed.values().sum::<usize>()), (links, links), "n = {count}");
    }
}
