//! How long a mesh takes to get whole: a pure observer of how things are.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::enode::PublicKey;
use crate::status::{PeerStatus, Status};

/// Runs from the moment this Geth begins to answer, or a node joins those it shall be
/// connected to, until it is connected to all of them.
///
/// It does not run for a link that is merely lost and found again, nor for a sidecar
/// that is restarted beside a Geth that ran on.
#[derive(Debug, Default)]
pub struct Stopwatch {
    started: Option<Duration>,
    /// Which run of Geth was seen last.
    geth: Option<(PublicKey, Timestamp)>,
    /// The enodes it was to be connected to when last seen.
    known: BTreeSet<String>,
}

impl Stopwatch {
    /// Looks at `status` at `now`, and says how long it took if the mesh has just become whole.
    pub fn look(&mut self, status: &Status, now: Duration) -> Option<Duration> {
        let entry = status.own.entry.as_ref()?;
        if status.geth.state != "up" || status.registry.shown.state == "unread" {
            return None;
        }
        let wanted = status.peers.iter().filter(|peer| peer.is_wanted());
        let wanted: BTreeSet<String> = wanted.filter_map(|PeerStatus { enode, .. }| enode.clone()).collect();
        let geth = Some((entry.enode.key, entry.since));
        if self.geth != geth {
            // One that ran before it was first asked may have been whole all along.
            self.started = (entry.since >= status.geth.since).then_some(now);
        } else if self.started.is_none() && !wanted.is_subset(&self.known) {
            self.started = Some(now);
        }
        (self.geth, self.known) = (geth, wanted);
        if status.connected < status.wanted {
            return None;
        }
        // A first node, alone, has a mesh of none; no number says anything of that.
        let started = self.started.take().filter(|_| status.wanted > 0);
        started.map(|started| now.saturating_sub(started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::entry::Entry;

    const ENTRY: &str = r#"{"enode":"enode://KEY@10.0.0.1:30303","networkId":7,"genesis":"0xGEN","since":"1970-01-01T00:01:00Z","client":"Geth"}"#;

    /// A Geth that answers since the first minute, in the same run since `since`, with links in these states.
    fn status(since: i64, links: &[&'static str]) -> Status {
        let minute = Timestamp::from_second(60).unwrap();
        let mut status = Status::new("geth-0", minute);
        let entry = ENTRY.replace("KEY", &"ab".repeat(64)).replace("GEN", &"00".repeat(32));
        status.own.entry =
            Some(Entry { since: Timestamp::from_second(since).unwrap(), ..Entry::parse(&entry).unwrap() });
        status.geth.set("up", "", minute);
        status.registry.watching(minute);
        status.peers = (1..)
            .zip(links)
            .map(|(number, state)| PeerStatus {
                pod: format!("geth-{number}"),
                enode: Some(number.to_string()),
                state,
                reason: String::new(),
                since: minute,
            })
            .collect();
        status.wanted = status.peers.iter().filter(|peer| peer.is_wanted()).count();
        status.connected = links.iter().filter(|state| **state == "connected").count();
        status
    }

    fn look(stopwatch: &mut Stopwatch, at: u64, status: &Status) -> Option<u64> {
        stopwatch.look(status, Duration::from_secs(at)).map(|took| took.as_secs())
    }

    #[test]
    fn is_it_measured_from_geths_first_answer_until_all_links_are_up_and_once() {
        let mut stopwatch = Stopwatch::default();
        assert_eq!(look(&mut stopwatch, 1, &status(60, &["waiting", "dialing"])), None);
        assert_eq!(look(&mut stopwatch, 2, &status(60, &["connected", "dialing", "mismatch"])), None);
        assert_eq!(look(&mut stopwatch, 4, &status(60, &["connected", "connected", "mismatch"])), Some(3));
        assert_eq!(look(&mut stopwatch, 9, &status(60, &["connected", "connected"])), None);
    }

    #[test]
    fn is_it_measured_from_a_node_joining_but_not_from_a_link_lost() {
        let mut stopwatch = Stopwatch::default();
        assert_eq!(look(&mut stopwatch, 1, &status(60, &[])), None, "alone");
        assert_eq!(look(&mut stopwatch, 10, &status(60, &["dialing"])), None);
        assert_eq!(look(&mut stopwatch, 12, &status(60, &["connected"])), Some(2));
        assert_eq!(look(&mut stopwatch, 20, &status(60, &["dialing"])), None);
        assert_eq!(look(&mut stopwatch, 21, &status(60, &["connected"])), None, "it was lost, not new");
    }

    #[test]
    fn does_a_sidecar_restarted_beside_its_geth_measure_nothing_until_something_happens() {
        let mut stopwatch = Stopwatch::default();
        assert_eq!(look(&mut stopwatch, 1, &status(5, &["connected"])), None);
        assert_eq!(look(&mut stopwatch, 2, &status(61, &["waiting"])), None, "Geth restarted");
        assert_eq!(look(&mut stopwatch, 3, &status(61, &["connected"])), Some(1));
    }
}
