//! Links: whom this Geth should be connected to, who dials, and what to tell Geth.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;

use super::membership::{Link, Wanted, sort};
use super::{Action, Call, LinkState, Now, Own, Plan, Situation, dialer, is_up, jittered};
use crate::enode::{Enode, PublicKey};
use crate::geth::Peer;
use crate::registry::entry::Entry;

/// Geth's default `--maxpeers` (node/defaults.go, v1.17.5).
const DEFAULT_MAX_PEERS: u32 = 50;
/// Geth dials one peer for three slots: `defaultDialRatio` (p2p/server.go, v1.17.5).
const DIAL_RATIO: u32 = 3;
/// How long the ring has to hold still before it decides who dials: two sidecars
/// that see a newcomer some milliseconds apart would otherwise both dial.
const SETTLE: Duration = Duration::from_millis(100);
/// The longest that a link waits for the ring to hold still.
const SETTLE_AT_MOST: Duration = Duration::from_millis(500);
/// How long a link may be missing before the side that was to be dialed dials too,
/// and by how much that is spread.
const STEP_IN: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(1));
/// The same for a Geth that was restarted, which the others may have dialed so
/// recently that theirs do not dial it again yet.
const STEP_IN_AFTER_RESTART: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(200));
/// How long a link may be missing for want of dial slots before one is freed.
const FREE_SLOT: Duration = Duration::from_secs(10);
/// How long a node that left the registry keeps its connection: an entry that was
/// removed by mistake is back within this time.
const GRACE: Duration = Duration::from_secs(5);
/// The same for a node without a connection: long enough for a registry that was
/// deleted to be whole again, shorter than a pod needs to come back.
const GRACE_UNCONNECTED: Duration = Duration::from_secs(1);
/// How long to wait before calls that failed are made again.
const RETRY: Duration = Duration::from_secs(1);

/// What Geth's list of static nodes says of a node, as far as this sidecar knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Static {
    /// It is not on it.
    Absent,
    /// It is, at this address, because this sidecar put it there.
    At(SocketAddr),
    /// Nobody can say: an earlier run of this sidecar may have put it there.
    Unknown,
}

/// What this sidecar remembers of a node.
#[derive(Debug)]
struct Memory {
    listed: Static,
    trusted: bool,
    /// When it was first seen to be wanted and not connected.
    down_since: Option<Duration>,
    /// When the other side's turn to dial is over.
    step_in_at: Duration,
    /// When it was first seen to be no longer wanted.
    unwanted_since: Option<Duration>,
    /// Calls are under way.
    busy: bool,
    retry_at: Duration,
}

/// All links of this Geth.
#[derive(Debug, Default)]
pub(super) struct Links {
    memory: BTreeMap<PublicKey, Memory>,
    /// Whether Geth started after this sidecar last lost it, so that it was told nothing.
    fresh: bool,
    /// Whether the others have seen an earlier run of this Geth.
    restarted: bool,
    /// The nodes among which the ring decides, and since when they are these.
    ring: Vec<(PublicKey, Timestamp)>,
    ring_since: Duration,
}

impl Links {
    pub(super) fn geth_connected(&mut self, fresh: bool) {
        self.fresh = fresh;
        self.restarted = false;
        self.memory.clear();
    }

    pub(super) fn told(&mut self, key: PublicKey, accepted: &[Call], complete: bool, now: Now) {
        let Some(memory) = self.memory.get_mut(&key) else { return };
        memory.busy = false;
        for call in accepted {
            match call {
                Call::Add(enode) => memory.listed = Static::At(enode.address),
                Call::Remove(_) => memory.listed = Static::Absent,
                Call::Trust(_) => memory.trusted = true,
                Call::Distrust(_) => memory.trusted = false,
            }
        }
        if !complete {
            // The call that failed may have had its effect all the same.
            memory.listed = Static::Unknown;
            memory.retry_at = now.elapsed + RETRY;
        }
    }

    /// Adds what Geth has to be told to `plan`, and says how each link is.
    pub(super) fn plan(
        &mut self,
        situation: &Situation<'_>,
        now: Now,
        rng: &mut impl Rng,
        plan: &mut Plan,
    ) -> Vec<Link> {
        let Some(registry) = situation.registry else { return Vec::new() };
        let Own::Ready(own) = situation.own else {
            return registry
                .iter()
                .filter(|(pod, _)| *pod != situation.pod)
                .map(|(pod, record)| Link {
                    pod: pod.to_owned(),
                    enode: record.entry.as_ref().ok().map(|entry| entry.enode),
                    state: LinkState::Waiting,
                    reason: "this pod's own Geth cannot be peered now".into(),
                })
                .collect();
        };

        // Until it is asserted anew, the registry still holds the entry of the earlier run.
        let record = registry.get(situation.pod).and_then(|record| record.entry.as_ref().ok());
        self.restarted |= record.is_some_and(|old| old.enode.key == own.enode.key && old.since < own.since);

        let (wanted, mut links) = sort(situation, own);
        let ring = self.ring(own, &wanted, now);
        if let Some(peers) = situation.peers {
            let scene = Scene { own, wanted: &wanted, peers, ring: &ring, ring_since: self.ring_since, now };
            self.plan_wanted(&scene, rng, plan);
            self.plan_unwanted(&scene, plan);
        }
        links.extend(wanted.iter().map(|node| self.describe(own, node, situation.peers, &ring)));
        links.sort_by(|a, b| a.pod.cmp(&b.pod));
        links
    }

    /// The keys of the network in order, after noting whether they changed.
    fn ring(&mut self, own: &Entry, wanted: &[Wanted<'_>], now: Now) -> Vec<PublicKey> {
        let mut ring: Vec<_> = wanted.iter().map(|node| node.entry).chain([own]).collect();
        ring.sort_by_key(|entry| entry.enode.key);
        let ring: Vec<_> = ring.into_iter().map(|entry| (entry.enode.key, entry.since)).collect();
        if ring != self.ring {
            self.ring = ring;
            self.ring_since = now.elapsed;
        }
        self.ring.iter().map(|(key, _)| *key).collect()
    }

    /// What Geth has to be told of the nodes that shall be its peers.
    fn plan_wanted(&mut self, scene: &Scene<'_>, rng: &mut impl Rng, plan: &mut Plan) {
        let mut slots = scene.free_slots(&self.memory);
        let mut starved = false;
        for node in scene.wanted {
            let enode = node.entry.enode;
            let listed = if self.fresh { Static::Absent } else { Static::Unknown };
            let memory = self.memory.entry(enode.key).or_insert_with(|| Memory::new(listed));
            let patience = if self.restarted { STEP_IN_AFTER_RESTART } else { STEP_IN };
            memory.observe(&enode.key, scene, patience, rng);
            if memory.busy {
                continue;
            }
            if scene.now.elapsed < memory.retry_at {
                plan.wake_at(memory.retry_at);
                continue;
            }

            let mut calls = Vec::new();
            match memory.dial(scene, node.entry, slots) {
                Dial::Now => {
                    calls = memory.add(enode);
                    slots = slots.saturating_sub(1);
                }
                Dial::At(time) => plan.wake_at(time),
                Dial::NoSlot => starved = true,
                Dial::Leave => {}
            }
            if !memory.trusted {
                calls.push(Call::Trust(enode));
            }
            memory.order(enode.key, calls, plan);
        }
        if starved {
            self.free_slot(scene, plan);
        }
    }

    /// Hangs up on one node that this Geth dialed though it was the other's turn: the
    /// other side dials it again, and a slot is free for a link that has nobody else.
    fn free_slot(&mut self, scene: &Scene<'_>, plan: &mut Plan) {
        for node in scene.wanted {
            let enode = node.entry.enode;
            let Some(memory) = self.memory.get_mut(&enode.key) else { continue };
            let dialed = scene.peer(&enode.key).is_some_and(|peer| is_up(peer) && !peer.inbound);
            let ours = matches!(memory.listed, Static::At(_)) && !memory.busy;
            if dialed && ours && !dialer::dials(scene.own, node.entry, scene.ring) {
                return memory.order(enode.key, vec![Call::Remove(enode)], plan);
            }
        }
    }

    /// Takes back what Geth was told of nodes that left the registry, after a grace.
    fn plan_unwanted(&mut self, scene: &Scene<'_>, plan: &mut Plan) {
        self.memory.retain(|key, memory| {
            if scene.wanted.iter().any(|node| node.entry.enode.key == *key) || memory.busy {
                return true;
            }
            let grace = if scene.peer(key).is_some() { GRACE } else { GRACE_UNCONNECTED };
            let due = (*memory.unwanted_since.get_or_insert(scene.now.elapsed) + grace).max(memory.retry_at);
            if scene.now.elapsed < due {
                plan.wake_at(due);
                return true;
            }
            // Both calls go by the key alone; the address is not looked at.
            let enode = Enode { key: *key, ..scene.own.enode };
            let mut calls = Vec::new();
            if matches!(memory.listed, Static::At(_)) {
                calls.push(Call::Remove(enode));
            }
            if memory.trusted {
                calls.push(Call::Distrust(enode));
            }
            memory.order(*key, calls, plan);
            memory.busy
        });
    }

    /// How the link to a wanted node is, and why.
    fn describe(&self, own: &Entry, node: &Wanted<'_>, peers: Option<&[Peer]>, ring: &[PublicKey]) -> Link {
        let enode = node.entry.enode;
        let peer = peers.unwrap_or_default().iter().find(|peer| peer.key == enode.key);
        let listed = self.memory.get(&enode.key).map(|memory| memory.listed);
        let (state, reason) = match peer {
            Some(peer) if is_up(peer) && peer.inbound => (LinkState::Connected, "it dialed this node".to_owned()),
            Some(peer) if is_up(peer) => (LinkState::Connected, "this node dialed it".to_owned()),
            Some(_) => (
                LinkState::Handshake,
                "the TCP connection is there and the eth handshake not finished: the two may have no protocol version or fork in common".to_owned(),
            ),
            None if matches!(listed, Some(Static::At(_))) || dialer::dials(own, node.entry, ring) => (
                LinkState::Dialing,
                format!(
                    "this Geth was told to dial {} and has no connection yet; it tries again at most every {} s",
                    enode.address,
                    dialer::DIAL_HISTORY.as_secs()
                ),
            ),
            None => (LinkState::Waiting, format!("{} dials this node and has not arrived yet", node.pod)),
        };
        Link { pod: node.pod.to_owned(), enode: Some(enode), state, reason }
    }
}

impl Memory {
    fn new(listed: Static) -> Self {
        Self {
            listed,
            trusted: false,
            down_since: None,
            step_in_at: Duration::ZERO,
            unwanted_since: None,
            busy: false,
            retry_at: Duration::ZERO,
        }
    }

    /// Takes note of whether the link is up. Whoever is to be dialed by the other side
    /// has `patience` (and up to as much more as its second part) before this one does.
    fn observe(&mut self, key: &PublicKey, scene: &Scene<'_>, patience: (Duration, Duration), rng: &mut impl Rng) {
        self.unwanted_since = None;
        if scene.peer(key).is_some_and(is_up) {
            self.down_since = None;
        } else if self.down_since.is_none() {
            self.down_since = Some(scene.now.elapsed);
            self.step_in_at = scene.now.elapsed + jittered(patience.0, patience.1, rng);
        }
    }

    /// Whether Geth has to be told to dial `entry`, with `slots` dial slots free.
    fn dial(&self, scene: &Scene<'_>, entry: &Entry, slots: u32) -> Dial {
        let now = scene.now.elapsed;
        // A connection that is about to become a link is as little touched as one that is up.
        let (Some(down_since), None) = (self.down_since, scene.peer(&entry.enode.key)) else { return Dial::Leave };
        if self.listed == Static::At(entry.enode.address) {
            // Geth dials, and goes on doing so.
            return Dial::Leave;
        }
        if dialer::decided_by_ring(scene.own, entry) {
            let settled = (scene.ring_since + SETTLE).min(down_since + SETTLE_AT_MOST);
            if now < settled {
                return Dial::At(settled);
            }
        }
        if dialer::dials(scene.own, entry, scene.ring) {
            Dial::Now
        } else if now < self.step_in_at {
            // An old address that Geth still dials stays for now: taking it back would
            // hang up on the node itself, which may be arriving at this moment.
            Dial::At(self.step_in_at)
        } else if slots > 0 {
            Dial::Now
        } else if now < down_since + FREE_SLOT {
            Dial::At(down_since + FREE_SLOT)
        } else {
            Dial::NoSlot
        }
    }

    /// Puts the calls into the plan, unless there are none.
    fn order(&mut self, key: PublicKey, calls: Vec<Call>, plan: &mut Plan) {
        if !calls.is_empty() {
            self.busy = true;
            plan.actions.push(Action::Tell { key, calls });
        }
    }

    /// The calls after which Geth dials `enode`. Adding a key that Geth has already is
    /// silently ignored, even with a new address (p2p/dial.go, v1.17.5): remove first.
    fn add(&self, enode: Enode) -> Vec<Call> {
        match self.listed {
            Static::Absent => vec![Call::Add(enode)],
            Static::At(_) | Static::Unknown => vec![Call::Remove(enode), Call::Add(enode)],
        }
    }
}

/// What one plan of the links rests on.
struct Scene<'a> {
    own: &'a Entry,
    wanted: &'a [Wanted<'a>],
    peers: &'a [Peer],
    ring: &'a [PublicKey],
    /// Since when the ring is as it is.
    ring_since: Duration,
    now: Now,
}

impl Scene<'_> {
    fn peer(&self, key: &PublicKey) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.key == *key)
    }

    /// How many more nodes this Geth can dial: a third of its peers in all, static
    /// ones too: `MaxDialedConns` (p2p/server.go, v1.17.5).
    fn free_slots(&self, memory: &BTreeMap<PublicKey, Memory>) -> u32 {
        let all = self.own.max_peers.unwrap_or(DEFAULT_MAX_PEERS) / DIAL_RATIO;
        let dialed = self.peers.iter().filter(|peer| !peer.inbound).count();
        let dialing = memory.values().filter(|m| m.down_since.is_some() && matches!(m.listed, Static::At(_))).count();
        all.saturating_sub(u32::try_from(dialed + dialing).unwrap_or(u32::MAX))
    }
}

/// What a missing link asks for.
enum Dial {
    /// That Geth is told to dial.
    Now,
    /// Patience: to be asked again at this time.
    At(Duration),
    /// A dial slot, and none is free.
    NoSlot,
    /// Nothing.
    Leave,
}
