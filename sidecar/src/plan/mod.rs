//! What to do, given what this sidecar sees: pure, and the one place that decides.
//!
//! [`Planner::plan`] takes a [`Situation`] and answers with a [`Plan`]: the actions
//! that are due, the state of every link with its reason, and when to look again
//! if nothing happens. It remembers what it asked for and takes note of how that
//! went; asked twice about one situation, it asks for nothing twice. It knows
//! neither sockets nor clocks: time and chance are arguments.

pub mod concern;
pub mod dialer;
mod links;
mod listed;
mod membership;
mod memory;
mod pace;
mod records;
mod scene;
mod scribe;
mod versions;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;

use self::concern::Concern;
use self::membership::Link;
pub use self::pace::{patience_after, pause_after};
use crate::enode::{Enode, PublicKey};
use crate::geth::{Eth, Peer};
use crate::registry::entry::Entry;
use crate::registry::store::{PodState, StoreErrorKind};
use crate::registry::view::View;

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time since this process started; never jumps, so all waiting is measured by it.
    pub elapsed: Duration,
    /// What the clock on the wall says; for people and for comparing with other nodes.
    pub wall: Timestamp,
}

/// What is known of the Geth in this pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Own {
    /// It does not answer (yet, or at the moment).
    Silent,
    /// It answers and cannot have peers, as one started with `--dev`.
    Unpeerable,
    /// It answers, and this is what the registry shall say of it.
    Ready(Entry),
}

/// All that one decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The name of this pod, which is the key of its entry.
    pub pod: &'a str,
    /// The Geth in this pod.
    pub own: &'a Own,
    /// The registry; `None` until it was read once.
    pub registry: Option<&'a View>,
    /// Whom Geth is connected to; `None` until it was asked once.
    pub peers: Option<&'a [Peer]>,
}

/// One call of Geth's admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// `admin_addPeer`: dial it, and keep dialing it.
    Add(Enode),
    /// `admin_removePeer`: hang up, and dial it no more.
    Remove(Enode),
    /// `admin_addTrustedPeer`: accept it beyond the limits, and never drop it to make room.
    Trust(Enode),
    /// `admin_removeTrustedPeer`.
    Distrust(Enode),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Make these calls, one after the other; all of them concern one node.
    Tell {
        /// The node.
        key: PublicKey,
        /// The calls, in order.
        calls: Vec<Call>,
    },
    /// Write the own entry.
    Assert {
        /// The entry.
        entry: Entry,
        /// How long the API server is given for it.
        patience: Duration,
    },
    /// Remove the own entry, if it still has this value: this Geth cannot have peers.
    Withdraw {
        /// The value to remove.
        value: String,
    },
    /// Ask the API server whether `pod` still lives.
    Look {
        /// The pod's name.
        pod: String,
        /// The value it is suspected for.
        value: String,
    },
    /// Remove the entry of `pod`, if it still has this value: its owner is gone.
    Evict {
        /// The pod's name.
        pod: String,
        /// The value that was judged.
        value: String,
    },
    /// Write the list of static nodes, which one keeps for all and the others mend, if nobody
    /// else has meanwhile.
    WriteList {
        /// The value that it has now; `None` if there is no list.
        old: Option<String>,
        /// The resource version at which there was none.
        version: Option<u64>,
        /// What it shall be.
        value: String,
    },
}

/// The state of the link to one other node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkState {
    /// The two Geths are peers.
    Connected,
    /// They are connected and have not finished the `eth` handshake.
    Handshake,
    /// This Geth was told to dial and is not connected yet.
    Dialing,
    /// This Geth has to dial, and uses all its dial slots for others.
    NoSlot,
    /// The other side dials.
    Waiting,
    /// This Geth refuses to be told of that node; something is wrong with the enode.
    Refused,
    /// The two are not of one network, and shall not be peers.
    Mismatch,
    /// Another pod has the same node key; Geth can only ever have one of them as a peer.
    Duplicate,
    /// The registry's value for that pod is no entry, or the element of a list no node.
    Invalid,
}

impl LinkState {
    /// Every state, for metrics.
    pub const ALL: [Self; 9] = [
        Self::Connected,
        Self::Handshake,
        Self::Dialing,
        Self::NoSlot,
        Self::Waiting,
        Self::Refused,
        Self::Mismatch,
        Self::Duplicate,
        Self::Invalid,
    ];

    /// The state as `/status` and metrics show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Handshake => "handshake",
            Self::Dialing => "dialing",
            Self::NoSlot => "no-slot",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Mismatch => "mismatch",
            Self::Duplicate => "duplicate",
            Self::Invalid => "invalid",
        }
    }

    /// Whether this is a link that should be up.
    pub fn is_wanted(self) -> bool {
        matches!(self, Self::Connected | Self::Handshake | Self::Dialing | Self::NoSlot | Self::Waiting)
    }

    /// Whether a link that comes from this state into `next` is still as it was to whoever misses it.
    fn goes_on_as(self, next: Self) -> bool {
        let is_missing = |state: Self| state.is_wanted() && state != Self::Connected;
        self == next || (is_missing(self) && is_missing(next))
    }
}

/// A link, as a person wants to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// The other pod; of a node on a list, the list's name and the node's address.
    pub pod: String,
    /// The other node, where the registry names one.
    pub enode: Option<Enode>,
    /// How it is.
    pub state: LinkState,
    /// Why it is so, in plain words.
    pub reason: String,
    /// Since when it is so; of a link that should be up and is not, since when it is missing, whatever came between.
    pub since: Timestamp,
}

/// What is to be done, and how things are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What to do now. All actions may run at the same time.
    pub actions: Vec<Action>,
    /// One for every other pod in the registry and every node on its lists, in the order of their names.
    pub links: Vec<LinkReport>,
    /// What a person has to act on.
    pub concerns: Vec<Concern>,
    /// When to plan again though nothing happens, as [`Now::elapsed`].
    pub wake: Option<Duration>,
}

impl Plan {
    /// Moves [`Plan::wake`] forward to `at`, unless it is earlier already.
    fn wake_at(&mut self, at: Duration) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// A call that Geth did not carry out, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failure {
    /// The call.
    pub call: Call,
    /// What went wrong, in words.
    pub error: String,
    /// Whether Geth answered, and refused. Otherwise it may have done it all the same.
    pub refused: bool,
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// [`Action::Tell`]: the calls that Geth accepted, up to the first that failed.
    Told {
        /// The node.
        key: PublicKey,
        /// What Geth accepted.
        accepted: Vec<Call>,
        /// The call that failed, if one did.
        failure: Option<Failure>,
    },
    /// [`Action::Assert`] or [`Action::Withdraw`].
    Wrote {
        /// Whether the API server took it.
        ok: bool,
    },
    /// [`Action::Look`].
    Looked {
        /// The pod's name.
        pod: String,
        /// The value it was suspected for.
        value: String,
        /// What the API server says of it.
        state: Result<PodState, StoreErrorKind>,
    },
    /// [`Action::Evict`]: over, whether it removed something or not.
    Evicted {
        /// The pod's name.
        pod: String,
    },
    /// [`Action::WriteList`].
    WroteList {
        /// Whether the API server took it, or somebody else was faster.
        ok: bool,
    },
}

/// The deciding part of a sidecar and what it remembers. See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Planner {
    links: links::Links,
    records: records::Records,
    scribe: scribe::Scribe,
    reports: BTreeMap<String, Dated>,
}

/// The state last reported for a pod, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Dated {
    state: LinkState,
    enode: Option<Enode>,
    since: Timestamp,
}

impl Planner {
    /// What is due in `situation` at `now`; `rng` spreads what many sidecars would
    /// otherwise do at the same instant.
    pub fn plan(&mut self, situation: &Situation<'_>, now: Now, rng: &mut impl Rng) -> Plan {
        let mut plan = Plan::default();
        self.scribe.observe(situation, now);
        let listed = listed::Listed::new(situation, &self.scribe);
        let links = self.links.plan(situation, &listed, now, rng, &mut plan);
        self.records.plan(situation, &links, now, rng, &mut plan);
        self.scribe.plan(situation, &links, now, rng, &mut plan);
        plan.links = self.report(links, now);
        plan
    }

    /// Takes note of how an action ended.
    pub fn note(&mut self, outcome: Outcome, now: Now, rng: &mut impl Rng) {
        match outcome {
            Outcome::Told { key, accepted, failure } => self.links.told(key, &accepted, failure, now),
            Outcome::Wrote { ok } => self.records.wrote(ok, now, rng),
            Outcome::Looked { pod, value, state } => self.records.looked(&pod, &value, &state, now, rng),
            Outcome::Evicted { pod } => self.records.evicted(&pod, now, rng),
            Outcome::WroteList { ok } => self.scribe.wrote(ok, now, rng),
        }
    }

    /// Takes note that a Geth answers on a new connection. A `fresh` one has just
    /// started and was told nothing by anybody; of any other nobody can say what it
    /// was told before.
    pub fn geth_connected(&mut self, fresh: bool) {
        self.links.geth_connected(fresh);
    }

    /// Takes note of why Geth's connection to the node with this ID ended, in Geth's words.
    pub fn dropped(&mut self, node_id: &str, why: &str) {
        self.links.dropped(node_id, why);
    }

    /// Dates each link's state: since when it is what it is.
    fn report(&mut self, links: Vec<Link>, now: Now) -> Vec<LinkReport> {
        let mut previous = std::mem::take(&mut self.reports);
        links
            .into_iter()
            .map(|Link { pod, enode, state, reason }| {
                let since = previous
                    .remove(&pod)
                    .filter(|dated| dated.state.goes_on_as(state) && dated.enode == enode)
                    .map_or(now.wall, |dated| dated.since);
                self.reports.insert(pod.clone(), Dated { state, enode, since });
                LinkReport { pod, enode, state, reason, since }
            })
            .collect()
    }
}

/// Whether Geth counts `peer` as a peer: only once the `eth` handshake is through.
fn is_up(peer: &Peer) -> bool {
    peer.eth == Eth::Up
}

/// `base`, lengthened by up to `spread`.
fn jittered(base: Duration, spread: Duration, rng: &mut impl Rng) -> Duration {
    use rand::RngExt;
    base + spread.mul_f64(rng.random::<f64>())
}

#[cfg(test)]
mod tests;
