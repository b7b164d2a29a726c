//! The one loop: collect what happened, plan, act.
//!
//! It decides nothing ([`crate::plan`] does) and waits for nothing: every call, to
//! Geth or to the API server, runs beside it and comes back as an [`Outcome`]. So a
//! silent API server never keeps a restarted Geth from its peers, nor the reverse.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::departure;
use crate::geth::{Admin, NodeInfo, Peer, PeerEventKind};
use crate::identity;
use crate::jobs::{self, Done};
use crate::metrics::Metrics;
use crate::plan::{Action, LinkReport, Outcome, Own, Plan, Planner, Situation};
use crate::registry::list::STATIC_NODES;
use crate::registry::store::{RegistryEvent, Store};
use crate::registry::view::View;
use crate::session::{self, GethEvent};
use crate::status::Status;
use crate::stopwatch::Stopwatch;

/// The loop turns at least this often, which is what `/livez` looks for.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// What the loop tells the rest of the program.
#[derive(Debug)]
pub struct Outputs {
    /// How things are.
    pub status: watch::Sender<Status>,
    /// When the loop last turned.
    pub heartbeat: watch::Sender<Instant>,
    /// Becomes true once this sidecar has done what a pod's readiness waits for, and stays true.
    pub ready: watch::Sender<bool>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Keeps the Geth of `config` peered through `store`, until `shutdown` resolves; then
/// takes its entry out of the registry if the pod ends.
///
/// # Errors
/// If a part of the program has died, which only a bug can bring about; to be restarted is all it can do.
pub async fn run(
    config: Config,
    store: Store,
    clock: Clock,
    outputs: Outputs,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let refresh = Arc::new(Notify::new());
    let (geth_sender, mut geth_events) = mpsc::channel(16);
    let (registry_sender, mut registry_events) = mpsc::channel(16);
    let mut background = JoinSet::new();
    let (path, session_refresh) = (config.ipc_path.clone(), Arc::clone(&refresh));
    let calls = outputs.metrics.geth_calls();
    background.spawn(async move { session::run(&path, geth_sender, session_refresh, calls).await });
    let watched = store.clone();
    background.spawn(async move { watched.watch(registry_sender).await });

    let mut reconciler = Reconciler::new(config, store, clock, outputs, refresh);
    let mut shutdown = pin!(shutdown);
    loop {
        let plan = reconciler.turn();
        let pause =
            plan.wake.map_or(HEARTBEAT, |wake| wake.saturating_sub(reconciler.clock.now().elapsed).min(HEARTBEAT));
        tokio::select! {
            () = &mut shutdown => break,
            Some(event) = geth_events.recv() => reconciler.on_geth(event),
            Some(event) = registry_events.recv() => reconciler.on_registry(event),
            Some(job) = reconciler.jobs.join_next() => {
                let (session, done) = job.map_err(|error| anyhow!("a call was not carried out to its end: {error}"))?;
                if let Some(done) = done {
                    reconciler.finish(session, done);
                }
            }
            Some(ended) = background.join_next() => {
                return Err(anyhow!("the conversation with Geth or the API server has ended: {ended:?}"));
            }
            () = sleep(pause) => {}
        }
    }
    reconciler.leave().await;
    Ok(())
}

struct Reconciler {
    config: Config,
    store: Store,
    outputs: Outputs,
    refresh: Arc<Notify>,
    clock: Clock,
    planner: Planner,
    status: Status,
    geth: Option<Geth>,
    own: Own,
    registry: Option<View>,
    peers: Option<Vec<Peer>>,
    /// Why the last write of the list of static nodes failed.
    list_unwritable: Option<String>,
    jobs: JoinSet<(u64, Option<Done>)>,
    /// Counts connections to Geth: what was said on an earlier one no longer counts.
    session: u64,
    stopwatch: Stopwatch,
    /// Pods that are gone and whose entry could not be removed so far.
    unremovable: BTreeSet<String>,
}

/// The Geth that answers.
struct Geth {
    admin: Admin,
    info: NodeInfo,
    fresh: bool,
    since: Timestamp,
    /// What is to be said of it while all is well.
    words: String,
}

impl Reconciler {
    fn new(config: Config, store: Store, clock: Clock, outputs: Outputs, refresh: Arc<Notify>) -> Self {
        let status = Status::new(&config.pod_name, clock.now().wall);
        Self {
            config,
            store,
            outputs,
            refresh,
            clock,
            planner: Planner::default(),
            status,
            geth: None,
            own: Own::Silent,
            registry: None,
            peers: None,
            list_unwritable: None,
            jobs: JoinSet::new(),
            session: 0,
            stopwatch: Stopwatch::default(),
            unremovable: BTreeSet::new(),
        }
    }

    /// Plans, acts, and publishes how things are.
    fn turn(&mut self) -> Plan {
        self.identify();
        let now = self.clock.now();
        let situation = Situation {
            pod: &self.config.pod_name,
            own: &self.own,
            registry: self.registry.as_ref(),
            peers: self.peers.as_deref(),
        };
        let plan = self.planner.plan(&situation, now, &mut rand::rng());
        for action in plan.actions.iter().cloned() {
            self.act(action);
        }
        self.publish(&plan);
        plan
    }

    /// Works out what the registry shall say of the Geth that answers.
    fn identify(&mut self) {
        let (Own::Silent, Some(geth)) = (&self.own, &mut self.geth) else { return };
        let since = if geth.fresh {
            geth.since
        } else {
            // This sidecar was restarted beside a running Geth: the registry knows since when it runs.
            let Some(registry) = &self.registry else { return };
            registry
                .entry(&self.config.pod_name)
                .filter(|entry| entry.enode.key == geth.info.key && entry.pod_uid == self.config.pod_uid)
                .map_or(geth.since, |entry| entry.since)
        };
        let now = self.clock.now().wall;
        match identity::entry(&geth.info, &self.config, since) {
            Ok(entry) => {
                let doubt = identity::doubt(&entry);
                if let Some(doubt) = &doubt {
                    warn!("{doubt}");
                }
                info!(enode = %entry.enode, client = entry.client, network = entry.network_id, "Geth answers");
                geth.words = doubt.unwrap_or_else(|| "Geth answers".into());
                self.status.geth.set("up", &geth.words, now);
                self.status.own.entry = Some(entry.clone());
                self.own = Own::Ready(entry);
            }
            Err(reason) => {
                warn!("{reason}");
                self.status.geth.set("unpeerable", reason, now);
                self.status.own.entry = None;
                self.own = Own::Unpeerable;
            }
        }
    }

    fn on_geth(&mut self, event: GethEvent) {
        let now = self.clock.now().wall;
        match event {
            GethEvent::Connected { admin, info, fresh } => {
                self.session += 1;
                self.peers = None;
                self.own = Own::Silent;
                self.planner.geth_connected(fresh);
                let words = "Geth answers; the registry, which knows since when it runs, was not read yet".to_owned();
                self.status.geth.set("up", &words, now);
                self.geth = Some(Geth { admin, info: *info, fresh, since: now, words });
            }
            GethEvent::Peers(peers) => {
                if let (Own::Ready(_), Some(geth)) = (&self.own, &self.geth)
                    && self.status.geth.set("up", &geth.words, now)
                {
                    info!("Geth answers again");
                }
                self.peers = Some(peers);
            }
            GethEvent::Peer(event) => {
                if let (PeerEventKind::Drop, Some(why)) = (event.kind, event.error) {
                    self.planner.dropped(&event.node_id, &why);
                }
            }
            GethEvent::Trouble { trouble, reason, lost } => {
                if lost {
                    self.geth = None;
                    self.own = Own::Silent;
                }
                // What it said before it fell silent says nothing of now.
                self.peers = None;
                let state_before = self.status.geth.state;
                self.status.geth.set(trouble.as_str(), reason, now);
                if self.status.geth.state != state_before {
                    warn!(state = trouble.as_str(), "{}", self.status.geth.reason);
                }
            }
        }
    }

    fn on_registry(&mut self, event: RegistryEvent) {
        let now = self.clock.now().wall;
        match event {
            RegistryEvent::Read(view) => {
                self.status.registry.seen(now);
                self.registry = Some(view);
            }
            RegistryEvent::Changed(view) => {
                self.status.registry.seen(now);
                self.advance(view);
            }
            RegistryEvent::Watching => self.status.registry.watching(now),
            RegistryEvent::Polling(reason) => self.status.registry.polling(reason, now),
            RegistryEvent::Lost(reason) => self.status.registry.lost(reason, now),
        }
    }

    fn advance(&mut self, view: View) {
        match &mut self.registry {
            Some(registry) => registry.advance(view),
            None => self.registry = Some(view),
        }
    }

    /// Starts what `action` says; how it ends comes back through `jobs`.
    fn act(&mut self, action: Action) {
        debug!(?action, "acting");
        let (session, pod, store) = (self.session, self.config.pod_name.clone(), self.store.clone());
        let admin = self.geth.as_ref().map(|geth| geth.admin.clone());
        self.jobs.spawn(async move { (session, jobs::run(action, pod, store, admin).await) });
    }

    fn finish(&mut self, session: u64, done: Done) {
        if let Outcome::Evicted { pod } = &done.outcome {
            match &done.unwritten {
                Some(error) if self.unremovable.insert(pod.clone()) => {
                    warn!(pod, error, "cannot remove the entry of a pod that is gone; it is tried again");
                }
                Some(_) => {}
                None => drop(self.unremovable.remove(pod)),
            }
            if done.registry.is_some() {
                self.outputs.metrics.evicted();
            }
        }
        if let Some(view) = done.registry {
            self.advance(view);
        }
        if matches!(done.outcome, Outcome::WroteList { .. }) && self.list_unwritable != done.unwritten {
            // Once, in whatever words it goes on failing.
            if let (Some(error), None) = (&done.unwritten, &self.list_unwritable) {
                warn!("cannot write {STATIC_NODES} in ConfigMap {}: {error}", self.config.configmap);
            }
            self.list_unwritable.clone_from(&done.unwritten);
        }
        if matches!(done.outcome, Outcome::Wrote { .. }) {
            let now = self.clock.now().wall;
            let why =
                done.unwritten.map(|error| format!("cannot write to ConfigMap {}: {error}", self.config.configmap));
            self.status.registry.wrote(why, now);
        }
        if matches!(done.outcome, Outcome::Told { .. }) {
            if session != self.session {
                return;
            }
            self.refresh.notify_one();
        }
        self.planner.note(done.outcome, self.clock.now(), &mut rand::rng());
    }

    fn publish(&mut self, plan: &Plan) {
        let now = self.clock.now();
        let written = self.is_written();
        if written {
            // Also by a write that nobody answered, after which there is no other.
            self.status.registry.wrote(None, now.wall);
        }
        self.status.take_over(plan, now.wall);
        if let Some(took) = self.stopwatch.look(&self.status, now.elapsed) {
            self.outputs.metrics.meshed(took);
        }
        self.outputs.status.send_if_modified(|published| {
            let changed = *published != self.status;
            if changed {
                published.clone_from(&self.status);
            }
            changed
        });
        self.outputs.heartbeat.send_replace(Instant::now());
        if self.is_ready(plan, written) {
            self.outputs.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
        }
    }

    /// Whether the registry, as far as it is seen, has of this pod what it should have.
    fn is_written(&self) -> bool {
        let Some(registry) = &self.registry else { return false };
        let value = registry.get(&self.config.pod_name).map(|record| &*record.value);
        match &self.own {
            Own::Silent => false,
            Own::Unpeerable => value.is_none(),
            Own::Ready(entry) => value == Some(&*entry.to_value()),
        }
    }

    /// Whether this sidecar has done what a pod's readiness waits for: its Geth is in
    /// the registry, and connected to as many of the others as it was asked to wait for.
    /// Nodes on lists may be away for long: they count when they are there.
    fn is_ready(&self, plan: &Plan, written: bool) -> bool {
        match &self.own {
            Own::Silent => false,
            // It never will be; that is no reason to keep the pod from whatever else it does.
            Own::Unpeerable => true,
            Own::Ready(_) => {
                let Some(registry) = &self.registry else { return false };
                let registered = |link: &&LinkReport| link.state.is_wanted() && registry.get(&link.pod).is_some();
                let others = plan.links.iter().filter(registered).count();
                written && self.status.connected >= self.config.min_peers.min(others)
            }
        }
    }

    async fn leave(mut self) {
        // An assert under way may have been done already without this being known: the value
        // that it wrote is as good as the one that was seen.
        self.jobs.shutdown().await;
        let record = self.registry.as_ref().and_then(|registry| registry.get(&self.config.pod_name));
        let mut values: Vec<String> = record.map(|record| record.value.clone()).into_iter().collect();
        if let Own::Ready(entry) = &self.own {
            values.push(entry.to_value());
        }
        values.dedup();
        departure::leave(&self.store, &self.config.pod_name, self.config.pod_uid.as_deref(), &values).await;
    }
}
