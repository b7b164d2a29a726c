//! Whom is Geth told to dial, and what is said of each link?

use super::*;

#[test]
fn does_the_younger_node_dial_at_once_and_the_older_only_trust() {
    let mut bench = Bench::new();
    bench.register(2, 900).register(3, 1100);
    assert_eq!(calls(&bench.act()), [Call::Add(at(2)), Call::Trust(at(2)), Call::Trust(at(3))]);
}

#[test]
fn do_two_of_about_one_age_dial_by_the_numbers_of_their_pods() {
    for since in [965, 1000, 1035] {
        let mut bench = Bench::new();
        bench.register(2, since).register(3, since).register(10, since).register(13, since);
        let told = calls(&bench.act());
        let dialed: Vec<_> = told.iter().filter(|call| matches!(call, Call::Add(_))).collect();
        assert_eq!(dialed, [&Call::Add(at(2)), &Call::Add(at(10))], "the others dial geth-1");
    }
}

#[test]
fn does_a_node_that_comes_back_dial_everybody_if_it_has_slots_for_all() {
    for (nodes, dialed) in [(17, 16), (18, 9)] {
        let mut bench = Bench::new();
        for node in 2..=nodes {
            bench.register(node, 900);
        }
        let told: Vec<_> = (0..4).flat_map(|_| calls(&bench.pass(SECOND).act())).collect();
        assert_eq!(told.iter().filter(|call| matches!(call, Call::Add(_))).count(), dialed);
    }
}

#[test]
fn does_a_node_that_cannot_register_dial_all_the_same() {
    let mut bench = Bench::new();
    bench.data.clear();
    bench.read_only = true;
    bench.register(2, 900);
    let dialed = |bench: &mut Bench| calls(&bench.act()).contains(&Call::Add(at(2)));
    assert!(!dialed(&mut bench) && !dialed(bench.pass(SECOND)));
    assert!(dialed(bench.pass(SECOND)));
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
fn does_the_other_side_have_longer_where_links_take_longer_to_come_up() {
    let mut bench = Bench::new();
    bench.register(3, 1000).register(5, 1000).act();
    bench.peers = vec![peer(5, Eth::Up, true)];
    bench.pass(SECOND * 5 / 2).act();
    assert_eq!(calls(&bench.pass(SECOND * 2).act()), [], "5 took 2.5 s");
    assert_eq!(calls(&bench.pass(SECOND).act()), [Call::Add(at(3))]);
}

#[test]
fn does_the_other_side_have_longer_where_registering_takes_longer() {
    let mut bench = Bench::new();
    bench.data.clear();
    bench.read_only = true;
    bench.register(3, 1000).act();
    bench.read_only = false;
    bench.pass(SECOND * 3).act();
    bench.act();
    assert_eq!(calls(&bench.pass(SECOND * 2).act()), [], "it took three seconds");
    assert_eq!(calls(&bench.pass(SECOND * 2).act()), [Call::Add(at(3))]);
}

#[test]
fn is_what_took_long_before_geth_was_restarted_forgotten() {
    let mut bench = Bench::new();
    bench.register(3, 1000).register(5, 1000).act();
    bench.peers = vec![peer(5, Eth::Up, true)];
    bench.pass(SECOND * 10).act();
    bench.planner.geth_connected(true);
    bench.own = Own::Ready(entry(1, 1010));
    bench.peers.clear();
    bench.act();
    bench.act();
    let told = calls(&bench.pass(SECOND / 2).act());
    assert!(told.contains(&Call::Add(at(3))) && told.contains(&Call::Add(at(5))), "{told:?}");
}

#[test]
fn are_nodes_that_start_together_dialed_a_few_at_a_time_unless_links_come_up() {
    let mut bench = Bench::new();
    for node in 2..=33 {
        bench.register(node, 1000);
    }
    let dialed = |bench: &mut Bench| calls(&bench.act()).iter().filter(|call| matches!(call, Call::Add(_))).count();
    assert_eq!(dialed(&mut bench), 8);
    assert_eq!(dialed(bench.pass(SECOND / 2)), 0);
    bench.peers = vec![peer(2, Eth::Handshake, false)];
    assert_eq!(dialed(&mut bench), 0);
    bench.peers = vec![peer(2, Eth::Up, false)];
    assert_eq!(dialed(&mut bench), 1);
    assert_eq!(dialed(bench.pass(SECOND / 2)), 7, "those told a second ago may take as long as they like");
}

#[test]
fn does_the_side_that_stepped_in_give_way_when_the_two_dials_met() {
    let mut bench = Bench::new();
    bench.register(2, 1100).calls();
    assert_eq!(calls(&bench.pass(SECOND * 4).act()), [Call::Add(at(2))], "stepped in");
    bench.planner.dropped(&at(2).key.node_id(), "already connected");
    assert_eq!(calls(&bench.act()), [Call::Remove(at(2))]);
    for _ in 0..37 {
        assert_eq!(calls(&bench.pass(SECOND).act()), [], "the other side's next dial is after 35 s");
    }
    assert_eq!(calls(&bench.pass(SECOND * 4).act()), [Call::Add(at(2))], "which did not come");
    assert_eq!(calls(&bench.act()), [], "this dial has met nobody's");
}

#[test]
fn are_calls_under_way_dials_too() {
    let mut bench = Bench::new();
    (2..=33).for_each(|node| {
        bench.register(node, 1000);
    });
    let adds = |plan: &Plan| calls(&plan.actions).iter().filter(|call| matches!(call, Call::Add(_))).count();
    assert_eq!(adds(&bench.plan()), 8);
    assert_eq!(adds(&bench.plan()), 0, "none of them was answered yet");
}

#[test]
fn does_an_older_node_leave_a_newcomer_time_to_dial_that_may_see_fewer_others() {
    let mut bench = Bench::new();
    for node in 2..=18 {
        bench.register(node, 1100);
    }
    assert!(!calls(&bench.act()).contains(&Call::Add(at(2))));
    assert!(calls(&bench.pass(SECOND / 2).act()).contains(&Call::Add(at(2))));
}

#[test]
fn is_a_link_dialed_at_once_that_the_other_side_gave_up_for_a_slot() {
    for (node, dials) in [(2, true), (3, false)] {
        let mut bench = Bench::new();
        bench.register(node, 1100).peers = vec![peer(node, Eth::Up, true)];
        bench.act();
        bench.planner.dropped(&at(node).key.node_id(), "disconnect requested");
        bench.peers.clear();
        assert_eq!(calls(&bench.act()), [], "its Geth may still have the connection");
        assert_eq!(calls(&bench.pass(SECOND).act()).contains(&Call::Add(at(node))), dials, "geth-{node}");
        bench.planner.dropped(&at(node).key.node_id(), "already connected");
        assert_eq!(calls(&bench.act()), [], "its Geth still had the connection, and nobody else dials");
    }
}

#[test]
fn does_the_side_whose_turn_it_is_dial_on_when_the_two_dials_met() {
    let mut bench = Bench::new();
    assert!(bench.register(2, 900).calls().contains(&Call::Add(at(2))));
    bench.planner.dropped(&at(2).key.node_id(), "already connected");
    assert_eq!(calls(&bench.act()), []);
}

#[test]
fn does_a_geth_restarted_before_the_others_can_dial_it_again_not_wait_for_them() {
    let mut bench = Bench::new();
    bench.register(2, 1000).register(3, 1000).act();
    bench.pass(SECOND * 10).planner.geth_connected(true);
    bench.own = Own::Ready(entry(1, 1010));
    bench.act();
    bench.act();
    bench.pass(SECOND / 2);
    let told = calls(&bench.act());
    assert!(told.contains(&Call::Add(at(3))), "3 is to dial 1, which 3 did ten seconds ago: {told:?}");
}

#[test]
fn is_a_link_that_is_up_left_alone_whoever_dialed() {
    for inbound in [true, false] {
        let mut bench = Bench::new();
        bench.register(2, 1000).peers = vec![peer(2, Eth::Up, inbound)];
        bench.act();
        bench.pass(SECOND * 2).act();
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
    let mut told = calls(&bench.act());
    assert!(!told.contains(&Call::Add(at(2))), "the answer to its registration will show who came meanwhile");
    told.extend(calls(&bench.act()));
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
    bench.pass(SECOND * 2).act();
    bench.data.remove("geth-2");
    for _ in 0..100 {
        assert_eq!(bench.pass(SECOND).act(), [], "its other end lives, whatever the registry has lost");
    }
    bench.peers.clear();
    assert_eq!(bench.act(), []);
    let gone = calls(&bench.pass(SECOND).act());
    assert!(matches!(gone[..], [Call::Remove(a), Call::Distrust(b)] if a.key == at(2).key && b.key == at(2).key));
    assert_eq!(calls(&bench.pass(SECOND).act()), [], "once is enough");
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
    bench.act();
    bench.pass(SECOND * 2).act();
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
fn is_a_state_dated_from_when_it_began() {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    let first = bench.plan().links[0].since;
    assert_eq!(bench.pass(SECOND).plan().links[0].since, first);
    bench.peers = vec![peer(2, Eth::Handshake, true)];
    assert_eq!(bench.pass(SECOND).plan().links[0].since, first, "it is still missing");
    bench.peers = vec![peer(2, Eth::Up, true)];
    assert_eq!(bench.pass(SECOND).plan().links[0].since, bench.now.wall);
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
fn are_two_geths_without_a_common_eth_protocol_told_so() {
    let mut bench = Bench::new();
    bench.own = Own::Ready(Entry { client: "Geth/v1.17.5-stable/linux".into(), ..entry(1, 1000) });
    let old = Entry { client: "Geth/v1.13.15-stable/linux".into(), ..entry(2, 900) };
    bench.data.insert("geth-2".into(), old.to_value());
    assert!(bench.state_of(2).1.contains("no version of the eth protocol in common"));
    bench.peers = vec![peer(2, Eth::Up, false)];
    assert!(!bench.state_of(2).1.contains("in common"), "Geth knows better");
}
