//! Is it noticed that pods lack their sidecar?

use std::sync::Arc;
use std::time::Duration;

use fakes::apiserver::{ApiServer, Verb};
use injector::audit::Audit;
use injector::handler::Webhook;
use injector::metrics::Metrics;
use injector::prepare::Preparer;
use injector::readiness::Readiness;
use injector::scope::Scope;
use injector::{check, events};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::RoleBinding;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::*;

fn put_pod(server: &ApiServer, name: &str, labels: Value, annotations: Value) {
    server.put::<Pod>(&object(json!({
        "metadata": {
            "name": name, "namespace": "chain", "labels": labels, "annotations": annotations,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "geth", "uid": "s-1", "controller": true}],
        },
        "spec": {"containers": [{"name": "geth"}]},
    })));
}

/// A running Geth that nothing says anything of.
fn plain_geth(namespace: &str, name: &str) -> Value {
    let mut pod = geth_pod(json!({}));
    pod["metadata"]["namespace"] = json!(namespace);
    pod["metadata"]["name"] = json!(name);
    pod["status"] = json!({"phase": "Running"});
    pod
}

/// An injector's audit and what it knows of namespaces, without the rest; it ends when dropped.
struct Looking {
    metrics: Arc<Metrics>,
    _tasks: JoinSet<()>,
}

impl Looking {
    fn start(server: &ApiServer, scope: Scope) -> Self {
        let (metrics, client) = (Arc::new(Metrics::default()), server.client(OWN_NAMESPACE));
        let preparer = Arc::new(Preparer::new(client.clone(), ROLE, scope, metrics.clone()));
        let audit = Audit::new(client.clone(), preparer.clone(), metrics.clone(), settings(), "injector-0");
        let mut tasks = JoinSet::new();
        let synced = Readiness::default().latch("namespaces");
        let (notices, reporter) = events::channel(client.clone(), "injector-0");
        tasks.spawn(reporter.run());
        tasks.spawn(async move { preparer.run(synced, notices).await.unwrap() });
        tasks.spawn(async move { audit.run().await });
        Self { metrics, _tasks: tasks }
    }

    /// Waits until so many pods are counted without their sidecar.
    async fn until_uninjected(&self, pods: usize) {
        let line = format!("geth_peering_injector_flawed_pods{{flaw=\"uninjected\"}} {pods}\n");
        until(&line, async || self.metrics.text().unwrap().contains(&line)).await;
    }
}

/// How long an injector runs before its first look is over.
const A_LOOK: Duration = Duration::from_secs(31);

#[tokio::test(start_paused = true)]
async fn is_a_geth_that_was_there_before_its_namespace_was_labelled_counted_and_its_owner_told() {
    let server = cluster();
    put_namespace(&server, "chain", true);
    put_namespace(&server, "plain", false);
    server.put::<Pod>(&object(plain_geth("chain", "geth-0")));
    server.put::<Pod>(&object(plain_geth("plain", "geth-0")));
    let mut others = [plain_geth("chain", "web"), plain_geth("chain", "init"), plain_geth("chain", "ended")];
    others[0]["spec"]["containers"][0] = json!({"name": "web", "image": "nginx"});
    others[1]["spec"]["containers"][0]["args"] = json!(["init", "/genesis.json"]);
    others[2]["status"]["phase"] = json!("Succeeded");
    others.into_iter().for_each(|pod| {
        server.put::<Pod>(&object(pod));
    });

    let looking = Looking::start(&server, Scope::default());
    tokio::time::sleep(A_LOOK).await;
    looking.until_uninjected(1).await;
    until("an Event", async || !server.list::<Event>("chain").is_empty()).await;
    let event = server.list::<Event>("chain").remove(0);
    let note = event.note.unwrap();
    assert!(note.contains("geth-0") && note.contains("created before the label"), "{note}");
    assert_eq!(event.regarding.unwrap().name.as_deref(), Some("geth"));

    // It is created anew.
    server.edit("chain", "geth-0", |pod: &mut Pod| {
        pod.metadata.annotations =
            Some([("geth-peering/injected".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into());
    });
    tokio::time::sleep(Duration::from_secs(301)).await;
    looking.until_uninjected(0).await;
    assert_eq!(server.list::<Event>("plain"), [], "nobody asked there");
}

/// Labelled pods without a sidecar that would have none either if they were created anew.
fn put_beyond_help(server: &ApiServer) {
    for (name, pointer, value) in [
        ("ended", "/status/phase", json!("Succeeded")),
        ("evicted", "/status/phase", json!("Failed")),
        ("static", "/metadata/annotations", json!({"kubernetes.io/config.mirror": "x"})),
        ("going", "/metadata/deletionTimestamp", json!("2026-11-21T00:00:00Z")),
        ("excluded", "/metadata/namespace", json!(EXCLUDED)),
    ] {
        let mut pod = plain_geth("chain", name);
        pod["metadata"]["labels"] = json!({"geth-peering": "enabled"});
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[field] = value;
        server.put::<Pod>(&object(pod));
    }
}

#[tokio::test(start_paused = true)]
async fn does_a_labelled_pod_that_nobody_can_help_raise_no_alarm() {
    let server = cluster();
    put_beyond_help(&server);
    put_pod(&server, "geth-0", json!({"geth-peering": "enabled"}), json!({}));
    let looking = Looking::start(&server, Scope::all_but([EXCLUDED.to_owned()].into()));
    tokio::time::sleep(A_LOOK).await;
    looking.until_uninjected(1).await;
    server.delete::<Pod>("chain", "geth-0");
    tokio::time::sleep(Duration::from_secs(301)).await;
    looking.until_uninjected(0).await;
    assert_eq!(server.list::<Event>(EXCLUDED), []);
}

#[tokio::test(start_paused = true)]
async fn is_each_pod_counted_where_their_texts_are_too_long_to_be_read_together() {
    let server = cluster();
    put_namespace(&server, "chain", true);
    for number in 0..60 {
        let mut pod = plain_geth("chain", &format!("geth-{number}"));
        pod["metadata"]["annotations"] = json!({"note": "x".repeat(if number == 7 { 1 << 20 } else { 100 << 10 })});
        server.put::<Pod>(&object(pod));
    }
    let looking = Looking::start(&server, Scope::default());
    tokio::time::sleep(A_LOOK).await;
    // All but the one that is longer than any honest one.
    looking.until_uninjected(59).await;
}

#[tokio::test(start_paused = true)]
async fn are_geths_told_only_where_the_namespace_asks_if_rights_are_in_some_namespaces_only() {
    let server = cluster();
    put_namespace(&server, "asks", true);
    put_namespace(&server, "does-not", false);
    for namespace in ["asks", "does-not"] {
        server.put::<Pod>(&object(plain_geth(namespace, "geth-0")));
    }
    let only = ["asks", "does-not"].map(str::to_owned).into();
    let looking = Looking::start(&server, Scope { only: Some(only), ..Scope::default() });
    tokio::time::sleep(A_LOOK).await;
    looking.until_uninjected(1).await;
}

#[tokio::test]
async fn does_check_find_the_geths_of_a_labelled_namespace_that_have_no_sidecar() {
    let server = cluster();
    put_namespace(&server, "chain", true);
    put_namespace(&server, EXCLUDED, true);
    server.put::<Pod>(&object(plain_geth("chain", "geth-0")));
    server.put::<Pod>(&object(plain_geth(EXCLUDED, "geth-1")));
    put_beyond_help(&server);
    server.put::<Service>(&object(json!({
        "metadata": {"name": "geth-peering-injector", "namespace": OWN_NAMESPACE}, "spec": {"selector": {"app": "injector"}},
    })));
    server.put::<Pod>(&object(json!({
        "metadata": {"name": "injector-0", "namespace": OWN_NAMESPACE, "labels": {"app": "injector"}},
        "spec": {"containers": [{"name": "injector", "args": FLAGS}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })));
    let findings = check::examine(&server.client(OWN_NAMESPACE), Some(CONFIGURATION), "default").await;
    let without: Vec<_> =
        findings.iter().map(ToString::to_string).filter(|finding| finding.contains("have no sidecar")).collect();
    assert!(without.len() == 1 && without[0].starts_with("WRONG"), "{findings:?}");
    assert!(without[0].contains("1 pods") && without[0].contains("chain/geth-0"), "{without:?}");
}

#[tokio::test(start_paused = true)]
async fn are_pods_without_their_sidecar_counted_and_their_owner_told_once() {
    let server = cluster();
    let enabled = || json!({"geth-peering": "enabled"});
    put_pod(&server, "geth-0", enabled(), json!({}));
    put_pod(&server, "geth-1", enabled(), json!({}));
    put_pod(&server, "geth-2", enabled(), json!({"geth-peering/injected": env!("CARGO_PKG_VERSION")}));
    put_pod(&server, "geth-3", enabled(), json!({"geth-peering/injected": "0.0.1"}));
    put_pod(&server, "web", json!({}), json!({}));

    let metrics = Arc::new(Metrics::default());
    let client = server.client(OWN_NAMESPACE);
    let preparer = Arc::new(Preparer::new(client.clone(), ROLE, Scope::default(), metrics.clone()));
    let audits = [0, 1].map(|replica| {
        let instance = format!("injector-{replica}");
        let audit = Audit::new(client.clone(), preparer.clone(), metrics.clone(), settings(), &instance);
        tokio::spawn(audit.run())
    });
    let counted = async |line: &str| {
        let line = format!("geth_peering_injector_flawed_pods{{flaw={line}");
        until(&line, async || metrics.text().unwrap().contains(&line)).await;
    };
    tokio::time::sleep(A_LOOK).await;
    counted("\"uninjected\"} 2").await;
    counted("\"outdated\"} 1").await;

    // Once for each owner and flaw, however many replicas look however often.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let mut events: Vec<_> = server.list::<Event>("chain").into_iter().filter_map(|event| event.reason).collect();
    events.sort();
    assert_eq!(events, ["outdated", "uninjected"]);

    server.delete::<Pod>("chain", "geth-0");
    server.delete::<Pod>("chain", "geth-1");
    tokio::time::sleep(Duration::from_secs(301)).await;
    counted("\"uninjected\"} 0").await;
    audits.iter().for_each(|audit| audit.abort());
}

/// Lets a pod of "chain" in whose account cannot be given its rights, and ends without a word.
async fn let_in_and_crash(server: &ApiServer) -> Value {
    let (metrics, client) = (Arc::new(Metrics::default()), server.client(OWN_NAMESPACE));
    let preparer = Arc::new(Preparer::new(client.clone(), ROLE, Scope::default(), metrics.clone()));
    let (notices, _reporter) = events::channel(client, "injector-0");
    let webhook = Webhook::new(settings(), preparer, notices, metrics);
    let mut pod = geth_pod(json!({"geth-peering": "enabled"}));
    pod["spec"]["serviceAccountName"] = json!("mine");
    server.forbid(Verb::Create, "rolebindings");
    let answer = webhook.mutate_pods(review("chain", pod.clone()).to_string().as_bytes()).await.unwrap();
    server.heal();
    patched(pod, &serde_json::from_slice::<Value>(&answer).unwrap()["response"])
}

#[tokio::test(start_paused = true)]
async fn does_a_debt_of_rights_outlive_the_injector_that_owed_them() {
    let server = cluster();
    let mut pod = let_in_and_crash(&server).await;
    assert_eq!(pod["metadata"]["annotations"]["geth-peering/unbound"], "mine");
    pod["metadata"]["namespace"] = json!("chain");
    server.put::<Pod>(&object(pod));
    // The mark alone gives nobody anything.
    put_pod(&server, "copied", json!({"geth-peering": "enabled"}), json!({"geth-peering/unbound": "admin"}));
    let bound = || {
        let binding: Option<RoleBinding> = server.get("chain", "geth-peering");
        let subjects = binding.into_iter().flat_map(|binding| binding.subjects.unwrap_or_default());
        subjects.map(|subject| subject.name).collect::<Vec<_>>()
    };
    assert_eq!(bound(), Vec::<String>::new(), "the first injector could not");

    let _looking = Looking::start(&server, Scope::default());
    tokio::time::sleep(A_LOOK).await;
    until("the rights", async || !bound().is_empty()).await;
    assert_eq!(bound(), ["geth-peering", "mine"]);

    // Once they are given, no pod is asked for by its name any more but the one that lies.
    server.forget_calls();
    tokio::time::sleep(Duration::from_secs(301)).await;
    let asked: Vec<_> =
        server.calls().into_iter().filter(|call| call.plural == "pods").map(|call| call.query).collect();
    assert!(asked.len() >= 2 && asked.iter().all(|query| !query.contains("geth-0")), "{asked:?}");
    assert_eq!(bound(), ["geth-peering", "mine"]);
}
