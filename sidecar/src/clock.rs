//! Where the loop takes the time from.

use jiff::Timestamp;
use tokio::time::Instant;

use crate::plan::Now;

/// The two clocks that a decision may rest on. See [`Now`].
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    wall: fn(Instant) -> Timestamp,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self::with_wall(|_| Timestamp::now())
    }

    /// A clock whose wall shows what `wall` makes of the moment: tests let it follow tokio's paused time.
    pub fn with_wall(wall: fn(Instant) -> Timestamp) -> Self {
        Self { started: Instant::now(), wall }
    }

    /// This moment.
    pub fn now(&self) -> Now {
        let now = Instant::now();
        Now { elapsed: now - self.started, wall: (self.wall)(now) }
    }
}
