//! What happens where Geth has too few dial slots?

use super::*;

fn small(node: u8, since: i64) -> Entry {
    Entry { max_peers: Some(6), ..entry(node, since) }
}

impl Bench {
    pub(super) fn register_small(&mut self, node: u8, since: i64) -> &mut Self {
        self.data.insert(format!("geth-{node}"), small(node, since).to_value());
        self
    }
}

/// Node 1, with two dial slots. Both are used, for 3 and 5, which were there long before it and are to dial
/// it by their numbers; 2, which has just come, is dialed by nobody else.
fn without_slots() -> Bench {
    let mut bench = Bench::beside(small(1, 2000));
    let told = bench.register_small(3, 1000).register_small(5, 1000).calls();
    assert!(told.contains(&Call::Add(at(3))) && told.contains(&Call::Add(at(5))), "{told:?}");
    bench.peers.extend([peer(3, Eth::Up, false), peer(5, Eth::Up, false)]);
    let told = calls(&bench.register_small(2, 2000).act());
    assert_eq!(told, [Call::Add(at(2)), Call::Trust(at(2))]);
    bench
}

#[test]
fn is_a_dial_slot_freed_for_a_link_that_nobody_else_dials() {
    let mut bench = without_slots();
    assert_eq!(bench.state_of(2).0, LinkState::NoSlot);
    assert_eq!(calls(&bench.act()), [], "Geth may have dialed it before it had no slot left");
    assert_eq!(calls(&bench.pass(SECOND).act()), [Call::Remove(at(3))], "3 itself dials next");
    assert_eq!(calls(&bench.act()), [], "nobody else is hung up on before that one is seen to be gone");
    bench.peers.retain(|peer| peer.key != at(3).key);
    bench.peers.push(peer(2, Eth::Up, false));
    for _ in 0..60 {
        assert_eq!(calls(&bench.pass(SECOND).act()), [], "both slots are used, and 3 has to make room");
    }
}

#[test]
fn is_a_link_that_was_given_up_for_its_slot_not_dialed_again_at_once() {
    let mut bench = without_slots();
    bench.pass(SECOND).act();
    bench.peers.retain(|peer| peer.key != at(3).key);
    assert_eq!(calls(&bench.pass(SECOND).act()), [], "the slot is for 2, which Geth has been told to dial");
}

/// What node 1 tells its Geth when 4 comes, which is in its share: it has used its last dial slot for 3, which is to dial
/// node 1 and did not.
fn told_for_want_of_a_slot(bench: &mut Bench) -> Vec<Call> {
    assert_eq!(calls(&bench.pass(SECOND * 20).act()), [Call::Add(at(3))], "a slot is left for it");
    bench.peers.push(peer(3, Eth::Up, false));
    bench.register_small(4, 1000);
    bench.pass(SECOND).act();
    calls(&bench.pass(SECOND).act())
}

#[test]
fn does_a_link_that_needs_a_slot_not_wait_until_another_side_can_surely_dial_again() {
    let mut bench = Bench::beside(small(1, 1000));
    assert!(bench.register_small(2, 1000).register_small(3, 1000).calls().contains(&Call::Add(at(2))));
    bench.peers.push(peer(2, Eth::Up, false));
    // That 3 may have dialed in vain, and does not again for 35 s, is worth no more than the link to 4.
    assert_eq!(told_for_want_of_a_slot(&mut bench), [Call::Remove(at(3))]);
}

#[test]
fn are_those_hung_up_on_first_who_can_dial_at_once() {
    let mut bench = Bench::beside(small(1, 1000));
    // Node 1 came long after 5, so it dialed it though the link is in 5's share.
    assert!(bench.register_small(5, 900).register_small(3, 1000).calls().contains(&Call::Add(at(5))));
    bench.peers.push(peer(5, Eth::Up, false));
    assert_eq!(told_for_want_of_a_slot(&mut bench), [Call::Remove(at(5))]);
}

#[test]
fn does_a_node_keep_its_last_slots_for_those_whom_it_is_to_dial() {
    let mut bench = Bench::beside(small(1, 1000));
    // 2 and 4 fill its slots as soon as they can be reached.
    bench.register_small(2, 1000).register_small(3, 1000).register_small(4, 1000);
    for _ in 0..60 {
        assert!(!calls(&bench.pass(SECOND).act()).contains(&Call::Add(at(3))));
    }
}

#[test]
fn is_nobody_hung_up_on_where_slots_are_used_for_the_own_share_alone() {
    // Too many nodes for two slots each: 2, 4 and 6 are dialed by node 1.
    let mut bench = Bench::beside(small(1, 1000));
    for node in 2..=7 {
        bench.register_small(node, 1000);
    }
    bench.peers = [3, 5, 7].map(|node| peer(node, Eth::Up, true)).into();
    bench.peers.extend([peer(2, Eth::Up, false), peer(4, Eth::Up, false)]);
    bench.calls();
    for _ in 0..60 {
        assert_eq!(calls(&bench.pass(SECOND).act()), [], "hanging up on one would only lose another");
    }
    let (state, reason) = bench.state_of(6);
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
