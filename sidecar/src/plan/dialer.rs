//! Which of two nodes dials the link between them.
//!
//! Two Geths that dial each other at the same instant refuse each other and try
//! again after 35 s, so one of the two has to. Both work it out alone. In a network that
//! starts, no two sidecars have seen the same others yet: so wherever that will do, it
//! hangs on nothing but the names of the two pods and their entries.

use std::time::Duration;

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

/// A node of the network.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// The pod's key in the registry.
    pub pod: &'a str,
    /// Its entry.
    pub entry: &'a Entry,
}

/// Whether the Geth of `own` started more than [`DIAL_HISTORY`] after that of `peer`.
pub fn is_newcomer(own: Node<'_>, peer: Node<'_>) -> bool {
    let after = Duration::try_from(own.entry.since.duration_since(peer.entry.since));
    after.is_ok_and(|after| after > DIAL_HISTORY)
}

/// Who of a network dials whom.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// How many nodes each is to be linked to.
    others: usize,
    /// The names in order, where it goes by their places and not by their numbers.
    places: Option<Vec<&'a str>>,
}

impl<'a> Order<'a> {
    /// Of a network of these nodes, all of which also dial `external` nodes outside the cluster.
    ///
    /// The pods of a StatefulSet are numbered, and each dials every second one of those after it
    /// and every second one of those before it: an odd number of places after it, an even one
    /// before. So nobody has more than half of the links, whoever else is there yet. With other
    /// names somebody may, and if that is more than its Geth has slots for, it goes not by the
    /// numbers but by the places that the names have among all.
    pub fn of(nodes: impl IntoIterator<Item = Node<'a>>, external: usize) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        // The shorter name first, so that number 9 comes before number 10.
        nodes.sort_by_key(|node| rank(node.pod));
        let by_number = Self { others: (nodes.len() + external).saturating_sub(1), places: None };
        let fits = |own: &Node<'a>| {
            let share = nodes.iter().filter(|peer| peer.pod != own.pod && by_number.is_share(*own, **peer)).count();
            share + external <= slots(own.entry)
        };
        if nodes.iter().all(fits) {
            return by_number;
        }
        Self { places: Some(nodes.into_iter().map(|node| node.pod).collect()), ..by_number }
    }

    /// Whether `own` is the first to dial `peer`, rather than `peer` the first to dial `own`.
    ///
    /// If one came more than [`DIAL_HISTORY`] after the other, it is: its own dial history is
    /// empty, while the older Geth may have dialed the run before this one in vain a moment ago.
    /// But not if it has fewer slots than others to dial: then, and otherwise, whose
    /// [share](Self::is_share) the link is begins.
    pub fn begins(&self, own: Node<'_>, peer: Node<'_>) -> bool {
        if is_newcomer(own, peer) && self.others <= slots(own.entry) {
            true
        } else if is_newcomer(peer, own) && self.others <= slots(peer.entry) {
            false
        } else {
            self.is_share(own, peer)
        }
    }

    /// Whether the link to `peer` is `own`'s to make room for, rather than `peer`'s. Who has less
    /// than half of the other's dial slots is always dialed by it.
    pub fn is_share(&self, own: Node<'_>, peer: Node<'_>) -> bool {
        let (own_slots, peer_slots) = (slots(own.entry), slots(peer.entry));
        if 2 * own_slots.min(peer_slots) < own_slots.max(peer_slots) {
            return own_slots > peer_slots;
        }
        let is_odd = |pod| match &self.places {
            None => is_odd(pod),
            Some(places) => places.partition_point(|other| rank(other) < rank(pod)) % 2 == 1,
        };
        (rank(own.pod) < rank(peer.pod)) == (is_odd(own.pod) != is_odd(peer.pod))
    }
}

fn rank(pod: &str) -> (usize, &str) {
    (pod.len(), pod)
}

/// Whether a name is odd, as a number is; of two numbers that follow each other, one. The
/// other characters make two odd names even, and of a random name a coin.
fn is_odd(name: &str) -> bool {
    let bytes = name.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    // Of a number the last digit says it.
    let counts = |at: &usize| !(is_digit(*at) && is_digit(at + 1));
    (0..bytes.len()).filter(counts).filter_map(|at| bytes.get(at)).fold(0, |odd, byte| odd ^ byte) & 1 == 1
}
