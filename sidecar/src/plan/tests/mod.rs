//! What a person would ask of the plan.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::registry::list::{EXTERNAL_NODES, STATIC_NODES};
use crate::registry::store::DEADLINE;

mod links;
mod lists;
mod properties;
mod records;
mod slots;

const SECOND: Duration = Duration::from_secs(1);

/// One sidecar's planner in a world that the test moves.
struct Bench {
    pod: String,
    planner: Planner,
    rng: SmallRng,
    now: Now,
    own: Own,
    data: BTreeMap<String, String>,
    peers: Vec<Peer>,
    /// Whether the own entry cannot be written.
    read_only: bool,
}

fn entry(node: u8, since: i64) -> Entry {
    Entry {
        enode: format!("enode://{}@10.0.0.{node}:30303", format!("{node:02x}").repeat(64)).parse().unwrap(),
        alternates: Vec::new(),
        network_id: 1337,
        genesis: format!("0x{}", "0d".repeat(32)),
        pod_uid: Some(format!("uid-{node}")),
        since: Timestamp::from_second(since).unwrap(),
        client: "Geth".into(),
        max_peers: None,
        network: None,
    }
}

fn peer(node: u8, eth: Eth, inbound: bool) -> Peer {
    let key = entry(node, 0).enode.key;
    Peer { key, name: String::new(), remote: None, inbound, static_node: !inbound, trusted: false, eth, caps: vec![] }
}

impl Bench {
    /// The sidecar of node 1 (pod `geth-1`), whose Geth started at second 0 of 1000.
    fn new() -> Self {
        let wall = Timestamp::from_second(1000).unwrap();
        let mut bench = Self {
            pod: "geth-1".into(),
            planner: Planner::default(),
            rng: SmallRng::seed_from_u64(1),
            now: Now { elapsed: Duration::ZERO, wall },
            own: Own::Ready(entry(1, 1000)),
            data: BTreeMap::new(),
            peers: Vec::new(),
            read_only: false,
        };
        bench.planner.geth_connected(true);
        bench.register(1, 1000);
        bench
    }

    /// The same beside a Geth that is `own`, which is registered.
    fn beside(own: Entry) -> Self {
        let mut bench = Self::new();
        bench.data.insert("geth-1".into(), own.to_value());
        bench.own = Own::Ready(own);
        bench
    }

    fn register(&mut self, node: u8, since: i64) -> &mut Self {
        self.data.insert(format!("geth-{node}"), entry(node, since).to_value());
        self
    }

    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now.elapsed += time;
        self.now.wall += time;
        self
    }

    fn plan(&mut self) -> Plan {
        let configmap = ConfigMap {
            metadata: ObjectMeta { resource_version: Some("1".into()), ..ObjectMeta::default() },
            data: Some(self.data.clone()),
            ..ConfigMap::default()
        };
        let registry = View::default().next(&configmap);
        let situation =
            Situation { pod: &self.pod, own: &self.own, registry: Some(&registry), peers: Some(&self.peers) };
        self.planner.plan(&situation, self.now, &mut self.rng)
    }

    /// Plans, and lets everything that is planned succeed that can. Returns what was planned.
    fn act(&mut self) -> Vec<Action> {
        let plan = self.plan();
        for action in &plan.actions {
            let outcome = match action.clone() {
                Action::Tell { key, calls } => Outcome::Told { key, accepted: calls, failure: None },
                Action::Assert { .. } if self.read_only => Outcome::Wrote { ok: false },
                Action::Assert { entry, .. } => {
                    self.data.insert(self.pod.clone(), entry.to_value());
                    Outcome::Wrote { ok: true }
                }
                Action::Withdraw { .. } => {
                    self.data.remove(&self.pod);
                    Outcome::Wrote { ok: true }
                }
                Action::Look { pod, value } => {
                    let uid = pod.replace("geth", "uid");
                    Outcome::Looked { pod, value, state: Ok(PodState::Alive { uid, terminating: false }) }
                }
                Action::Evict { pod, .. } => {
                    self.data.remove(&pod);
                    Outcome::Evicted { pod }
                }
                Action::WriteList { value, .. } => {
                    self.data.insert(STATIC_NODES.into(), value);
                    Outcome::WroteList { ok: true }
                }
            };
            self.planner.note(outcome, self.now, &mut self.rng);
        }
        plan.actions
    }

    /// The calls planned now and two seconds later.
    fn calls(&mut self) -> Vec<Call> {
        let mut actions = self.act();
        self.pass(SECOND * 2);
        actions.extend(self.act());
        calls(&actions)
    }

    fn state_of(&mut self, node: u8) -> (LinkState, String) {
        let pod = format!("geth-{node}");
        self.plan().links.into_iter().find(|link| link.pod == pod).map(|link| (link.state, link.reason)).unwrap()
    }
}

fn calls(actions: &[Action]) -> Vec<Call> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Tell { calls, .. } => Some(calls.clone()),
            _ => None,
        })
        .flatten()
        .collect()
}

fn at(node: u8) -> Enode {
    entry(node, 0).enode
}
