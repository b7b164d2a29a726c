//! The one loop: collect what happened, plan, act.
//!
//! It decides nothing ([`crate::plan`] does) and waits for nothing: every call, to
//! Geth or to the API server, runs beside it and comes back as an [`Outcome`]. So a
//! silent API server never keeps a restarted Geth from its peers, nor the reverse.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::geth::{Admin, NodeInfo, Peer};
use crate::identity;
use crate::metrics::Metrics;
use crate::plan::{Action, Call, LinkState, Outcome, Own, Plan, Planner, Situation};
use crate::registry::store::{PodState, Sight, Store, StoreError};
use crate::registry::view::View;
use crate::session::{self, News};
use crate::status::Status;

/// The loop turns at least this often, which is what `/livez` looks for.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long leaving the registry may take at the end.
const LEAVE: Duration = Duration::from_secs(8);

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
pub async fn run(config: Config, store: Store, clock: Clock, outputs: Outputs, shutdown: impl Future<Output = ()>) {
    let refresh = Arc::new(Notify::new());
    let (news_sender, mut news) = mpsc::channel(16);
    let (sight_sender, mut sights) = mpsc::channel(16);
    let mut background = JoinSet::new();
    let (path, session_refresh) = (config.ipc_path.clone(), Arc::clone(&refresh));
    background.spawn(async move { session::run(&path, news_sender, session_refresh).await });
    let watched = store.clone();
    background.spawn(async move { watched.watch(sight_sender).await });

    let mut reconciler = Reconciler::new(config, store, clock, outputs, refresh);
    let mut shutdown = pin!(shutdown);
    loop {
        let plan = reconciler.turn();
        let pause =
            plan.wake.map_or(HEARTBEAT, |wake| wake.saturating_sub(reconciler.clock.now().elapsed).min(HEARTBEAT));
        tokio::select! {
            () = &mut shutdown => break,
            Some(news) = news.recv() => reconciler.hear(news),
            Some(sight) = sights.recv() => reconciler.see(sight),
            Some(Ok((session, done))) = reconciler.jobs.join_next() => reconciler.finish(session, done),
            () = sleep(pause) => {}
        }
    }
    reconciler.leave().await;
}

/// How a job ended: an [`Outcome`], or a write with the registry that it left behind.
#[derive(Debug)]
enum Done {
    Outcome(Outcome),
    Wrote(Result<Option<View>, StoreError>),
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
    jobs: JoinSet<(u64, Done)>,
    /// Counts connections to Geth: what was said on an earlier one no longer counts.
    session: u64,
}

/// The Geth that answers.
struct Geth {
    admin: Admin,
    info: NodeInfo,
    fresh: bool,
    since: Timestamp,
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
            jobs: JoinSet::new(),
            session: 0,
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
        let (Own::Silent, Some(geth)) = (&self.own, &self.geth) else { return };
        let since = if geth.fresh {
            geth.since
        } else {
            // This sidecar was restarted beside a running Geth: the registry knows since when it runs.
            let Some(registry) = &self.registry else { return };
            let record = registry.get(&self.config.pod_name).and_then(|record| record.entry.as_ref().ok());
            record
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
                self.status.geth.set("up", doubt.unwrap_or_else(|| "Geth answers".into()), now);
                self.status.own.entry = Some(entry.clone());
                self.own = Own::Ready(entry);
            }
            Err(reason) => {
                warn!("{reason}");
                self.status.geth.set("unpeerable", reason, now);
                self.own = Own::Unpeerable;
            }
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Connected { admin, info, fresh } => {
                self.session += 1;
                self.peers = None;
                self.own = Own::Silent;
                self.planner.geth_connected(fresh);
                self.status.geth.set("up", "Geth answers", self.clock.now().wall);
                self.geth = Some(Geth { admin, info: *info, fresh, since: self.clock.now().wall });
            }
            News::Peers(peers) => {
                if self.status.geth.state == session::Trouble::Mute.as_str() {
                    self.status.geth.set("up", "Geth answers again", self.clock.now().wall);
                }
                self.peers = Some(peers);
            }
            News::Trouble { trouble, reason, lost } => {
                if lost {
                    self.geth = None;
                    self.own = Own::Silent;
                    self.peers = None;
                }
                let state_before = self.status.geth.state;
                self.status.geth.set(trouble.as_str(), reason, self.clock.now().wall);
                if self.status.geth.state != state_before {
                    warn!(state = trouble.as_str(), "{}", self.status.geth.reason);
                }
            }
        }
    }

    fn see(&mut self, sight: Sight) {
        let now = self.clock.now().wall;
        match sight {
            Sight::Seen(view) => {
                if self.status.registry.set("watching", "", now) {
                    info!(configmap = self.config.configmap, "the registry is in sight");
                }
                self.advance(view);
            }
            Sight::Blind(reason) => {
                if self.status.registry.set("blind", reason, now) {
                    warn!("{}; the links stay as they are", self.status.registry.reason);
                }
            }
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
        self.outputs.metrics.count(&action);
        let session = self.session;
        let store = self.store.clone();
        let pod = self.config.pod_name.clone();
        match action {
            Action::Tell { key, calls } => {
                let Some(geth) = &self.geth else { return };
                let admin = geth.admin.clone();
                self.jobs.spawn(async move {
                    let accepted = tell(&admin, &calls).await;
                    let complete = accepted.len() == calls.len();
                    (session, Done::Outcome(Outcome::Told { key, accepted, complete }))
                });
            }
            Action::Assert(entry) => {
                self.jobs.spawn(async move {
                    (session, Done::Wrote(store.assert(&pod, &entry.to_value()).await.map(Some)))
                });
            }
            Action::Withdraw { value } => {
                self.jobs.spawn(async move {
                    (session, Done::Wrote(store.remove(&pod, &value).await.map(|_removed| None)))
                });
            }
            Action::Look { pod } => {
                self.jobs.spawn(async move {
                    let state = store.look(&pod).await;
                    if let Err(error) = &state {
                        debug!(pod, %error, "cannot tell whether the pod lives");
                    }
                    (session, Done::Outcome(Outcome::Looked { pod, state: state.map_err(|error| error.kind()) }))
                });
            }
            Action::Evict { pod, value } => {
                self.jobs.spawn(async move {
                    match store.remove(&pod, &value).await {
                        Ok(true) => info!(pod, "removed the entry of a pod that is gone"),
                        Ok(false) => debug!(pod, "the entry had changed or was removed by another sidecar"),
                        Err(error) => warn!(pod, %error, "cannot remove the entry of a pod that is gone"),
                    }
                    (session, Done::Outcome(Outcome::Evicted { pod }))
                });
            }
        }
    }

    fn finish(&mut self, session: u64, done: Done) {
        let outcome = match done {
            Done::Outcome(outcome) => outcome,
            Done::Wrote(Ok(view)) => {
                if let Some(view) = view {
                    self.advance(view);
                }
                Outcome::Wrote { ok: true }
            }
            Done::Wrote(Err(error)) => {
                warn!(%error, "cannot write to ConfigMap {}", self.config.configmap);
                Outcome::Wrote { ok: false }
            }
        };
        if let Outcome::Looked { pod, state: Ok(PodState::Gone | PodState::Finished) } = &outcome {
            debug!(pod, "the pod is gone");
        }
        if matches!(outcome, Outcome::Told { .. }) {
            if session != self.session {
                return;
            }
            self.refresh.notify_one();
        }
        self.planner.note(outcome, self.clock.now(), &mut rand::rng());
    }

    fn publish(&mut self, plan: &Plan) {
        for link in &plan.links {
            let before = self.status.peers.iter().find(|peer| peer.pod == link.pod).map(|peer| peer.state);
            if before != Some(link.state.as_str()) {
                let lost = before == Some(LinkState::Connected.as_str());
                if link.state == LinkState::Connected || lost || !link.state.is_wanted() {
                    info!(pod = link.pod, reason = link.reason, "link {}", link.state.as_str());
                } else {
                    debug!(pod = link.pod, reason = link.reason, "link {}", link.state.as_str());
                }
            }
        }
        for gone in self.status.peers.iter().filter(|peer| !plan.links.iter().any(|link| link.pod == peer.pod)) {
            info!(pod = gone.pod, "the pod left the registry");
        }
        self.status.set_links(&plan.links);
        self.outputs.status.send_if_modified(|published| {
            let changed = *published != self.status;
            if changed {
                published.clone_from(&self.status);
            }
            changed
        });
        self.outputs.heartbeat.send_replace(Instant::now());

        let registered = match &self.own {
            Own::Silent => false,
            Own::Unpeerable => true,
            Own::Ready(entry) => self
                .registry
                .as_ref()
                .and_then(|registry| registry.get(&self.config.pod_name))
                .is_some_and(|record| record.value == entry.to_value()),
        };
        self.outputs.ready.send_if_modified(|ready| !std::mem::replace(ready, *ready || registered) && registered);
    }

    /// Takes the own entry out of the registry if this pod ends. A sidecar that is
    /// restarted alone leaves it: its Geth is still there.
    async fn leave(mut self) {
        self.jobs.abort_all();
        let record = self.registry.as_ref().and_then(|registry| registry.get(&self.config.pod_name));
        let Some(value) = record.map(|record| record.value.clone()) else { return };
        let (store, pod) = (&self.store, &self.config.pod_name);
        let leaving = async {
            match store.look(pod).await {
                Ok(PodState::Alive { terminating: false, .. }) => {
                    return info!("stopping; the entry stays, because the pod does");
                }
                Ok(_) => {}
                // Whoever cannot tell leaves; the next run of this sidecar registers again at once.
                Err(error) => debug!(%error, "cannot tell whether the pod ends"),
            }
            match store.remove(pod, &value).await {
                Ok(_) => info!("stopping; the entry is removed"),
                Err(error) => warn!(%error, "stopping; the entry could not be removed, the other sidecars will"),
            }
        };
        if timeout(LEAVE, leaving).await.is_err() {
            warn!("stopping; the API server did not answer in time");
        }
    }
}

/// Makes `calls` in order, up to the first that fails; returns those that Geth accepted.
async fn tell(admin: &Admin, calls: &[Call]) -> Vec<Call> {
    let mut accepted = Vec::new();
    for call in calls {
        let answer = match call {
            Call::Add(enode) => admin.add_peer(enode).await,
            Call::Remove(enode) => admin.remove_peer(enode).await,
            Call::Trust(enode) => admin.add_trusted_peer(enode).await,
            Call::Distrust(enode) => admin.remove_trusted_peer(enode).await,
        };
        if let Err(error) = answer {
            warn!(?call, %error, "Geth did not do what it was told");
            break;
        }
        accepted.push(*call);
    }
    accepted
}
