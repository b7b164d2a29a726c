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
            let slots = DialSlots::new(own, peers, &self.memory);
            self.plan_wanted(own, &wanted, peers, &ring, slots, now, rng, plan);
            self.plan_unwanted(own, &wanted, peers, now, plan);
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
    #[allow(clippy::too_many_arguments, reason = "one decision, and each argument is one thing it rests on")]
    fn plan_wanted(
        &mut self,
        own: &Entry,
        wanted: &[Wanted<'_>],
        peers: &[Peer],
        ring: &[PublicKey],
        mut slots: DialSlots,
        now: Now,
        rng: &mut impl Rng,
        plan: &mut Plan,
    ) {
        let mut starved = false;
        for node in wanted {
            let enode = node.entry.enode;
            let peer = peers.iter().find(|peer| peer.key == enode.key);
            let listed = if self.fresh { Static::Absent } else { Static::Unknown };
            let memory = self.memory.entry(enode.key).or_insert_with(|| Memory::new(listed));
            memory.unwanted_since = None;

            if peer.is_some_and(is_up) {
                memory.down_since = None;
            } else if memory.down_since.is_none() {
                memory.down_since = Some(now.elapsed);
                let (patience, spread) = if self.restarted { STEP_IN_AFTER_RESTART } else { STEP_IN };
                memory.step_in_at = now.elapsed + jittered(patience, spread, rng);
            }
            if memory.busy {
                continue;
            }
            if now.elapsed < memory.retry_at {
                plan.wake_at(memory.retry_at);
                continue;
            }

            let mut calls = Vec::new();
            // A connection that is about to become a link is as little touched as one that is up.
            if let (Some(down_since), None) = (memory.down_since, peer) {
                let turn = match dialer::decided_by_ring(own, node.entry) {
                    true => (self.ring_since + SETTLE).min(down_since + SETTLE_AT_MOST),
                    false => now.elapsed,
                };
                let at_address = memory.listed == Static::At(enode.address);
                if turn > now.elapsed {
                    plan.wake_at(turn);
                } else if at_address {
                    // Geth dials, and goes on doing so.
                } else if dialer::dials(own, node.entry, ring) {
                    calls = memory.add(enode);
                    slots.take();
                } else if now.elapsed < memory.step_in_at {
                    // An old address that Geth still dials stays for now: taking it back would
                    // hang up on the node itself, which may be arriving at this moment.
                    plan.wake_at(memory.step_in_at);
                } else if slots.any() {
                    calls = memory.add(enode);
                    slots.take();
                } else if now.elapsed < down_since + FREE_SLOT {
                    plan.wake_at(down_since + FREE_SLOT);
                } else {
                    starved = true;
                }
            }
            if !memory.trusted {
                calls.push(Call::Trust(enode));
            }
            memory.order(enode.key, calls, plan);
        }
        if starved {
            self.free_slot(own, wanted, peers, ring, plan);
        }
    }

    /// Hangs up on one node that this Geth dialed though it was the other's turn: the
    /// other side dials it again, and a slot is free for a link that has nobody else.
    fn free_slot(&mut self, own: &Entry, wanted: &[Wanted<'_>], peers: &[Peer], ring: &[PublicKey], plan: &mut Plan) {
        let candidate = wanted.iter().find(|node| {
            let key = node.entry.enode.key;
            let dialed = peers.iter().any(|peer| peer.key == key && is_up(peer) && !peer.inbound);
            let ours = self.memory.get(&key).is_some_and(|m| !m.busy && matches!(m.listed, Static::At(_)));
            dialed && ours && !dialer::dials(own, node.entry, ring)
        });
        if let Some(enode) = candidate.map(|node| node.entry.enode)
            && let Some(memory) = self.memory.get_mut(&enode.key)
        {
            memory.order(enode.key, vec![Call::Remove(enode)], plan);
        }
    }

    /// Takes back what Geth was told of nodes that left the registry: at once where
    /// there is no connection, otherwise after a grace.
    fn plan_unwanted(&mut self, own: &Entry, wanted: &[Wanted<'_>], peers: &[Peer], now: Now, plan: &mut Plan) {
        self.memory.retain(|key, memory| {
            if wanted.iter().any(|node| node.entry.enode.key == *key) || memory.busy {
                return true;
            }
            let grace = if peers.iter().any(|peer| peer.key == *key) { GRACE } else { Duration::ZERO };
            let due = (*memory.unwanted_since.get_or_insert(now.elapsed) + grace).max(memory.retry_at);
            if now.elapsed < due {
                plan.wake_at(due);
                return true;
            }
            // Both calls go by the key alone; the address is not looked at.
            let enode = Enode { key: *key, ..own.enode };
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

/// How many more nodes this Geth can dial.
struct DialSlots {
    free: u32,
}

impl DialSlots {
    /// Geth dials at most a third of its peers, static ones too: `MaxDialedConns` (p2p/server.go, v1.17.5).
    fn new(own: &Entry, peers: &[Peer], memory: &BTreeMap<PublicKey, Memory>) -> Self {
        let all = own.max_peers.unwrap_or(DEFAULT_MAX_PEERS) / DIAL_RATIO;
        let dialed = peers.iter().filter(|peer| !peer.inbound).count();
        let dialing = memory.values().filter(|m| m.down_since.is_some() && matches!(m.listed, Static::At(_))).count();
        Self { free: all.saturating_sub(u32::try_from(dialed + dialing).unwrap_or(u32::MAX)) }
    }

    fn any(&self) -> bool {
        self.free > 0
    }

    fn take(&mut self) {
        self.free = self.free.saturating_sub(1);
    }
}
