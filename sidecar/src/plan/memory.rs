//! What is remembered of one node, and whether Geth has to be told to dial it.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;

use super::listed::Origin;
use super::membership::Wanted;
use super::scene::{Scene, Slots};
use super::{Action, Call, Failure, Now, Plan, dialer, is_up, jittered};
use crate::backoff::Backoff;
use crate::enode::{Enode, PublicKey};
use crate::registry::entry::Entry;

/// How long a dial may take before Geth gives it up: `defaultDialTimeout` (p2p/server.go, v1.17.5).
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that a node waits for the registry to have its entry, and so to show who is there.
const REGISTERED: Duration = Duration::from_secs(2);
/// How long an older node leaves to one that has just come, which may dial everybody.
const NEWCOMER: Duration = Duration::from_millis(300);
/// How long a link may be missing for want of dial slots before one is freed: longer
/// than a dial takes that has one.
const FREE_SLOT: Duration = Duration::from_millis(500);
/// The same for a link that was up: its node may just be restarting, and then dials by itself.
const FREE_SLOT_AFTER_LOSS: Duration = Duration::from_secs(5);
/// What Geth says of a connection that the other side was told to end
/// (`DiscRequested`, p2p/peer_error.go, v1.17.5): its sidecar needed the slot.
const HUNG_UP: &str = "disconnect requested";
/// How long a busy Geth that hung up may take to forget the connection. Whoever dials it
/// sooner is refused as already connected, and cannot dial again for [`dialer::DIAL_HISTORY`].
const HANGING_UP: Duration = Duration::from_millis(500);
/// What Geth says to both of two that dialed each other at once, and of a connection that
/// the other side still has (`DiscAlreadyConnected`, p2p/peer_error.go, v1.17.5).
const CROSSED: &str = "already connected";
/// How long to wait before calls that failed are made again.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// How long a link may be missing before the side that was to be dialed dials too,
/// and by how much that is spread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience(Duration, Duration);

impl Patience {
    /// With a Geth that has been running.
    pub(super) const USUAL: Self = Self(Duration::from_secs(3), Duration::from_secs(1));
    /// With a Geth that was restarted, which the others may have dialed so recently
    /// that theirs do not dial it again yet.
    pub(super) const AFTER_RESTART: Self = Self(Duration::from_millis(300), Duration::from_millis(200));

    fn ends(self, since: Duration, rng: &mut impl Rng) -> Duration {
        since + jittered(self.0, self.1, rng)
    }
}

/// What Geth's list of static nodes says of a node, as far as this sidecar knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Static {
    /// It is not on it.
    Absent,
    /// It is, at this address, because this sidecar put it there.
    At(SocketAddr),
    /// Nobody can say: an earlier run of this sidecar may have put it there.
    Unknown,
}

/// A link that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Down {
    since: Duration,
    /// When the other side's turn to dial is over.
    step_in_at: Duration,
}

/// What this sidecar remembers of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Memory {
    pub(super) listed: Static,
    pub(super) trusted: bool,
    /// It came from the list of external nodes, and Geth was not told to remove it since.
    pub(super) external: bool,
    /// Address and start of the run of Geth that the rest of this was seen of.
    run: Option<(SocketAddr, Timestamp)>,
    down: Option<Down>,
    /// Whether the link to this run was ever up.
    was_up: bool,
    /// When Geth was last told to dial it.
    told_at: Option<Duration>,
    /// It was told so because the other side did not dial.
    stepped_in: bool,
    /// This side hung up to free a dial slot: the other side dials now, in whose share it is.
    yielded: bool,
    /// The other side hung up, to free one of its own.
    left: bool,
    /// When it was first seen to be no longer wanted.
    pub(super) unwanted_since: Option<Duration>,
    /// Calls are under way.
    pub(super) busy: bool,
    /// Among them one to dial it.
    adding: bool,
    failures: u32,
    pub(super) failure: Option<Failure>,
    pub(super) retry_at: Duration,
    /// Why the last connection ended, in Geth's words.
    pub(super) dropped: Option<String>,
}

impl Memory {
    pub(super) fn new(listed: Static) -> Self {
        Self {
            listed,
            trusted: false,
            external: false,
            run: None,
            down: None,
            was_up: false,
            told_at: None,
            stepped_in: false,
            yielded: false,
            left: false,
            unwanted_since: None,
            busy: false,
            adding: false,
            failures: 0,
            failure: None,
            retry_at: Duration::ZERO,
            dropped: None,
        }
    }

    /// Takes note of which calls Geth accepted, and which one failed.
    pub(super) fn told(&mut self, accepted: &[Call], failure: Option<Failure>, now: Now) {
        (self.busy, self.adding) = (false, false);
        for call in accepted {
            match call {
                Call::Add(enode) => {
                    self.listed = Static::At(enode.address);
                    self.told_at = Some(now.elapsed);
                }
                Call::Remove(_) => (self.listed, self.external) = (Static::Absent, false),
                Call::Trust(_) => self.trusted = true,
                Call::Distrust(_) => self.trusted = false,
            }
        }
        match &failure {
            None => self.failures = 0,
            Some(failure) => {
                if matches!(failure.call, Call::Add(_) | Call::Remove(_)) && !failure.refused {
                    // It may have had its effect all the same.
                    self.listed = Static::Unknown;
                }
                self.retry_at = now.elapsed + RETRY.after(self.failures);
                self.failures = self.failures.saturating_add(1);
            }
        }
        self.failure = failure;
    }

    /// Takes note of whether the link is up, and says how long it was missing if it has just come up
    /// for the first time. Whoever is to be dialed by the other side has `patience` before this one does.
    pub(super) fn observe(
        &mut self,
        entry: &Entry,
        scene: &Scene<'_>,
        patience: Patience,
        rng: &mut impl Rng,
    ) -> Option<Duration> {
        self.unwanted_since = None;
        self.external = scene.origin(entry) == Some(Origin::External);
        let run = Some((entry.enode.address, entry.since));
        if self.run != run {
            // It moved or was restarted: what was seen of it before no longer counts.
            (self.run, self.down, self.was_up, self.yielded, self.left) = (run, None, false, false, false);
            (self.failures, self.failure, self.retry_at) = (0, None, Duration::ZERO);
            self.dropped = None;
        }
        if scene.peer(&entry.enode.key).is_some_and(is_up) {
            // Of a link that stays up, Geth may have told the end before its list of peers shows it.
            let (down, is_first) = (self.down.take(), !self.was_up);
            if down.is_some() || is_first {
                (self.dropped, self.left) = (None, false);
            }
            (self.was_up, self.yielded) = (true, false);
            // What was waited for with intent says nothing of how slow the others are.
            let counts = is_first && !self.stepped_in && !self.external;
            let since = down?.since.max(self.told_at.unwrap_or_default());
            return Some(scene.now.elapsed.saturating_sub(since)).filter(|took| counts && *took < DIAL_TIMEOUT);
        }
        if self.down.is_none() {
            let since = scene.now.elapsed;
            self.down = Some(Down { since, step_in_at: patience.ends(since, rng) });
        }
        None
    }

    /// Whether Geth has to be told to dial `node`, with so many dial slots left.
    pub(super) fn dial(&self, scene: &Scene<'_>, node: &Wanted<'_>, slots: &Slots) -> Dial {
        let now = scene.now.elapsed;
        let enode = node.entry.enode;
        // A connection that is about to become a link is as little touched as one that is up.
        let (Some(down), None) = (self.down, scene.peer(&enode.key)) else { return Dial::Leave };
        let (begins, share) = (self.begins(scene, node), scene.is_share(node));
        let step_in_at = down.step_in_at.max(down.since + (2 * scene.took).min(DIAL_TIMEOUT));
        let free_at = if self.hung_up() {
            // The other side has made room for others, and waits for this one.
            down.since
        } else {
            down.since + if self.was_up { FREE_SLOT_AFTER_LOSS } else { FREE_SLOT }
        };
        let starved = if now < free_at { Dial::At(free_at) } else { Dial::NoSlot };
        if self.listed == Static::At(enode.address) {
            if !begins && self.dropped.as_deref() == Some(CROSSED) {
                return Dial::Yield;
            }
            // Geth dials, and goes on doing so, as soon as it has a slot.
            return match (share && scene.is_full(), begins || now >= step_in_at) {
                (false, _) => Dial::Leave,
                (true, false) => Dial::At(step_in_at),
                (true, true) => starved,
            };
        }
        // That it hung up may be seen before it is told.
        if (self.was_up || self.hung_up()) && now < down.since + HANGING_UP {
            return Dial::At(down.since + HANGING_UP);
        }
        // The other one may have been restarted too, and have said so by then.
        if begins && scene.is_newcomer(node) && !scene.is_registered && now < down.since + REGISTERED {
            return Dial::At(down.since + REGISTERED);
        }
        if begins && (share || !scene.is_full()) {
            let at = match (scene.is_newcomer(node), scene.is_before(node)) {
                (true, _) => Duration::ZERO,
                // It may take its slots to be enough for all, not having seen as many, and dial itself.
                (_, true) if !self.hung_up() => slots.paced().max(down.since + NEWCOMER + scene.took),
                _ => slots.paced(),
            };
            if now < at { Dial::At(at) } else { Dial::Now }
        } else if now < step_in_at {
            // An old address that Geth still dials stays for now: taking it back would
            // hang up on the node itself, which may be arriving at this moment.
            Dial::At(step_in_at)
        } else if slots.has(share) {
            let at = slots.paced();
            if now < at { Dial::At(at) } else { Dial::StepIn }
        } else if share {
            starved
        } else {
            // It is the other side that can make room for this link.
            Dial::Leave
        }
    }

    /// Whether this node is the first to dial `node`: after one of the two has hung up for a
    /// slot, whose share the link is.
    pub(super) fn begins(&self, scene: &Scene<'_>, node: &Wanted<'_>) -> bool {
        if self.hung_up() && scene.origin(&node.entry).is_none() { scene.is_share(node) } else { scene.begins(node) }
    }

    /// Whether this side or the other hung up to free a dial slot.
    fn hung_up(&self) -> bool {
        self.yielded || self.left
    }

    /// Takes note of why the connection ended, in Geth's words.
    pub(super) fn ended(&mut self, why: &str) {
        self.left |= why == HUNG_UP && !self.yielded;
        self.dropped = Some(why.to_owned());
    }

    /// The calls after which Geth dials `enode`, in the place of the other side if it is so. Adding a key that Geth
    /// has already is silently ignored, even with a new address (p2p/dial.go, v1.17.5): remove first.
    pub(super) fn add(&mut self, enode: Enode, stepped_in: bool) -> Vec<Call> {
        self.stepped_in = stepped_in;
        // That was said of the dial before.
        self.dropped.take_if(|why| why == CROSSED);
        match self.listed {
            Static::Absent => vec![Call::Add(enode)],
            Static::At(_) | Static::Unknown => vec![Call::Remove(enode), Call::Add(enode)],
        }
    }

    /// When the other side can dial again, if it may have dialed in vain before this one did.
    pub(super) fn other_can_dial_at(&self) -> Option<Duration> {
        self.told_at.filter(|_| self.stepped_in).map(|at| at + dialer::DIAL_HISTORY)
    }

    /// Puts the calls into the plan, unless there are none.
    pub(super) fn order(&mut self, key: PublicKey, calls: Vec<Call>, plan: &mut Plan) {
        if !calls.is_empty() {
            self.busy = true;
            self.adding = calls.iter().any(|call| matches!(call, Call::Add(_)));
            plan.actions.push(Action::Tell { key, calls });
        }
    }

    /// Takes back the own dial, which met the other side's, before both are repeated at the
    /// same time and meet again: it is that side's turn now, for as long as it needs.
    pub(super) fn give_way(&mut self, enode: Enode, now: Now, rng: &mut impl Rng, plan: &mut Plan) {
        if let Some(down) = &mut self.down {
            down.step_in_at = Patience::USUAL.ends(now.elapsed + dialer::DIAL_HISTORY, rng);
        }
        self.order(enode.key, vec![Call::Remove(enode)], plan);
    }

    /// Hangs up, so that a slot is free, and leaves the link to the other side.
    pub(super) fn hang_up(&mut self, enode: Enode, plan: &mut Plan) {
        self.yielded = true;
        self.order(enode.key, vec![Call::Remove(enode)], plan);
    }

    /// When Geth was told to dial it, if it may be doing so at this moment, out of one of its slots.
    pub(super) fn told_at(&self, now: Now) -> Option<Duration> {
        if self.adding && self.down.is_some() {
            return Some(now.elapsed);
        }
        let may_dial = self.down.is_some() && matches!(self.listed, Static::At(_));
        self.told_at.filter(|at| may_dial && now.elapsed < *at + DIAL_TIMEOUT)
    }
}

/// What a missing link asks for.
pub(super) enum Dial {
    /// That Geth is told to dial.
    Now,
    /// The same, in the place of the other side, which did not.
    StepIn,
    /// Patience: to be asked again at this time.
    At(Duration),
    /// A dial slot, and none is free.
    NoSlot,
    /// That the other side dials alone: both did, and refused each other.
    Yield,
    /// Nothing.
    Leave,
}
