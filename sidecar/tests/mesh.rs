//! Do sidecars make a mesh, and keep it? Whole sidecars, each with a fake Geth on a
//! real socket, on one in-memory API server, in tokio's paused time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on shall fail where it stands")]

use std::sync::Arc;
use std::time::Duration;

use fakes::apiserver::{ApiServer, Fault, Verb};
use fakes::geth::{Config as GethConfig, FakeGeth, Stop, World};
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

const NAMESPACE: &str = "chain";
const NAME: &str = "geth-peering";

/// A network of pods on one API server.
struct Network {
    server: ApiServer,
    world: World,
    folder: TempDir,
}

/// One pod: a Geth and its sidecar.
struct PodUnderTest {
    number: u16,
    geth: FakeGeth,
    sidecar: Sidecar,
}

struct Sidecar {
    status: watch::Receiver<Status>,
    ready: watch::Receiver<bool>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sidecar {
    /// SIGTERM.
    async fn terminate(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        (&mut self.task).await.unwrap();
    }
}

impl Network {
    fn new() -> Self {
        Self { server: ApiServer::new(), world: World::new(), folder: TempDir::new().unwrap() }
    }

    fn geth_config(&self, number: u16) -> GethConfig {
        GethConfig::new(number, self.folder.path().join(format!("{number}.ipc")))
    }

    /// Puts the pod onto the API server, and returns its UID.
    fn put_pod(&self, number: u16) -> String {
        let metadata = ObjectMeta {
            name: Some(format!("geth-{number}")),
            namespace: Some(NAMESPACE.into()),
            ..ObjectMeta::default()
        };
        self.server.put(&Pod { metadata, ..Pod::default() }).metadata.uid.unwrap()
    }

    fn start_sidecar(&self, geth: &GethConfig, number: u16, uid: &str) -> Sidecar {
        let variables = |name: &str| {
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
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(reconcile::run(config, store, clock, outputs, async move {
            let _stopped_or_dropped = stopped.await;
        }));
        Sidecar { status, ready, stop: Some(stop), task }
    }

    fn start_with(&self, number: u16, config: GethConfig) -> PodUnderTest {
        let uid = self.put_pod(number);
        let geth = self.world.start(config.clone());
        PodUnderTest { number, geth, sidecar: self.start_sidecar(&config, number, &uid) }
    }

    fn start(&self, number: u16) -> PodUnderTest {
        self.start_with(number, self.geth_config(number))
    }

    fn start_many(&self, count: u16) -> Vec<PodUnderTest> {
        (0..count).map(|number| self.start(number)).collect()
    }

    fn value(&self, number: u16) -> Option<String> {
        self.server.get::<ConfigMap>(NAMESPACE, NAME)?.data?.get(&format!("geth-{number}")).cloned()
    }

    fn entry(&self, number: u16) -> Option<Entry> {
        Entry::parse(&self.value(number)?).ok()
    }

    /// Waits for `condition`, for an hour of paused time at most.
    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..360_000 {
            if condition() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("not within an hour: {what}; {} links", self.world.links());
    }

    /// Waits until `count` Geths are a full mesh.
    async fn mesh(&self, count: usize) {
        self.until(&format!("a mesh of {count}"), || self.world.links() == count * (count - 1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_network_that_starts_at_once_become_a_mesh() {
    for count in [2, 5, 10, 33] {
        let network = Network::new();
        let pods = network.start_many(count);
        network.mesh(count.into()).await;
        for pod in &pods {
            let status =
                pod.sidecar.status.clone().wait_for(|s| s.connected + 1 == usize::from(count)).await.unwrap().clone();
            assert_eq!(status.wanted, status.connected);
            assert!(*pod.sidecar.ready.borrow());
            assert_eq!(pod.geth.trusted().len() + 1, usize::from(count), "trusted on both sides");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_pod_that_joins_later_have_every_link_and_the_others_keep_theirs() {
    let network = Network::new();
    let _pods = network.start_many(4);
    network.mesh(4).await;
    sleep(Duration::from_secs(600)).await;
    let _fifth = network.start(4);
    network.mesh(5).await;
}

#[tokio::test(start_paused = true)]
async fn does_a_geth_killed_in_place_come_back_by_dialing_everyone_itself() {
    let network = Network::new();
    let mut pods = network.start_many(5);
    network.mesh(5).await;
    sleep(Duration::from_secs(600)).await;
    pods[0].geth.restart().await;
    network.mesh(5).await;
    let since = network.entry(0).unwrap().since;
    // Those who dialed it just now cannot do so again for 35 s: it has to help itself.
    sleep(Duration::from_secs(5)).await;
    pods[0].geth.restart().await;
    network.mesh(5).await;
    network.until("a younger entry", || network.entry(0).is_some_and(|entry| entry.since > since)).await;
    assert_eq!(pods[0].geth.dialed(), 4);
}

#[tokio::test(start_paused = true)]
async fn does_a_pod_with_the_same_key_and_a_new_address_come_back() {
    let network = Network::new();
    let mut pods = network.start_many(4);
    network.mesh(4).await;
    sleep(Duration::from_secs(60)).await;
    let mut lost = pods.remove(0);
    lost.geth.stop(Stop::Kill).await;
    drop(lost.sidecar);
    network.server.delete::<Pod>(NAMESPACE, "geth-0");
    sleep(Duration::from_secs(2)).await;
    let moved = GethConfig { ip: [10, 9, 9, 9].into(), ..network.geth_config(0) };
    let _back = network.start_with(0, moved);
    network.mesh(4).await;
    // Killed once more where it is, it is found at its new address by those who dial it.
    assert!(network.value(0).unwrap().contains("10.9.9.9"));
}

#[tokio::test(start_paused = true)]
async fn is_a_pod_that_vanished_without_a_word_taken_out_and_forgotten() {
    let network = Network::new();
    let mut pods = network.start_many(4);
    network.mesh(4).await;
    let mut lost = pods.remove(0);
    lost.geth.stop(Stop::PowerLoss).await;
    drop(lost.sidecar);
    network.server.delete::<Pod>(NAMESPACE, "geth-0");
    network.until("the entry's removal", || network.value(0).is_none()).await;
    network
        .until("nobody dials it", || {
            pods.iter().all(|pod| !pod.geth.statics().contains(&lost.geth.enode()) && pod.geth.trusted().len() == 2)
        })
        .await;
    network.mesh(3).await;
}

#[tokio::test(start_paused = true)]
async fn does_a_pod_that_ends_take_its_entry_along_and_a_sidecar_restarted_alone_leave_it() {
    let network = Network::new();
    let mut pods = network.start_many(3);
    network.mesh(3).await;
    sleep(Duration::from_secs(60)).await;

    let alone = pods.remove(0);
    let (value, uid) = (network.value(0).unwrap(), network.entry(0).unwrap().pod_uid.unwrap());
    network.server.forget_calls();
    alone.sidecar.terminate().await;
    let again = network.start_sidecar(&alone.geth.config(), alone.number, &uid);
    again.ready.clone().wait_for(|ready| *ready).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!((network.value(0).unwrap(), network.server.writes()), (value, 0), "its Geth never stopped");
    assert_eq!(network.world.links(), 6);

    network.server.edit(NAMESPACE, "geth-0", |pod: &mut Pod| {
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    });
    again.terminate().await;
    assert_eq!(network.value(0), None);
}

#[tokio::test(start_paused = true)]
async fn does_the_registry_heal_while_every_link_stays() {
    let network = Network::new();
    let pods = network.start_many(4);
    network.mesh(4).await;
    let whole = || (0..4).all(|number| network.entry(number).is_some());
    network.until("all registered", whole).await;
    pods.iter().for_each(|pod| pod.geth.forget_calls());

    network.server.delete::<ConfigMap>(NAMESPACE, NAME);
    network.until("made again after deletion", whole).await;
    network.server.edit(NAMESPACE, NAME, |configmap: &mut ConfigMap| configmap.data = None);
    network.until("filled again after emptying", whole).await;
    network.server.edit(NAMESPACE, NAME, |configmap: &mut ConfigMap| {
        configmap.data.iter_mut().flatten().for_each(|(_, value)| *value = "garbage".into());
    });
    network.until("put right after garbage", whole).await;

    sleep(Duration::from_secs(60)).await;
    assert_eq!(network.world.links(), 12);
    for pod in &pods {
        assert!(!pod.geth.methods().contains(&"admin_removePeer".to_owned()), "nobody hung up");
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_restarted_geth_find_its_peers_while_the_api_server_is_silent() {
    let network = Network::new();
    let mut pods = network.start_many(4);
    network.mesh(4).await;
    sleep(Duration::from_secs(60)).await;
    for verb in [Verb::Get, Verb::List, Verb::Watch, Verb::Patch, Verb::Create] {
        for plural in ["configmaps", "pods"] {
            network.server.fault(verb, plural, Fault::Hang, 1000);
        }
    }
    network.server.close_watches();
    pods[0].geth.restart().await;
    network.mesh(4).await;
}

#[tokio::test(start_paused = true)]
async fn is_a_stable_network_silent() {
    let network = Network::new();
    let _pods = network.start_many(10);
    network.mesh(10).await;
    sleep(Duration::from_secs(60)).await;
    network.server.forget_calls();
    sleep(Duration::from_secs(600)).await;
    let calls: Vec<_> = network.server.calls().into_iter().filter(|call| call.verb != Verb::Watch).collect();
    assert!(calls.is_empty(), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn does_a_client_without_peer_events_come_back_too() {
    let network = Network::new();
    let mut pods = network.start_many(3);
    for pod in &mut pods {
        pod.geth.stop(Stop::Clean).await;
        pod.geth.quirks(|quirks| quirks.lacks = vec!["admin_subscribe"]);
        pod.geth.start();
    }
    network.mesh(3).await;
    pods[0].geth.restart().await;
    network.mesh(3).await;
}

#[tokio::test(start_paused = true)]
async fn does_a_mesh_form_though_geths_that_dial_each_other_refuse_each_other() {
    let network = Network::new();
    network.world.set_collisions(1000);
    let _pods = network.start_many(10);
    network.mesh(10).await;
}

#[tokio::test(start_paused = true)]
async fn is_a_geth_of_another_genesis_left_alone_and_named() {
    let network = Network::new();
    let _pods = network.start_many(2);
    let strange = GethConfig { genesis: format!("0x{}", "11".repeat(32)), ..network.geth_config(2) };
    let stranger = network.start_with(2, strange);
    network.mesh(2).await;
    let status = stranger.sidecar.status.clone();
    let status = status.clone().wait_for(|status| status.peers.len() == 2).await.unwrap().clone();
    assert!(status.peers.iter().all(|peer| peer.state == "mismatch" && peer.reason.contains("genesis")), "{status:?}");
    assert!(stranger.geth.statics().is_empty());
}

#[tokio::test(start_paused = true)]
async fn does_a_geth_without_p2p_say_so_and_stay_out_of_the_registry() {
    let network = Network::new();
    let dev = network.start_with(0, GethConfig { p2p: false, ..network.geth_config(0) });
    let mut status = dev.sidecar.status.clone();
    let status = status.wait_for(|status| status.geth.state == "unpeerable").await.unwrap().clone();
    assert!(status.geth.reason.contains("--dev"), "{}", status.geth.reason);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(network.value(0), None);
}
