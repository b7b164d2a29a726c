//! The same questions of more that can happen, which take minutes: `make explore`.

use std::time::Duration;

use super::{Kind, Rules};

#[test]
#[ignore = "takes minutes: make explore"]
fn do_three_pods_that_start_together_survive_any_fault() {
    for (name, kind) in [
        ("three start, one crashes", Kind::Crash),
        ("three start, a request times out", Kind::Timeout),
        ("three start, one reads what is old", Kind::StaleList),
        ("three start, a watch ends unnoticed", Kind::LostWatch),
        ("three start, the ConfigMap is deleted", Kind::Deletion),
    ] {
        Rules::new(name, 3).any(1, &[kind]).explore();
    }
}

#[test]
#[ignore = "takes minutes: make explore"]
fn does_a_mesh_of_two_survive_any_two_faults() {
    Rules { locals_at_once: true, ..Rules::new("mesh of two, two faults", 2).meshed().any(2, &Kind::ALL) }.explore();
    // Each time another pod keeps the list, it waits for five minutes anew.
    let deadline = Duration::from_secs(1000);
    let rekeyed = Rules { rekeys: true, deadline, ..Rules::new("mesh of two, other keys, two faults", 2) };
    Rules { locals_at_once: true, ..rekeyed.meshed().any(2, &Kind::ALL) }.explore();
}
