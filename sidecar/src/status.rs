//! How things are, for people and programs: the JSON of `/status`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use tracing::{debug, info, warn};

use crate::plan::concern::Concern;
use crate::plan::{LinkReport, LinkState, Plan};
use crate::registry::entry::Entry;
use crate::repeats::Repeats;

/// Every state that [`Status::geth`] can have.
pub const GETH_STATES: [&str; 6] = ["up", "waiting", "denied", "mute", "strange", "unpeerable"];
/// Every state that [`Status::registry`] can have.
pub const REGISTRY_STATES: [&str; 5] = ["unread", "watching", "polling", "blind", "unwritable"];

/// Everything `/status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// This pod's node.
    #[serde(rename = "self")]
    pub own: OwnStatus,
    /// The Geth in this pod: one of [`GETH_STATES`].
    pub geth: Condition,
    /// The registry.
    pub registry: RegistryStatus,
    /// How many links there should be.
    pub wanted: usize,
    /// How many of them are up.
    pub connected: usize,
    /// What a person has to act on, in plain words.
    pub concerns: Vec<Concern>,
    /// Every other pod in the registry, and every node on its lists.
    pub peers: Vec<PeerStatus>,
    /// Which concerns were logged lately.
    #[serde(skip)]
    said: Repeats,
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
    /// Since when it is so, or missing.
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

/// How the registry can be seen and written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegistryStatus {
    /// One of [`REGISTRY_STATES`]: `unread` before it was first read, then `watching`,
    /// `polling` or `blind`; but `unwritable` while the last write of the own entry failed.
    #[serde(flatten)]
    pub shown: Condition,
    /// Why the last write of the own entry failed.
    #[serde(skip)]
    pub unwritable: Option<String>,
    /// State and reason as far as seeing goes.
    #[serde(skip)]
    sight: (&'static str, String),
    /// Whether it is read again and again because watching is forbidden, and why.
    #[serde(skip)]
    polling: Option<String>,
    /// Which states were logged lately.
    #[serde(skip)]
    said: Repeats,
}

impl RegistryStatus {
    fn new(now: Timestamp) -> Self {
        let sight = ("unread", "the registry was not read yet".to_owned());
        let shown = Condition { state: sight.0, reason: sight.1.clone(), since: now };
        Self { shown, unwritable: None, sight, polling: None, said: Repeats::default() }
    }

    /// Notes that the registry was seen. A change is logged, as by the others here.
    pub fn seen(&mut self, now: Timestamp) {
        self.sight = match &self.polling {
            Some(why) => ("polling", why.clone()),
            None => ("watching", String::new()),
        };
        self.show(now);
    }

    /// Notes that a watch has begun.
    pub fn watching(&mut self, now: Timestamp) {
        self.polling = None;
        self.seen(now);
    }

    /// Notes that a watch is forbidden, so that it will be read again and again. Whether
    /// it can be read is not known by that.
    pub fn polling(&mut self, reason: String, now: Timestamp) {
        self.polling = Some(reason.clone());
        if matches!(self.sight.0, "watching" | "polling") {
            self.sight = ("polling", reason);
        }
        self.show(now);
    }

    /// Notes that the registry cannot be seen.
    pub fn lost(&mut self, reason: String, now: Timestamp) {
        self.sight = ("blind", reason);
        self.show(now);
    }

    /// Notes how the last write of the own entry went.
    pub fn wrote(&mut self, unwritable: Option<String>, now: Timestamp) {
        self.unwritable = unwritable;
        self.show(now);
    }

    /// One line when the state is another; not when the same trouble is told in other words,
    /// as by an API server that refuses now and is silent then.
    fn show(&mut self, now: Timestamp) {
        let before = self.shown.state;
        let (state, reason) = match &self.unwritable {
            Some(reason) => ("unwritable", reason.clone()),
            None => self.sight.clone(),
        };
        self.shown.set(state, reason, now);
        if before == state || !self.said.admit(state, now) {
            return;
        }
        let reason = &self.shown.reason;
        match state {
            "polling" => warn!("{reason}; it is read again and again instead"),
            "blind" => warn!("{reason}; the links stay as they are"),
            "unwritable" => warn!("{reason}"),
            _ => info!("the registry is in sight"),
        }
    }
}

/// The link to one other pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// The pod's name; of a node on a list, the list's name and the node's address.
    pub pod: String,
    /// Its enode, where the registry has one.
    pub enode: Option<String>,
    /// See [`LinkState::as_str`].
    pub state: &'static str,
    /// Why, in plain words.
    pub reason: String,
    /// Since when it is so, or missing.
    pub since: Timestamp,
}

impl PeerStatus {
    /// Whether this is a link that should be up.
    pub fn is_wanted(&self) -> bool {
        LinkState::ALL.into_iter().any(|state| state.as_str() == self.state && state.is_wanted())
    }
}

impl Status {
    /// The status of `pod` before anything is known.
    pub fn new(pod: &str, now: Timestamp) -> Self {
        let unknown = |state, reason: &str| Condition { state, reason: reason.into(), since: now };
        Self {
            own: OwnStatus { pod: pod.to_owned(), entry: None },
            geth: unknown("waiting", "Geth was not asked yet"),
            registry: RegistryStatus::new(now),
            wanted: 0,
            connected: 0,
            concerns: Vec::new(),
            peers: Vec::new(),
            said: Repeats::default(),
        }
    }

    /// Takes over what was planned, and logs what is new in it: one line a change.
    pub fn take_over(&mut self, plan: &Plan, now: Timestamp) {
        let states: BTreeMap<&str, &str> = self.peers.iter().map(|peer| (peer.pod.as_str(), peer.state)).collect();
        for link in &plan.links {
            let before = states.get(link.pod.as_str()).copied();
            if before != Some(link.state.as_str()) {
                let lost = before == Some(LinkState::Connected.as_str());
                if link.state == LinkState::Connected || lost || !link.state.is_wanted() {
                    info!(pod = link.pod, reason = link.reason, "link {}", link.state.as_str());
                } else {
                    debug!(pod = link.pod, reason = link.reason, "link {}", link.state.as_str());
                }
            }
        }
        let there: BTreeSet<&str> = plan.links.iter().map(|link| link.pod.as_str()).collect();
        for gone in self.peers.iter().filter(|peer| !there.contains(peer.pod.as_str())) {
            info!(pod = gone.pod, "it left the registry");
        }
        for concern in plan.concerns.iter().filter(|concern| !self.concerns.contains(concern)) {
            if self.said.admit(concern.word(), now) {
                warn!("{concern}");
            }
        }
        self.concerns.clone_from(&plan.concerns);
        self.set_links(&plan.links);
    }

    fn set_links(&mut self, links: &[LinkReport]) {
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
