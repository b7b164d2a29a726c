//! What holds whatever the situation?

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn does_acting_on_a_plan_leave_nothing_to_do(
        nodes in prop::collection::btree_map(2u8..40, (900i64..1100, 0u8..4), 0..20),
        listed in prop::collection::vec((1u8..60, 0u8..4, 0u8..2), 0..20),
        list_state in 0u8..3,
        fresh: bool,
        seconds in 0u64..1000,
    ) {
        let mut bench = Bench::new();
        bench.planner.geth_connected(fresh);
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
            for node in 1..=count {
                bench.register(node, 1000);
            }
            bench.pod = format!("geth-{own}");
            bench.own = Own::Ready(entry(own, 1000));
            let mut told = calls(&bench.act());
            while let Some(call) = told.pop() {
                if let Call::Add(enode) = call {
                    let up = peer(1, Eth::Up, false);
                    bench.peers.push(Peer { key: enode.key, ..up });
                    told.extend(calls(&bench.act()));
                    let (a, b) = (IpAddr::from(Ipv4Addr::new(10, 0, 0, own)), enode.address.ip());
                    *dialed.entry((a.min(b), a.max(b))).or_default() += 1;
                }
            }
        }
        let links = usize::from(count) * usize::from(count - 1) / 2;
        assert_eq!((dialed.len(), dialed.values().sum::<usize>()), (links, links), "n = {count}");
    }
}
