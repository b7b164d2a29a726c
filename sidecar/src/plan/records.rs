//! Records: keeping the own entry right, and getting the entries of dead pods out.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;

use super::concern::Concern;
use super::membership::Link;
use super::pace::Pace;
use super::{Action, LinkState, Now, Own, Plan, Situation, jittered, versions};
use crate::backoff::Backoff;
use crate::registry::entry::Entry;
use crate::registry::store::{PodState, StoreErrorKind};
use crate::registry::view::Record;

/// How long a link is missing before its pod is looked for, spread over as much
/// again, so that the first sidecar to look can spare the others their call.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// The same for a node that has just come: it lives, and where many come at once their links take a while.
const FIRST_LOOK_AT_NEWCOMER: Duration = Duration::from_secs(5);
/// How long ago a node that has just come came at most.
const NEWCOMER: Duration = Duration::from_secs(10);
/// How long after a pod was found alive it is looked for again, while its link stays down.
const NEXT_LOOK: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(60));
/// The same for a pod that is of another network, and so never has a link.
const NEXT_LOOK_AT_STRANGER: Duration = Duration::from_secs(3600);
/// How long a node must have been silent, on the wire and in the registry, before
/// it is taken for dead without the right to look at pods.
pub(super) const SILENCE: Duration = Duration::from_secs(300);

/// What this sidecar remembers about the registry's records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Records {
    /// Of writes of the own entry.
    pace: Pace,
    suspects: BTreeMap<String, Suspect>,
}

/// A pod whose link is missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Suspect {
    /// The record it is suspected for; another one starts the matter anew.
    value: String,
    since: Duration,
    look_at: Duration,
    looks: u32,
    busy: bool,
    verdict: Verdict,
}

/// What is known of a suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Verdict {
    /// Nothing yet, or that it lives.
    Open,
    /// Its pod is gone, finished, or another one of the same name.
    Dead,
    /// Nobody lets this sidecar look at pods.
    Unknowable,
}

impl Records {
    /// Adds what is to be done about the registry to `plan`.
    pub(super) fn plan(
        &mut self,
        situation: &Situation<'_>,
        links: &[Link],
        now: Now,
        rng: &mut impl Rng,
        plan: &mut Plan,
    ) {
        self.plan_own(situation, now, plan);
        self.plan_suspects(situation, links, now, rng, plan);
    }

    pub(super) fn wrote(&mut self, ok: bool, now: Now, rng: &mut impl Rng) {
        self.pace.ended(ok, now, rng);
    }

    pub(super) fn looked(
        &mut self,
        pod: &str,
        value: &str,
        state: &Result<PodState, StoreErrorKind>,
        now: Now,
        rng: &mut impl Rng,
    ) {
        // An answer that comes late may be about a record that was replaced meanwhile.
        let Some(suspect) = self.suspects.get_mut(pod).filter(|suspect| suspect.value == value) else { return };
        suspect.busy = false;
        suspect.verdict = match state {
            Ok(PodState::Gone | PodState::Finished) => Verdict::Dead,
            Ok(PodState::Alive { uid, .. }) => {
                match Entry::parse(&suspect.value).ok().and_then(|entry| entry.pod_uid) {
                    Some(registered) if registered != *uid => Verdict::Dead,
                    _ => Verdict::Open,
                }
            }
            Err(StoreErrorKind::Forbidden) => Verdict::Unknowable,
            Err(StoreErrorKind::Other) => Verdict::Open,
        };
        let wait = NEXT_LOOK.after(suspect.looks);
        // One that is being deleted is gone soon.
        if !matches!(state, Ok(PodState::Alive { terminating: true, .. })) {
            suspect.looks += 1;
        }
        suspect.look_at = now.elapsed + jittered(wait, wait / 2, rng);
    }

    pub(super) fn evicted(&mut self, pod: &str, now: Now, rng: &mut impl Rng) {
        // Whatever came of it, the registry tells; if the record is still there, look again.
        if let Some(suspect) = self.suspects.get_mut(pod) {
            suspect.busy = false;
            suspect.verdict = Verdict::Open;
            let wait = NEXT_LOOK.after(suspect.looks);
            suspect.looks = suspect.looks.saturating_add(1);
            suspect.look_at = now.elapsed + jittered(wait, wait, rng);
        }
    }

    /// The own record has to be the own entry, whoever changed it.
    fn plan_own(&mut self, situation: &Situation<'_>, now: Now, plan: &mut Plan) {
        let record = situation.registry.and_then(|registry| registry.get(situation.pod));
        let action = match situation.own {
            Own::Silent => None,
            Own::Ready(entry) => {
                let right = record.is_some_and(|record| record.value == entry.to_value());
                (!right).then(|| Action::Assert { entry: entry.clone(), patience: self.pace.patience() })
            }
            Own::Unpeerable => record.map(|record| Action::Withdraw { value: record.value.clone() }),
        };
        if self.pace.is_contested(now) {
            plan.concerns.push(Concern::EntryContested);
        }
        let (Some(action), Some(due)) = (action, self.pace.next()) else { return };
        if now.elapsed < due {
            plan.wake_at(due);
            return;
        }
        self.pace.begin();
        plan.actions.push(action);
    }

    /// A missing link is a reason to look whether its pod lives; only that it does
    /// not is a reason to remove its record.
    fn plan_suspects(
        &mut self,
        situation: &Situation<'_>,
        links: &[Link],
        now: Now,
        rng: &mut impl Rng,
        plan: &mut Plan,
    ) {
        // Without an answering Geth every link is missing, which says nothing of the others.
        let (Own::Ready(own), Some(registry), Some(_)) = (situation.own, situation.registry, situation.peers) else {
            return;
        };
        let crowded = plan.concerns.iter().any(|concern| matches!(concern, Concern::MeshTooLarge { .. }));
        let suspect = |link: &&Link| !matches!(link.state, LinkState::Connected | LinkState::Invalid);
        let suspected: BTreeMap<&str, &Link> =
            links.iter().filter(suspect).map(|link| (link.pod.as_str(), link)).collect();
        self.suspects.retain(|pod, _| suspected.contains_key(pod.as_str()));

        for (pod, link) in suspected {
            let Some(record) = registry.get(pod) else { continue };
            let suspect = self.suspects.entry(pod.to_owned()).or_insert_with(|| Suspect::new(record, now, rng));
            if suspect.value != record.value && !suspect.busy {
                *suspect = Suspect::new(record, now, rng);
            }
            if suspect.busy {
                continue;
            }
            let silent = !crowded && is_silent(own, record, link.state);
            if !silent {
                suspect.since = now.elapsed;
            }
            match suspect.verdict {
                Verdict::Unknowable if !silent => {}
                Verdict::Unknowable if now.elapsed < suspect.since + SILENCE => plan.wake_at(suspect.since + SILENCE),
                Verdict::Dead | Verdict::Unknowable => {
                    suspect.busy = true;
                    plan.actions.push(Action::Evict { pod: pod.to_owned(), value: suspect.value.clone() });
                }
                Verdict::Open => {
                    let patience = if link.state.is_wanted() || suspect.looks == 0 {
                        Duration::ZERO
                    } else {
                        NEXT_LOOK_AT_STRANGER
                    };
                    let due = suspect.look_at + patience;
                    if now.elapsed < due {
                        plan.wake_at(due);
                    } else {
                        suspect.busy = true;
                        let value = suspect.value.clone();
                        plan.actions.push(Action::Look { pod: pod.to_owned(), value });
                    }
                }
            }
        }
    }
}

/// Whether it is for want of any sign of the other node that its link is missing. A Geth that answers on the wire lives, and
/// of one with which nothing but a version or a slot is wanting nobody can say that it does not.
fn is_silent(own: &Entry, record: &Record, state: LinkState) -> bool {
    let apart = |entry: &Entry| versions::apart(&own.client, &entry.client).is_some();
    matches!(state, LinkState::Dialing | LinkState::Waiting) && !record.entry.as_ref().is_ok_and(apart)
}

impl Suspect {
    fn new(record: &Record, now: Now, rng: &mut impl Rng) -> Self {
        let has_come = |entry: &Entry| now.wall.duration_since(entry.since).unsigned_abs() < NEWCOMER;
        let wait = if record.entry.as_ref().is_ok_and(has_come) { FIRST_LOOK_AT_NEWCOMER } else { FIRST_LOOK };
        Self {
            value: record.value.clone(),
            since: now.elapsed,
            look_at: now.elapsed + jittered(wait, wait, rng),
            looks: 0,
            busy: false,
            verdict: Verdict::Open,
        }
    }
}
