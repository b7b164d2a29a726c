//! Pods, each with a Geth and a sidecar, around one API server; and what each step does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sidecar::enode::Enode;
use sidecar::registry::list::{Element, STATIC_NODES};

use super::geth::{Geth, Node, key};
use super::moves::{Merged, Move};
use super::server::{Damage, Request, Server};
use super::sidecar::{Fault, Sidecar, Watch};
use super::{Kind, Rules};

/// Everything there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) server: Arc<Server>,
    pub(crate) pods: Vec<Arc<Pod>>,
    /// Digests of the server and of each pod: hashing them anew at every step would take most of the time.
    digests: Vec<u64>,
    /// Which pod's Geth is connected to which other's; the dialing one first.
    pub(crate) links: BTreeSet<(usize, usize)>,
    /// Writes that nobody waits for any more, and that may come to the API server or not.
    pub(crate) late: Vec<Request>,
    /// How many faults of each kind there may yet be, and in all.
    pub(crate) left: BTreeMap<Kind, u8>,
    pub(crate) left_in_all: u8,
    /// How often two Geths have refused each other because both dialed.
    pub(crate) wrong: Option<Wrong>,
    /// Whether nothing goes on, and nothing will unless something fails or somebody acts.
    pub(crate) quiet: bool,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.now, &self.digests, &self.links, &self.late, &self.left, self.left_in_all, self.wrong).hash(state);
    }
}

pub(crate) fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// One pod, over all pods of its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pod {
    pub(crate) name: String,
    /// Counts the pods of this name; UID and address follow from it.
    pub(crate) run: u8,
    pub(crate) lives: bool,
    pub(crate) geth: Option<Geth>,
    /// When a Geth that died is back at the earliest.
    pub(crate) geth_at: Duration,
    pub(crate) sidecar: Option<Sidecar>,
}

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wrong {
    Registry(Damage),
    /// The entry of a pod that lives was evicted.
    EvictedLiving,
    /// Two Geths were told to dial each other, by the dialer rule and on the same entries.
    Crossed,
    /// Two Geths dial each other, for whatever reason.
    BothDial,
    Sidecar(Fault),
}

impl Pod {
    pub(crate) fn uid(&self) -> String {
        format!("{}-{}", self.name, self.run)
    }

    pub(crate) fn address(&self, at: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, self.run, u8::try_from(at).unwrap()], 30303))
    }

    pub(crate) fn node(&self, at: usize, rules: &Rules) -> Node {
        // The keys of replacements come in another order on the ring.
        let at = Node::try_from(at).unwrap();
        if rules.rekeys { 3 * (self.run % 3) + (at + self.run) % 3 } else { at }
    }
}

impl World {
    pub(crate) fn new(rules: &Rules) -> Self {
        let pod = |at| Pod {
            name: format!("geth-{at}"),
            run: 0,
            lives: false,
            geth: None,
            geth_at: Duration::ZERO,
            sidecar: None,
        };
        let mut world = Self {
            now: Duration::ZERO,
            server: Arc::new(Server::new()),
            digests: vec![0; 1 + rules.pods],
            pods: (0..rules.pods).map(|at| Arc::new(pod(at))).collect(),
            links: BTreeSet::new(),
            late: Vec::new(),
            left: rules.faults.iter().copied().collect(),
            left_in_all: rules.faults_in_all,
            wrong: None,
            quiet: false,
        };
        for at in 0..rules.pods {
            world.start_pod(at, rules);
        }
        world.tidy(rules);
        if let Some(age) = rules.mesh_of_age {
            while let Some(next) = world.goings_on(rules).into_iter().next() {
                world.go(next, rules);
            }
            world.now += age;
            world.tidy(rules);
        }
        world
    }

    pub(crate) fn pod(&mut self, at: usize) -> &mut Pod {
        self.digests[1 + at] = 0;
        Arc::make_mut(&mut self.pods[at])
    }

    pub(crate) fn server_mut(&mut self) -> &mut Server {
        self.digests[0] = 0;
        Arc::make_mut(&mut self.server)
    }

    pub(crate) fn sidecar(&mut self, at: usize) -> Option<&mut Sidecar> {
        self.pod(at).sidecar.as_mut()
    }

    pub(crate) fn go(&mut self, step: Move, rules: &Rules) {
        self.step(step, rules);
        if rules.locals_at_once {
            while self.wrong.is_none()
                && let Some(local) = self.due().into_iter().find(|step| self.is_local(step))
            {
                self.step(local, rules);
            }
        }
        self.tidy(rules);
    }

    fn step(&mut self, step: Move, rules: &Rules) {
        match step {
            Move::Turn(at) => self.turn(at, rules),
            Move::Job(at, slot) => self.job(at, slot, rules),
            Move::List(at) => self.list(at, self.server.view()),
            Move::StaleList(at) => self.list(at, self.server.stale_view().unwrap_or_default()),
            Move::Listed(at) => {
                if let Some(sidecar) = self.sidecar(at)
                    && let Watch::Listed(view) = std::mem::replace(&mut sidecar.watch, Watch::Begins)
                {
                    sidecar.watch = Watch::At(view.version().unwrap_or_default());
                    sidecar.read(view);
                }
                self.turn(at, rules);
            }
            Move::Event(at, merged) => {
                let view = match self.pods[at].sidecar.as_ref().map(|sidecar| &sidecar.watch) {
                    Some(Watch::At(version)) => self.server.after(*version, merged == Merged::Yes),
                    _ => None,
                };
                if let (Some(sidecar), Some(view)) = (self.sidecar(at), view) {
                    sidecar.watch = Watch::At(view.version().unwrap_or_default());
                    sidecar.advance(view, rules);
                }
                self.turn(at, rules);
            }
            Move::Peers(at) => {
                let peers = self.peers(at);
                if let Some(sidecar) = self.sidecar(at) {
                    sidecar.peers = Some(peers);
                }
                self.turn(at, rules);
            }
            Move::Dial(at, node) => self.dial(at, node, None, rules),
            Move::Connect(at, node) => self.connect(at, node),
            Move::Wait => self.now = self.instants().first().copied().unwrap_or(self.now),
            Move::Dawdle(time) => self.now = time,
            Move::Late(at) => {
                let request = self.late.remove(at);
                let _nobody_hears = self.write(request, rules);
            }
            Move::Lose(at) => drop(self.late.remove(at)),
            Move::RestartSidecar(at) => {
                let sidecar = Sidecar::new(false, self.now);
                self.pod(at).sidecar = Some(sidecar);
            }
            Move::RestartGeth(at) => {
                self.start_geth(at, rules);
                let now = self.now;
                if let Some(sidecar) = self.sidecar(at) {
                    sidecar.geth_back(now);
                }
                self.turn(at, rules);
            }
            Move::StartPod(at) => {
                self.pod(at).run += 1;
                self.start_pod(at, rules);
            }
            Move::Crash(at, leaves) => self.crash(at, leaves),
            Move::Timeout(at, slot) => self.time_out(at, &slot),
            Move::LoseWatch(at) => {
                if let Some(sidecar) = self.sidecar(at) {
                    sidecar.watch = Watch::Dead;
                }
            }
            Move::DeleteConfigMap => self.server_mut().delete(),
            Move::KillGeth(at) => {
                self.kill_geth(at);
                self.pod(at).geth_at = self.now + rules.geth_away;
                if let Some(sidecar) = self.sidecar(at) {
                    sidecar.geth_lost();
                    self.turn(at, rules);
                }
            }
            Move::EndPod(at, leaves) => {
                self.crash(at, leaves);
                self.kill_geth(at);
                let pod = self.pod(at);
                (pod.lives, pod.geth_at) = (false, Duration::ZERO);
            }
        }
    }

    /// Forgets what can make no difference any more, so that states that are the same look the same.
    fn tidy(&mut self, rules: &Rules) {
        let told = self.pods.iter().filter_map(|pod| match &pod.sidecar.as_ref()?.watch {
            Watch::At(version) => Some(*version),
            Watch::Listed(view) => view.version(),
            Watch::Begins | Watch::Dead => None,
        });
        let told = told.min().unwrap_or(u64::MAX);
        let stale = usize::from(self.may(Kind::StaleList));
        if self.server.remembers_too_much(told, stale) {
            self.server_mut().forget(told, stale);
        }
        let now = self.now;
        for at in 0..rules.pods {
            if self.pods[at].geth.as_ref().is_some_and(|geth| geth.remembers_too_much(now))
                && let Some(geth) = &mut self.pod(at).geth
            {
                geth.forget(now);
            }
            if self.digests[1 + at] == 0 {
                self.digests[1 + at] = digest(&self.pods[at]);
            }
        }
        if self.digests[0] == 0 {
            self.digests[0] = digest(&self.server);
        }
        self.quiet = self.goings_on(rules).is_empty();
    }

    fn start_pod(&mut self, at: usize, rules: &Rules) {
        self.start_geth(at, rules);
        let mut sidecar = Sidecar::new(true, self.now);
        sidecar.peers = Some(BTreeMap::new());
        let pod = self.pod(at);
        (pod.lives, pod.sidecar) = (true, Some(sidecar));
        self.turn(at, rules);
    }

    pub(crate) fn start_geth(&mut self, at: usize, rules: &Rules) {
        let now = self.now;
        let pod = self.pod(at);
        let enode = Enode::new(key(pod.node(at, rules)), pod.address(at)).unwrap();
        (pod.geth, pod.geth_at) = (Some(Geth::new(enode, now)), Duration::ZERO);
    }

    fn kill_geth(&mut self, at: usize) {
        self.pod(at).geth = None;
        self.links.retain(|(from, to)| *from != at && *to != at);
    }

    fn list(&mut self, at: usize, view: sidecar::registry::view::View) {
        if let Some(sidecar) = self.sidecar(at) {
            sidecar.watch = Watch::Listed(view);
        }
    }

    pub(crate) fn turn(&mut self, at: usize, rules: &Rules) {
        let now = self.now;
        let pod = self.pod(at);
        let uid = pod.uid();
        let Some(sidecar) = &mut pod.sidecar else { return };
        if let Err(fault) = sidecar.turn(&pod.name, &uid, pod.geth.as_ref(), now, rules) {
            self.wrong = Some(Wrong::Sidecar(fault));
            return;
        }
        if !rules.one_side_dials {
            let (wanted, ground) = (sidecar.wanted(&pod.name), Some(sidecar.digest(&pod.name)));
            for enode in wanted {
                self.add(at, enode, ground, rules);
            }
        }
    }

    /// Whether every sidecar sees the registry as it is.
    pub(crate) fn all_see_the_registry(&self) -> bool {
        let now = self.server.view();
        let mut seen = self.pods.iter().filter_map(|pod| pod.sidecar.as_ref());
        seen.all(|sidecar| {
            sidecar
                .registry
                .as_ref()
                .is_some_and(|seen| seen.iter().eq(now.iter()) && seen.static_nodes() == now.static_nodes())
        })
    }

    /// Whether the registry holds the entries of the pods that live, and nothing else.
    pub(crate) fn registry_is_whole(&self) -> bool {
        let living = self.pods.iter().filter(|pod| pod.lives);
        let expected: Option<BTreeMap<_, _>> = living.map(|pod| Some((pod.name.clone(), pod.value()?))).collect();
        let mut data = self.server.data().cloned().unwrap_or_default();
        data.remove(STATIC_NODES);
        // Where nobody lives, nobody evicts: the next to come will.
        expected.is_some_and(|expected| expected.is_empty() || data == expected)
    }

    /// Whether the list of static nodes holds those that live, and nobody else.
    pub(crate) fn list_is_whole(&self) -> bool {
        let living: BTreeSet<_> = self.pods.iter().filter_map(|pod| Some(pod.geth.as_ref()?.enode)).collect();
        let view = self.server.view();
        let listed = view.static_nodes().map(|list| list.iter().filter_map(Element::plain).collect::<BTreeSet<_>>());
        living.is_empty() || listed == Some(living)
    }
}

impl Pod {
    /// What the registry has to say of this pod.
    pub(crate) fn value(&self) -> Option<String> {
        Some(self.sidecar.as_ref()?.entry()?.to_value())
    }
}
