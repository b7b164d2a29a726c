//! A sidecar: the real planner, the real view, and around them what the loop does.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use sidecar::enode::{Enode, PublicKey};
use sidecar::geth::{Eth, Peer};
use sidecar::plan::dialer;
use sidecar::plan::{Action, Call, Now, Outcome, Own, Planner, Situation};
use sidecar::registry::entry::Entry;
use sidecar::registry::view::View;

use super::Rules;
use super::geth::{Geth, Ground, Node, key};
use super::server::Request;
use super::world::digest;

/// What is under way, and with whom: of each there is one at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// Calls of Geth about one node.
    Geth(PublicKey),
    /// A write of the own entry.
    Own,
    /// A write of the list of static nodes.
    List,
    /// A look at the pod that has written the value with this digest.
    Look(String, u64),
    /// The eviction of the value with this digest.
    Evict(String, u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    /// Geth has not been told yet.
    Tell(Vec<Call>, Ground),
    /// The API server has not done it yet.
    Sent(Request),
    /// It has, and the sidecar does not know.
    Done(Outcome, Option<View>),
}

/// The sidecar's sight of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Watch {
    /// It is about to list.
    Begins,
    /// It no longer tells anything, which will be noticed some time.
    Dead,
    /// The list has been read, and is not known to the loop yet.
    Listed(View),
    /// All up to this version was told.
    At(u64),
}

/// What a turn of the loop must not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// It has nothing to do, and wants to be asked again at once.
    Restless,
    /// It makes another plan of the same situation.
    Undecided,
    /// It begins something that is under way already.
    Twice,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Sidecar {
    planner: Planner,
    own: Own,
    /// Whether its Geth has started under its eyes, and when it first heard from it.
    fresh: bool,
    since: Duration,
    pub(crate) registry: Option<View>,
    pub(crate) peers: Option<BTreeMap<Node, bool>>,
    pub(crate) watch: Watch,
    /// When the plan wants to be made anew.
    pub(crate) wake: Option<Duration>,
    pub(crate) jobs: BTreeMap<Slot, Job>,
}

/// The time on the wall at `elapsed`; all clocks agree.
fn wall(elapsed: Duration) -> Timestamp {
    Timestamp::UNIX_EPOCH + elapsed
}

/// Chance that is always the same: everybody draws the same lots, so that all that can be
/// at one moment is.
fn lots() -> SmallRng {
    SmallRng::seed_from_u64(1)
}

impl Sidecar {
    pub(crate) fn new(fresh: bool, now: Duration) -> Self {
        let mut planner = Planner::default();
        planner.geth_connected(fresh);
        Self {
            planner,
            own: Own::Silent,
            fresh,
            since: now,
            registry: None,
            peers: None,
            watch: Watch::Begins,
            wake: None,
            jobs: BTreeMap::new(),
        }
    }

    /// The entry that this sidecar wants to be in the registry.
    pub(crate) fn entry(&self) -> Option<&Entry> {
        match &self.own {
            Own::Ready(entry) => Some(entry),
            _ => None,
        }
    }

    pub(crate) fn geth_lost(&mut self) {
        (self.own, self.peers) = (Own::Silent, None);
        self.jobs.retain(|slot, _| !matches!(slot, Slot::Geth(_)));
    }

    pub(crate) fn geth_back(&mut self, now: Duration) {
        self.planner.geth_connected(true);
        (self.fresh, self.since) = (true, now);
    }

    /// A view that is known to be of now, or taken to be: a list.
    pub(crate) fn read(&mut self, view: View) {
        self.registry = Some(view);
    }

    /// A view that may have been overtaken: an event, or the answer to a write.
    pub(crate) fn advance(&mut self, view: View, rules: &Rules) {
        match &mut self.registry {
            Some(registry) if rules.orders_views => registry.advance(view),
            registry => *registry = Some(view),
        }
    }

    pub(crate) fn note(&mut self, outcome: Outcome, now: Duration) {
        self.planner.note(outcome, Now { elapsed: now, wall: wall(Duration::ZERO) }, &mut lots());
    }

    /// Geth tells that its dial to `other` and theirs met.
    pub(crate) fn refused(&mut self, other: &PublicKey, now: Duration) {
        self.planner.dropped(&other.node_id(), "already connected");
        self.wake = Some(now);
    }

    /// What `Reconciler::identify` does: since when this Geth runs.
    fn identify(&mut self, pod: &str, uid: &str, geth: Option<&Geth>) {
        let (Own::Silent, Some(geth)) = (&self.own, geth) else { return };
        let registered = match (&self.registry, self.fresh) {
            (_, true) => None,
            (None, false) => return,
            (Some(registry), false) => registry.get(pod).and_then(|record| record.entry.as_ref().ok()),
        };
        let since = registered
            .filter(|entry| entry.enode.key == geth.enode.key && entry.pod_uid.as_deref() == Some(uid))
            .map_or(wall(self.since), |entry| entry.since);
        self.own = Own::Ready(entry(geth.enode, uid, since));
    }

    /// A turn of the loop: plans, and begins what is planned.
    pub(crate) fn turn(
        &mut self,
        pod: &str,
        uid: &str,
        geth: Option<&Geth>,
        now: Duration,
        rules: &Rules,
    ) -> Result<(), Fault> {
        self.identify(pod, uid, geth);
        let peers: Option<Vec<Peer>> =
            self.peers.as_ref().map(|peers| peers.iter().map(|(node, inbound)| peer(*node, *inbound)).collect());
        let situation = Situation { pod, own: &self.own, registry: self.registry.as_ref(), peers: peers.as_deref() };
        let now = Now { elapsed: now, wall: wall(Duration::ZERO) };
        let plan = self.planner.plan(&situation, now, &mut lots());
        let links = plan.links;
        self.wake = plan.wake;
        if plan.actions.is_empty() && plan.wake.is_some_and(|wake| wake <= now.elapsed) {
            return Err(Fault::Restless);
        }
        for action in plan.actions {
            let (slot, job) = match action {
                Action::Tell { key, calls } => (Slot::Geth(key), Job::Tell(calls, self.ground(pod, &key))),
                Action::Assert { entry, .. } => {
                    let (pod, value) = (pod.to_owned(), entry.to_value());
                    let request = if rules.patches {
                        Request::Patch { pod, value, again: false }
                    } else {
                        Request::ReadAll { pod, value }
                    };
                    (Slot::Own, Job::Sent(request))
                }
                Action::Withdraw { value } => {
                    (Slot::Own, Job::Sent(Request::Remove { pod: pod.to_owned(), value, evicts: false }))
                }
                Action::Look { pod, value } => {
                    (Slot::Look(pod.clone(), digest(&value)), Job::Sent(Request::Look { pod, value }))
                }
                Action::WriteList { old, version, value } => {
                    (Slot::List, Job::Sent(Request::WriteList { old, version, value }))
                }
                Action::Evict { pod, value } => {
                    let slot = Slot::Evict(pod.clone(), digest(&value));
                    (slot, Job::Sent(Request::Remove { pod, value, evicts: true }))
                }
            };
            if self.jobs.insert(slot, job).is_some() {
                return Err(Fault::Twice);
            }
        }
        if rules.plans_twice {
            let again = self.planner.clone().plan(&situation, now, &mut lots());
            if !again.actions.is_empty() || again.links != links {
                return Err(Fault::Undecided);
            }
        }
        Ok(())
    }

    /// All entries that this sidecar goes by, its own among them.
    fn entries(&self, pod: &str) -> BTreeMap<&str, &Entry> {
        let records = self.registry.iter().flat_map(View::iter);
        let mut entries: BTreeMap<_, _> =
            records.filter_map(|(pod, record)| Some((pod, record.entry.as_ref().ok()?))).collect();
        if let Some(own) = self.entry() {
            entries.retain(|name, _| *name != pod);
            entries.insert("", own);
        }
        entries
    }

    /// Why this sidecar lets its Geth dial `peer`: see [`Ground`].
    fn ground<'a>(&'a self, pod: &'a str, peer: &PublicKey) -> Ground {
        let entries = self.entries(pod);
        let node = |name: &'a str, entry| dialer::Node { pod: if name.is_empty() { pod } else { name }, entry };
        let nodes: Vec<_> = entries.iter().map(|(name, entry)| node(name, entry)).collect();
        let own = node("", self.entry()?);
        let peer = *nodes.iter().find(|node| node.entry.enode.key == *peer)?;
        if !dialer::Order::of(nodes, 0).begins(own, peer) {
            return None;
        }
        Some(self.digest(pod))
    }

    /// A digest of all entries that this sidecar goes by.
    pub(crate) fn digest(&self, pod: &str) -> u64 {
        let mut all: Vec<_> = self.entries(pod).into_values().collect();
        all.sort_by_key(|entry| entry.enode.key);
        digest(&all)
    }

    /// The nodes that this sidecar wants its Geth to be connected to.
    pub(crate) fn wanted(&self, pod: &str) -> Vec<Enode> {
        let own = self.entry().map(|entry| entry.enode.key);
        let enodes = self.entries(pod).into_values().map(|entry| entry.enode);
        enodes.filter(|enode| own.is_some_and(|own| own != enode.key)).collect()
    }
}

fn entry(enode: Enode, uid: &str, since: Timestamp) -> Entry {
    Entry {
        enode,
        network_id: 1337,
        genesis: format!("0x{}", "0d".repeat(32)),
        pod_uid: Some(uid.to_owned()),
        since,
        client: String::new(),
        max_peers: None,
        network: None,
        alternates: Vec::new(),
    }
}

fn peer(node: Node, inbound: bool) -> Peer {
    Peer {
        key: key(node),
        name: String::new(),
        remote: None,
        inbound,
        static_node: !inbound,
        trusted: true,
        eth: Eth::Up,
        caps: Vec::new(),
    }
}
