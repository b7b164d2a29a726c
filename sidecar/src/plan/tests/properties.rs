//! What holds whatever the situation?

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

/// What Geth says of a connection that it ends (p2p/peer_error.go, v1.17.5).
const WORDS: [&str; 4] = ["disconnect requested", "already connected", "too many peers", "EOF"];

/// How a node is connected to this one, if it is.
fn connection(node: u8, kind: u8) -> Option<Peer> {
    match kind {
        0 => Some(peer(node, Eth::Up, false)),
        1 => Some(peer(node, Eth::Up, true)),
        2 => Some(peer(node, Eth::Handshake, true)),
        _ => None,
    }
}

/// What happens before a plan is made: time passes, and connections come and go.
#[derive(Debug, Clone)]
struct Round {
    millis: u64,
    /// Node, what becomes of its connection, and Geth's words if one ends.
    changes: Vec<(u8, u8, usize)>,
    /// Node, which of the calls about it fails, and whether Geth refuses it.
    failing: Vec<(u8, usize, bool)>,
}

fn round() -> impl Strategy<Value = Round> {
    let millis = prop_oneof![0u64..5000, 0u64..1_000_000];
    let changes = prop::collection::vec((2u8..40, 0u8..6, 0..WORDS.len()), 0..12);
    let failing = prop::collection::vec((2u8..40, 0usize..3, any::<bool>()), 0..6);
    (millis, changes, failing).prop_map(|(millis, changes, failing)| Round { millis, changes, failing })
}

impl Bench {
    fn go_through(&mut self, round: &Round) {
        self.pass(Duration::from_millis(round.millis));
        for (node, kind, words) in &round.changes {
            let (key, there) = (at(*node).key, connection(*node, *kind));
            self.peers.retain(|peer| peer.key != key);
            if there.is_none() {
                self.planner.dropped(&key.node_id(), WORDS[*words]);
            }
            self.peers.extend(there);
        }
        self.failing =
            round.failing.iter().map(|(node, at_call, refused)| (at(*node).key, (*at_call, *refused))).collect();
    }
}

proptest! {
    #[test]
    fn does_acting_on_a_plan_leave_nothing_to_do(
        nodes in prop::collection::btree_map(2u8..40, (900i64..1100, 0u8..4), 0..20),
        max_peers in prop_oneof![Just(None), (3u32..10).prop_map(Some)],
        twin in prop::option::of(900i64..1100),
        listed in prop::collection::vec((1u8..60, 0u8..4, 0u8..2), 0..20),
        list_state in 0u8..3,
        fresh: bool,
        rounds in prop::collection::vec(round(), 1..6),
    ) {
        let mut bench = Bench::beside(Entry { max_peers, ..entry(1, 1000) });
        bench.planner.geth_connected(fresh);
        if let Some(since) = twin {
            let enode = format!("enode://{}@10.0.0.99:30303", at(1).key).parse().unwrap();
            let twin = Entry { enode, pod_uid: Some("uid-99".into()), ..entry(1, since) };
            bench.data.insert("geth-99".into(), twin.to_value());
        }
        for list in 0..2 {
            let name = [STATIC_NODES, EXTERNAL_NODES][usize::from(list)];
            let on_list = listed.iter().filter(|(_, _, on)| *on == list);
            let texts: Vec<_> = on_list.map(|(node, kind, _)| lists::element(*node, *kind)).collect();
            match list_state {
                0 => drop(bench.data.insert(name.into(), format!("[{}]", texts.join(",")))),
                1 => drop(bench.data.insert(name.into(), texts.join(","))),
                _ => {}
            }
        }
        for (node, (since, link)) in &nodes {
            bench.data.insert(format!("geth-{node}"), Entry { max_peers, ..entry(*node, *since) }.to_value());
            bench.peers.extend(connection(*node, *link));
        }
        bench.act();
        for round in &rounds {
            bench.go_through(round);
            // What is acted on may be a reason to act once more: a registry that was written to is another one, and that
            // Geth takes a node after all is a reason to look for its pod. Nothing else is, and there is an end to it.
            let is_reason = |action: &Action| !matches!(action, Action::Tell { .. } | Action::Look { .. });
            let mut reason = bench.act().iter().any(is_reason);
            let mut steps = 0;
            loop {
                let again = bench.act();
                if again.is_empty() {
                    break;
                }
                prop_assert!(reason || again.iter().all(|action| matches!(action, Action::Look { .. })), "{:?}", again);
                reason = again.iter().any(is_reason);
                steps += 1;
                prop_assert!(steps < 4, "there is no end to it: {:?}", again);
            }
            let wake = bench.plan().wake;
            prop_assert!(wake.is_none_or(|wake| wake > bench.now.elapsed), "the loop would never rest: {wake:?}");
        }
    }

    #[test]
    fn does_no_registry_value_make_the_plan_panic_or_dial_what_is_no_entry(
        data in prop::collection::btree_map("[a-z.-]{1,20}|(static|external)-nodes.json", "\\PC{0,200}", 0..10),
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
