//! Repeats: what comes and goes again and again is said a few times, and not each time.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

/// So often may one thing be said within [`WINDOW`].
const TIMES: usize = 3;
/// How long something said counts.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);

/// What was said lately. The things are words of this program, so there are few of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Repeats(HashMap<&'static str, Vec<Timestamp>>);

impl Repeats {
    /// Whether `thing` may be said at `now`; if so, it counts as said.
    pub fn admit(&mut self, thing: &'static str, now: Timestamp) -> bool {
        let said = self.0.entry(thing).or_default();
        said.retain(|time| now.duration_since(*time) < WINDOW);
        let admitted = said.len() < TIMES;
        if admitted {
            said.push(now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_flaps_said_a_few_times_and_said_again_later() {
        let mut repeats = Repeats::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let said = (0..500).filter(|second| repeats.admit("blind", at(*second))).count();
        assert_eq!(said, TIMES);
        assert!(repeats.admit("watching", at(500)), "another thing");
        assert!(repeats.admit("blind", at(700)));
    }
}
