//! Membership: who of those in the registry shall be a peer of this Geth, and why the others not.
//!
//! Which of the peers it is linked to is decided here and nowhere else: today all of them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::dialer::Node;
use super::listed::Listed;
use super::{LinkState, Situation};
use crate::enode::{Enode, PublicKey};
use crate::registry::entry::Entry;

/// The link to one other pod, before it is dated.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) pod: String,
    pub(super) enode: Option<Enode>,
    pub(super) state: LinkState,
    pub(super) reason: String,
}

impl Link {
    pub(super) fn new(pod: &str, enode: Option<Enode>, state: LinkState, reason: impl Into<String>) -> Self {
        Self { pod: pod.to_owned(), enode, state, reason: reason.into() }
    }
}

/// A node that shall be a peer.
pub(super) struct Wanted<'a> {
    pub(super) pod: &'a str,
    /// Its entry, with the one of its addresses that this node dials.
    pub(super) entry: Cow<'a, Entry>,
}

impl Wanted<'_> {
    pub(super) fn node(&self) -> Node<'_> {
        Node { pod: self.pod, entry: &self.entry }
    }
}

/// Sorts the other pods into those that shall be peers, and those that shall not, with the reason.
/// The nodes that are `listed` shall be.
pub(super) fn sort<'a>(situation: &Situation<'a>, own: &Entry, listed: &'a Listed) -> (Vec<Wanted<'a>>, Vec<Link>) {
    let mut wanted: BTreeMap<PublicKey, Wanted<'a>> = BTreeMap::new();
    let mut rest = Vec::new();
    for (pod, record) in situation.registry.into_iter().flat_map(|registry| registry.iter()) {
        if pod == situation.pod {
            continue;
        }
        let mut leave = |pod: &str, enode, state, reason: String| {
            rest.push(Link::new(pod, enode, state, reason));
        };
        let entry = match &record.entry {
            Ok(entry) => entry.seen_by(own),
            Err(error) => {
                leave(pod, None, LinkState::Invalid, error.to_string());
                continue;
            }
        };
        let enode = Some(entry.enode);
        let same_key = |pod: &str| format!("{pod} has the same node key; Geth can be connected to one of them only");
        if let Some(reason) = own.mismatch(&entry) {
            leave(pod, enode, LinkState::Mismatch, reason);
        } else if entry.enode.key == own.enode.key {
            leave(pod, enode, LinkState::Duplicate, same_key("this pod"));
        } else if let Some(other) = wanted.get(&entry.enode.key) {
            // Most likely one pod took the other's place: the younger counts.
            let (stays, goes) = if entry.since > other.entry.since { (pod, other.pod) } else { (other.pod, pod) };
            let goes_enode = if goes == pod { enode } else { Some(other.entry.enode) };
            leave(goes, goes_enode, LinkState::Duplicate, same_key(stays));
            if stays == pod {
                wanted.insert(entry.enode.key, Wanted { pod, entry });
            }
        } else {
            wanted.insert(entry.enode.key, Wanted { pod, entry });
        }
    }
    (wanted.into_values().chain(listed.wanted()).collect(), rest)
}
