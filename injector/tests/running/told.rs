//! Whom do Events reach, and about what?

use std::sync::Arc;
use std::time::Duration;

use fakes::apiserver::{ApiServer, Verb};
use injector::audit::Audit;
use injector::metrics::Metrics;
use injector::prepare::Preparer;
use injector::scope::Scope;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};

use crate::support::*;

/// Kind, name and UID of what the Events of `namespace` are about.
fn about(server: &ApiServer, namespace: &str) -> Vec<(String, String, String)> {
    let regarding = server.list::<Event>(namespace).into_iter().filter_map(|event| event.regarding);
    regarding
        .map(|object| {
            (object.kind.unwrap_or_default(), object.name.unwrap_or_default(), object.uid.unwrap_or_default())
        })
        .collect()
}

#[tokio::test]
async fn is_a_namespace_whose_label_means_nothing_told_once_what_to_write() {
    let server = cluster();
    put_namespace_with(&server, "chain", "true");
    put_namespace_with(&server, "out", "disabled");
    put_namespace_with(&server, EXCLUDED, "true");
    let _replica = Replica::start(&server).await;
    until("an Event", async || !server.list::<Event>("chain").is_empty()).await;
    let event = server.list::<Event>("chain").remove(0);
    assert_eq!(event.reason.as_deref(), Some("bad-label"));
    let note = event.note.unwrap();
    assert!(note.contains("geth-peering=true") && note.contains("geth-peering=enabled"), "{note}");
    let regarding = event.regarding.unwrap();
    assert_eq!((regarding.kind.as_deref(), regarding.name.as_deref()), (Some("Namespace"), Some("chain")));
    assert_eq!(regarding.namespace, event.metadata.namespace, "or an API server refuses it");

    // Neither another replica nor a new list says it again. What comes after it shows that it was seen.
    let _other = Replica::start(&server).await;
    server.compact();
    put_namespace_with(&server, "wrong-too", "Enabled");
    until("two Events", async || server.count(Verb::Create, "events") >= 4).await;
    assert_eq!(server.list::<Event>("chain").len(), 1);
    assert_eq!(server.list::<Event>("wrong-too").len(), 1);
    for silent in ["out", EXCLUDED] {
        assert_eq!(server.list::<Event>(silent), [], "{silent}");
    }
    assert_eq!(server.get::<ServiceAccount>("chain", "geth-peering"), None, "nothing is made there");

    put_namespace_with(&server, "chain", "enabled");
    until("the account", async || server.get::<ServiceAccount>("chain", "geth-peering").is_some()).await;
}

#[tokio::test]
async fn does_a_namespace_lose_its_label_by_another_value() {
    let server = cluster();
    put_namespace_with(&server, "chain", "enabled");
    put_namespace_with(&server, "other", "enabled");
    let _replica = Replica::start(&server).await;
    let has_account = |namespace: &str| server.get::<ServiceAccount>(namespace, "geth-peering").is_some();
    until("both accounts", async || has_account("chain") && has_account("other")).await;
    put_namespace_with(&server, "chain", "disabled");
    for namespace in ["chain", "other"] {
        server.delete::<ServiceAccount>(namespace, "geth-peering");
    }
    until("the account of the labelled one", async || has_account("other")).await;
    assert!(!has_account("chain"));
}

fn put_replica_set(server: &ApiServer, name: &str) {
    server.put::<ReplicaSet>(&object(json!({
        "metadata": {
            "name": name, "namespace": "chain",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "geth", "uid": "d-1", "controller": true}],
        },
    })));
}

/// A pod without sidecar that this ReplicaSet made.
fn pod_of(server: &ApiServer, replica_set: &str) -> Value {
    let uid = server.get::<ReplicaSet>("chain", replica_set).and_then(|set| set.metadata.uid);
    let mut pod = geth_pod(json!({"geth-peering": "enabled"}));
    pod["metadata"]["namespace"] = json!("chain");
    pod["metadata"]["name"] = json!(format!("{replica_set}-x"));
    pod["metadata"]["ownerReferences"][0] =
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set, "uid": uid, "controller": true});
    pod
}

#[tokio::test]
async fn is_the_deployment_told_and_not_its_replica_set() {
    let server = cluster();
    put_replica_set(&server, "geth-1");
    put_replica_set(&server, "geth-2");
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let refuse = async |name: &str| {
        let mut pod = pod_of(&server, name);
        pod["spec"]["containers"][0] = json!({"name": "web", "image": "nginx"});
        let response = api_server.review("/mutate/pods", &review("chain", pod)).await;
        assert_eq!(response["allowed"], false);
    };
    refuse("geth-1").await;
    until("an Event", async || !server.list::<Event>("chain").is_empty()).await;
    assert_eq!(about(&server, "chain"), [("Deployment".into(), "geth".into(), "d-1".into())]);

    // Where that cannot be found out, better there than nowhere.
    server.delete::<Event>("chain", &server.list::<Event>("chain")[0].metadata.name.clone().unwrap());
    server.forbid(Verb::Get, "replicasets");
    refuse("geth-2").await;
    until("another Event", async || !server.list::<Event>("chain").is_empty()).await;
    let told = about(&server, "chain");
    assert_eq!((told[0].0.as_str(), told[0].1.as_str()), ("ReplicaSet", "geth-2"));
}

#[tokio::test(start_paused = true)]
async fn is_a_deployment_told_once_of_the_pods_of_all_its_replica_sets_that_lack_their_sidecar() {
    let server = cluster();
    for name in ["geth-1", "geth-2"] {
        put_replica_set(&server, name);
        server.put::<Pod>(&object(pod_of(&server, name)));
    }
    let (metrics, client) = (Arc::new(Metrics::default()), server.client(OWN_NAMESPACE));
    let preparer = Arc::new(Preparer::new(client.clone(), ROLE, Scope::default(), metrics.clone()));
    let audit = tokio::spawn(Audit::new(client, preparer, metrics, settings(), "injector-0").run());
    tokio::time::sleep(Duration::from_secs(31)).await;
    until("both are told", async || server.count(Verb::Create, "events") == 2).await;
    assert_eq!(about(&server, "chain"), [("Deployment".into(), "geth".into(), "d-1".into())]);
    audit.abort();
}

#[tokio::test(start_paused = true)]
async fn does_a_pod_that_nobody_owns_say_itself_that_it_lacks_its_sidecar() {
    let server = cluster();
    let mut pod = geth_pod(json!({"geth-peering": "enabled"}));
    pod["metadata"]["namespace"] = json!("chain");
    pod["metadata"]["ownerReferences"] = json!([]);
    let uid = server.put::<Pod>(&object(pod)).metadata.uid.unwrap();
    let (metrics, client) = (Arc::new(Metrics::default()), server.client(OWN_NAMESPACE));
    let preparer = Arc::new(Preparer::new(client.clone(), ROLE, Scope::default(), metrics.clone()));
    let audit = tokio::spawn(Audit::new(client, preparer, metrics, settings(), "injector-0").run());
    tokio::time::sleep(Duration::from_secs(31)).await;
    until("it is told", async || server.count(Verb::Create, "events") == 1).await;
    assert_eq!(about(&server, "chain"), [("Pod".into(), "geth-0".into(), uid)]);
    audit.abort();
}
