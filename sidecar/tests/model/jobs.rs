//! How jobs go on: calls of Geth, and requests on their way to the API server and back.

use std::collections::BTreeSet;

use sidecar::plan::Outcome;
use sidecar::registry::store::{PodState, StoreErrorKind};

use super::Rules;
use super::moves::Leaves;
use super::server::{Request, Written};
use super::sidecar::{Job, Slot};
use super::world::{World, Wrong};

impl World {
    pub(crate) fn job(&mut self, at: usize, slot: Slot, rules: &Rules) {
        let Some(job) = self.sidecar(at).and_then(|sidecar| sidecar.jobs.remove(&slot)) else { return };
        let done = match job {
            Job::Tell(calls, ground) => {
                for call in &calls {
                    self.call(at, *call, ground, rules);
                }
                let Slot::Geth(key) = slot else { return };
                return self.finish(at, Outcome::Told { key, accepted: calls, failure: None }, rules);
            }
            Job::Done(outcome, view) => {
                if let (Some(sidecar), Some(view)) = (self.sidecar(at), view) {
                    sidecar.advance(view, rules);
                }
                return self.finish(at, outcome, rules);
            }
            Job::Sent(Request::Look { pod, value }) => {
                let state = self.look(&pod, rules);
                Job::Done(Outcome::Looked { pod, value, state }, None)
            }
            Job::Sent(request) => match self.write(request, rules) {
                Written::Next(request) => Job::Sent(request),
                Written::Over(answer) => {
                    let ok = answer.is_ok();
                    let outcome = match &slot {
                        Slot::Look(pod, _) | Slot::Evict(pod, _) => Outcome::Evicted { pod: pod.clone() },
                        Slot::List => Outcome::WroteList { ok },
                        Slot::Own | Slot::Geth(_) => Outcome::Wrote { ok },
                    };
                    Job::Done(outcome, answer.ok().flatten())
                }
            },
        };
        if let Some(sidecar) = self.sidecar(at) {
            sidecar.jobs.insert(slot, done);
        }
    }

    pub(crate) fn finish(&mut self, at: usize, outcome: Outcome, rules: &Rules) {
        let now = self.now;
        if let Some(sidecar) = self.sidecar(at) {
            sidecar.note(outcome, now);
        }
        self.turn(at, rules);
    }

    pub(crate) fn look(&self, name: &str, rules: &Rules) -> Result<PodState, StoreErrorKind> {
        if !rules.may_look {
            return Err(StoreErrorKind::Forbidden);
        }
        let pod = self.pods.iter().find(|pod| pod.name == name && pod.lives);
        Ok(pod.map_or(PodState::Gone, |pod| PodState::Alive { uid: pod.uid(), terminating: false }))
    }

    pub(crate) fn write(&mut self, request: Request, rules: &Rules) -> Written {
        let evicted = match &request {
            Request::Remove { pod, value, evicts: true } => Some((pod.clone(), value.clone())),
            _ => None,
        };
        let had = evicted.as_ref().and_then(|(pod, _)| self.server.data()?.get(pod)).cloned();
        let (written, damage) = self.server_mut().write(request, rules.tests);
        if let Some(damage) = damage {
            self.wrong = Some(Wrong::Registry(damage));
        } else if let (Some((name, value)), Some(had)) = (evicted, had)
            && had == value
            && rules.may_look
            && self.pods.iter().any(|pod| pod.lives && pod.name == name && pod.value().is_some_and(|own| own == value))
        {
            self.wrong = Some(Wrong::EvictedLiving);
        }
        written
    }

    /// The answer does not come in time. What was not done yet may be done later.
    pub(crate) fn time_out(&mut self, at: usize, slot: &Slot) {
        let Some(job) = self.sidecar(at).and_then(|sidecar| sidecar.jobs.remove(slot)) else { return };
        let outcome = match &job {
            Job::Sent(Request::Look { pod, value }) | Job::Done(Outcome::Looked { pod, value, .. }, _) => {
                Outcome::Looked { pod: pod.clone(), value: value.clone(), state: Err(StoreErrorKind::Other) }
            }
            _ => match slot {
                Slot::Look(pod, _) | Slot::Evict(pod, _) => Outcome::Evicted { pod: pod.clone() },
                Slot::List => Outcome::WroteList { ok: false },
                Slot::Own | Slot::Geth(_) => Outcome::Wrote { ok: false },
            },
        };
        if let Job::Sent(request) = job
            && !matches!(request, Request::Look { .. })
        {
            self.late.push(request);
        }
        if let Some(sidecar) = self.sidecar(at) {
            sidecar.jobs.insert(slot.clone(), Job::Done(outcome, None));
        }
    }

    /// The sidecar is gone; what it has sent may yet arrive.
    pub(crate) fn crash(&mut self, at: usize, leaves: Leaves) {
        let pod = self.pod(at).name.clone();
        let Some(sidecar) = self.pod(at).sidecar.take() else { return };
        let sent = sidecar.jobs.values().filter_map(|job| match job {
            Job::Sent(Request::Look { .. }) => None,
            Job::Sent(request) => Some(request.clone()),
            Job::Tell(..) | Job::Done(..) => None,
        });
        match leaves {
            Leaves::No => self.late.extend(sent),
            Leaves::Yes => {
                // It ends its jobs first; only then it leaves.
                let registered = sidecar.registry.as_ref().and_then(|view| view.get(&pod)).map(|r| r.value.clone());
                let own = sidecar.entry().map(sidecar::registry::entry::Entry::to_value);
                let values: BTreeSet<_> = registered.into_iter().chain(own).collect();
                self.late.extend(sent);
                self.late.extend(values.into_iter().map(|value| Request::Remove {
                    pod: pod.clone(),
                    value,
                    evicts: false,
                }));
            }
        }
    }
}
