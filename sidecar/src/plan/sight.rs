//! When a node that has just come can be taken to see everybody who came before it.
//!
//! Who dials a link hangs on how many came between its two nodes. Of these some may be
//! registered later than the node itself, though they came earlier. A node that dials
//! before it has read of them dials others in their place, uses up the slots that it
//! needs for them, and has to hang up.

use std::time::Duration;

use jiff::Timestamp;

use super::Now;
use super::dialer::Order;
use crate::registry::entry::Entry;

/// For how long no earlier node may have turned up, even where the API server is fast.
const SETTLE: Duration = Duration::from_millis(100);

/// What is remembered of how this node came and whom it saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Sight {
    run: Option<Run>,
    /// How many came before, and since when so many are seen.
    before: usize,
    before_since: Duration,
}

/// One run of Geth.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Run {
    since: Timestamp,
    seen_at: Duration,
    registered_at: Option<Duration>,
}

/// From when on this node sees those who came before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Those who were registered before it: the answer to its own registration shows them all.
    pub(super) earlier: Duration,
    /// Those too who came earlier and were registered later. The entries of others take as long to get here as
    /// the own took, so long again is waited for them.
    pub(super) all: Duration,
}

impl Sight {
    /// Takes note of what is seen now. [`Duration::MAX`] is a time that nobody knows yet.
    pub(super) fn observe(&mut self, own: &Entry, order: &Order, is_registered: bool, now: Now) -> Seen {
        let before = order.before(own);
        if before != self.before {
            (self.before, self.before_since) = (before, now.elapsed);
        }
        let new = Run { since: own.since, seen_at: now.elapsed, registered_at: None };
        let run = match &mut self.run {
            Some(run) if run.since == own.since => run,
            other => other.insert(new),
        };
        if is_registered {
            run.registered_at.get_or_insert(now.elapsed);
        }
        let Some(registered_at) = run.registered_at else {
            return Seen { earlier: Duration::MAX, all: Duration::MAX };
        };
        let took = registered_at.saturating_sub(run.seen_at);
        Seen { earlier: registered_at, all: (self.before_since + SETTLE).max(registered_at + took) }
    }
}
