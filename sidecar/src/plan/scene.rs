//! What one plan of the links rests on, and what follows from it: whose share a link is, and how many dial slots are left.

use std::collections::BTreeMap;

use super::dialer::Order;
use super::listed::{Listed, Origin};
use super::membership::Wanted;
use super::memory::Memory;
use super::sight::Seen;
use super::{Now, dialer};
use crate::enode::PublicKey;
use crate::geth::Peer;
use crate::registry::entry::Entry;

/// The dial slots of a Geth that are left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    free: usize,
    /// How many of them those of the own share need that are not dialed yet.
    needed: usize,
}

impl Slots {
    /// Whether there is one for a node: those in the others' shares only have what the own share leaves.
    pub(super) fn has(self, share: bool) -> bool {
        self.free > if share { 0 } else { self.needed }
    }

    /// Without one that is given to a node.
    pub(super) fn take(&mut self, share: bool) {
        self.free = self.free.saturating_sub(1);
        self.needed = self.needed.saturating_sub(share.into());
    }
}

/// Whether the link to `entry` is one that `own` can always make room for. Nobody else
/// makes room for a link to a node without a sidecar of this kind.
pub(super) fn is_share(own: &Entry, entry: &Entry, listed: &Listed, order: &Order) -> bool {
    listed.origin(&entry.enode.key).is_some() || order.dials(own, entry)
}

/// What one plan of the links rests on.
pub(super) struct Scene<'a> {
    pub(super) own: &'a Entry,
    pub(super) wanted: &'a [Wanted<'a>],
    pub(super) listed: &'a Listed,
    pub(super) peers: &'a [Peer],
    pub(super) order: &'a Order,
    /// When those who came before this node are seen.
    pub(super) seen: Seen,
    pub(super) now: Now,
}

impl Scene<'_> {
    pub(super) fn peer(&self, key: &PublicKey) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.key == *key)
    }

    /// The list that `entry` was made from; `None` if it is a pod's own.
    pub(super) fn origin(&self, entry: &Entry) -> Option<Origin> {
        self.listed.origin(&entry.enode.key)
    }

    /// Whether this node is the first to dial `entry`. Earlier sidecars dial by
    /// themselves whomever they read of, nodes outside the cluster nobody.
    pub(super) fn begins(&self, entry: &Entry) -> bool {
        match self.origin(entry) {
            Some(origin) => origin == Origin::External,
            None => self.order.dials(self.own, entry),
        }
    }

    /// See [`is_share`].
    pub(super) fn is_share(&self, entry: &Entry) -> bool {
        is_share(self.own, entry, self.listed, self.order)
    }

    /// How many peers this Geth dials at most.
    pub(super) fn dial_slots(&self) -> usize {
        dialer::slots(self.own)
    }

    fn dialed(&self) -> usize {
        self.peers.iter().filter(|peer| !peer.inbound).count()
    }

    /// Whether Geth dials nobody else, whatever it is told.
    pub(super) fn is_full(&self) -> bool {
        self.dialed() >= self.dial_slots()
    }

    /// The dial slots that are left.
    pub(super) fn slots(&self, memory: &BTreeMap<PublicKey, Memory>) -> Slots {
        let is_dialed = |key: &PublicKey| memory.get(key).is_some_and(|memory| memory.is_being_dialed(self.now));
        let dialing = memory.keys().filter(|key| self.peer(key).is_none() && is_dialed(key)).count();
        let is_needed = |node: &&Wanted<'_>| {
            let key = &node.entry.enode.key;
            self.peer(key).is_none() && !is_dialed(key) && self.is_share(&node.entry)
        };
        let needed = self.wanted.iter().filter(is_needed).count();
        Slots { free: self.dial_slots().saturating_sub(self.dialed() + dialing), needed }
    }
}
