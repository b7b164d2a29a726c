//! Does the mesh stay, and is it said what is wrong, when the registry or the API server is not as it should be?

use std::time::Duration;

use fakes::apiserver::{Fault, Verb};
use fakes::geth::Stop;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::time::sleep;

use crate::network::{NAME, NAMESPACE, Network};

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
async fn is_no_link_lost_when_the_registry_is_deleted_while_a_sidecar_is_down() {
    let network = Network::new();
    let mut pods = network.start_many(5);
    network.mesh(5).await;
    sleep(Duration::from_secs(60)).await;
    let lost = pods.remove(0);
    let uid = network.entry(0).unwrap().pod_uid.unwrap();
    drop(lost.sidecar); // It crashed; its Geth lives.
    network.server.delete::<ConfigMap>(NAMESPACE, NAME);
    for _ in 0..300 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(network.world.links(), 20);
    }
    let _again = network.start_sidecar(&lost.geth.config(), 0, &uid);
    network.until("its entry is back", || network.entry(0).is_some()).await;
    assert_eq!(network.world.links(), 20);
}

#[tokio::test(start_paused = true)]
async fn does_a_sidecar_that_may_not_write_say_so_and_begin_as_soon_as_it_may() {
    let network = Network::new();
    network.server.forbid(Verb::Patch, "configmaps");
    let first = network.start(0);
    let mut status = first.sidecar.status.clone();
    // The ConfigMap exists, so that it is the patch that is forbidden.
    network.server.put(&ConfigMap { metadata: network.named(NAME), ..ConfigMap::default() });
    let told = status.wait_for(|status| status.registry.shown.state == "unwritable").await.unwrap().clone();
    assert!(told.registry.shown.reason.contains("cannot write"), "{:?}", told.registry);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(first.sidecar.status.borrow().registry.shown.state, "unwritable", "whatever else is seen of it");
    assert!(!*first.sidecar.ready.borrow());
    network.server.heal();
    first.sidecar.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert_eq!(first.sidecar.status.borrow().registry.shown.state, "watching");
}

#[tokio::test(start_paused = true)]
async fn is_a_write_that_was_done_and_never_answered_no_lasting_trouble() {
    let network = Network::new();
    let first = network.start(0);
    network.until("the first entry", || network.entry(0).is_some()).await;
    network.server.fault(Verb::Patch, "configmaps", Fault::LoseAnswer, 1);
    let second = network.start(1);
    network.mesh(2).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(second.sidecar.status.borrow().registry.shown.state, "watching");
    assert!(*second.sidecar.ready.borrow());
    drop((first, second));
}

#[tokio::test(start_paused = true)]
async fn does_a_sidecar_whose_rights_come_late_watch_within_a_minute() {
    let network = Network::new();
    for verb in [Verb::Watch, Verb::List, Verb::Get, Verb::Patch, Verb::Create] {
        network.server.forbid(verb, "configmaps");
    }
    let pods = network.start_many(3);
    sleep(Duration::from_secs(60)).await;
    assert!(pods.iter().all(|pod| !*pod.sidecar.ready.borrow()));
    network.server.heal();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(network.world.links(), 6);
    assert!(pods.iter().all(|pod| pod.sidecar.status.borrow().registry.shown.state == "watching"));
}

#[tokio::test(start_paused = true)]
async fn is_a_geth_that_can_no_longer_have_peers_withdrawn_once_though_nobody_may_watch() {
    let network = Network::new();
    network.server.forbid(Verb::Watch, "configmaps");
    network.server.forbid(Verb::List, "configmaps");
    let mut pod = network.start(0);
    network.until("the entry", || network.entry(0).is_some()).await;
    sleep(Duration::from_secs(300)).await;
    network.server.forget_calls();
    pod.geth.stop(Stop::Clean).await;
    pod.geth.configure(|config| config.p2p = false);
    pod.geth.start();
    network.until("the withdrawal", || network.value(0).is_none()).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(network.server.count(Verb::Patch, "configmaps"), 1);
    assert_eq!(pod.sidecar.status.borrow().own.entry, None);
}

#[tokio::test(start_paused = true)]
async fn do_two_sidecars_under_one_pod_name_leave_the_api_server_alone_and_say_so() {
    let network = Network::new();
    let first = network.start(0);
    network.until("the entry", || network.entry(0).is_some()).await;
    let config = fakes::geth::Config { socket: network.folder.path().join("other.ipc"), ..network.geth_config(9) };
    let _other_geth = network.world.start(config.clone());
    let _other = network.start_sidecar(&config, 0, "another-uid");
    network.server.forget_calls();
    sleep(Duration::from_secs(120)).await;
    let writes = network.server.writes();
    assert!(writes < 100, "{writes} writes in two minutes");
    let status = first.sidecar.status.borrow().clone();
    assert!(
        status.concerns.iter().any(|concern| concern.to_string().contains("second sidecar")),
        "{:?}",
        status.concerns
    );
}

#[tokio::test(start_paused = true)]
async fn is_a_registry_restored_from_a_backup_believed_though_its_versions_are_older() {
    let network = Network::new();
    let pods = network.start_many(3);
    network.mesh(3).await;
    sleep(Duration::from_secs(60)).await;
    let lost = network.entry(1).unwrap();
    network.server.rewind(NAMESPACE, NAME, |configmap: &mut ConfigMap| {
        configmap.data.as_mut().unwrap().remove("geth-1");
    });
    network.until("the lost entry is back", || network.entry(1) == Some(lost.clone())).await;
    let late = network.start(3);
    network.mesh(4).await;
    drop((pods, late));
}
