//! Links: whom this Geth should be connected to, who dials, and what to tell Geth.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;

use super::dialer::{Node, Order};
use super::listed::Listed;
use super::membership::{Link, Wanted, sort};
use super::memory::{Dial, Memory, Patience, Static};
use super::scene::Scene;
use super::{Call, Failure, LinkState, Now, Own, Plan, Situation, concern, dialer, is_up, versions};
use crate::enode::{Enode, PublicKey};

/// How long a node that left the registry and has no connection is still dialed: long
/// enough for a registry that was deleted to be whole again, shorter than a pod needs
/// to come back.
const GRACE: Duration = Duration::from_secs(1);
/// For how long what a link took to come up says what others may take: as long as a busy machine stays so.
const OF_LATE: Duration = Duration::from_secs(30);
/// So long a registration counts at most: one that does not get through at all says nothing of the others.
const SLOW_REGISTRY: Duration = Duration::from_secs(4);
/// After slots were freed, no others are for so long: the others have to see it, and
/// Geth to dial.
const FREE_EVERY: Duration = Duration::from_millis(300);

/// All links of this Geth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Links {
    memory: BTreeMap<PublicKey, Memory>,
    /// Whether Geth started after this sidecar last lost it, so that it was told nothing.
    fresh: bool,
    /// Whether the others have seen an earlier run of this Geth and not all found this one yet.
    restarted: bool,
    /// How long the slowest took of the links that came up of late, and when that was.
    slowest: (Duration, Duration),
    /// Since when the registry lacks the own entry, as it is.
    unregistered_since: Option<Duration>,
    /// When a slot may be freed again.
    free_at: Duration,
}

impl Links {
    pub(super) fn geth_connected(&mut self, fresh: bool) {
        self.fresh = fresh;
        self.restarted = false;
        (self.slowest, self.unregistered_since) = Default::default();
        self.memory.clear();
    }

    pub(super) fn told(&mut self, key: PublicKey, accepted: &[Call], failure: Option<Failure>, now: Now) {
        if let Some(memory) = self.memory.get_mut(&key) {
            memory.told(accepted, failure, now);
        }
    }

    pub(super) fn dropped(&mut self, node_id: &str, why: &str) {
        let node = self.memory.iter_mut().find(|(key, _)| key.node_id() == node_id);
        if let Some((_, memory)) = node {
            memory.ended(why);
        }
    }

    /// Adds what Geth has to be told to `plan`, and says how each link is.
    pub(super) fn plan(
        &mut self,
        situation: &Situation<'_>,
        listed: &Listed,
        now: Now,
        rng: &mut impl Rng,
        plan: &mut Plan,
    ) -> Vec<Link> {
        let Some(registry) = situation.registry else { return Vec::new() };
        let Own::Ready(own) = situation.own else {
            let others = registry.iter().filter(|(pod, _)| *pod != situation.pod).map(|(pod, record)| {
                let enode = record.entry.as_ref().ok().map(|entry| entry.enode);
                (pod, enode)
            });
            let wait =
                |(pod, enode)| Link::new(pod, enode, LinkState::Waiting, "this pod's own Geth cannot be peered now");
            return others.chain(listed.names()).map(wait).chain(listed.unreadable()).collect();
        };

        // Until it is asserted anew, the registry still holds the entry of the earlier run.
        self.restarted |=
            registry.entry(situation.pod).is_some_and(|old| old.enode.key == own.enode.key && old.since < own.since);

        let (wanted, mut links) = sort(situation, own, listed);
        links.extend(listed.unreadable());
        plan.concerns.extend(concern::of_mesh(own, &wanted, listed, &links));
        let is_registered = registry.entry(situation.pod).is_some_and(|entry| entry.since == own.since);
        if let Some(peers) = situation.peers {
            let registered = wanted.iter().filter(|node| listed.origin(&node.entry.enode.key).is_none());
            let nodes = registered.map(Wanted::node).chain([Node { pod: situation.pod, entry: own }]);
            let order = Order::of(nodes, listed.externals());
            let took = self.slowness(is_registered, now);
            let pod = situation.pod;
            let scene = Scene { pod, own, wanted: &wanted, listed, peers, order: &order, is_registered, took, now };
            self.plan_wanted(&scene, rng, plan);
            self.plan_unwanted(&scene, plan);
            links.extend(wanted.iter().map(|node| self.describe(&scene, node)));
        } else {
            let asked = "this pod's Geth has not said yet whom it is connected to";
            links.extend(
                wanted.iter().map(|node| Link::new(node.pod, Some(node.entry.enode), LinkState::Waiting, asked)),
            );
        }
        links.sort_by(|a, b| a.pod.cmp(&b.pod));
        links
    }

    /// How long it took of late until a link was up, or the own entry in the registry: the others'
    /// entries, and whoever dials this node, may take as long.
    fn slowness(&mut self, is_registered: bool, now: Now) -> Duration {
        let unregistered = self.unregistered_since.map_or(Duration::ZERO, |since| now.elapsed.saturating_sub(since));
        let unregistered = unregistered.min(SLOW_REGISTRY);
        let (slowest, at) = self.slowest;
        let slowest = if now.elapsed < at + OF_LATE { slowest } else { Duration::ZERO };
        if !is_registered {
            self.unregistered_since.get_or_insert(now.elapsed);
        } else if self.unregistered_since.take().is_some() && unregistered > slowest {
            self.slowest = (unregistered, now.elapsed);
        }
        slowest.max(unregistered)
    }

    /// What Geth has to be told of the nodes that shall be its peers.
    fn plan_wanted(&mut self, scene: &Scene<'_>, rng: &mut impl Rng, plan: &mut Plan) {
        let mut registered = scene.wanted.iter().filter(|node| scene.origin(&node.entry).is_none());
        self.restarted &= !registered.all(|node| scene.peer(&node.entry.enode.key).is_some_and(is_up));
        let listed = if self.fresh { Static::Absent } else { Static::Unknown };
        let took = scene.wanted.iter().filter_map(|node| {
            let memory = self.memory.entry(node.entry.enode.key).or_insert_with(|| Memory::new(listed));
            let hurries = self.restarted && scene.outlived_a_run(&node.entry);
            let patience = if hurries { Patience::AFTER_RESTART } else { Patience::USUAL };
            memory.observe(&node.entry, scene, patience, rng)
        });
        if let Some(took) = took.max()
            && took >= scene.took
        {
            self.slowest = (took, scene.now.elapsed);
        }
        let mut slots = scene.slots(&self.memory);
        let mut starved = 0;
        // Geth fills its slots in the order in which it is told: first what nobody else makes room for.
        let (shares, others): (Vec<_>, Vec<_>) = scene.wanted.iter().partition(|node| scene.is_share(node));
        for node in shares.into_iter().chain(others) {
            let enode = node.entry.enode;
            let Some(memory) = self.memory.get_mut(&enode.key) else { continue };
            if memory.busy {
                continue;
            }
            if scene.now.elapsed < memory.retry_at {
                plan.wake_at(memory.retry_at);
                continue;
            }

            let mut calls = Vec::new();
            match memory.dial(scene, node, &slots) {
                dial @ (Dial::Now | Dial::StepIn) => {
                    calls = memory.add(enode, matches!(dial, Dial::StepIn));
                    slots.take(scene.is_share(node), scene.now);
                }
                Dial::At(time) => plan.wake_at(time),
                Dial::NoSlot => starved += 1,
                Dial::Yield => {
                    memory.give_way(enode, scene.now, rng, plan);
                    continue;
                }
                Dial::Leave => {}
            }
            if !memory.trusted {
                calls.push(Call::Trust(enode));
            }
            memory.order(enode.key, calls, plan);
        }
        if starved > 0 && scene.now.elapsed < self.free_at {
            plan.wake_at(self.free_at);
        } else if starved > 0 {
            self.free_slots(scene, starved + scene.excess(), plan);
        }
    }

    /// Hangs up on up to `count` nodes that this Geth dialed though they are in the others'
    /// shares: those sides dial again, and slots are free for links that have nobody else.
    ///
    /// Last of all on those that it dialed because they had not: their Geths may have dialed in vain just before, and do
    /// not again for a while. But that is no longer than the link which needs the slot would have to wait for them.
    fn free_slots(&mut self, scene: &Scene<'_>, count: usize, plan: &mut Plan) {
        let is_dialed = |key: &PublicKey| scene.peer(key).is_some_and(|peer| is_up(peer) && !peer.inbound);
        let others = scene.wanted.iter().filter(|node| !scene.is_share(node)).map(|node| node.entry.enode);
        let dialed = others.filter(|enode| is_dialed(&enode.key)).filter_map(|enode| {
            let memory = self.memory.get(&enode.key)?;
            (matches!(memory.listed, Static::At(_)) && !memory.busy).then(|| (memory.other_can_dial_at(), enode))
        });
        let mut dialed: Vec<_> = dialed.collect();
        dialed.sort_by_key(|(other_can_dial_at, _)| *other_can_dial_at);
        for (_, enode) in dialed.into_iter().take(count) {
            let Some(memory) = self.memory.get_mut(&enode.key) else { continue };
            self.free_at = scene.now.elapsed + FREE_EVERY;
            plan.wake_at(self.free_at);
            memory.hang_up(enode, plan);
        }
    }

    /// Takes back what Geth was told of nodes that left the registry, after a grace.
    ///
    /// A connection that is up is not touched: its other end lives, and has merely lost
    /// its entry to a registry that was damaged while its sidecar was away. The Geth of
    /// a pod that leaves on purpose ends its connections itself. An external node does
    /// not: who takes it from the list wants the connection to end; but a list that is
    /// missing or cannot be read is an accident.
    fn plan_unwanted(&mut self, scene: &Scene<'_>, plan: &mut Plan) {
        self.memory.retain(|key, memory| {
            if scene.wanted.iter().any(|node| node.entry.enode.key == *key) || memory.busy {
                return true;
            }
            let connected = scene.peer(key).is_some();
            let taken_out = memory.external && scene.listed.has_external_list;
            if connected && !taken_out {
                memory.unwanted_since = None;
                return true;
            }
            let due = (*memory.unwanted_since.get_or_insert(scene.now.elapsed) + GRACE).max(memory.retry_at);
            if scene.now.elapsed < due {
                plan.wake_at(due);
                return true;
            }
            // Both calls go by the key alone; the address is not looked at.
            let enode = Enode { key: *key, ..scene.own.enode };
            let mut calls = Vec::new();
            if connected || memory.listed != Static::Absent {
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
    fn describe(&self, scene: &Scene<'_>, node: &Wanted<'_>) -> Link {
        let enode = node.entry.enode;
        let memory = self.memory.get(&enode.key);
        let listed = memory.is_some_and(|memory| matches!(memory.listed, Static::At(_)));
        let begins = listed || memory.map_or_else(|| scene.begins(node), |memory| memory.begins(scene, node));
        let failure = memory.and_then(|memory| memory.failure.as_ref());
        let (state, reason) = match (scene.peer(&enode.key), failure) {
            (Some(peer), _) if is_up(peer) && peer.inbound => (LinkState::Connected, "it dialed this node".to_owned()),
            (Some(peer), _) if is_up(peer) => (LinkState::Connected, "this node dialed it".to_owned()),
            (Some(_), _) => (
                LinkState::Handshake,
                "the TCP connection is there and the eth handshake not finished: the two may have no protocol version or fork in common".to_owned(),
            ),
            (None, Some(failure)) if failure.refused => {
                (LinkState::Refused, format!("this node's Geth does not take it: {}", failure.error))
            }
            (None, Some(failure)) => {
                (LinkState::Dialing, format!("Geth did not do what it was told, which is tried again: {}", failure.error))
            }
            (None, None) if begins && scene.is_full() => (
                LinkState::NoSlot,
                format!(
                    "all {} slots in which this Geth dials others are used (a third of its --maxpeers); one is made free if the others can take a link over",
                    scene.dial_slots()
                ),
            ),
            (None, None) if begins => (
                LinkState::Dialing,
                format!(
                    "this Geth was told to dial {} and has no connection yet; it tries again at most every {} s",
                    enode.address,
                    dialer::DIAL_HISTORY.as_secs()
                ),
            ),
            (None, None) => (LinkState::Waiting, format!("{} dials this node and has not arrived yet", node.pod)),
        };
        if state == LinkState::Connected {
            return Link::new(node.pod, Some(enode), state, reason);
        }
        let reason = versions::apart(&scene.own.client, &node.entry.client).unwrap_or(reason);
        let reason = match memory.and_then(|memory| memory.dropped.as_ref()) {
            Some(why) => format!("{reason}; the last connection ended, in Geth's words: {why}"),
            None => reason,
        };
        Link::new(node.pod, Some(enode), state, reason)
    }
}
