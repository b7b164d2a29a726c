//! What can happen next.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::geth::Node;
use super::sidecar::{Job, Slot, Watch};
use super::world::World;
use super::{Kind, Rules};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Move {
    /// What was planned for this moment is planned anew.
    Turn(usize),
    /// A job of a sidecar goes on.
    Job(usize, Slot),
    List(usize),
    Listed(usize),
    /// The watch tells the next version, or all there are as one.
    Event(usize, Merged),
    /// The sidecar hears whom its Geth is connected to.
    Peers(usize),
    /// Geth dials a static node again.
    Dial(usize, Node),
    /// A dial ends.
    Connect(usize, Node),
    /// Time passes until something is due.
    Wait,
    /// A late write arrives after all.
    Late(usize),
    RestartSidecar(usize),
    RestartGeth(usize),
    /// A pod of the same name is made: another UID, another address.
    StartPod(usize),
    /// A late write never arrives.
    Lose(usize),
    /// The sidecar dies; with `leaves` it takes its entry out as one that is told to end and
    /// cannot tell whether its pod does.
    Crash(usize, Leaves),
    /// The answer to a request does not come in time.
    Timeout(usize, Slot),
    /// The watch ends unnoticed, with what it had to tell.
    LoseWatch(usize),
    /// An API server that lags behind answers the list.
    StaleList(usize),
    DeleteConfigMap,
    KillGeth(usize),
    EndPod(usize, Leaves),
    /// Time passes until something is due, though much else was.
    Dawdle(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merged {
    No,
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaves {
    No,
    Yes,
}

impl World {
    /// What goes on without any fault.
    pub(crate) fn goings_on(&self, rules: &Rules) -> Vec<Move> {
        let mut moves = self.due();
        let mut later = Vec::new();
        for (at, pod) in self.pods.iter().enumerate() {
            match &pod.sidecar {
                Some(sidecar) if sidecar.watch == Watch::Dead => later.push(Move::List(at)),
                None if pod.lives => later.push(Move::RestartSidecar(at)),
                _ => {}
            }
            // A dial to nobody ends sooner than a Geth begins.
            if pod.lives && pod.geth.is_none() && pod.geth_at <= self.now && !self.is_dialed(pod.node(at, rules)) {
                later.push(Move::RestartGeth(at));
            }
        }
        later.extend((0..self.late.len()).map(Move::Late));
        if moves.is_empty() && later.is_empty() && !self.instants().is_empty() {
            return vec![Move::Wait];
        }
        moves.extend(later);
        moves
    }

    /// What takes no time worth speaking of.
    pub(crate) fn due(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (at, pod) in self.pods.iter().enumerate() {
            if let Some(sidecar) = &pod.sidecar {
                moves.extend(sidecar.jobs.keys().map(|slot| Move::Job(at, slot.clone())));
                if sidecar.wake.is_some_and(|wake| wake <= self.now) {
                    moves.push(Move::Turn(at));
                }
                match sidecar.watch {
                    Watch::Begins => moves.push(Move::List(at)),
                    Watch::Listed(_) => moves.push(Move::Listed(at)),
                    Watch::Dead => {}
                    Watch::At(version) => {
                        let event =
                            |merged| self.server.after(version, merged == Merged::Yes).map(|_| Move::Event(at, merged));
                        moves.extend([Merged::No, Merged::Yes].into_iter().filter_map(event));
                    }
                }
                if pod.geth.is_some() && sidecar.peers.as_ref() != Some(&self.peers(at)) {
                    moves.push(Move::Peers(at));
                }
            }
            if let Some(geth) = &pod.geth {
                moves.extend(geth.dialing.keys().map(|node| Move::Connect(at, *node)));
                let due = geth.due(&self.linked(at)).into_iter().filter(|(_, time)| *time <= self.now);
                moves.extend(due.map(|(node, _)| Move::Dial(at, node)));
            }
        }
        moves
    }

    /// Whether it happens between a sidecar and its own Geth, or within the sidecar.
    pub(crate) fn is_local(&self, step: &Move) -> bool {
        match step {
            Move::Turn(_) | Move::Listed(_) | Move::Peers(_) => true,
            Move::Job(_, slot) => matches!(slot, Slot::Geth(_) | Slot::List),
            _ => false,
        }
    }

    /// The nodes that the Geth of pod `at` dials, and from when on: those for which it is worth
    /// waiting. A Geth may dial an address that nobody has any more for ever, if the sidecar
    /// that could take it back was restarted at the wrong moment; nothing comes of that.
    fn dials(&self, at: usize) -> Vec<(Node, Duration)> {
        let Some(geth) = &self.pods[at].geth else { return Vec::new() };
        let mut due = geth.due(&self.linked(at));
        due.retain(|(node, _)| geth.address(*node).is_some_and(|address| self.is_there(address)));
        due
    }

    fn is_there(&self, address: SocketAddr) -> bool {
        self.pods.iter().enumerate().any(|(at, pod)| pod.lives && pod.address(at) == address)
    }

    /// The moments at which something will be due.
    pub(crate) fn instants(&self) -> BTreeSet<Duration> {
        let mut instants = BTreeSet::new();
        for (at, pod) in self.pods.iter().enumerate() {
            instants.extend(pod.sidecar.as_ref().and_then(|sidecar| sidecar.wake));
            instants.extend(self.dials(at).into_iter().map(|(_, time)| time));
            instants.insert(pod.geth_at);
        }
        instants.retain(|time| *time > self.now);
        instants
    }

    /// What can go wrong, and what somebody may do.
    pub(crate) fn faults(&self, goings_on: &[Move]) -> Vec<(Option<Kind>, Move)> {
        let mut moves: Vec<_> = (0..self.late.len()).map(|at| (None, Move::Lose(at))).collect();
        for (at, pod) in self.pods.iter().enumerate() {
            if !pod.lives {
                moves.push((None, Move::StartPod(at)));
                continue;
            }
            if self.server.data().is_some() || pod.sidecar.is_some() {
                moves.push((Some(Kind::PodDies), Move::EndPod(at, Leaves::No)));
                moves.push((Some(Kind::PodLeaves), Move::EndPod(at, Leaves::Yes)));
            }
            if pod.geth.is_some() {
                moves.push((Some(Kind::GethDies), Move::KillGeth(at)));
            }
            let Some(sidecar) = &pod.sidecar else { continue };
            moves.push((Some(Kind::Crash), Move::Crash(at, Leaves::No)));
            moves.push((Some(Kind::CrashLeaving), Move::Crash(at, Leaves::Yes)));
            let requests = sidecar.jobs.iter().filter(|(_, job)| !matches!(job, Job::Tell(..)));
            moves.extend(requests.map(|(slot, _)| (Some(Kind::Timeout), Move::Timeout(at, slot.clone()))));
            match sidecar.watch {
                Watch::At(version) if self.server.after(version, false).is_some() => {
                    moves.push((Some(Kind::LostWatch), Move::LoseWatch(at)));
                }
                Watch::Begins | Watch::Dead if self.server.stale_view().is_some() => {
                    moves.push((Some(Kind::StaleList), Move::StaleList(at)));
                }
                _ => {}
            }
        }
        if self.server.data().is_some() {
            moves.push((Some(Kind::Deletion), Move::DeleteConfigMap));
        }
        if *goings_on != [Move::Wait] {
            moves.extend(self.instants().into_iter().map(|time| (Some(Kind::Slowness), Move::Dawdle(time))));
        }
        moves.retain(|(kind, _)| kind.is_none_or(|kind| self.may(kind)));
        moves
    }

    pub(crate) fn may(&self, kind: Kind) -> bool {
        self.left_in_all > 0 && self.left.get(&kind).is_some_and(|left| *left > 0)
    }

    /// Pays for a fault.
    pub(crate) fn spend(&mut self, kind: Kind) {
        self.left_in_all -= 1;
        self.left.entry(kind).and_modify(|left| *left -= 1);
        if self.left_in_all == 0 {
            self.left.clear();
        }
    }
}
