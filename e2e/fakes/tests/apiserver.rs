//! Does the fake API server keep the rules that the product relies on?
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail their test")]

use std::pin::pin;
use std::time::Duration;

use fakes::apiserver::{ApiServer, Fault, Verb};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{
    Api, DeleteParams, ListParams, ObjectMeta, PartialObjectMeta, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::runtime::watcher;
use serde_json::json;

const NS: &str = "ns";

fn map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.into()), namespace: Some(NS.into()), ..ObjectMeta::default() },
        data: Some(data.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()),
        ..ConfigMap::default()
    }
}

fn maps(server: &ApiServer) -> Api<ConfigMap> {
    Api::default_namespaced(server.client(NS))
}

fn version(map: &ConfigMap) -> String {
    map.metadata.resource_version.clone().unwrap()
}

async fn merge(api: &Api<ConfigMap>, patch: serde_json::Value) -> kube::Result<ConfigMap> {
    api.patch("m", &PatchParams::apply("tests"), &Patch::Merge(patch)).await
}

fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.reason),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn does_a_merge_patch_touch_only_its_key_and_a_second_one_nothing() {
    let server = ApiServer::new();
    let api = maps(&server);
    assert_eq!(code(merge(&api, json!({ "data": { "a": "1" } })).await), (404, "NotFound".into()));
    server.put(&map("m", &[("b", "2")]));

    let first = merge(&api, json!({ "data": { "a": "1" } })).await.unwrap();
    assert_eq!(first.data, map("m", &[("a", "1"), ("b", "2")]).data);
    let second = merge(&api, json!({ "data": { "a": "1" } })).await.unwrap();
    assert_eq!(version(&first), version(&second));
    assert_eq!((server.writes(), server.count(Verb::Patch, "configmaps")), (1, 3));
    assert!(server.calls().iter().all(|call| call.query.contains("fieldManager=tests")));

    merge(&api, json!({ "data": { "a": null } })).await.unwrap();
    assert_eq!(server.get::<ConfigMap>(NS, "m").unwrap().data, map("m", &[("b", "2")]).data);
}

#[tokio::test]
async fn is_a_json_patch_whose_test_fails_unprocessable_and_without_effect() {
    let server = ApiServer::new();
    server.put(&map("m", &[("a", "1")]));
    let evict = |value: &str| {
        let patch = json!([{ "op": "test", "path": "/data/a", "value": value }, { "op": "remove", "path": "/data/a" }]);
        Patch::Json::<()>(serde_json::from_value(patch).unwrap())
    };
    let api = maps(&server);
    let refused = api.patch("m", &PatchParams::default(), &evict("0")).await;
    assert_eq!(code(refused), (422, "Invalid".into()));
    assert_eq!(server.writes(), 0);
    let done = api.patch("m", &PatchParams::default(), &evict("1")).await.unwrap();
    // With the last key goes the field, so nothing can be added under it.
    assert_eq!(done.data, None);
    assert_eq!(code(api.patch("m", &PatchParams::default(), &evict("1")).await).0, 422);
    let writes = server.writes();
    merge(&api, json!({ "data": { "a": null } })).await.unwrap();
    assert_eq!(server.writes(), writes);
}

#[tokio::test]
async fn are_stale_writers_and_second_creators_refused() {
    let server = ApiServer::new();
    let api = maps(&server);
    let made = api.create(&PostParams::default(), &map("m", &[])).await.unwrap();
    assert!(made.metadata.uid.is_some());
    let again = api.create(&PostParams::default(), &map("m", &[])).await;
    assert_eq!(code(again), (409, "AlreadyExists".into()));

    server.edit(NS, "m", |map: &mut ConfigMap| map.data = Some([("x".into(), "1".into())].into()));
    let stale = api.replace("m", &PostParams::default(), &made).await;
    assert_eq!(code(stale), (409, "Conflict".into()));
    let stale = merge(&api, json!({ "metadata": { "resourceVersion": version(&made) } })).await;
    assert_eq!(code(stale).0, 409);
    let fresh = api.get("m").await.unwrap();
    api.replace("m", &PostParams::default(), &fresh).await.unwrap();

    api.delete("m", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(api.delete("m", &DeleteParams::default()).await).0, 404);
}

#[tokio::test]
async fn does_a_dry_run_change_nothing() {
    let server = ApiServer::new();
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps(&server).create(&dry, &map("m", &[])).await.unwrap();
    assert!(server.get::<ConfigMap>(NS, "m").is_none());
    assert_eq!((server.writes(), server.count(Verb::Create, "configmaps")), (0, 1));
}

#[tokio::test]
async fn is_the_role_of_a_binding_fixed() {
    let server = ApiServer::new();
    let binding = |role: &str| -> RoleBinding {
        serde_json::from_value(json!({
            "metadata": { "name": "b", "namespace": NS },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        }))
        .unwrap()
    };
    server.put(&binding("one"));
    let api: Api<RoleBinding> = Api::namespaced(server.client("other"), NS);
    assert_eq!(code(api.replace("b", &PostParams::default(), &binding("two")).await).0, 422);
}

#[tokio::test]
async fn does_a_watch_of_one_object_see_it_come_change_and_go_and_nothing_else() {
    let server = ApiServer::new();
    let first = server.put(&map("m", &[]));
    let params = WatchParams::default().fields("metadata.name=m");
    let api = maps(&server);
    let mut events = pin!(api.watch(&params, &version(&first)).await.unwrap());
    server.put(&map("other", &[]));
    server.edit(NS, "m", |map: &mut ConfigMap| map.data = Some([("x".into(), "1".into())].into()));
    server.delete::<ConfigMap>(NS, "m");
    server.put(&map("m", &[]));
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["modified", "deleted", "added"]);

    server.close_watches();
    assert!(events.try_next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn does_kubes_watcher_recover_from_a_compacted_history() {
    let server = ApiServer::new();
    server.put(&map("m", &[("x", "1")]));
    let mut objects = pin!(watcher::watch_object(maps(&server), "m").filter_map(async |seen| seen.ok()));
    let data = |seen: Option<Option<ConfigMap>>| seen.flatten().and_then(|map| map.data).unwrap_or_default();
    assert_eq!(data(objects.next().await)["x"], "1");

    // Forgotten history, and a change that the watch cannot have seen.
    server.edit(NS, "m", |map: &mut ConfigMap| map.data = Some([("x".into(), "2".into())].into()));
    server.compact();
    while data(objects.next().await)["x"] != "2" {}
    server.delete::<ConfigMap>(NS, "m");
    while objects.next().await.unwrap().is_some() {}
}

#[tokio::test]
async fn is_a_watch_from_before_a_compaction_gone() {
    let server = ApiServer::new();
    let old = server.put(&map("m", &[]));
    server.put(&map("n", &[]));
    server.compact();
    let api = maps(&server);
    let mut events = pin!(api.watch(&WatchParams::default(), &version(&old)).await.unwrap());
    match events.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(gone) => assert_eq!((gone.code, gone.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    assert!(events.try_next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn do_faults_hit_the_calls_they_are_meant_for_and_no_more() {
    let server = ApiServer::new();
    server.put(&map("m", &[]));
    let api = maps(&server);
    let patch = |value: &str| merge(&api, json!({ "data": { "a": value } }));
    let value = || server.get::<ConfigMap>(NS, "m").unwrap().data.and_then(|data| data.get("a").cloned());
    let limit = Duration::from_secs(1);

    server.forbid(Verb::Watch, "configmaps");
    let refused = api.watch(&WatchParams::default(), "0").await.map(drop);
    assert_eq!(code(refused), (403, "Forbidden".into()));
    api.get("m").await.unwrap();
    server.heal();
    api.watch(&WatchParams::default(), "0").await.map(drop).unwrap();

    server.fault(Verb::Patch, "configmaps", Fault::Status(500), 1);
    server.fault(Verb::Patch, "configmaps", Fault::Hang, 1);
    server.fault(Verb::Patch, "configmaps", Fault::LoseAnswer, 1);
    assert_eq!(code(patch("1").await).0, 500);
    assert!(tokio::time::timeout(limit, patch("2")).await.is_err());
    assert_eq!(value(), None);
    assert!(tokio::time::timeout(limit, patch("3")).await.is_err());
    assert_eq!(value().unwrap(), "3");
    patch("4").await.unwrap();
}

#[tokio::test]
async fn do_selectors_and_metadata_requests_show_what_was_asked_for() {
    let server = ApiServer::new();
    for (name, labels) in [("a", json!({ "app": "geth" })), ("b", json!({ "app": "other", "x": "" })), ("c", json!({}))]
    {
        let pod =
            json!({ "metadata": { "name": name, "namespace": NS, "labels": labels }, "spec": { "containers": [] } });
        server.put::<Pod>(&serde_json::from_value(pod).unwrap());
    }
    let names = async |params: ListParams| {
        let pods: Api<PartialObjectMeta<Pod>> = Api::all(server.client(NS));
        let list = pods.list_metadata(&params).await.unwrap();
        list.items.into_iter().map(|pod| pod.metadata.name.unwrap()).collect::<Vec<_>>().concat()
    };
    assert_eq!(names(ListParams::default()).await, "abc");
    assert_eq!(names(ListParams::default().labels("app=geth")).await, "a");
    assert_eq!(names(ListParams::default().labels("app!=geth,!x")).await, "c");
    assert_eq!(names(ListParams::default().labels("x")).await, "b");
    assert_eq!(names(ListParams::default().fields("metadata.name=c")).await, "c");
    server.edit(NS, "a", |pod: &mut Pod| {
        pod.status = Some(PodStatus { phase: Some("Failed".to_owned()), ..PodStatus::default() });
    });
    assert_eq!(names(ListParams::default().fields("status.phase=Failed")).await, "a");
    assert_eq!(names(ListParams::default().fields("status.phase!=Failed,metadata.name!=c")).await, "b");
    assert_eq!(server.list::<Pod>(NS).len(), 3);
    assert_eq!(server.list::<Pod>("elsewhere").len(), 0);
}

#[tokio::test]
async fn is_a_config_map_refused_that_is_too_large_or_changes_while_immutable() {
    let server = ApiServer::new();
    let api = maps(&server);
    server.put(&map("m", &[("a", "1")]));
    let large = "x".repeat(1 << 20);
    assert_eq!(code(merge(&api, json!({ "data": { "b": large } })).await), (422, "Invalid".into()));
    merge(&api, json!({ "immutable": true })).await.unwrap();
    assert_eq!(code(merge(&api, json!({ "data": { "a": "2" } })).await), (422, "Invalid".into()));
    assert_eq!(code(merge(&api, json!({ "immutable": null })).await), (422, "Invalid".into()));
    merge(&api, json!({ "data": { "a": "1" }, "metadata": { "labels": { "a": "b" } } })).await.unwrap();
}

#[tokio::test]
async fn does_an_update_that_repeats_what_is_there_change_nothing() {
    let server = ApiServer::new();
    let before = version(&server.put(&map("m", &[("a", "1")])));
    let mut same = map("m", &[("a", "1")]);
    same.metadata.namespace = None;
    let after = maps(&server).replace("m", &PostParams::default(), &same).await.unwrap();
    assert_eq!(before, version(&after));
}
