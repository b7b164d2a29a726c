//! What happens where Geth has too few dial slots?

use super::*;

fn small(node: u8, since: i64) -> Entry {
    Entry { max_peers: Some(6), ..entry(node, since) }
}

/// The youngest of seven nodes, node 1, with two dial slots. Both are used, for 7 and for 5, which
/// node 1 dialed before it had read of 6 and 7, and which is to dial node 1 now; 6 is dialed by nobody else.
fn without_slots() -> Bench {
    let mut bench = Bench::beside(small(1, 2000));
    for node in 2..=5 {
        bench.register(node, 1000);
    }
    bench.peers = [2, 3, 4].map(|node| peer(node, Eth::Up, true)).into();
    assert!(bench.calls().contains(&Call::Add(at(5))));
    bench.peers.push(peer(5, Eth::Up, false));
    bench.register(6, 1000).register(7, 1000);
    let told = bench.calls();
    assert!(told.contains(&Call::Add(at(6))) && told.contains(&Call::Add(at(7))), "{told:?}");
    bench.peers.push(peer(7, Eth::Up, false));
    bench
}

#[test]
fn is_a_dial_slot_freed_for_a_link_that_nobody_else_dials() {
    let mut bench = without_slots();
    assert_eq!(calls(&bench.act()), [Call::Remove(at(5))], "5 itself dials next");
    assert_eq!(bench.state_of(6).0, LinkState::NoSlot);
    // Nobody else is hung up on before that one is seen to be gone.
    assert_eq!(calls(&bench.act()), []);
    bench.peers.retain(|peer| peer.key != at(5).key);
    bench.peers.push(peer(6, Eth::Up, false));
    for _ in 0..60 {
        assert_eq!(calls(&bench.pass(SECOND).act()), [], "both slots are used, and 5 has to make room");
    }
}

#[test]
fn is_a_link_that_was_given_up_for_its_slot_not_dialed_again_at_once() {
    let mut bench = without_slots();
    bench.act();
    bench.peers.retain(|peer| peer.key != at(5).key);
    assert_eq!(calls(&bench.pass(SECOND).act()), [], "the slot is for 6, which Geth has been told to dial");
}

/// Node 1 with two dial slots, both used: for 3, which is to dial node 1 and did not, and for 2, the only other node then.
/// The first of the two that is in its share now, 4, came since.
fn stepped_in() -> Bench {
    let mut bench = Bench::beside(small(1, 1000));
    bench.register(2, 900).register(3, 1001);
    assert!(bench.calls().contains(&Call::Add(at(2))));
    bench.peers.push(peer(2, Eth::Up, false));
    assert_eq!(calls(&bench.pass(SECOND * 20).act()), [Call::Add(at(3))], "a slot is left for it");
    bench.peers.push(peer(3, Eth::Up, false));
    bench.register(4, 950);
    bench
}

#[test]
fn is_nobody_hung_up_on_who_may_have_dialed_in_vain_less_than_35_s_ago() {
    let mut bench = stepped_in();
    for _ in 0..34 {
        let told = calls(&bench.pass(SECOND).act());
        assert!(!told.iter().any(|call| matches!(call, Call::Remove(_))), "3 could not dial: {told:?}");
    }
    assert_eq!(calls(&bench.pass(SECOND).act()), [Call::Remove(at(3))]);
}

#[test]
fn does_a_node_keep_its_last_slots_for_those_whom_it_is_to_dial() {
    let mut bench = Bench::beside(small(1, 1000));
    // 2 and 3 fill its slots as soon as they can be reached.
    bench.register(2, 900).register(3, 900).register(4, 1001);
    for _ in 0..60 {
        assert!(!calls(&bench.pass(SECOND).act()).contains(&Call::Add(at(4))));
    }
}

#[test]
fn is_nobody_hung_up_on_where_slots_are_used_for_the_own_share_alone() {
    let mut bench = Bench::new();
    // Too many nodes for two slots each: node 1, the oldest, is to dial all that came more than two after it.
    bench.own = Own::Ready(small(1, 900));
    for node in 1..=7 {
        bench.data.insert(format!("geth-{node}"), small(node, if node == 1 { 900 } else { 1000 }).to_value());
    }
    bench.peers = [2, 3].map(|node| peer(node, Eth::Up, true)).into();
    bench.peers.extend([peer(6, Eth::Up, false), peer(7, Eth::Up, false)]);
    bench.calls();
    for _ in 0..60 {
        assert_eq!(calls(&bench.pass(SECOND).act()), [], "hanging up on one would only lose another");
    }
    let (state, reason) = bench.state_of(4);
    assert!(state == LinkState::NoSlot && reason.contains("all 2 slots"), "{state:?}: {reason}");
}

#[test]
fn is_a_mesh_too_large_for_the_smallest_maxpeers_named_with_the_number_it_needs() {
    let mut bench = Bench::new();
    for node in 2..=33 {
        bench.register(node, 1000);
    }
    let needed: Vec<_> = [1, 2, 3, 5, 33, 34].map(|nodes| concern::needed(nodes, 0)).into();
    assert_eq!(needed, [0, 1, 2, 6, 48, 51]);
    assert_eq!(concern::needed(33 + 2, 2), 54, "each dials those outside the cluster beside its half");
    assert_eq!(bench.plan().concerns, []);
    bench.data.insert("geth-7".into(), Entry { max_peers: Some(47), ..entry(7, 1000) }.to_value());
    let concerns = bench.plan().concerns;
    let words = concerns[0].to_string();
    assert!(words.contains("--maxpeers 48") && words.contains("geth-7 has 47"), "{words}");
}
