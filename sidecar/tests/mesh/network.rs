//! A network under test: pods, each a fake Geth and a whole sidecar, on one in-memory API server.

use std::sync::Arc;
use std::time::Duration;

use fakes::apiserver::ApiServer;
use fakes::geth::{Config as GethConfig, FakeGeth, World};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sidecar::clock::Clock;
use sidecar::config::Config;
use sidecar::metrics::Metrics;
use sidecar::reconcile::{self, Outputs};
use sidecar::registry::entry::Entry;
use sidecar::registry::store::Store;
use sidecar::status::Status;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

pub(crate) const NAMESPACE: &str = "chain";
pub(crate) const NAME: &str = "geth-peering";

/// A network of pods on one API server.
pub(crate) struct Network {
    pub(crate) server: ApiServer,
    pub(crate) world: World,
    pub(crate) folder: TempDir,
}

/// One pod: a Geth and its sidecar.
pub(crate) struct PodUnderTest {
    pub(crate) number: u16,
    pub(crate) geth: FakeGeth,
    pub(crate) sidecar: Sidecar,
}

pub(crate) struct Sidecar {
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) metrics: Arc<Metrics>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sidecar {
    /// SIGTERM.
    pub(crate) async fn terminate(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        (&mut self.task).await.unwrap().unwrap();
    }
}

impl Network {
    pub(crate) fn new() -> Self {
        Self { server: ApiServer::new(), world: World::new(), folder: TempDir::new().unwrap() }
    }

    pub(crate) fn geth_config(&self, number: u16) -> GethConfig {
        GethConfig::new(number, self.folder.path().join(format!("{number}.ipc")))
    }

    pub(crate) fn named(&self, name: &str) -> ObjectMeta {
        ObjectMeta { name: Some(name.into()), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() }
    }

    /// Puts the pod onto the API server, and returns its UID.
    pub(crate) fn put_pod(&self, number: u16) -> String {
        self.server
            .put(&Pod { metadata: self.named(&format!("geth-{number}")), ..Pod::default() })
            .metadata
            .uid
            .unwrap()
    }

    pub(crate) fn start_sidecar(&self, geth: &GethConfig, number: u16, uid: &str) -> Sidecar {
        self.start_sidecar_told(geth, number, uid, &[])
    }

    /// Starts a sidecar that has the variables `more` as well.
    fn start_sidecar_told(&self, geth: &GethConfig, number: u16, uid: &str, more: &[(&str, &str)]) -> Sidecar {
        let variables = |name: &str| {
            if let Some((_, value)) = more.iter().find(|(told, _)| *told == name) {
                return Some((*value).to_owned());
            }
            Some(match name {
                "IPC_PATH" => geth.socket.display().to_string(),
                "PEERING_POD_NAME" => format!("geth-{number}"),
                "PEERING_POD_UID" => uid.to_owned(),
                "PEERING_POD_IP" => geth.ip.to_string(),
                "PEERING_MAX_PEERS" => geth.max_peers.to_string(),
                _ => return None,
            })
        };
        let config = Config::read(variables, |_| None).unwrap();
        let store = Store::new(self.server.client(NAMESPACE), NAMESPACE, NAME);
        // The wall's clock stands at 0 when the first of all tests begins, and follows tokio's.
        let clock = Clock::with_wall(|now| {
            static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
            Timestamp::UNIX_EPOCH + now.duration_since(*START.get_or_init(|| now))
        });
        let outputs = Outputs {
            status: watch::Sender::new(Status::new("", Timestamp::UNIX_EPOCH)),
            heartbeat: watch::Sender::new(Instant::now()),
            ready: watch::Sender::new(false),
            metrics: Arc::new(Metrics::default()),
        };
        let (status, ready) = (outputs.status.subscribe(), outputs.ready.subscribe());
        let metrics = Arc::clone(&outputs.metrics);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(reconcile::run(config, store, clock, outputs, async move {
            let _stopped_or_dropped = stopped.await;
        }));
        Sidecar { status, ready, metrics, stop: Some(stop), task }
    }

    pub(crate) fn start_with(&self, number: u16, config: GethConfig) -> PodUnderTest {
        self.start_told(number, config, &[])
    }

    /// Starts a pod whose sidecar has the variables `more` as well.
    pub(crate) fn start_told(&self, number: u16, config: GethConfig, more: &[(&str, &str)]) -> PodUnderTest {
        let uid = self.put_pod(number);
        let geth = self.world.start(config.clone());
        PodUnderTest { number, geth, sidecar: self.start_sidecar_told(&config, number, &uid, more) }
    }

    pub(crate) fn start(&self, number: u16) -> PodUnderTest {
        self.start_with(number, self.geth_config(number))
    }

    pub(crate) fn start_many(&self, count: u16) -> Vec<PodUnderTest> {
        (0..count).map(|number| self.start(number)).collect()
    }

    pub(crate) fn value(&self, number: u16) -> Option<String> {
        self.server.get::<ConfigMap>(NAMESPACE, NAME)?.data?.get(&format!("geth-{number}")).cloned()
    }

    pub(crate) fn entry(&self, number: u16) -> Option<Entry> {
        Entry::parse(&self.value(number)?).ok()
    }

    /// Waits for `condition`, for an hour of paused time at most.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..360_000 {
            if condition() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("not within an hour: {what}; {} links", self.world.links());
    }

    /// Waits until `count` Geths are a full mesh.
    pub(crate) async fn mesh(&self, count: usize) {
        self.until(&format!("a mesh of {count}"), || self.world.links() == count * (count - 1)).await;
    }
}
