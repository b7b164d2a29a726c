//! Which of two nodes dials the link between them.
//!
//! Two Geths that dial each other at the same instant refuse each other and try
//! again after 35 s, so one of the two has to. Both work it out alone, from the
//! entries in the registry.

use std::time::Duration;

use jiff::Timestamp;

use crate::enode::PublicKey;
use crate::registry::entry::Entry;

/// How long Geth does not dial a node again after it began to dial it:
/// `dialHistoryExpiration` = `inboundThrottleTime` (30 s) + 5 s (p2p/dial.go, p2p/server.go, v1.17.5).
pub const DIAL_HISTORY: Duration = Duration::from_secs(35);

/// Geth's default `--maxpeers` (node/defaults.go, v1.17.5).
pub const DEFAULT_MAX_PEERS: u32 = 50;
/// Geth dials one peer for three slots: `defaultDialRatio` (p2p/server.go, v1.17.5).
const DIAL_RATIO: u32 = 3;

/// How many peers the Geth of `entry` dials at most: a third of all, static ones too:
/// `MaxDialedConns` (p2p/server.go, v1.17.5).
pub fn slots(entry: &Entry) -> usize {
    match entry.max_peers.unwrap_or(DEFAULT_MAX_PEERS) {
        0 => 0,
        all => usize::try_from((all / DIAL_RATIO).max(1)).unwrap_or(usize::MAX),
    }
}

/// When a node came: the start of its Geth, and its key where two started at once.
type Arrival = (Timestamp, PublicKey);

/// The nodes of a network in the order in which they came, which decides who dials.
///
/// A node dials those next before it, as many as it has dial slots for; those that came
/// still earlier dial it. So a network that fits the slots of one Geth is dialed by its
/// younger nodes, whose dial histories are empty, while an older one may have the younger
/// one's previous run in its own. And in any network of up to twice the slots and one,
/// nobody has to dial more than it has slots for: node number i dials the i before it, at
/// most all its slots, and the others it has slots for are just those that come later than
/// that many places after it.
///
/// Who dials a link depends on nothing but the two nodes and the number of those between
/// them. So nobody changes sides because others come, and two sidecars that do not see the
/// same newcomers yet still agree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Order {
    arrivals: Vec<Arrival>,
    /// How many nodes outside the cluster everybody dials besides.
    external: usize,
}

impl Order {
    /// The order of these nodes, all of which also dial `external` nodes outside the cluster.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a Entry>, external: usize) -> Self {
        let mut arrivals: Vec<_> = nodes.into_iter().map(arrival).collect();
        arrivals.sort();
        Self { arrivals, external }
    }

    /// Whether `own` dials the link to `peer`, rather than `peer` the link to `own`.
    pub fn dials(&self, own: &Entry, peer: &Entry) -> bool {
        let own_is_younger = arrival(own) > arrival(peer);
        let younger = if own_is_younger { own } else { peer };
        let reach = slots(younger).saturating_sub(self.external);
        own_is_younger == (self.distance(own, peer) <= reach)
    }

    /// How many came before `own`.
    pub fn before(&self, own: &Entry) -> usize {
        self.arrivals.partition_point(|other| *other < arrival(own))
    }

    /// Whether `own` came before `peer`.
    pub fn is_older(&self, own: &Entry, peer: &Entry) -> bool {
        arrival(own) < arrival(peer)
    }

    /// Whether `own`, the younger, is the one to dial `peer` even if some came between the two that are not seen yet: with
    /// half of the reach left there is room for as many as come at once.
    pub fn is_near(&self, own: &Entry, peer: &Entry) -> bool {
        2 * self.distance(own, peer) <= slots(own).saturating_sub(self.external)
    }

    /// How likely it is that the link to `peer`, which `peer` is to dial, becomes one that `own` is to dial: the less, the
    /// greater. As nodes go, an older one comes nearer and may get into reach, a younger one never gets out of it.
    pub fn remoteness(&self, own: &Entry, peer: &Entry) -> usize {
        if arrival(peer) > arrival(own) { usize::MAX } else { self.distance(own, peer) }
    }

    /// By how many places the two are apart; 1 if nobody came between them.
    fn distance(&self, one: &Entry, other: &Entry) -> usize {
        let (earlier, later) = (arrival(one).min(arrival(other)), arrival(one).max(arrival(other)));
        let up_to = self.arrivals.partition_point(|arrival| *arrival <= earlier);
        let before = self.arrivals.partition_point(|arrival| *arrival < later);
        before.saturating_sub(up_to) + 1
    }
}

fn arrival(entry: &Entry) -> Arrival {
    (entry.since, entry.enode.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(key: u16, since: i64) -> Entry {
        Entry {
            enode: format!("enode://{key:0128x}@10.0.0.1:30303").parse().unwrap(),
            alternates: Vec::new(),
            network_id: 1,
            genesis: String::new(),
            pod_uid: None,
            since: Timestamp::from_second(since).unwrap(),
            client: String::new(),
            max_peers: None,
            network: None,
        }
    }

    /// How many of the others `own` dials.
    fn share(own: &Entry, entries: &[Entry]) -> usize {
        let order = Order::of(entries, 0);
        entries.iter().filter(|peer| peer.enode.key != own.enode.key && order.dials(own, peer)).count()
    }

    #[test]
    fn does_the_younger_dial_because_the_older_may_still_be_refused_by_its_history() {
        let (old, young) = (entry(2, 0), entry(1, 1));
        let order = Order::of([&old, &young], 0);
        assert!(order.dials(&young, &old));
        assert!(!order.dials(&old, &young));
    }

    #[test]
    fn does_a_mesh_of_33_fit_the_16_dial_slots_of_a_default_geth() {
        for ages in [0, 1, 1000] {
            let entries: Vec<_> = (0..33).map(|key| entry(key, i64::from(key) * ages)).collect();
            for own in &entries {
                assert_eq!(share(own, &entries), 16);
            }
        }
    }

    #[test]
    fn does_a_node_that_everybody_dials_cost_each_a_slot() {
        let entries: Vec<_> = (0..31).map(|key| entry(key, 0)).collect();
        let order = Order::of(&entries, 1);
        for own in &entries {
            let dialed = entries.iter().filter(|peer| peer.enode.key != own.enode.key && order.dials(own, peer));
            assert_eq!(dialed.count() + 1, 16);
        }
    }

    #[test]
    fn are_those_hung_up_on_last_who_may_have_to_be_dialed_again() {
        let entries: Vec<_> = (0..33).map(|key| entry(key, i64::from(key))).collect();
        let (order, own) = (Order::of(&entries, 0), &entries[20]);
        assert!(!order.dials(own, &entries[3]) && !order.dials(own, &entries[0]) && !order.dials(own, &entries[30]));
        assert!(order.remoteness(own, &entries[30]) > order.remoteness(own, &entries[0]));
        assert!(order.remoteness(own, &entries[0]) > order.remoteness(own, &entries[3]));
    }

    proptest! {
        #[test]
        fn does_a_newcomer_change_nothing_for_those_who_are_there(
            nodes in prop::collection::btree_map(any::<u16>(), 0i64..100, 2..40),
        ) {
            let mut entries: Vec<_> = nodes.iter().map(|(key, since)| entry(*key, *since)).collect();
            entries.sort_by_key(arrival);
            let after = Order::of(&entries, 0);
            entries.pop();
            let before = Order::of(&entries, 0);
            for own in &entries {
                for peer in entries.iter().filter(|peer| peer.enode.key != own.enode.key) {
                    prop_assert_eq!(before.dials(own, peer), after.dials(own, peer));
                }
            }
        }
    }
}
