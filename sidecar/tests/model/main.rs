//! Can the registry lose an update, and does every network become a full mesh? All that can
//! happen to small networks is explored, in every order, with faults in between.
//!
//! # Why no update is lost
//!
//! 1. There are four writes: the merge patch of the writer's own key, the creation of a
//!    ConfigMap that is missing, which fails if somebody was faster, the removal of a value
//!    that is tested for in the same request, and that of the list which all share, tested for
//!    as well. None can touch another's key, or a value that
//!    nobody judged, however old the writer's view is and however late the write arrives
//!    ([`LOSES_NOTHING`], [`EVICTS_THE_JUDGED`]).
//! 2. A value is condemned because its pod is gone, and names that pod by a UID that never
//!    comes again. So what is true of a value when it is condemned stays true until it is
//!    removed, and a pod that comes back under the name has another value ([`SPARES_THE_LIVING`]).
//! 3. What is lost by other hands, as by deleting the ConfigMap, its owner writes again: a
//!    sidecar goes by what the registry is and not by what happened to it, and its sight never
//!    goes back but by a new list. So when all is quiet all see the registry as it is, and it
//!    holds the living ([`ALL_SEE`], [`REGISTRY_IS_WHOLE`], [`LIST_IS_WHOLE`]): an entry that was acknowledged, or
//!    only meant, is never lost for good.
//!
//! # Why every network becomes a mesh
//!
//! 1. In the end all see the same registry, and want the same links.
//! 2. Of two sidecars that go by the same entries one has its Geth dial ([`ONE_DIALS`]), and
//!    should nothing come of it the other does after some seconds. If the two dials meet, one
//!    of the two gives way. A Geth that was told to dial never gives up, and a link that is up
//!    is left alone.
//! 3. Every step uses something up: a call, an event, a moment, a fault. There are finitely
//!    many states and no way back to one ([`Rules::never_returns`]), so whatever happens ends in
//!    a quiet state, before a deadline ([`IN_TIME`]); and every quiet state is the full mesh
//!    ([`MESH_IS_WHOLE`]).
//!
//! # What is real here
//!
//! Everything that decides is the product's: `Planner` with all that it remembers, `View` with
//! the order of versions, `Entry` with its bytes, the dialer rule. Modelled are the API server
//! (`server.rs`), where each request takes effect at one moment between its sending and its
//! answer; Geth (`geth.rs`), which ignores that a static node is added again, does not dial a
//! node twice within 35 s, and refuses one that it dials itself; and the loop (`sidecar.rs`).
//!
//! One clock runs for all. It stands still as long as anything is under way, and then goes on
//! to the next moment for which somebody waits. Slowness is a fault: with it, time passes
//! beside all that is under way. Everybody draws the same lots, so what can be at one moment
//! is, in every order. One bound is the model's: a pod's own calls take no time in the larger
//! explorations ([`Rules::locals_at_once`]).
//!
//! # Does it find anything?
//!
//! Each of the last tests takes away one thing that the product rests on, and expects that the
//! model finds the network broken.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on shall fail where it stands, and tell what it saw"
)]

mod geth;
mod jobs;
mod larger;
mod links;
mod moves;
mod server;
mod sidecar;
mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ::sidecar::plan::dialer::DIAL_HISTORY;
use stateright::{Checker, HasDiscoveries, Model, Path, Property};

use self::moves::Move;
use self::server::Damage;
use self::world::{World, Wrong, digest};

/// How long a node has no link before it is taken for dead, where nobody may look at pods.
const SILENCE: Duration = Duration::from_secs(300);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Crash,
    CrashLeaving,
    Timeout,
    LostWatch,
    StaleList,
    Deletion,
    PodDies,
    PodLeaves,
    GethDies,
    Slowness,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Crash,
        Self::CrashLeaving,
        Self::Timeout,
        Self::LostWatch,
        Self::StaleList,
        Self::Deletion,
        Self::PodDies,
        Self::PodLeaves,
        Self::GethDies,
        Self::Slowness,
    ];
}

/// What is explored.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) name: &'static str,
    pub(crate) pods: usize,
    /// Begin with a mesh that has been whole for so long, instead of with pods that start all at once.
    pub(crate) mesh_of_age: Option<Duration>,
    pub(crate) faults: Vec<(Kind, u8)>,
    pub(crate) faults_in_all: u8,
    /// Whether a pod that replaces another has a node key of its own.
    pub(crate) rekeys: bool,
    /// Whether sidecars may look at pods.
    pub(crate) may_look: bool,
    /// How long a Geth that died stays away.
    pub(crate) geth_away: Duration,
    /// Whether no two Geths ever dial each other here, for whatever reason.
    pub(crate) never_crosses: bool,
    /// Whether what happens inside of a pod takes no time at all: half as many states, or less.
    pub(crate) locals_at_once: bool,
    /// Whether every plan is made twice, to see that the second has nothing left to do.
    pub(crate) plans_twice: bool,
    /// Whether to go on though two Geths were told to dial each other.
    pub(crate) ignores_crossing: bool,
    /// How long it may take until all is quiet.
    pub(crate) deadline: Duration,
    // What the product does. Without any of these it would be wrong.
    pub(crate) patches: bool,
    pub(crate) tests: bool,
    pub(crate) one_side_dials: bool,
    pub(crate) orders_views: bool,
}

impl Rules {
    fn new(name: &'static str, pods: usize) -> Self {
        Self {
            name,
            pods,
            mesh_of_age: None,
            faults: Vec::new(),
            faults_in_all: 0,
            rekeys: false,
            may_look: true,
            geth_away: Duration::ZERO,
            never_crosses: false,
            locals_at_once: pods > 2,
            plans_twice: false,
            ignores_crossing: false,
            // Who is on the list alone is taken from it after five minutes.
            deadline: Duration::from_secs(400),
            patches: true,
            tests: true,
            one_side_dials: true,
            orders_views: true,
        }
    }

    fn meshed(self) -> Self {
        Self { mesh_of_age: Some(Duration::from_secs(60)), ..self }
    }

    fn any(self, faults_in_all: u8, kinds: &[Kind]) -> Self {
        let faults = kinds.iter().map(|kind| (*kind, faults_in_all)).collect();
        Self { faults, faults_in_all, ..self }
    }
}

impl Model for Rules {
    type State = World;
    type Action = (Option<Kind>, Move);

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Self::Action>) {
        if world.wrong.is_none() {
            let goings_on = world.goings_on(self);
            actions.extend(world.faults(&goings_on));
            actions.extend(goings_on.into_iter().map(|step| (None, step)));
        }
    }

    fn next_state(&self, world: &World, (kind, step): Self::Action) -> Option<World> {
        let mut world = world.clone();
        if let Some(kind) = kind {
            world.spend(kind);
        }
        world.go(step, self);
        Some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.now <= self.begin() + 2 * self.deadline
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LOSES_NOTHING, |_, world: &World| {
                world.wrong != Some(Wrong::Registry(Damage::LostUpdate))
            }),
            Property::always(EVICTS_THE_JUDGED, |_, world: &World| {
                world.wrong != Some(Wrong::Registry(Damage::Misjudged))
            }),
            Property::always(SPARES_THE_LIVING, |_, world: &World| world.wrong != Some(Wrong::EvictedLiving)),
            Property::always(ONE_DIALS, |_, world: &World| {
                !matches!(world.wrong, Some(Wrong::Crossed | Wrong::BothDial))
            }),
            Property::always(RESTS, |_, world: &World| !matches!(world.wrong, Some(Wrong::Sidecar(_)))),
            Property::always(REGISTRY_IS_WHOLE, |_, world: &World| !world.quiet || world.registry_is_whole()),
            Property::always(LIST_IS_WHOLE, |_, world: &World| !world.quiet || world.list_is_whole()),
            Property::always(MESH_IS_WHOLE, |_, world: &World| !world.quiet || world.mesh_is_whole()),
            Property::always(ALL_SEE, |_, world: &World| !world.quiet || world.all_see_the_registry()),
            Property::always(IN_TIME, |rules: &Self, world: &World| world.now <= rules.begin() + rules.deadline),
            Property::sometimes(GETS_QUIET, |_, world: &World| world.quiet),
        ]
    }
}

const LOSES_NOTHING: &str = "no write takes or changes the entry of somebody else";
const EVICTS_THE_JUDGED: &str = "an eviction removes the value that was judged, or nothing";
const SPARES_THE_LIVING: &str = "no entry of a pod that lives is evicted";
const ONE_DIALS: &str = "two Geths are not told to dial each other on the same entries";
const RESTS: &str = "a sidecar that has nothing to do rests, and does nothing twice at a time";
const REGISTRY_IS_WHOLE: &str = "when all is quiet, the registry holds the entries of the living, and no others";
const LIST_IS_WHOLE: &str = "when all is quiet, the list of static nodes holds those that live, and no others";
const MESH_IS_WHOLE: &str = "when all is quiet, all that live are connected";
const ALL_SEE: &str = "when all is quiet, every sidecar sees the registry as it is";
const IN_TIME: &str = "all is quiet before the deadline";
const GETS_QUIET: &str = "all is quiet some time";

/// The steps to a state, one a line, each with the time at which it is taken.
fn story(path: Path<World, (Option<Kind>, Move)>) -> String {
    path.into_vec().into_iter().filter_map(|(world, step)| Some(format!("\n  {:?} {:?}", world.now, step?.1))).collect()
}

impl Rules {
    fn begin(&self) -> Duration {
        self.mesh_of_age.map_or(Duration::ZERO, |age| age + Duration::from_secs(1))
    }

    /// Says whether no state ever comes again once it was left, so that everything has an end.
    fn never_returns(&self) -> bool {
        let mut open = BTreeSet::new();
        let mut closed = BTreeSet::new();
        let mut path: Vec<(u64, Vec<World>)> = Vec::new();
        let mut next = self.init_states();
        loop {
            let Some(world) = next.pop() else {
                let Some((left, others)) = path.pop() else { return true };
                open.remove(&left);
                closed.insert(left);
                next = others;
                continue;
            };
            let state = digest(&world);
            if !open.insert(state) {
                return false;
            }
            if closed.contains(&state) {
                open.remove(&state);
                continue;
            }
            path.push((state, next));
            let mut actions = Vec::new();
            self.actions(&world, &mut actions);
            next = actions.into_iter().filter_map(|action| self.next_state(&world, action)).collect();
        }
    }

    /// Explores all there is, and expects that it is as it should be.
    fn explore(self) {
        let begun = Instant::now();
        let checker = self.clone().checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
        let (states, steps, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
        println!("{}: {states} states, {steps} steps, {depth} deep, {:?}", self.name, begun.elapsed());
        assert!(checker.discovery(GETS_QUIET).is_some());
        let broken = checker.discoveries().into_iter().find(|(property, _)| *property != GETS_QUIET);
        if let Some((property, path)) = broken {
            panic!("{}: not so: {property}:{}", self.name, story(path));
        }
    }

    /// Expects that `property` does not hold, and tells the shortest story of how.
    fn breaks(self, property: &'static str) {
        let finish = HasDiscoveries::AnyOf(BTreeSet::from([property]));
        let checker = self.checker().threads(1).finish_when(finish).spawn_bfs().join();
        println!(
            "broken: {property}:{}",
            story(checker.discovery(property).expect("the model has to find what it looks for"))
        );
    }
}

#[test]
fn do_pods_that_start_together_find_each_other() {
    Rules { never_crosses: true, plans_twice: true, ..Rules::new("two start", 2) }.explore();
    Rules { never_crosses: true, ..Rules::new("three start", 3) }.explore();
}

#[test]
fn do_pods_that_start_together_survive_the_loss_of_the_configmap() {
    Rules::new("two start, the ConfigMap is deleted", 2).any(1, &[Kind::Deletion]).explore();
}

#[test]
fn do_pods_that_start_together_survive_any_fault() {
    Rules { locals_at_once: true, ..Rules::new("two start, one fault", 2).any(1, &Kind::ALL) }.explore();
}

#[test]
fn does_a_mesh_of_two_survive_any_fault() {
    Rules { plans_twice: true, ..Rules::new("mesh of two, one fault", 2).meshed().any(1, &Kind::ALL) }.explore();
    let kinds = [Kind::Timeout, Kind::PodDies];
    Rules { locals_at_once: true, ..Rules::new("mesh of two, two requests time out or pods die", 2) }
        .meshed()
        .any(2, &kinds)
        .explore();
}

#[test]
fn does_a_mesh_of_three_survive_any_fault() {
    Rules::new("mesh of three, one fault", 3).meshed().any(1, &Kind::ALL).explore();
}

/// A node is taken for dead after five minutes of silence, though it may live: one whose Geth comes back at that very moment, or
/// later, has to be in the registry in the end.
#[test]
fn does_a_mesh_of_two_survive_any_fault_though_nobody_may_look_at_pods() {
    for (name, geth_away) in [
        ("mesh of two, one fault, no right to look", Duration::ZERO),
        ("mesh of two, one fault, no right to look, a Geth is away until it is taken for dead", SILENCE),
        ("mesh of two, one fault, no right to look, a Geth is away for longer", SILENCE + Duration::from_secs(10)),
    ] {
        let rules = Rules { may_look: false, geth_away, locals_at_once: true, ..Rules::new(name, 2) };
        rules.meshed().any(1, &Kind::ALL).explore();
    }
}

#[test]
fn does_everything_have_an_end() {
    assert!(Rules::new("", 2).never_returns());
    assert!(Rules::new("", 2).meshed().any(1, &Kind::ALL).never_returns());
}

#[test]
fn would_updates_be_lost_if_whole_lists_were_written() {
    Rules { patches: false, ..Rules::new("", 2) }.breaks(LOSES_NOTHING);
}

#[test]
fn would_dials_cross_if_both_sides_dialed() {
    Rules { one_side_dials: false, ..Rules::new("", 2) }.breaks(ONE_DIALS);
}

#[test]
fn would_a_mesh_take_longer_than_geths_dial_history_if_both_sides_dialed() {
    let rules = Rules { one_side_dials: false, ignores_crossing: true, ..Rules::new("", 2) };
    Rules { deadline: DIAL_HISTORY, ..rules }.breaks(IN_TIME);
}

#[test]
fn would_the_living_be_evicted_if_removals_did_not_test() {
    let rules = Rules::new("", 2).meshed().any(1, &[Kind::PodDies]);
    Rules { tests: false, ..rules }.breaks(EVICTS_THE_JUDGED);
}

#[test]
fn would_a_geth_that_was_away_until_it_was_taken_for_dead_be_evicted_if_removals_did_not_test() {
    let rules = Rules::new("", 2).meshed().any(1, &[Kind::GethDies]);
    let rules = Rules { may_look: false, geth_away: SILENCE, locals_at_once: true, ..rules };
    Rules { tests: false, ..rules }.breaks(EVICTS_THE_JUDGED);
}

#[test]
fn would_a_sidecar_go_blind_if_the_last_answer_counted_and_not_the_latest() {
    let rules = Rules::new("", 2).meshed().any(2, &[Kind::GethDies]);
    Rules { orders_views: false, locals_at_once: true, ..rules }.breaks(ALL_SEE);
}
