//! Which of two nodes dials the link between them.
//!
//! Two Geths that dial each other at the same instant refuse each other and try
//! again after 35 s, so one of the two has to. Both work it out alone, from the
//! same two entries and the same list of keys, and never disagree.

use std::time::Duration;

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

/// Whether `own` dials the link to `peer`, rather than `peer` the link to `own`.
///
/// If one of the two started more than [`DIAL_HISTORY`] after the other, it dials:
/// its dial history is empty, while the older one may still have the younger one's
/// previous run in its own. Otherwise, and where one Geth cannot dial all others, the
/// ring decides: with the network's keys in order, each node dials those in the half of
/// the ring that follows it, so that nobody dials more than half.
///
/// `ring` holds the keys of the network, both of these among them, in ascending order.
pub fn dials(own: &Entry, peer: &Entry, ring: &[PublicKey]) -> bool {
    if decided_by_ring(own, peer, ring) {
        is_share(own.enode.key, peer.enode.key, ring)
    } else {
        own.since > peer.since
    }
}

/// Whether `peer_key` is in `own_key`'s share of the ring: the half that follows it.
///
/// Shares are what fits Geth's dial slots. Who is to dial first may go by age, and
/// nodes step in for one another; but for its share each node can always make room,
/// because whatever else it dialed is somebody else's share.
pub fn is_share(own_key: PublicKey, peer_key: PublicKey, ring: &[PublicKey]) -> bool {
    let Some(ahead) = ahead(own_key, peer_key, ring) else { return own_key < peer_key };
    match (2 * ahead).cmp(&ring.len()) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Greater => false,
        std::cmp::Ordering::Equal => own_key < peer_key,
    }
}

/// How many places `peer_key` is after `own_key` on the ring; `None` if one of them is not there.
pub fn ahead(own_key: PublicKey, peer_key: PublicKey, ring: &[PublicKey]) -> Option<usize> {
    let (own_at, peer_at) = (ring.binary_search(&own_key).ok()?, ring.binary_search(&peer_key).ok()?);
    Some((peer_at + ring.len() - own_at) % ring.len())
}

/// Whether the ring decides who dials: the two started close together, or the younger has
/// too few slots to dial everybody, and those it cannot dial would wait for it in vain.
pub fn decided_by_ring(own: &Entry, peer: &Entry, ring: &[PublicKey]) -> bool {
    let younger = if own.since > peer.since { own } else { peer };
    own.since.duration_since(peer.since).unsigned_abs() <= DIAL_HISTORY || slots(younger) + 1 < ring.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
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

    fn ring(entries: &[Entry]) -> Vec<PublicKey> {
        let mut keys: Vec<_> = entries.iter().map(|entry| entry.enode.key).collect();
        keys.sort();
        keys
    }

    /// How many of the others `own` dials.
    fn share(own: &Entry, entries: &[Entry], ring: &[PublicKey]) -> usize {
        entries.iter().filter(|peer| peer.enode.key != own.enode.key && dials(own, peer, ring)).count()
    }

    #[test]
    fn does_the_younger_dial_when_the_older_may_still_be_refused_by_its_history() {
        let (old, young) = (entry(1, 0), entry(2, 36));
        let ring = ring(&[old.clone(), young.clone()]);
        assert!(dials(&young, &old, &ring));
        assert!(!dials(&old, &young, &ring));
    }

    #[test]
    fn does_a_young_node_with_too_few_slots_for_all_leave_half_of_them_to_the_others() {
        let mut entries: Vec<_> = (1..33).map(|key| entry(key, 0)).collect();
        entries.push(entry(0, 1000));
        let ring = ring(&entries);
        let Some((young, old)) = entries.split_last() else { panic!("there are 33") };
        assert_eq!(share(young, &entries, &ring), 16);
        assert_eq!(old.iter().filter(|peer| dials(peer, young, &ring)).count(), 16);
        assert_eq!(share(young, &entries[16..], &ring[..17]), 16, "it can dial all of 17");
    }

    #[test]
    fn does_a_mesh_of_33_fit_the_16_dial_slots_of_a_default_geth() {
        let entries: Vec<_> = (0..33).map(|key| entry(key, i64::from(key))).collect();
        let ring = ring(&entries);
        for own in &entries {
            assert_eq!(share(own, &entries, &ring), 16);
        }
    }

    #[test]
    fn do_two_nodes_still_agree_when_their_views_of_the_ring_lack_one_of_them() {
        let (a, b) = (entry(1, 0), entry(2, 0));
        assert_ne!(dials(&a, &b, &[]), dials(&b, &a, &[]));
    }

    proptest! {
        #[test]
        fn does_exactly_one_of_two_dial_and_nobody_of_one_age_more_than_half(
            nodes in prop::collection::btree_map(any::<u16>(), 0i64..100, 2..40),
        ) {
            let entries: Vec<_> = nodes.iter().map(|(key, since)| entry(*key, *since)).collect();
            let ring = ring(&entries);
            for own in &entries {
                for peer in entries.iter().filter(|peer| peer.enode.key != own.enode.key) {
                    prop_assert_ne!(dials(own, peer, &ring), dials(peer, own, &ring));
                }
            }
            let same_age: Vec<_> = entries.iter().map(|e| Entry { since: entries[0].since, ..e.clone() }).collect();
            for own in &same_age {
                prop_assert!(share(own, &same_age, &ring) <= same_age.len() / 2);
            }
        }
    }
}
