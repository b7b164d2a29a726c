//! Geth, as far as peering goes: its static nodes, its dials, and its dial history.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use sidecar::enode::{Enode, PublicKey};
use sidecar::plan::dialer::DIAL_HISTORY;

/// A node key, by a number that is quicker to hash. Numbers and keys have one order.
pub(crate) type Node = u8;

/// How many node keys there are.
const NODES: Node = 12;

pub(crate) fn key(node: Node) -> PublicKey {
    keys()[usize::from(node)]
}

pub(crate) fn node(key: &PublicKey) -> Node {
    let at = keys().binary_search(key).unwrap();
    Node::try_from(at).unwrap()
}

fn keys() -> &'static [PublicKey] {
    static KEYS: OnceLock<Vec<PublicKey>> = OnceLock::new();
    KEYS.get_or_init(|| (0..NODES).map(|node| format!("{node:02x}").repeat(64).parse().unwrap()).collect())
}

/// What a sidecar knew when it told its Geth to dial by the dialer rule: a digest of all
/// entries. `None` where the other side had its turn, or Geth dials again by itself.
pub(crate) type Ground = Option<u64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Geth {
    pub(crate) enode: Enode,
    /// When this run began.
    pub(crate) since: Duration,
    statics: BTreeMap<Node, SocketAddr>,
    /// The dials that have begun and not ended.
    pub(crate) dialing: BTreeMap<Node, Ground>,
    /// Until when each node is not dialed again.
    history: BTreeMap<Node, Duration>,
}

impl Geth {
    pub(crate) fn new(enode: Enode, since: Duration) -> Self {
        Self { enode, since, statics: BTreeMap::new(), dialing: BTreeMap::new(), history: BTreeMap::new() }
    }

    /// `admin_addPeer`, which does nothing for a node that is static already.
    pub(crate) fn add(&mut self, enode: Enode) {
        self.statics.entry(node(&enode.key)).or_insert(enode.address);
    }

    /// `admin_removePeer`, but for the hanging up.
    pub(crate) fn remove(&mut self, node: Node) {
        self.statics.remove(&node);
    }

    pub(crate) fn address(&self, node: Node) -> Option<SocketAddr> {
        self.statics.get(&node).copied()
    }

    /// The nodes that it dials as soon as their history allows, with that time.
    pub(crate) fn due(&self, linked: &BTreeSet<Node>) -> Vec<(Node, Duration)> {
        let missing = self.statics.keys().filter(|node| !linked.contains(node) && !self.dialing.contains_key(node));
        missing.map(|node| (*node, self.history.get(node).copied().unwrap_or_default())).collect()
    }

    /// Begins to dial `node`, unless it is too early.
    pub(crate) fn dial(&mut self, node: Node, linked: &BTreeSet<Node>, now: Duration, ground: Ground) {
        if self.due(linked).iter().any(|(due, at)| *due == node && *at <= now) {
            self.dialing.insert(node, ground);
            self.history.insert(node, now + DIAL_HISTORY);
        }
    }

    pub(crate) fn remembers_too_much(&self, now: Duration) -> bool {
        self.history.values().any(|until| *until <= now)
    }

    /// Forgets what no longer makes a difference.
    pub(crate) fn forget(&mut self, now: Duration) {
        self.history.retain(|_, until| *until > now);
    }
}
