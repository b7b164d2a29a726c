//! Listed nodes: those without an entry, which are peers because a list in the registry names them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::membership::{Link, Wanted};
use super::scribe::Scribe;
use super::{LinkState, Own, Situation};
use crate::enode::{Enode, PublicKey};
use crate::registry::entry::Entry;
use crate::registry::list::{EXTERNAL_NODES, Element, NodeList, STATIC_NODES};
use crate::registry::view::View;

/// The most elements of one list that are shown as no nodes, each with its reason.
const MOST_SHOWN: usize = 20;

/// Which list names a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// [`STATIC_NODES`]: it belongs to an earlier sidecar, which dials by itself.
    Static,
    /// [`EXTERNAL_NODES`]: it is outside the cluster, and nobody tells it to dial.
    External,
}

/// A node that a list names.
#[derive(Debug)]
struct Node {
    name: String,
    enode: Enode,
    origin: Origin,
    /// What its entry would be if it had one; only beside a Geth that answers.
    entry: Option<Entry>,
}

/// The nodes without an entry that the lists name, and what on the lists names none.
#[derive(Debug, Default)]
pub(super) struct Listed {
    nodes: BTreeMap<PublicKey, Node>,
    /// Name and reason.
    invalid: Vec<(String, String)>,
    /// Whether there is a list of external nodes that can be read, so that a node that
    /// is not on it was taken from it.
    pub(super) has_external_list: bool,
}

impl Listed {
    /// What the lists of the registry name that is neither this node nor an entry's; nor
    /// an entry's that is gone, as `scribe` remembers them.
    pub(super) fn new(situation: &Situation<'_>, scribe: &Scribe) -> Self {
        let mut listed = Self::default();
        let Some(registry) = situation.registry else { return listed };
        let taken = taken(situation.own, registry);
        let mut names = BTreeSet::new();
        if let Some(list) = registry.external_nodes() {
            listed.has_external_list = list.elements.is_ok();
            listed.invalid(EXTERNAL_NODES, list, |element| element.node.as_ref().err().map(ToString::to_string));
            for enode in list.iter().filter_map(|element| element.node.as_ref().ok()) {
                listed.add(Origin::External, *enode, situation.own, &taken, &mut names);
            }
        }
        if let Some(list) = registry.static_nodes() {
            listed.invalid(STATIC_NODES, list, |element| match &element.node {
                Err(error) => Some(error.to_string()),
                Ok(_) if element.plain().is_none() => Some("has a query, of which earlier sidecars die".into()),
                Ok(_) => None,
            });
            // The last of several addresses is most likely the newest.
            let elements = list.iter().collect::<Vec<_>>();
            for enode in elements.into_iter().rev().filter_map(Element::plain) {
                if !scribe.is_departed(&enode) {
                    listed.add(Origin::Static, enode, situation.own, &taken, &mut names);
                }
            }
        }
        listed
    }

    fn add(
        &mut self,
        origin: Origin,
        enode: Enode,
        own: &Own,
        taken: &BTreeSet<PublicKey>,
        names: &mut BTreeSet<String>,
    ) {
        if taken.contains(&enode.key) || self.nodes.contains_key(&enode.key) {
            return;
        }
        let list = match origin {
            Origin::Static => STATIC_NODES,
            Origin::External => EXTERNAL_NODES,
        };
        let mut name = format!("{list}/{}", enode.address);
        if !names.insert(name.clone()) {
            // Two keys at one address: one of them is not there any more.
            name = format!("{name}/{}", enode.key);
        }
        let entry = match own {
            Own::Ready(own) => {
                Some(Entry { enode, alternates: Vec::new(), max_peers: None, pod_uid: None, ..own.clone() })
            }
            Own::Silent | Own::Unpeerable => None,
        };
        self.nodes.insert(enode.key, Node { name, enode, origin, entry });
    }

    /// Takes note of what on a list is no node.
    fn invalid(&mut self, name: &str, list: &NodeList, reason: impl Fn(&Element) -> Option<String>) {
        if let Err(error) = &list.elements {
            return self.invalid.push((name.to_owned(), error.to_string()));
        }
        let bad = list.iter().enumerate().filter_map(|(at, element)| Some((at + 1, element, reason(element)?)));
        let bad: Vec<_> = bad.collect();
        for (number, element, reason) in bad.iter().take(MOST_SHOWN) {
            let quoted: String = element.text.chars().take(64).collect();
            self.invalid
                .push((format!("{name}/#{number}"), format!("element {number} of {name}, {quoted:?}: {reason}")));
        }
        if bad.len() > MOST_SHOWN {
            let more = bad.len() - MOST_SHOWN;
            self.invalid.push((format!("{name}/#"), format!("{more} more elements of {name} are no nodes")));
        }
    }

    /// The list that names a node, if it is one of these.
    pub(super) fn origin(&self, key: &PublicKey) -> Option<Origin> {
        self.nodes.get(key).map(|node| node.origin)
    }

    /// How many of them are external.
    pub(super) fn externals(&self) -> usize {
        self.nodes.values().filter(|node| node.origin == Origin::External).count()
    }

    /// The nodes, all of which shall be peers.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Wanted<'_>> {
        self.nodes
            .values()
            .filter_map(|node| Some(Wanted { pod: &node.name, entry: Cow::Borrowed(node.entry.as_ref()?) }))
    }

    /// Their names and enodes.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, Option<Enode>)> {
        self.nodes.values().map(|node| (node.name.as_str(), Some(node.enode)))
    }

    /// What on the lists is no node.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = Link> {
        self.invalid.iter().map(|(name, reason)| Link::new(name, None, LinkState::Invalid, reason.clone()))
    }
}

/// The keys of this node and of all entries.
fn taken(own: &Own, registry: &View) -> BTreeSet<PublicKey> {
    let own = match own {
        Own::Ready(entry) => Some(entry.enode.key),
        Own::Silent | Own::Unpeerable => None,
    };
    registry.entries().map(|(_, entry)| entry.enode.key).chain(own).collect()
}
