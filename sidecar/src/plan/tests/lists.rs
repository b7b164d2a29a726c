//! What a person would ask about the lists of nodes without entries.

use super::*;

/// Node `node` as it is written on a list: rightly, or in one of several wrong ways.
pub(super) fn element(node: u8, kind: u8) -> String {
    match kind {
        0 | 1 => format!("\"{}\"", at(node)),
        2 => format!("\"{}?discport=0\"", at(node)),
        _ => node.to_string(),
    }
}

/// A list of nodes.
fn list(nodes: &[u8]) -> String {
    serde_json::to_string(&nodes.iter().map(|node| at(*node)).collect::<Vec<_>>()).unwrap()
}

/// Node `node` at another address.
fn moved(node: u8) -> Enode {
    format!("enode://{}@10.9.9.9:30303", at(node).key).parse().unwrap()
}

impl Bench {
    fn put(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.data.insert(key.into(), value.into());
        self
    }

    /// The list of static nodes, once everything that is due in the next seconds is done.
    fn list(&mut self) -> Vec<String> {
        self.act();
        self.pass(SECOND * 2).act();
        serde_json::from_str(&self.data[STATIC_NODES]).unwrap()
    }

    fn link_of(&mut self, name: &str) -> Option<(LinkState, String)> {
        self.plan().links.into_iter().find(|link| link.pod == name).map(|link| (link.state, link.reason))
    }
}

fn texts(nodes: &[u8]) -> Vec<String> {
    nodes.iter().map(|node| at(*node).to_string()).collect()
}

fn writes(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::WriteList { .. })).count()
}

#[test]
fn does_the_list_hold_this_node_and_the_entries_it_is_linked_to() {
    let mut bench = Bench::new();
    bench.register(2, 1000).register(3, 1000).register(4, 1000);
    bench.peers = vec![peer(2, Eth::Up, true), peer(3, Eth::Handshake, true), peer(9, Eth::Up, true)];
    assert_eq!(bench.list(), texts(&[1, 2]), "one without a link may be out of the others' reach too");
    bench.peers.push(peer(4, Eth::Up, false));
    assert_eq!(bench.list(), texts(&[1, 2, 4]));
}

#[test]
fn is_a_missing_list_made_and_garbage_replaced_but_an_equal_list_left_as_it_is_written() {
    let key = at(1).key.to_string();
    for garbage in ["", "garbage", "{}", "7"] {
        assert_eq!(Bench::new().put(STATIC_NODES, garbage).list(), texts(&[1]), "{garbage}");
    }
    let pretty = format!("[\n  \"enode://{}@10.0.0.1:30303\" ]\n", key.to_uppercase());
    let mut bench = Bench::new();
    bench.put(STATIC_NODES, &pretty).list();
    assert_eq!(bench.data[STATIC_NODES], pretty);
    assert_eq!(Bench::new().put(STATIC_NODES, format!("[7, null, \"{}\"]", at(1))).list(), texts(&[1]));
}

#[test]
fn is_only_the_first_pod_that_is_linked_the_scribe() {
    let mut bench = Bench::new();
    bench.put("geth-0", entry(2, 1000).to_value()).peers = vec![peer(2, Eth::Up, true)];
    for _ in 0..10 {
        assert_eq!(writes(&bench.pass(SECOND).act()), 0, "geth-0 does");
    }
    bench.peers.clear();
    assert_eq!(bench.list(), texts(&[1]), "geth-0 is out of reach");
    // What is no entry cannot keep a list.
    let mut bench = Bench::new();
    bench.put("geth-0", "garbage");
    assert_eq!(bench.list(), texts(&[1]));
}

#[test]
fn is_the_enode_of_an_entry_that_is_gone_taken_from_the_list_though_the_scribe_never_saw_it() {
    let mut bench = Bench::new();
    bench.put("geth-0", entry(2, 1000).to_value()).register(1, 1000).register(3, 900);
    bench.peers = vec![peer(2, Eth::Up, true), peer(3, Eth::Up, true)];
    // Node 9 is an earlier sidecar's, and 3 was restarted with another node key.
    bench.put(STATIC_NODES, format!("[\"{}\",\"{}\",\"{}\"]", at(2), at(3), at(9))).act();
    bench.data.insert("geth-3".into(), entry(4, 1100).to_value());
    for _ in 0..20 {
        assert_eq!(writes(&bench.pass(SECOND).act()), 0, "it is still connected");
    }
    bench.peers = vec![peer(2, Eth::Up, true), peer(4, Eth::Up, true)];
    bench.act();
    let written: usize = (0..4).map(|_| writes(&bench.pass(SECOND).act())).sum();
    assert_eq!(written, 0, "the scribe comes first");
    let written: usize = (0..8).map(|_| writes(&bench.pass(SECOND).act())).sum();
    assert_eq!(written, 1);
    assert_eq!(bench.data[STATIC_NODES], list(&[2, 9]), "all else is the scribe's");
}

#[test]
fn is_nothing_written_about_others_while_the_own_geth_does_not_answer() {
    let mut bench = Bench::new();
    bench.put(STATIC_NODES, list(&[7]));
    for own in [Own::Silent, Own::Unpeerable] {
        bench.own = own;
        for _ in 0..400 {
            assert_eq!(writes(&bench.pass(SECOND).plan().actions), 0);
        }
    }
    bench.own = Own::Ready(entry(1, 1000));
    bench.register(1, 1000);
    assert_eq!(bench.list(), texts(&[7, 1]), "silence counts from when somebody listened");
}

#[test]
fn is_an_address_that_is_no_longer_an_entrys_taken_from_the_list() {
    let mut bench = Bench::new();
    bench.register(2, 1000);
    bench.put(STATIC_NODES, format!("[\"{}\",\"{}\",\"{}\"]", at(1), moved(2), moved(1)));
    assert_eq!(bench.list(), texts(&[1]));
}

#[test]
fn is_the_enode_of_an_entry_that_is_gone_taken_from_the_list_once_its_link_is_down() {
    let mut bench = Bench::new();
    bench.register(2, 900).peers = vec![peer(2, Eth::Up, true)];
    assert_eq!(bench.list(), texts(&[1, 2]));
    bench.data.remove("geth-2");
    assert_eq!(bench.list(), texts(&[1, 2]), "it lives");
    bench.peers.clear();
    let told = bench.pass(SECOND).act();
    assert!(!calls(&told).contains(&Call::Add(at(2))), "it is no earlier sidecar's: {told:?}");
    assert_eq!(bench.list(), texts(&[1]));
}

#[test]
fn is_a_node_whose_sidecar_became_an_earlier_one_a_peer_by_the_list() {
    let mut bench = Bench::new();
    bench.register(2, 900).peers = vec![peer(2, Eth::Up, true)];
    assert_eq!(bench.list(), texts(&[1, 2]));
    bench.data.remove("geth-2");
    bench.peers.clear();
    assert_eq!(bench.list(), texts(&[1]));
    bench.pass(SECOND).act();
    // The same node key at the same address.
    bench.put(STATIC_NODES, list(&[1, 2]));
    let told: Vec<_> = (0..15).flat_map(|_| calls(&bench.pass(SECOND).act())).collect();
    assert!(told.contains(&Call::Add(at(2))), "{told:?}");
    assert_eq!(bench.list(), texts(&[1, 2]));
}

#[test]
fn is_an_unknown_node_on_the_list_dialed_after_the_usual_patience_and_trusted_at_once() {
    let mut bench = Bench::new();
    bench.put(STATIC_NODES, list(&[1, 7]));
    assert_eq!(calls(&bench.act()), [Call::Trust(at(7))]);
    assert_eq!(calls(&bench.pass(SECOND * 2).act()), [], "its own sidecar dials");
    assert_eq!(calls(&bench.pass(SECOND * 3).act()), [Call::Add(at(7))]);
    let (state, _) = bench.link_of("static-nodes.json/10.0.0.7:30303").unwrap();
    assert_eq!(state, LinkState::Dialing);
    bench.peers = vec![peer(7, Eth::Up, true)];
    assert_eq!(bench.link_of("static-nodes.json/10.0.0.7:30303").unwrap().0, LinkState::Connected);
    for _ in 0..1000 {
        assert_eq!(bench.pass(SECOND).act(), [], "it is nobody's to look for, and stays on the list");
    }
}

#[test]
fn is_an_unknown_node_that_is_silent_for_minutes_taken_from_the_list_and_forgotten() {
    let mut bench = Bench::new();
    bench.put(STATIC_NODES, list(&[1, 7])).act();
    let mut told = Vec::new();
    for _ in 0..290 {
        let actions = bench.pass(SECOND).act();
        assert_eq!(writes(&actions), 0);
        told.extend(calls(&actions));
    }
    assert_eq!(told, [Call::Add(at(7))]);
    let wake = bench.plan().wake.unwrap();
    bench.pass(wake - bench.now.elapsed);
    assert_eq!(bench.list(), texts(&[1]), "without anything else happening");
    bench.act();
    let forgotten = calls(&bench.pass(SECOND * 2).act());
    assert!(matches!(forgotten[..], [Call::Remove(a), Call::Distrust(_)] if a.key == at(7).key), "{forgotten:?}");
}

#[test]
fn is_a_link_of_one_who_left_the_list_kept_as_long_as_it_lasts() {
    let mut bench = Bench::new();
    bench.put(STATIC_NODES, list(&[1, 7])).act();
    bench.pass(SECOND * 5).act();
    bench.peers = vec![peer(7, Eth::Up, false)];
    bench.act();
    bench.put(STATIC_NODES, list(&[1]));
    for _ in 0..100 {
        assert_eq!(bench.pass(SECOND).act(), []);
    }
    bench.peers.clear();
    bench.act();
    assert_eq!(calls(&bench.pass(SECOND).act()).len(), 2);
}

#[test]
fn is_what_an_earlier_sidecar_dies_of_shown_and_left_on_the_list() {
    let mut bench = Bench::new();
    let value = format!("[\"{}\",\"{}?discport=0\",\"enode://{}@geth-7:30303\"]", at(1), at(6), at(7).key);
    bench.put(STATIC_NODES, &value);
    assert_eq!(calls(&bench.act()), []);
    assert_eq!(bench.list().len(), 3);
    assert_eq!(bench.data[STATIC_NODES], value);
    let (state, reason) = bench.link_of("static-nodes.json/#2").unwrap();
    assert!(state == LinkState::Invalid && reason.contains("has a query"), "{reason}");
    let (state, reason) = bench.link_of("static-nodes.json/#3").unwrap();
    assert!(state == LinkState::Invalid && reason.contains("element 3") && reason.contains("geth-7:30303"), "{reason}");
}

#[test]
fn are_two_nodes_at_one_address_both_dated_and_one_node_at_two_addresses_dialed_at_the_last() {
    let mut bench = Bench::new();
    let same: Enode = format!("enode://{}@10.0.0.6:30303", at(7).key).parse().unwrap();
    bench.put(STATIC_NODES, format!("[\"{}\",\"{}\",\"{same}\",\"{}\",\"{}\"]", at(1), at(6), at(8), moved(8)));
    let names = |plan: Plan| plan.links.into_iter().map(|link| (link.pod, link.since)).collect::<BTreeMap<_, _>>();
    bench.act();
    let before = names(bench.plan());
    assert_eq!(before.len(), 3);
    assert_eq!(names(bench.pass(SECOND).plan()), before);
    assert!(calls(&bench.pass(SECOND * 5).act()).contains(&Call::Add(moved(8))));
}

#[test]
fn is_a_list_that_changes_all_the_time_written_all_the_same_and_not_too_often() {
    let mut bench = Bench::new();
    bench.put(STATIC_NODES, "[]");
    let (mut written, mut others) = (0, 0u8);
    for step in 0..6000 {
        bench.pass(Duration::from_millis(10));
        written += writes(&bench.act());
        // Earlier sidecars come, and one of them keeps taking this node out.
        if step % 50 == 0 {
            others = others.wrapping_add(1);
            bench.put(STATIC_NODES, list(&[100 + others % 100]));
        }
    }
    assert!((8..45).contains(&written), "{written} writes in a minute");
}

#[test]
fn is_a_write_that_fails_tried_less_and_less_often() {
    let mut bench = Bench::new();
    let mut tries = 0;
    for _ in 0..600 {
        for action in bench.pass(SECOND).plan().actions {
            if matches!(action, Action::WriteList { .. }) {
                tries += 1;
                bench.planner.note(Outcome::WroteList { ok: false }, bench.now, &mut bench.rng);
            }
        }
    }
    assert!((20..80).contains(&tries), "{tries} tries in ten minutes");
}

#[test]
fn is_an_external_node_dialed_at_once_and_whatever_else_is_on_its_list_shown() {
    let mut bench = Bench::new();
    bench.register(2, 1000);
    let value = format!("[\"{}?discport=30301\", 7, \"geth.example\", \"{}\", \"{}\"]", at(7), at(2), at(1));
    bench.put(EXTERNAL_NODES, value);
    let actions = bench.act();
    assert!(actions.contains(&Action::Tell { key: at(7).key, calls: vec![Call::Add(at(7)), Call::Trust(at(7))] }));
    assert_eq!(bench.link_of("external-nodes.json/10.0.0.7:30303").unwrap().0, LinkState::Dialing);
    let names: Vec<_> = bench.plan().links.into_iter().map(|link| link.pod).collect();
    let expected = ["external-nodes.json/#2", "external-nodes.json/#3", "external-nodes.json/10.0.0.7:30303", "geth-2"];
    assert_eq!(names, expected, "an entry counts more than a list");
    let (_, reason) = bench.link_of("external-nodes.json/#3").unwrap();
    assert!(reason.contains("element 3") && reason.contains("geth.example") && reason.contains("enode://"), "{reason}");
    bench.act();
    bench.put(EXTERNAL_NODES, "[");
    assert_eq!(bench.link_of("external-nodes.json").unwrap().0, LinkState::Invalid);
    assert_eq!(bench.list(), texts(&[1]), "the list that people write stays its own");
}

#[test]
fn is_an_external_node_hung_up_on_when_it_is_taken_from_the_list_but_not_when_the_list_is_lost() {
    let mut bench = Bench::new();
    bench.put(EXTERNAL_NODES, list(&[7])).list();
    bench.peers = vec![peer(7, Eth::Up, false)];
    bench.act();
    for lost in [None, Some("[")] {
        bench.data.remove(EXTERNAL_NODES);
        lost.map(|value| bench.put(EXTERNAL_NODES, value));
        for _ in 0..100 {
            assert_eq!(bench.pass(SECOND).act(), []);
        }
    }
    bench.put(EXTERNAL_NODES, "[]");
    assert_eq!(bench.act(), [], "an editor may save in two steps");
    let told = calls(&bench.pass(SECOND).act());
    assert!(matches!(told[..], [Call::Remove(a), Call::Distrust(b)] if a.key == at(7).key && b.key == at(7).key));
    // It dials by itself: it is a stranger now.
    for _ in 0..100 {
        assert_eq!(bench.pass(SECOND).act(), []);
    }
}

#[test]
fn does_a_slot_become_free_for_an_external_node() {
    let mut bench = Bench::new();
    let own = Entry { max_peers: Some(6), ..entry(1, 1000) };
    bench.data.insert("geth-1".into(), own.to_value());
    bench.own = Own::Ready(own);
    // Being younger it has dialed 3 and 5, which are to dial it by their numbers.
    bench.register_small(3, 900).register_small(5, 900).calls();
    bench.register_small(2, 900).register_small(4, 900);
    bench.peers = (2..=5).map(|node| peer(node, Eth::Up, node % 2 == 0)).collect();
    let told: Vec<_> = (0..10).flat_map(|_| calls(&bench.pass(SECOND).act())).collect();
    assert!(told.iter().all(|call| matches!(call, Call::Trust(_))), "nothing is missing: {told:?}");
    bench.put(EXTERNAL_NODES, list(&[7]));
    let told: Vec<_> = (0..10).flat_map(|_| calls(&bench.pass(SECOND).act())).collect();
    let hung_up = |node: u8| told.contains(&Call::Remove(at(node)));
    assert!(hung_up(3) || hung_up(5), "the others can dial this node: {told:?}");
}
