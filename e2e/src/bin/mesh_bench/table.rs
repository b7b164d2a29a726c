//! The table: what was measured, beside what was measured of others.

use crate::runs::Time;
use std::fmt::Write;
use std::time::Duration;

/// The figures of the original, `(Geths, seconds as median / worst)`: the time from all Geths answering on their sockets
/// to the full mesh, of 4 runs (5 Geths) and 3 runs (10, 20). Measured once, on another day, with the program that this
/// one replaces, Geth v1.17.5 and kind on two cores; one of its runs with 20 Geths was not full after 9 minutes.
const ORIGINAL: &[(usize, &str)] = &[(5, "22.9 / 24.9"), (10, "34.5 / 39.1"), (20, "69.5 / never")];

/// The same for a pod that was restarted with the same node key and another address (5 Geths), from the deletion on:
/// deleted gracefully, and without a grace period; never, if the others' Geths had known it by an older address and
/// its Geth is killed then.
const ORIGINAL_RESTART: &str = "15.6 graceful, 24.2 forced, never if its Geth is killed later";

/// What stands above the table.
const CAPTION: &str = "\
Seconds until every Geth is a peer of every other one, median / worst.

  natural      Geths and sidecars start as they do: from the last Geth that answers on its socket
  all at once  all Geths run, and at one moment their sockets appear to the sidecars: from that moment; registering
               with the API server, watching and dialing are all in it
  bare         the limit: no sidecars, no registry; all Geths run, and a caller who knows all addresses calls
               admin_addPeer for every link, at all Geths at once, through the API server's proxy: from the first call

The three take turns in every run. Moments are those that the Geths wrote into their own logs (socket open, eth handshake
through), read when all is over; meanwhile one of them is asked, four times a second, how many peers it has, and nothing
else. A link that was lost and came back counts from then on. All that bare leaves out is in `all at once`, which starts
from rest as bare does; in `natural` most links are made while the last Geths still start. `never`: not within 120 s.
The original's figures: measured with the original on another day, from the last Geth that answers on its socket.
";

/// What was measured of networks of one size.
#[derive(Default)]
pub(crate) struct Row {
    pub(crate) natural: Vec<Time>,
    pub(crate) at_once: Vec<Time>,
    pub(crate) bare: Vec<Time>,
}

/// The table of all networks that were measured; `rows` by their size.
pub(crate) fn of(rows: &[(usize, Row)]) -> String {
    let mut table = format!("{CAPTION}\n");
    let _ = writeln!(
        table,
        "{:>5}  {:>4}  {:>13}  {:>13}  {:>13}  {:>14}  {:>16}  {:>13}",
        "Geths", "runs", "natural", "all at once", "bare", "natural : bare", "all at once:bare", "original"
    );
    for (size, Row { natural, at_once, bare }) in rows {
        let original = ORIGINAL.iter().find(|(geths, _)| geths == size).map_or("not measured", |(_, figure)| figure);
        let _ = writeln!(
            table,
            "{size:>5}  {:>4}  {:>13}  {:>13}  {:>13}  {:>14}  {:>16}  {original:>13}",
            bare.len(),
            shown(natural),
            shown(at_once),
            shown(bare),
            ratio(natural, bare),
            ratio(at_once, bare),
        );
    }
    table
}

/// The lines about pods that came back at another address.
pub(crate) fn of_restarts(size: usize, times: &[(Time, Time)]) -> String {
    let (answered, deleted): (Vec<_>, Vec<_>) = times.iter().copied().unzip();
    format!(
        "\nPod of {size} restarted with the same node key and a new address, {} runs, median / worst: {} s after its Geth \
         answers, {} s after it was deleted\n(original, after it was deleted: {ORIGINAL_RESTART})\n",
        times.len(),
        shown(&answered),
        shown(&deleted),
    )
}

/// Median and worst.
fn shown(times: &[Time]) -> String {
    match median_and_worst(times) {
        Some((median, worst)) => format!("{} / {}", seconds(median), seconds(worst)),
        None => "-".into(),
    }
}

fn seconds(time: Time) -> String {
    time.map_or("never".into(), |time| format!("{:.2}", time.as_secs_f64()))
}

/// How many times as long the median is.
fn ratio(times: &[Time], limit: &[Time]) -> String {
    let median = |times: &[Time]| median_and_worst(times)?.0.map(|time: Duration| time.as_secs_f64());
    match (median(times), median(limit)) {
        (Some(time), Some(limit)) if limit > 0.0 => format!("{:.1}", time / limit),
        _ => "-".into(),
    }
}

/// A mesh that was never full took longer than any other.
fn median_and_worst(times: &[Time]) -> Option<(Time, Time)> {
    let mut times = times.to_vec();
    times.sort_by_key(|time| time.unwrap_or(Duration::MAX));
    Some((*times.get(times.len() / 2)?, *times.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_a_mesh_that_was_never_full_count_as_the_worst() {
        let second = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(shown(&[None, second(3), second(1)]), "3.00 / never");
        assert_eq!(shown(&[None, None, second(1)]), "never / never");
        assert_eq!(ratio(&[second(3)], &[second(2)]), "1.5");
        assert_eq!(ratio(&[None], &[second(2)]), "-");
        assert_eq!(shown(&[]), "-");
    }
}
