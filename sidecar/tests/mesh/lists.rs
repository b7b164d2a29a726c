//! Does a fleet half of this sidecar and half of the one before it become one mesh, and are
//! nodes outside the cluster peered with?

use std::time::Duration;

use fakes::apiserver::Verb;
use fakes::geth::{FakeGeth, Neighbour, Stop};
use fakes::original::Original;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use sidecar::registry::list::{EXTERNAL_NODES, STATIC_NODES};
use tokio::time::{Instant, sleep};

use crate::network::{NAME, NAMESPACE, Network, PodUnderTest};

/// A pod with a Geth and an earlier sidecar.
struct Earlier {
    number: u16,
    geth: FakeGeth,
    sidecar: Original<Neighbour>,
}

impl Network {
    fn start_earlier(&self, number: u16) -> Earlier {
        self.put_pod(number);
        let geth = self.world.start(self.geth_config(number));
        let sidecar = self.earlier_sidecar(&geth, number);
        Earlier { number, geth, sidecar }
    }

    fn earlier_sidecar(&self, geth: &FakeGeth, number: u16) -> Original<Neighbour> {
        let api = Api::default_namespaced(self.server.client(NAMESPACE));
        let mut rng = SmallRng::seed_from_u64(number.into());
        Original::start(api, NAME, geth.neighbour(), move || Duration::from_secs_f64(rng.random_range(1.0..15.0)))
    }

    /// The list of static nodes, in order.
    fn list(&self) -> Vec<String> {
        let data = self.server.get::<ConfigMap>(NAMESPACE, NAME).and_then(|configmap| configmap.data);
        let list = data.and_then(|data| serde_json::from_str(data.get(STATIC_NODES)?).ok());
        let mut list: Vec<String> = list.unwrap_or_default();
        list.sort();
        list
    }

    /// Waits until the list holds exactly the enodes of `geths`.
    async fn listed(&self, geths: &[&FakeGeth]) {
        let mut expected: Vec<_> = geths.iter().map(|geth| geth.enode()).collect();
        expected.sort();
        self.until("a clean list", || self.list() == expected).await;
    }

    fn write(&self, key: &str, value: &str) {
        self.server.edit(NAMESPACE, NAME, |configmap: &mut ConfigMap| {
            configmap.data.get_or_insert_default().insert(key.into(), value.into());
        });
    }

    /// Only the rights that the earlier sidecar's Role has.
    fn with_few_rights() -> Self {
        let network = Self::new();
        network.server.forbid(Verb::Watch, "configmaps");
        network.server.forbid(Verb::Get, "pods");
        network
    }
}

fn geths<'a>(ours: &'a [PodUnderTest], theirs: &'a [Earlier]) -> Vec<&'a FakeGeth> {
    ours.iter().map(|pod| &pod.geth).chain(theirs.iter().map(|pod| &pod.geth)).collect()
}

#[tokio::test(start_paused = true)]
async fn does_a_fleet_half_of_each_become_one_mesh_whoever_comes_first() {
    for earlier_first in [true, false] {
        let network = Network::with_few_rights();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for half in [earlier_first, !earlier_first] {
            match half {
                true => theirs.extend((4..8).map(|number| network.start_earlier(number))),
                false => ours.extend(network.start_many(4)),
            }
            sleep(Duration::from_secs(20)).await;
        }
        network.mesh(8).await;
        network.listed(&geths(&ours, &theirs)).await;
        sleep(Duration::from_secs(60)).await;
        network.server.forget_calls();
        sleep(Duration::from_secs(600)).await;
        assert_eq!((network.server.writes(), network.world.links()), (0, 56), "nobody writes against anybody");
        assert_eq!(theirs.iter().map(|pod| pod.sidecar.deaths()).sum::<usize>(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_fleet_half_of_each_stay_a_mesh_when_either_kind_is_restarted() {
    let network = Network::with_few_rights();
    let mut ours = network.start_many(3);
    let mut theirs: Vec<_> = (3..6).map(|number| network.start_earlier(number)).collect();
    network.mesh(6).await;
    // Geths killed in place.
    ours[0].geth.restart().await;
    theirs[0].geth.restart().await;
    network.mesh(6).await;
    // Sidecars restarted alone.
    let uid = network.entry(1).unwrap().pod_uid.unwrap();
    let pod = ours.remove(1);
    pod.sidecar.terminate().await;
    let again = network.start_sidecar(&pod.geth.config(), 1, &uid);
    ours.insert(1, PodUnderTest { sidecar: again, ..pod });
    let pod = theirs.remove(1);
    pod.sidecar.terminate().await;
    let again = network.earlier_sidecar(&pod.geth, 4);
    theirs.insert(1, Earlier { sidecar: again, ..pod });
    network.mesh(6).await;
    network.listed(&geths(&ours, &theirs)).await;
    // Whole pods deleted and made again at other addresses.
    let mut lost = ours.remove(2);
    lost.geth.stop(Stop::Kill).await;
    drop(lost.sidecar);
    let mut gone = theirs.remove(2);
    drop(gone.sidecar);
    gone.geth.stop(Stop::Kill).await;
    let moved = |number, ip: u8| fakes::geth::Config { ip: [10, 9, 9, ip].into(), ..network.geth_config(number) };
    ours.push(network.start_with(2, moved(2, 1)));
    let geth = network.world.start(moved(5, 2));
    let sidecar = network.earlier_sidecar(&geth, 5);
    theirs.push(Earlier { number: 5, geth, sidecar });
    network.mesh(6).await;
    network.listed(&geths(&ours, &theirs)).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(network.world.links(), 30);
}

#[tokio::test(start_paused = true)]
async fn does_rolling_the_last_earlier_sidecar_over_leave_a_clean_registry() {
    let network = Network::with_few_rights();
    let mut ours = network.start_many(2);
    let theirs: Vec<_> = (2..4).map(|number| network.start_earlier(number)).collect();
    network.mesh(4).await;
    for (pod, killed) in theirs.into_iter().zip([false, true]) {
        let Earlier { number, mut geth, sidecar } = pod;
        if killed {
            drop(sidecar);
        } else {
            sidecar.terminate().await;
        }
        geth.stop(Stop::Clean).await;
        let config = fakes::geth::Config {
            ip: [10, 8, 8, u8::try_from(number).unwrap()].into(),
            key: fakes::geth::key(number + 100),
            ..network.geth_config(number)
        };
        ours.push(network.start_with(number, config));
    }
    network.mesh(4).await;
    network.listed(&geths(&ours, &[])).await;
    network
        .until("nobody dials what is gone", || {
            ours.iter().all(|pod| {
                pod.geth.statics().len() <= 3
                    && pod.geth.trusted().len() == 3
                    && pod.sidecar.status.borrow().wanted == 3
            })
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn does_an_earlier_sidecar_live_beside_a_registry_that_is_made_lost_or_garbled() {
    let network = Network::new();
    let ours = network.start_many(2);
    network.until("a registry", || network.entry(0).is_some()).await;
    let theirs = vec![network.start_earlier(2)];
    network.mesh(3).await;
    assert_eq!(theirs[0].sidecar.deaths(), 0, "the list was there from the beginning");
    network.write(STATIC_NODES, "garbage");
    network.listed(&geths(&ours, &theirs)).await;
    network.server.edit(NAMESPACE, NAME, |configmap: &mut ConfigMap| {
        configmap.data.as_mut().unwrap().remove(STATIC_NODES);
    });
    network.listed(&geths(&ours, &theirs)).await;
    network.server.delete::<ConfigMap>(NAMESPACE, NAME);
    network.listed(&geths(&ours, &theirs)).await;
    assert_eq!(network.world.links(), 6);
}

#[tokio::test(start_paused = true)]
async fn is_the_list_kept_by_the_next_pod_when_the_first_is_gone() {
    let network = Network::new();
    let mut pods = network.start_many(3);
    network.mesh(3).await;
    network.listed(&geths(&pods, &[])).await;
    let mut first = pods.remove(0);
    first.geth.stop(Stop::PowerLoss).await;
    drop(first.sidecar);
    network.server.delete::<Pod>(NAMESPACE, "geth-0");
    network.listed(&geths(&pods, &[])).await;
}

#[tokio::test(start_paused = true)]
async fn is_a_node_key_that_went_while_the_keeper_of_the_list_was_down_missed_by_nobody() {
    let network = Network::new();
    let mut pods = network.start_many(3);
    network.mesh(3).await;
    network.listed(&geths(&pods, &[])).await;
    // The first pod's sidecar is killed, and comes back when another pod has long had its new node key.
    let uid = network.entry(0).unwrap().pod_uid.unwrap();
    let PodUnderTest { number, geth, sidecar } = pods.remove(0);
    drop(sidecar);
    let mut moved = pods.remove(1);
    moved.geth.stop(Stop::Kill).await;
    drop(moved.sidecar);
    let key = fakes::geth::key(102);
    let config = fakes::geth::Config { ip: [10, 9, 9, 2].into(), key: key.clone(), ..network.geth_config(2) };
    pods.push(network.start_with(2, config));
    network.until("the new entry", || network.entry(2).is_some_and(|entry| entry.enode.key.to_string() == key)).await;
    let again = network.start_sidecar(&geth.config(), 0, &uid);
    pods.insert(0, PodUnderTest { number, geth, sidecar: again });
    let back = Instant::now();
    network.listed(&geths(&pods, &[])).await;
    network.mesh(3).await;
    let wanted = || pods.iter().all(|pod| pod.sidecar.status.borrow().wanted == 2);
    network.until("nobody wants the old key", wanted).await;
    assert!(
        back.elapsed() < Duration::from_secs(60),
        "not only after the minutes in which an earlier sidecar may be silent"
    );
}

#[tokio::test(start_paused = true)]
async fn is_an_external_node_peered_with_as_long_as_people_list_it_and_never_a_reason_to_be_unready() {
    let network = Network::new();
    let first = network.start(0);
    network.until("a registry", || network.entry(0).is_some()).await;
    let outside = network.world.start(network.geth_config(50));
    let nowhere = outside.enode().replace("10.0.0.50", "10.77.0.1").replace(&outside.key(), &fakes::geth::key(51));
    let value = json!([outside.enode(), "enode://nobody", nowhere]).to_string();
    network.write(EXTERNAL_NODES, &value);
    let second = network.start(1);
    second.sidecar.ready.clone().wait_for(|ready| *ready).await.unwrap();
    network.until("both dial it", || outside.peers().len() == 2).await;
    let mut status = first.sidecar.status.clone();
    let shown = status.wait_for(|status| status.connected == 2).await.unwrap().clone();
    let of = |name: &str| shown.peers.iter().find(|peer| peer.pod == name).map(|peer| peer.state);
    assert_eq!(of("external-nodes.json/10.0.0.50:30303"), Some("connected"));
    assert_eq!(of("external-nodes.json/10.77.0.1:30303"), Some("dialing"));
    assert_eq!(of("external-nodes.json/#2"), Some("invalid"));
    sleep(Duration::from_secs(600)).await;
    let data = network.server.get::<ConfigMap>(NAMESPACE, NAME).unwrap().data.unwrap();
    assert_eq!(data[EXTERNAL_NODES], value, "nobody edits what people write");
    network.write(EXTERNAL_NODES, "[]");
    network.until("it is let go", || outside.peers().is_empty()).await;
    network.until("and forgotten", || [&first, &second].iter().all(|pod| pod.geth.trusted().len() == 1)).await;
    assert_eq!(network.world.links(), 2);
}
