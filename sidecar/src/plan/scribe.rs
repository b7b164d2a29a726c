//! The scribe: one sidecar that keeps, for all, the list of static nodes which earlier sidecars share.
//!
//! Those read and write the list as a whole, know nothing of entries, and die where
//! there is no list. So one sidecar of this kind puts onto it whoever has an entry, and
//! takes from it whoever is gone. Each works out alone whether it is the one: two at
//! once for a moment do no harm, because a write takes effect only on the list it was made for.
//!
//! A scribe that was restarted has not seen the entries that went meanwhile, and cannot tell
//! their enodes on the list from those of earlier sidecars. So whoever has seen them takes
//! them off the list in its place, after it had time to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;

use super::membership::Link;
use super::pace::Pace;
use super::records::SILENCE;
use super::{Action, LinkState, Now, Own, Plan, Situation, is_up, jittered};
use crate::enode::{Enode, PublicKey};
use crate::geth::Peer;
use crate::registry::entry::Entry;
use crate::registry::list::{Element, NodeList};
use crate::registry::view::View;

/// How long what is to be changed has to stay the same before it is, spread over half
/// as much again: most changes come in swarms.
const SETTLE: Duration = Duration::from_secs(1);
/// The same for those that are not the scribe, spread over as much again: the scribe, if
/// it knows, is faster, and of the others only one need write.
const SETTLE_FOR_SCRIBE: Duration = Duration::from_secs(5);

/// What this sidecar remembers about the list of static nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Scribe {
    pace: Pace,
    /// What is to be changed, and when.
    due: Option<(Change, Duration)>,
    /// The enodes of entries, and when each was last seen to be one's.
    entries: BTreeMap<Enode, Duration>,
    /// Enodes on the list that are no entry's and have no link, and since when.
    silent: BTreeMap<Enode, Duration>,
}

/// What is to be changed in the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Change {
    /// There is no list, or what is there is none.
    anew: bool,
    taken_out: BTreeSet<String>,
    added: BTreeSet<Enode>,
}

impl Scribe {
    /// Takes note of whose the enodes on the list are, and which of them are silent.
    /// Every sidecar does, because any may have to step in for the scribe.
    pub(super) fn observe(&mut self, situation: &Situation<'_>, now: Now) {
        let Some(registry) = situation.registry else { return };
        let on_list: BTreeSet<Enode> = plain(registry).collect();
        self.entries.extend(registry.entries().map(|(_, entry)| (entry.enode, now.elapsed)));
        // What left the list and is on it again, an earlier sidecar has put there, which took the place of this kind's.
        let is_due = |enode: &Enode, seen: Duration| seen == now.elapsed || on_list.contains(enode);
        self.entries.retain(|enode, seen| now.elapsed < *seen + SILENCE && is_due(enode, *seen));
        let (Own::Ready(own), Some(peers)) = (situation.own, situation.peers) else {
            // Without an answering Geth everybody is silent.
            return self.silent.clear();
        };
        let keys: BTreeSet<_> = registry.entries().map(|(_, entry)| entry.enode.key).chain([own.enode.key]).collect();
        let linked: BTreeSet<_> = peers.iter().filter(|peer| is_up(peer)).map(|peer| peer.key).collect();
        let is_silent = |enode: &Enode| !keys.contains(&enode.key) && !linked.contains(&enode.key);
        self.silent.retain(|enode, _| on_list.contains(enode) && is_silent(enode));
        for enode in on_list.into_iter().filter(is_silent) {
            self.silent.entry(enode).or_insert(now.elapsed);
        }
    }

    /// Whether an enode that is no entry's was one's not long ago, so that it is no earlier sidecar's.
    pub(super) fn is_departed(&self, enode: &Enode) -> bool {
        self.entries.contains_key(enode)
    }

    /// Whether an element stays on the list. Whoever is not the scribe takes only the enode of an
    /// entry that it saw go, and what nobody can read.
    fn stays(&self, element: &Element, known: &Known<'_>, is_scribe: bool, now: Now) -> bool {
        // What cannot be judged stays, but what is no text nobody can read.
        let Some(enode) = element.plain() else { return !element.text.is_empty() };
        match known.owned.get(&enode.key) {
            Some(enodes) => !is_scribe || enodes.contains(&enode),
            None if known.is_peer(&enode) => true,
            None if self.is_departed(&enode) => false,
            None => !is_scribe || self.silent.get(&enode).is_none_or(|since| now.elapsed < *since + SILENCE),
        }
    }

    pub(super) fn wrote(&mut self, ok: bool, now: Now, rng: &mut impl Rng) {
        self.pace.ended(ok, now, rng);
    }

    /// Adds what is to be done about the list to `plan`: by the scribe all, by any other only
    /// what a scribe may be unable to know.
    pub(super) fn plan(
        &mut self,
        situation: &Situation<'_>,
        links: &[Link],
        now: Now,
        rng: &mut impl Rng,
        plan: &mut Plan,
    ) {
        let due = self.due.take();
        let (Own::Ready(own), Some(registry), Some(peers)) = (situation.own, situation.registry, situation.peers)
        else {
            return;
        };
        let list = registry.static_nodes();
        let linked = linked(situation.pod, registry, links);
        let is_scribe = linked.is_some();
        let known = Known::new(own, registry, peers);
        let stays = |element: &&Element| self.stays(element, &known, is_scribe, now);
        if let Some(since) = self.silent.values().filter(|since| is_scribe && now.elapsed < **since + SILENCE).min() {
            plan.wake_at(*since + SILENCE);
        }
        let (mut kept, lost): (Vec<&Element>, Vec<_>) = list.into_iter().flat_map(NodeList::iter).partition(stays);
        let (mut nodes, mut texts) = (BTreeSet::new(), BTreeSet::new());
        kept.retain(|element| match element.plain() {
            Some(enode) => nodes.insert(enode),
            None => texts.insert(element.text.as_str()),
        });
        let added = linked.map(|linked| linked.into_iter().map(|entry| entry.enode).chain([own.enode]));
        let change = Change {
            anew: is_scribe && list.is_none_or(|list| list.elements.is_err()),
            taken_out: lost.into_iter().map(|element| element.text.clone()).collect(),
            added: added.into_iter().flatten().filter(|enode| !nodes.contains(enode)).collect(),
        };
        if change == Change::default() {
            return;
        }
        let at = match due {
            Some((before, at)) if before == change => at,
            _ if is_scribe => now.elapsed + jittered(SETTLE, SETTLE / 2, rng),
            _ => now.elapsed + jittered(SETTLE_FOR_SCRIBE, SETTLE_FOR_SCRIBE, rng),
        };
        let written = kept.iter().map(|element| element.text.clone());
        let value: Vec<String> = written.chain(change.added.iter().map(Enode::to_string)).collect();
        self.due = Some((change, at));

        let Some(next) = self.pace.next() else { return };
        if now.elapsed < at.max(next) {
            return plan.wake_at(at.max(next));
        }
        self.pace.begin();
        plan.actions.push(Action::WriteList {
            old: list.map(|list| list.value.clone()),
            version: registry.version(),
            // A list of texts always serializes.
            value: serde_json::to_string(&value).unwrap_or_else(|_| "[]".into()),
        });
    }
}

/// What the enodes on the list are judged by.
struct Known<'a> {
    /// Those of entries and the own one, by their keys.
    owned: BTreeMap<PublicKey, BTreeSet<Enode>>,
    peers: &'a [Peer],
}

impl<'a> Known<'a> {
    fn new(own: &Entry, registry: &View, peers: &'a [Peer]) -> Self {
        let mut owned = BTreeMap::<_, BTreeSet<_>>::new();
        for enode in registry.entries().map(|(_, entry)| entry.enode).chain([own.enode]) {
            owned.entry(enode.key).or_default().insert(enode);
        }
        Self { owned, peers }
    }

    /// Whether Geth is connected to it, if only for a handshake.
    fn is_peer(&self, enode: &Enode) -> bool {
        self.peers.iter().any(|peer| peer.key == enode.key)
    }
}

/// The enodes on the list of static nodes, as earlier sidecars take them.
fn plain(registry: &View) -> impl Iterator<Item = Enode> {
    registry.static_nodes().into_iter().flat_map(NodeList::iter).filter_map(Element::plain)
}

/// The entries whose links are up, if this pod is the scribe: the first of them and itself.
fn linked<'a>(own_pod: &str, registry: &'a View, links: &[Link]) -> Option<Vec<&'a Entry>> {
    let up: BTreeSet<&str> =
        links.iter().filter(|link| link.state == LinkState::Connected).map(|link| link.pod.as_str()).collect();
    let mut linked = registry.entries().filter(|(pod, _)| *pod == own_pod || up.contains(pod));
    linked.next().filter(|(pod, _)| *pod == own_pod)?;
    Some(linked.map(|(_, entry)| entry).collect())
}
