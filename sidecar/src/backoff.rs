//! How long to wait before the next try.

use std::time::Duration;

/// A wait that doubles from try to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the first retry.
    pub first: Duration,
    /// Never more than this.
    pub most: Duration,
}

impl Backoff {
    /// A wait that doubles from `first` to `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most }
    }

    /// The wait after `failures` tries that failed, counted from 0; without jitter.
    pub fn after(self, failures: u32) -> Duration {
        self.first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_the_wait_double_up_to_its_bound_and_never_overflow() {
        let backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(60));
        let waits: Vec<_> = [0, 1, 4, 5, 31, 32, u32::MAX].map(|n| backoff.after(n).as_secs()).into();
        assert_eq!(waits, [2, 4, 32, 60, 60, 60, 60]);
    }
}
