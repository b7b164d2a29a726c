//! What is written to the registry, and taken out of it?

use super::*;

#[test]
fn is_the_own_entry_asserted_again_whenever_it_is_missing_or_differs() {
    let mut bench = Bench::new();
    let mine = [Action::Assert { entry: entry(1, 1000), patience: DEADLINE }];
    assert_eq!(bench.act(), []);
    for value in [None, Some("garbage".to_owned()), Some(entry(1, 999).to_value())] {
        match value {
            Some(value) => drop(bench.data.insert("geth-1".into(), value)),
            None => bench.data.clear(),
        }
        assert_eq!(bench.pass(SECOND).act(), mine);
        assert_eq!(bench.act(), []);
    }
}

#[test]
fn is_a_write_that_failed_tried_again_and_never_twice_at_a_time() {
    let mut bench = Bench::new();
    bench.data.clear();
    assert_eq!(bench.plan().actions.len(), 1);
    assert_eq!(bench.plan().actions.len(), 0, "the first is under way");
    bench.planner.note(Outcome::Wrote { ok: false }, bench.now, &mut bench.rng);
    let plan = bench.plan();
    assert!(plan.actions.is_empty() && plan.wake.is_some());
    let again = bench.pass(SECOND).plan().actions;
    assert!(
        matches!(&again[..], [Action::Assert { patience, .. }] if *patience > DEADLINE),
        "an API server that lets writers queue may not have come to it in time: {again:?}"
    );
    bench.planner.note(Outcome::Wrote { ok: true }, bench.now, &mut bench.rng);
    let later = bench.pass(SECOND).plan().actions;
    assert!(matches!(&later[..], [Action::Assert { patience: DEADLINE, .. }]), "{later:?}");
}

#[test]
fn is_the_entry_of_a_geth_that_cannot_have_peers_withdrawn() {
    let mut bench = Bench::new();
    bench.own = Own::Unpeerable;
    assert_eq!(bench.act(), [Action::Withdraw { value: entry(1, 1000).to_value() }]);
    assert_eq!(bench.act(), []);
}

/// What comes of a missing link when the API server says `state` of the pod.
fn verdict(state: Result<PodState, StoreErrorKind>) -> Vec<Action> {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    bench.act();
    let looked = bench.pass(SECOND * 2).plan().actions;
    let value = entry(2, 1100).to_value();
    assert!(looked.contains(&Action::Look { pod: "geth-2".into(), value: value.clone() }), "{looked:?}");
    bench.planner.note(Outcome::Looked { pod: "geth-2".into(), value, state }, bench.now, &mut bench.rng);
    bench.plan().actions
}

#[test]
fn is_an_entry_removed_only_when_its_pod_is_known_to_be_gone() {
    let evict = vec![Action::Evict { pod: "geth-2".into(), value: entry(2, 1100).to_value() }];
    assert_eq!(verdict(Ok(PodState::Gone)), evict);
    assert_eq!(verdict(Ok(PodState::Finished)), evict);
    assert_eq!(verdict(Ok(PodState::Alive { uid: "another".into(), terminating: false })), evict);
    assert_eq!(verdict(Ok(PodState::Alive { uid: "uid-2".into(), terminating: false })), []);
    assert_eq!(verdict(Err(StoreErrorKind::Other)), []);
    assert_eq!(verdict(Err(StoreErrorKind::Forbidden)), []);
}

/// After how many seconds, within so many, a sidecar that may not look at pods removes the entry of 2.
fn removed_unseen(bench: &mut Bench, seconds: usize) -> Option<usize> {
    (0..seconds).find(|_| {
        let mut removed = false;
        for action in bench.pass(SECOND).plan().actions {
            match action {
                Action::Look { pod, value } => {
                    let state = Err(StoreErrorKind::Forbidden);
                    bench.planner.note(Outcome::Looked { pod, value, state }, bench.now, &mut bench.rng);
                }
                Action::Evict { pod, .. } => removed |= pod == "geth-2",
                _ => {}
            }
        }
        removed
    })
}

#[test]
fn is_silence_a_reason_only_for_those_who_may_not_look_and_only_after_minutes() {
    let mut bench = Bench::new();
    bench.register(2, 1100).act();
    let removed = removed_unseen(&mut bench, 400);
    assert!(removed.is_some_and(|second| second >= 295), "{removed:?}");
}

#[test]
fn is_nobody_taken_for_dead_unseen_whose_link_has_another_reason_to_be_missing() {
    let mut shaking = Bench::new();
    shaking.register(2, 1100).peers = vec![peer(2, Eth::Handshake, true)];
    assert_eq!(removed_unseen(&mut shaking, 1000), None, "it answers on the wire");
    shaking.peers.clear();
    let silent = removed_unseen(&mut shaking, 400);
    assert!(silent.is_some_and(|second| second >= 295), "silent only from now on: {silent:?}");

    let mut crowded = Bench::beside(Entry { max_peers: Some(2), ..entry(1, 1000) });
    for node in 2..=5 {
        crowded.register(node, 1100);
    }
    assert_eq!(removed_unseen(&mut crowded, 1000), None, "the mesh is too large for all links");

    let mut apart =
        Bench::beside(Entry { client: "Geth/v1.13.15-stable/linux-amd64/go1.21.6".into(), ..entry(1, 1000) });
    let newer = Entry { client: "Geth/v1.17.5-stable/linux-amd64/go1.26.8".into(), ..entry(2, 1100) };
    apart.data.insert("geth-2".into(), newer.to_value());
    assert_eq!(removed_unseen(&mut apart, 1000), None, "the two speak no common protocol");
}

#[test]
fn does_a_stranger_nobody_may_look_at_keep_the_sidecar_asleep() {
    let mut bench = Bench::new();
    bench.data.insert("geth-2".into(), Entry { network_id: 1, ..entry(2, 900) }.to_value());
    for _ in 0..1000 {
        let plan = bench.pass(SECOND).plan();
        for action in plan.actions {
            if let Action::Look { pod, value } = action {
                let state = Err(StoreErrorKind::Forbidden);
                bench.planner.note(Outcome::Looked { pod, value, state }, bench.now, &mut bench.rng);
            }
        }
        assert!(bench.plan().wake.is_none_or(|wake| wake > bench.now.elapsed));
    }
}

#[test]
fn is_nobody_suspected_while_the_own_geth_is_silent() {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    bench.own = Own::Silent;
    for _ in 0..60 {
        assert_eq!(bench.pass(SECOND).act(), []);
    }
}

#[test]
fn is_a_pod_that_lives_looked_for_less_and_less_often() {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    let looks = (0..600)
        .filter(|_| bench.pass(SECOND).act().iter().any(|action| matches!(action, Action::Look { .. })))
        .count();
    assert!((8..30).contains(&looks), "{looks} looks in ten minutes");
}

#[test]
fn is_a_pod_that_is_being_deleted_looked_for_until_it_is_gone() {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    let mut looks = 0;
    for _ in 0..30 {
        for action in bench.pass(SECOND).plan().actions {
            if let Action::Look { pod, value } = action {
                looks += 1;
                let state = Ok(PodState::Alive { uid: "uid-2".into(), terminating: true });
                bench.planner.note(Outcome::Looked { pod, value, state }, bench.now, &mut bench.rng);
            }
        }
    }
    assert!(looks >= 8, "{looks} looks in half a minute");
}

#[test]
fn is_an_answer_about_a_record_that_was_replaced_meanwhile_ignored() {
    let mut bench = Bench::new();
    bench.register(2, 1100).act();
    let looked = bench.pass(SECOND * 2).plan().actions;
    assert!(looked.iter().any(|action| matches!(action, Action::Look { .. })));
    // The link comes up and goes down again before the answer arrives, with another entry.
    bench.peers = vec![peer(2, Eth::Up, true)];
    bench.act();
    bench.peers.clear();
    bench.register(2, 1200).plan();
    let late = Outcome::Looked { pod: "geth-2".into(), value: entry(2, 1100).to_value(), state: Ok(PodState::Gone) };
    bench.planner.note(late, bench.now, &mut bench.rng);
    assert!(!bench.plan().actions.iter().any(|action| matches!(action, Action::Evict { .. })));
}

#[test]
fn do_two_sidecars_of_one_pod_name_write_a_bounded_number_of_times_and_say_so() {
    let mut bench = Bench::new();
    for minute in 0..5 {
        let mut writes = 0;
        for _ in 0..6000 {
            bench.register(1, 999); // the other one's
            for action in bench.pass(Duration::from_millis(10)).act() {
                writes += usize::from(matches!(action, Action::Assert { .. }));
            }
            assert!(minute == 0 || bench.plan().concerns == [Concern::EntryContested], "in minute {minute}");
        }
        assert!((6..40).contains(&writes), "{writes} writes in minute {minute}");
    }
    bench.register(1, 1000).pass(SECOND * 120);
    assert_eq!(bench.plan().concerns, []);
}

#[test]
fn is_an_eviction_that_fails_tried_less_and_less_often() {
    let mut bench = Bench::new();
    bench.register(2, 1100);
    let mut evictions = 0;
    for _ in 0..600 {
        for action in bench.pass(SECOND).plan().actions {
            let outcome = match action {
                Action::Look { pod, value } => Outcome::Looked { pod, value, state: Ok(PodState::Gone) },
                Action::Evict { pod, .. } => {
                    evictions += 1;
                    Outcome::Evicted { pod }
                }
                _ => continue,
            };
            bench.planner.note(outcome, bench.now, &mut bench.rng);
        }
    }
    assert!((4..15).contains(&evictions), "{evictions} evictions in ten minutes");
}

#[test]
fn is_a_node_that_has_just_come_given_time_before_its_pod_is_looked_for() {
    let first_look = |since| {
        let mut bench = Bench::new();
        bench.register(2, since);
        (0..30).find(|_| bench.pass(SECOND).act().iter().any(|action| matches!(action, Action::Look { .. })))
    };
    assert!(first_look(990).is_some_and(|second| second < 2), "it has been there for a while");
    assert!(first_look(1000).is_some_and(|second| (4..11).contains(&second)), "its link may be on its way");
}
