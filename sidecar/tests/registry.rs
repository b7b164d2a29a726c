//! Does the registry keep what is written to it, and show what happens to it?
//! Asked of the in-memory API server, which answers as the real one does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on shall fail where it stands")]

use fakes::apiserver::{ApiServer, Fault, Verb};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sidecar::registry::store::{DEADLINE, PodState, RegistryEvent, Store, StoreErrorKind};
use sidecar::registry::view::View;
use tokio::sync::mpsc;

const NAMESPACE: &str = "chain";
const NAME: &str = "geth-peering";

fn store(server: &ApiServer) -> Store {
    Store::new(server.client(NAMESPACE), NAMESPACE, NAME)
}

fn value_of(server: &ApiServer, pod: &str) -> Option<String> {
    server.get::<ConfigMap>(NAMESPACE, NAME)?.data?.get(pod).cloned()
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() }
}

/// What the watch tells, as long as it is kept.
struct Watching {
    events: mpsc::Receiver<RegistryEvent>,
    task: tokio::task::JoinHandle<()>,
}

impl Watching {
    fn start(store: Store) -> Self {
        let (sender, events) = mpsc::channel(64);
        Self { events, task: tokio::spawn(async move { store.watch(sender).await }) }
    }

    /// The first view that `wanted` accepts; others on the way are passed over.
    async fn until(&mut self, wanted: impl Fn(&View) -> bool) -> View {
        loop {
            match self.events.recv().await.unwrap() {
                RegistryEvent::Read(view) | RegistryEvent::Changed(view) if wanted(&view) => return view,
                _ => {}
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn holds(pod: &'static str, value: &'static str) -> impl Fn(&View) -> bool {
    move |view| view.get(pod).is_some_and(|record| record.value == value)
}

#[tokio::test]
async fn is_the_configmap_made_when_there_is_none() {
    let server = ApiServer::new();
    let view = store(&server).assert("geth-0", "a", DEADLINE).await.unwrap();
    assert_eq!(view.get("geth-0").unwrap().value, "a");
    assert_eq!(value_of(&server, "geth-0").as_deref(), Some("a"));
}

#[tokio::test]
async fn do_many_sidecars_that_register_at_once_all_stay_registered() {
    let server = ApiServer::new();
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..50 {
        let store = store(&server);
        writers.spawn(async move { store.assert(&format!("geth-{number}"), "a", DEADLINE).await.unwrap() });
    }
    writers.join_all().await;
    let view = View::default().next(&server.get::<ConfigMap>(NAMESPACE, NAME).unwrap());
    assert_eq!(view.iter().count(), 50);
}

#[tokio::test]
async fn does_a_new_configmap_have_the_list_without_which_earlier_sidecars_die() {
    let server = ApiServer::new();
    let view = store(&server).assert("geth-0", "a", DEADLINE).await.unwrap();
    assert_eq!(view.static_nodes().unwrap().value, "[]");
}

#[tokio::test]
async fn does_the_list_take_no_write_that_was_made_for_another_one() {
    let server = ApiServer::new();
    let store = store(&server);
    let list = |view: &View| view.static_nodes().map(|list| list.value.clone());
    store.assert("geth-0", "a", DEADLINE).await.unwrap();
    let written = store.write_list(Some("[]"), None, "[1]").await.unwrap();
    assert_eq!(list(&written).as_deref(), Some("[1]"));
    let seen = store.write_list(Some("[]"), None, "[2]").await.unwrap();
    assert_eq!(list(&seen).as_deref(), Some("[1]"), "what is there instead is shown");

    // The same where there is no list.
    server.edit(NAMESPACE, NAME, |configmap: &mut ConfigMap| {
        configmap.data.as_mut().unwrap().remove("static-nodes.json");
    });
    let before = store.assert("geth-0", "a", DEADLINE).await.unwrap();
    assert_eq!(list(&before), None);
    server.edit(NAMESPACE, NAME, |configmap: &mut ConfigMap| {
        configmap.data.as_mut().unwrap().insert("static-nodes.json".into(), "[3]".into());
    });
    let seen = store.write_list(None, before.version(), "[4]").await.unwrap();
    assert_eq!(list(&seen).as_deref(), Some("[3]"), "somebody else made one");
    server.edit(NAMESPACE, NAME, |configmap: &mut ConfigMap| {
        configmap.data.as_mut().unwrap().remove("static-nodes.json");
    });
    let before = store.assert("geth-0", "a", DEADLINE).await.unwrap();
    let written = store.write_list(None, before.version(), "[4]").await.unwrap();
    assert_eq!(list(&written).as_deref(), Some("[4]"));
    server.delete::<ConfigMap>(NAMESPACE, NAME);
    assert_eq!(store.write_list(Some("[4]"), None, "[5]").await.unwrap(), View::default());
}

#[tokio::test]
async fn does_an_assert_that_changes_nothing_write_nothing_and_show_all() {
    let server = ApiServer::new();
    let store = store(&server);
    store.assert("geth-0", "a", DEADLINE).await.unwrap();
    store.assert("geth-1", "b", DEADLINE).await.unwrap();
    server.forget_calls();
    let view = store.assert("geth-0", "a", DEADLINE).await.unwrap();
    assert_eq!(view.iter().count(), 2);
    assert_eq!((server.calls().len(), server.writes()), (1, 0));
}

#[tokio::test]
async fn does_a_removal_spare_a_value_that_was_written_after_the_judgement() {
    let server = ApiServer::new();
    let store = store(&server);
    store.assert("geth-0", "new", DEADLINE).await.unwrap();
    assert!(store.remove("geth-0", "old").await.unwrap().is_none());
    assert_eq!(value_of(&server, "geth-0").as_deref(), Some("new"));
    assert_eq!(store.remove("geth-0", "new").await.unwrap().unwrap().iter().count(), 0);
    assert_eq!(value_of(&server, "geth-0"), None);
    assert!(store.remove("geth-0", "new").await.unwrap().is_none(), "removing twice does no harm");
    server.delete::<ConfigMap>(NAMESPACE, NAME);
    assert!(store.remove("geth-0", "new").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn does_a_write_that_was_done_and_never_answered_end_and_do_no_harm_when_repeated() {
    let server = ApiServer::new();
    let store = store(&server);
    store.assert("geth-1", "b", DEADLINE).await.unwrap();
    server.fault(Verb::Patch, "configmaps", Fault::LoseAnswer, 1);
    assert_eq!(store.assert("geth-0", "a", DEADLINE).await.unwrap_err().kind(), StoreErrorKind::Other);
    server.forget_calls();
    store.assert("geth-0", "a", DEADLINE).await.unwrap();
    assert_eq!((value_of(&server, "geth-0").as_deref(), server.writes()), (Some("a"), 0));
}

#[tokio::test]
async fn is_it_told_whether_a_pod_lives() {
    let server = ApiServer::new();
    let store = store(&server);
    assert_eq!(store.look("geth-0").await.unwrap(), PodState::Gone);
    let status = |phase: &str| Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() });
    let pod = server.put(&Pod { metadata: named("geth-0"), status: status("Running"), ..Pod::default() });
    assert_eq!(
        store.look("geth-0").await.unwrap(),
        PodState::Alive { uid: pod.metadata.uid.unwrap(), terminating: false }
    );
    server.edit("chain", "geth-0", |pod: &mut Pod| pod.status = status("Failed"));
    assert_eq!(store.look("geth-0").await.unwrap(), PodState::Finished);
    server.forbid(Verb::Get, "pods");
    assert_eq!(store.look("geth-0").await.unwrap_err().kind(), StoreErrorKind::Forbidden);
}

#[tokio::test]
async fn is_a_pod_of_another_namespace_looked_for_where_it_is() {
    let server = ApiServer::new();
    let store = store(&server);
    server.put(&Pod { metadata: named("geth-0"), ..Pod::default() });
    assert_eq!(store.look("east_geth-0").await.unwrap(), PodState::Gone, "the one of the same name is another");
    let metadata = ObjectMeta { namespace: Some("east".into()), ..named("geth-0") };
    let uid = server.put(&Pod { metadata, ..Pod::default() }).metadata.uid.unwrap();
    assert_eq!(store.look("east_geth-0").await.unwrap(), PodState::Alive { uid, terminating: false });
    store.assert("east_geth-0", "a", DEADLINE).await.unwrap();
    assert_eq!(value_of(&server, "east_geth-0").as_deref(), Some("a"), "it is a key that a ConfigMap may have");
}

#[tokio::test]
async fn does_the_watch_show_the_configmap_made_changed_deleted_and_made_again() {
    let server = ApiServer::new();
    let mut watching = Watching::start(store(&server));
    watching.until(|view| view.iter().count() == 0).await;
    store(&server).assert("geth-0", "a", DEADLINE).await.unwrap();
    watching.until(holds("geth-0", "a")).await;
    store(&server).assert("geth-0", "b", DEADLINE).await.unwrap();
    watching.until(holds("geth-0", "b")).await;
    server.delete::<ConfigMap>(NAMESPACE, NAME);
    watching.until(|view| view.iter().count() == 0).await;
    store(&server).assert("geth-0", "c", DEADLINE).await.unwrap();
    watching.until(holds("geth-0", "c")).await;
}

#[tokio::test(start_paused = true)]
async fn does_the_watch_survive_whatever_ends_it() {
    let server = ApiServer::new();
    store(&server).assert("geth-0", "a", DEADLINE).await.unwrap();
    let mut watching = Watching::start(store(&server));
    watching.until(holds("geth-0", "a")).await;

    server.close_watches();
    store(&server).assert("geth-0", "b", DEADLINE).await.unwrap();
    watching.until(holds("geth-0", "b")).await;

    server.compact();
    store(&server).assert("geth-0", "c", DEADLINE).await.unwrap();
    watching.until(holds("geth-0", "c")).await;

    for fault in [Fault::Status(500), Fault::Status(429), Fault::Hang] {
        server.fault(Verb::Watch, "configmaps", fault, 3);
        server.fault(Verb::List, "configmaps", fault, 3);
        server.close_watches();
        store(&server).assert("geth-0", "d", DEADLINE).await.unwrap();
        watching.until(holds("geth-0", "d")).await;
        store(&server).assert("geth-0", "c", DEADLINE).await.unwrap();
        watching.until(holds("geth-0", "c")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn is_a_quiet_registry_neither_read_nor_written() {
    let server = ApiServer::new();
    store(&server).assert("geth-0", "a", DEADLINE).await.unwrap();
    let mut watching = Watching::start(store(&server));
    watching.until(holds("geth-0", "a")).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    server.forget_calls();
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    let others: Vec<_> = server.calls().into_iter().filter(|call| call.verb != Verb::Watch).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test(start_paused = true)]
async fn is_the_registry_seen_without_the_right_to_watch() {
    let server = ApiServer::new();
    server.forbid(Verb::Watch, "configmaps");
    server.forbid(Verb::List, "configmaps");
    let mut watching = Watching::start(store(&server));
    watching.until(|view| view.iter().count() == 0).await;
    store(&server).assert("geth-0", "a", DEADLINE).await.unwrap();
    watching.until(holds("geth-0", "a")).await;
    // Given the right, it watches again, without a restart.
    server.heal();
    server.forget_calls();
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(server.count(Verb::Watch, "configmaps") > 0);
}

#[tokio::test(start_paused = true)]
async fn is_a_registry_that_nobody_may_watch_read_rarely_once_it_is_quiet() {
    let server = ApiServer::new();
    store(&server).assert("geth-0", "a", DEADLINE).await.unwrap();
    server.forbid(Verb::Watch, "configmaps");
    let mut watching = Watching::start(store(&server));
    watching.until(holds("geth-0", "a")).await;
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    server.forget_calls();
    let _others = tokio::spawn(async move { while watching.events.recv().await.is_some() {} });
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    let calls = server.calls().len();
    assert!((15..=40).contains(&calls), "{calls} calls in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn is_a_watch_that_ends_at_once_not_begun_again_without_pause() {
    let server = ApiServer::new();
    store(&server).assert("geth-0", "a", DEADLINE).await.unwrap();
    server.fault(Verb::Watch, "configmaps", Fault::EndAtOnce, 10_000);
    let mut watching = Watching::start(store(&server));
    watching.until(holds("geth-0", "a")).await;
    let _others = tokio::spawn(async move { while watching.events.recv().await.is_some() {} });
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let watches = server.count(Verb::Watch, "configmaps");
    assert!((5..30).contains(&watches), "{watches} watches in a minute");
}
