//! How things are, for people and programs: the JSON of `/status`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::plan::{LinkReport, LinkState};
use crate::registry::entry::Entry;

/// Everything `/status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// This pod's node.
    #[serde(rename = "self")]
    pub own: OwnStatus,
    /// The Geth in this pod: `up`, `waiting`, `denied`, `mute` or `unpeerable`.
    pub geth: Condition,
    /// The registry: `watching`, `blind` or, before it was first read, `unread`.
    pub registry: Condition,
    /// How many links there should be.
    pub wanted: usize,
    /// How many of them are up.
    pub connected: usize,
    /// Every other pod in the registry.
    pub peers: Vec<PeerStatus>,
}

/// This pod's node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnStatus {
    /// The pod's name.
    pub pod: String,
    /// Its entry, once its Geth has answered.
    #[serde(flatten)]
    pub entry: Option<Entry>,
}

/// The state of something, why, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// One word.
    pub state: &'static str,
    /// Why, in plain words.
    pub reason: String,
    /// Since when it is in that state.
    pub since: Timestamp,
}

impl Condition {
    /// Sets state and reason; the date stays unless the state is another. Says whether anything changed.
    pub fn set(&mut self, state: &'static str, reason: impl Into<String>, now: Timestamp) -> bool {
        let since = if self.state == state { self.since } else { now };
        let next = Self { state, reason: reason.into(), since };
        let changed = *self != next;
        *self = next;
        changed
    }
}

/// The link to one other pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// The pod's name.
    pub pod: String,
    /// Its enode, where the registry has one.
    pub enode: Option<String>,
    /// See [`LinkState::as_str`].
    pub state: &'static str,
    /// Why, in plain words.
    pub reason: String,
    /// Since when it is in that state.
    pub since: Timestamp,
}

impl Status {
    /// The status of `pod` before anything is known.
    pub fn new(pod: &str, now: Timestamp) -> Self {
        let unknown = |state, reason: &str| Condition { state, reason: reason.into(), since: now };
        Self {
            own: OwnStatus { pod: pod.to_owned(), entry: None },
            geth: unknown("waiting", "Geth was not asked yet"),
            registry: unknown("unread", "the registry was not read yet"),
            wanted: 0,
            connected: 0,
            peers: Vec::new(),
        }
    }

    /// Takes over the links as planned.
    pub fn set_links(&mut self, links: &[LinkReport]) {
        self.wanted = links.iter().filter(|link| link.state.is_wanted()).count();
        self.connected = links.iter().filter(|link| link.state == LinkState::Connected).count();
        self.peers = links
            .iter()
            .map(|link| PeerStatus {
                pod: link.pod.clone(),
                enode: link.enode.map(|enode| enode.to_string()),
                state: link.state.as_str(),
                reason: link.reason.clone(),
                since: link.since,
            })
            .collect();
    }

    /// How many links are in each state; every state is there.
    pub fn links_by_state(&self) -> BTreeMap<&'static str, usize> {
        let mut counts: BTreeMap<_, _> = LinkState::ALL.map(|state| (state.as_str(), 0)).into();
        for peer in &self.peers {
            *counts.entry(peer.state).or_default() += 1;
        }
        counts
    }
}
