//! Pace: how soon one write may follow another.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;

use super::{Now, jittered};
use crate::backoff::Backoff;
use crate::registry::store::DEADLINE;

/// How long after a write that failed the next is tried: half of this, spread over as much again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));
/// How long after a write that succeeded the next may follow, spread over as much
/// again: the registry has to be seen before it can be judged.
const FLOOR: Duration = Duration::from_millis(250);
/// So many writes within [`CONTEST_WINDOW`] are put down to a registry that is being
/// damaged or a Geth that is being restarted. Beyond, somebody writes against this
/// sidecar, and it writes no more often than every [`CONTEST_PAUSE`].
const CONTEST: usize = 10;
/// It is over when there are fewer within [`CONTEST_WINDOW`]: less than the pauses leave
/// room for, or the pauses themselves would look like the end of it.
const CONTEST_OVER: usize = 5;
const CONTEST_WINDOW: Duration = Duration::from_secs(60);
const CONTEST_PAUSE: Duration = Duration::from_secs(5);

/// How long the API server is given for a write that it did not do in time before. So long it may keep a request waiting for
/// its turn: a quarter of its `--request-timeout` of 60 s (apiserver/pkg/server/filters/priority-and-fairness.go, `getRequestWaitContext`). To ask
/// sooner again is to go back to the end of the queue.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the API server is given for a write after so many in a row that failed.
pub fn patience_after(failures: u32) -> Duration {
    // The first failure may be that of a connection that nobody serves any more.
    if failures == 0 { DEADLINE } else { PATIENCE }
}

/// How long after so many writes in a row that failed the next is tried.
pub fn pause_after(failures: u32, rng: &mut impl Rng) -> Duration {
    let wait = RETRY.after(failures.saturating_sub(1)) / 2;
    jittered(wait, wait, rng)
}

/// The pace of the writes to one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    /// A write is under way.
    writing: bool,
    failures: u32,
    write_at: Duration,
    /// When it was written within the last [`CONTEST_WINDOW`].
    writes: VecDeque<Duration>,
    contested: bool,
}

impl Pace {
    /// When the next write may begin; `None` while one is under way.
    pub(super) fn next(&self) -> Option<Duration> {
        (!self.writing).then_some(self.write_at)
    }

    /// How long it may take.
    pub(super) fn patience(&self) -> Duration {
        patience_after(self.failures)
    }

    /// Takes note that a write begins.
    pub(super) fn begin(&mut self) {
        self.writing = true;
    }

    /// Takes note of how it ended.
    pub(super) fn ended(&mut self, ok: bool, now: Now, rng: &mut impl Rng) {
        self.writing = false;
        let wait = if ok {
            self.failures = 0;
            self.writes.push_back(now.elapsed);
            let wait = if self.is_contested(now) { CONTEST_PAUSE } else { FLOOR };
            jittered(wait, wait, rng)
        } else {
            self.failures = self.failures.saturating_add(1);
            pause_after(self.failures, rng)
        };
        self.write_at = now.elapsed + wait;
    }

    /// Whether somebody keeps writing against this sidecar.
    pub(super) fn is_contested(&mut self, now: Now) -> bool {
        while self.writes.front().is_some_and(|at| *at + CONTEST_WINDOW < now.elapsed) {
            self.writes.pop_front();
        }
        self.contested = self.writes.len() >= if self.contested { CONTEST_OVER } else { CONTEST };
        self.contested
    }
}
