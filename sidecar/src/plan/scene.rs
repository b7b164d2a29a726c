//! What one plan of the links rests on, and what follows from it: whose share a link is, and how many dial slots are left.

use std::collections::BTreeMap;
use std::time::Duration;

use super::dialer::{Node, Order};
use super::listed::{Listed, Origin};
use super::membership::Wanted;
use super::memory::Memory;
use super::{Now, dialer};
use crate::enode::PublicKey;
use crate::geth::Peer;
use crate::registry::entry::Entry;

/// So many nodes that start together with this one are dialed within [`PACE`], if no link comes up meanwhile.
const AT_ONCE: usize = 8;
/// See [`AT_ONCE`].
const PACE: Duration = Duration::from_secs(1);

/// Geths that start within that time of each other may have been restarted together.
const TOGETHER: Duration = Duration::from_secs(5);

/// The dial slots of a Geth that are left.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    free: usize,
    /// How many of them those of the own share need that are not dialed yet.
    needed: usize,
    /// When Geth was told to dial those of whom it has no connection yet, the latest last.
    told: Vec<Duration>,
}

impl Slots {
    /// When one more node may be dialed of those that start together with this one. On a busy machine a
    /// Geth that greets many at once does not get through with any of them in time, and does not
    /// dial those again for [`dialer::DIAL_HISTORY`].
    pub(super) fn paced(&self) -> Duration {
        let nth_last = self.told.len().checked_sub(AT_ONCE).and_then(|at| self.told.get(at));
        nth_last.map_or(Duration::ZERO, |at| *at + PACE)
    }

    /// Whether there is one for a node: those in the others' shares only have what the own share leaves.
    pub(super) fn has(&self, share: bool) -> bool {
        self.free > if share { 0 } else { self.needed }
    }

    /// Without one that is given to a node now.
    pub(super) fn take(&mut self, share: bool, now: Now) {
        self.told.push(now.elapsed);
        self.free = self.free.saturating_sub(1);
        self.needed = self.needed.saturating_sub(share.into());
    }
}

/// What one plan of the links rests on.
pub(super) struct Scene<'a> {
    pub(super) pod: &'a str,
    pub(super) own: &'a Entry,
    pub(super) wanted: &'a [Wanted<'a>],
    pub(super) listed: &'a Listed,
    pub(super) peers: &'a [Peer],
    pub(super) order: &'a Order<'a>,
    /// Whether the registry has the own entry, as it is: then it has shown all that were there before.
    pub(super) is_registered: bool,
    /// How long the others may take to be linked to this node, by what was seen of late.
    pub(super) took: Duration,
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

    fn own(&self) -> Node<'_> {
        Node { pod: self.pod, entry: self.own }
    }

    /// Whether this node is the first to dial `node`. Earlier sidecars dial by
    /// themselves whomever they read of, nodes outside the cluster nobody.
    pub(super) fn begins(&self, node: &Wanted<'_>) -> bool {
        match self.origin(&node.entry) {
            Some(origin) => origin == Origin::External,
            None => self.order.begins(self.own(), node.node()),
        }
    }

    /// Whether `node` was there long before this one's Geth started.
    pub(super) fn is_newcomer(&self, node: &Wanted<'_>) -> bool {
        self.origin(&node.entry).is_none() && dialer::is_newcomer(self.own(), node.node())
    }

    /// Whether `entry`'s Geth was running when this one's, which had run before, was restarted: then it may have
    /// dialed in vain in between. Of those that restart together nobody has.
    pub(super) fn outlived_a_run(&self, entry: &Entry) -> bool {
        let earlier = Duration::try_from(self.own.since.duration_since(entry.since));
        earlier.is_ok_and(|earlier| earlier > TOGETHER)
    }

    /// Whether this one was there long before the Geth of `node` started.
    pub(super) fn is_before(&self, node: &Wanted<'_>) -> bool {
        self.origin(&node.entry).is_none() && dialer::is_newcomer(node.node(), self.own())
    }

    /// Whether the link to `node` is one that this node can always make room for. Nobody else
    /// makes room for a link to a node without a sidecar of this kind.
    pub(super) fn is_share(&self, node: &Wanted<'_>) -> bool {
        self.origin(&node.entry).is_some() || self.order.is_share(self.own(), node.node())
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

    /// How many more it has dialed than it has slots for: of the last few slots Geth uses each twice.
    pub(super) fn excess(&self) -> usize {
        self.dialed().saturating_sub(self.dial_slots())
    }

    /// The dial slots that are left.
    pub(super) fn slots(&self, memory: &BTreeMap<PublicKey, Memory>) -> Slots {
        let is_dialed = |key: &PublicKey| memory.get(key).is_some_and(|memory| memory.told_at(self.now).is_some());
        let dialing = memory.keys().filter(|key| self.peer(key).is_none() && is_dialed(key)).count();
        let is_needed = |node: &&Wanted<'_>| {
            let key = &node.entry.enode.key;
            self.peer(key).is_none() && !is_dialed(key) && self.is_share(node)
        };
        let needed = self.wanted.iter().filter(is_needed).count();
        let mut told: Vec<_> = memory.values().filter_map(|memory| memory.told_at(self.now)).collect();
        told.sort();
        Slots { told, free: self.dial_slots().saturating_sub(self.dialed() + dialing), needed }
    }
}
