//! Who is connected to whom, and what Geths do about it.

use std::collections::{BTreeMap, BTreeSet};

use sidecar::enode::Enode;
use sidecar::plan::Call;

use super::Rules;
use super::geth::{Ground, Node, key, node};
use super::world::{World, Wrong};

impl World {
    /// The nodes that the Geth of pod `at` is connected to, and whether they dialed it.
    pub(crate) fn peers(&self, at: usize) -> BTreeMap<Node, bool> {
        let ends = self.links.iter().filter_map(|(from, to)| match (*from == at, *to == at) {
            (true, _) => Some((*to, false)),
            (_, true) => Some((*from, true)),
            _ => None,
        });
        let node = |at: usize| self.pods[at].geth.as_ref().map(|geth| node(&geth.enode.key));
        ends.filter_map(|(other, inbound)| Some((node(other)?, inbound))).collect()
    }

    pub(crate) fn linked(&self, at: usize) -> BTreeSet<Node> {
        self.peers(at).into_keys().collect()
    }

    /// The pod whose Geth is `node` at this moment.
    pub(crate) fn find(&self, node: Node) -> Option<usize> {
        self.pods.iter().position(|pod| pod.geth.as_ref().is_some_and(|geth| geth.enode.key == key(node)))
    }

    pub(crate) fn is_dialed(&self, node: Node) -> bool {
        self.pods.iter().filter_map(|pod| pod.geth.as_ref()).any(|geth| geth.dialing.contains_key(&node))
    }

    /// Whether the Geths of two pods dial each other at this moment, and find each other.
    pub(crate) fn is_crossing(&self, a: usize, b: usize) -> bool {
        let dials = |from: usize, to: usize| match (&self.pods[from].geth, &self.pods[to].geth) {
            (Some(from), Some(to)) => {
                let node = node(&to.enode.key);
                from.dialing.contains_key(&node) && from.address(node) == Some(to.enode.address)
            }
            _ => false,
        };
        dials(a, b) && dials(b, a)
    }

    pub(crate) fn call(&mut self, at: usize, call: Call, ground: Ground, rules: &Rules) {
        match call {
            Call::Add(enode) => self.add(at, enode, ground, rules),
            Call::Remove(enode) => {
                let node = node(&enode.key);
                if let Some(geth) = &mut self.pod(at).geth {
                    geth.remove(node);
                }
                if let Some(other) = self.find(node) {
                    self.links.remove(&(at, other));
                    self.links.remove(&(other, at));
                }
            }
            Call::Trust(_) | Call::Distrust(_) => {}
        }
    }

    pub(crate) fn add(&mut self, at: usize, enode: Enode, ground: Ground, rules: &Rules) {
        if let Some(geth) = &mut self.pod(at).geth {
            geth.add(enode);
            self.dial(at, node(&enode.key), ground, rules);
        }
    }

    pub(crate) fn dial(&mut self, at: usize, other: Node, ground: Ground, rules: &Rules) {
        let (linked, now) = (self.linked(at), self.now);
        let Some(geth) = &mut self.pod(at).geth else { return };
        geth.dial(other, &linked, now, ground);
        let own = node(&geth.enode.key);
        let ours = geth.dialing.get(&other).copied();
        let Some(to) = self.find(other).filter(|to| self.is_crossing(at, *to)) else { return };
        let theirs = self.pods[to].geth.as_ref().and_then(|geth| geth.dialing.get(&own).copied());
        if rules.ignores_crossing {
        } else if ours == theirs && ours.flatten().is_some() {
            self.wrong = Some(Wrong::Crossed);
        } else if rules.never_crosses {
            self.wrong = Some(Wrong::BothDial);
        }
    }

    /// A dial ends: with a link, with nothing behind the address, or by two Geths that
    /// dial each other refusing each other.
    pub(crate) fn connect(&mut self, at: usize, other: Node) {
        let to = self.find(other);
        let collides = to.is_some_and(|to| self.is_crossing(at, to));
        let Some(geth) = &mut self.pod(at).geth else { return };
        let own = node(&geth.enode.key);
        geth.dialing.remove(&other);
        let address = geth.address(other);
        let Some(to) = to.filter(|to| self.pods[*to].geth.as_ref().map(|geth| geth.enode.address) == address) else {
            return;
        };
        if collides {
            if let Some(theirs) = &mut self.pod(to).geth {
                theirs.dialing.remove(&own);
            }
            let now = self.now;
            for (one, other) in [(at, key(other)), (to, key(own))] {
                // A sidecar that is away is not told.
                if let Some(sidecar) = &mut self.pod(one).sidecar {
                    sidecar.refused(&other, now);
                }
            }
        } else if !self.links.contains(&(to, at)) {
            self.links.insert((at, to));
        }
    }

    /// Whether every two Geths that live are connected, and their sidecars know.
    pub(crate) fn mesh_is_whole(&self) -> bool {
        let living: Vec<_> = (0..self.pods.len()).filter(|at| self.pods[*at].lives).collect();
        living.iter().all(|at| self.peers(*at).len() + 1 == living.len())
    }
}
