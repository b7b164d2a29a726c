//! What the injector makes in namespaces, when, and what it leaves alone.

use std::sync::Arc;

use fakes::apiserver::{ApiServer, Fault, Verb};
use injector::metrics::Metrics;
use injector::prepare::{NotReady, Preparer};
use injector::scope::Scope;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use serde_json::{Value, json};

use crate::support::*;

const NAME: &str = "geth-peering";

/// The accounts that the binding of `namespace` gives a sidecar's rights.
fn bound(server: &ApiServer, namespace: &str) -> Vec<String> {
    let Some(binding) = server.get::<RoleBinding>(namespace, NAME) else { return Vec::new() };
    if binding.role_ref.name != ROLE {
        return Vec::new();
    }
    let mut names: Vec<_> = binding.subjects.into_iter().flatten().map(|subject| subject.name).collect();
    names.sort();
    names
}

fn is_prepared(server: &ApiServer, namespace: &str) -> bool {
    server.get::<ServiceAccount>(namespace, NAME).is_some() && bound(server, namespace).contains(&NAME.to_owned())
}

async fn until_prepared(server: &ApiServer, namespace: &str) {
    until("the namespace is prepared", async || is_prepared(server, namespace)).await;
}

fn put_binding(server: &ApiServer, namespace: &str, role: &str, labels: Value, subjects: Value) {
    server.put::<RoleBinding>(&object(json!({
        "metadata": {"name": NAME, "namespace": namespace, "labels": labels},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    })));
}

fn pod_of(account: &str) -> Value {
    let mut pod = geth_pod(json!({"geth-peering": "enabled"}));
    pod["spec"]["serviceAccountName"] = json!(account);
    pod
}

/// Creates a pod and returns its warnings.
async fn create(api_server: &Client, namespace: &str, account: &str) -> String {
    let response = api_server.review("/mutate/pods", &review(namespace, pod_of(account))).await;
    patched(pod_of(account), &response);
    // Whether the image's user is known is another matter.
    let warnings = response["warnings"].as_array().cloned().unwrap_or_default();
    warnings.iter().filter_map(Value::as_str).filter(|text| !text.contains("runAsUser")).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn is_a_labelled_namespace_prepared_at_once_and_others_not() {
    let server = cluster();
    put_namespace(&server, "early", true);
    put_namespace(&server, "plain", false);
    let _replica = Replica::start(&server).await;
    until_prepared(&server, "early").await;
    put_namespace(&server, "late", true);
    until_prepared(&server, "late").await;
    server.edit("", "plain", |namespace: &mut Namespace| {
        namespace.metadata.labels = Some([("geth-peering".to_owned(), "enabled".to_owned())].into());
    });
    until_prepared(&server, "plain").await;
    assert_eq!(server.count(Verb::Create, "serviceaccounts"), 3);
    let account: ServiceAccount = server.get("late", NAME).unwrap();
    assert_eq!(account.automount_service_account_token, Some(false), "no container gets a token that did not ask");
    assert_eq!(account.metadata.labels.unwrap()["app.kubernetes.io/managed-by"], "geth-peering");
}

#[tokio::test]
async fn is_nothing_made_in_an_excluded_namespace() {
    let server = cluster();
    put_namespace(&server, EXCLUDED, true);
    put_namespace(&server, "zzz", true);
    let replica = Replica::start(&server).await;
    // It comes after the other.
    until_prepared(&server, "zzz").await;
    let api_server = replica.api_server(&server).await;
    let warning = create(&api_server, EXCLUDED, "default").await;
    assert!(warning.contains("vault") && warning.contains("webhook.excludedNamespaces"), "{warning}");
    assert_eq!(server.get::<ServiceAccount>(EXCLUDED, NAME), None);
    assert_eq!(server.get::<RoleBinding>(EXCLUDED, NAME), None);
}

#[tokio::test]
async fn does_what_somebody_deletes_come_back_with_all_its_accounts() {
    let server = cluster();
    put_namespace(&server, "chain", true);
    let replica = Replica::start(&server).await;
    until_prepared(&server, "chain").await;
    let api_server = replica.api_server(&server).await;
    assert_eq!(create(&api_server, "chain", "mine").await, "");
    server.delete::<RoleBinding>("chain", NAME);
    server.delete::<ServiceAccount>("chain", NAME);
    until_prepared(&server, "chain").await;
    assert_eq!(bound(&server, "chain"), [NAME, "mine"]);
}

#[tokio::test]
async fn does_the_first_pod_of_a_namespace_prepare_it_and_the_second_cost_no_call() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    assert_eq!(create(&api_server, "chain", "default").await, "");
    assert!(is_prepared(&server, "chain"));
    server.forget_calls();
    assert_eq!(create(&api_server, "chain", "default").await, "");
    assert_eq!(server.calls(), []);
}

/// The accounts bound in `namespace`, each with its own namespace.
fn bound_from(server: &ApiServer, namespace: &str) -> Vec<String> {
    let binding: Option<RoleBinding> = server.get(namespace, NAME);
    let subjects = binding.into_iter().flat_map(|binding| binding.subjects.unwrap_or_default());
    let mut accounts: Vec<_> =
        subjects.map(|subject| format!("{}/{}", subject.namespace.unwrap_or_default(), subject.name)).collect();
    accounts.sort();
    accounts
}

/// Creates a pod whose registry is in `registry`, and returns its warnings.
async fn create_for_registry(api_server: &Client, namespace: &str, registry: &str, dry_run: bool) -> Value {
    let mut pod = pod_of("default");
    pod["metadata"]["annotations"] = json!({"geth-peering/registry-namespace": registry});
    let mut review = review(namespace, pod);
    review["request"]["dryRun"] = json!(dry_run);
    api_server.review("/mutate/pods", &review).await["warnings"].clone()
}

#[tokio::test]
async fn do_pods_of_several_namespaces_get_their_rights_in_the_one_with_their_registry() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let warnings = create_for_registry(&api_server, "east", "shared", true).await;
    assert!(warnings.to_string().contains("dry run"), "{warnings}");
    assert_eq!(server.count(Verb::Create, "rolebindings"), 0, "a dry run changes nothing");

    for namespace in ["east", "west", "shared"] {
        create_for_registry(&api_server, namespace, "shared", false).await;
        assert!(bound_from(&server, namespace).contains(&format!("{namespace}/{NAME}")), "{namespace}");
    }
    assert_eq!(
        bound_from(&server, "shared"),
        ["east", "shared", "west"].map(|namespace| format!("{namespace}/{NAME}"))
    );
    assert_eq!(bound_from(&server, "east"), [format!("east/{NAME}")], "and nobody else's in theirs");
    server.forget_calls();
    create_for_registry(&api_server, "west", "shared", false).await;
    assert_eq!(server.calls(), [], "the second pod costs no call");
}

#[tokio::test]
async fn is_nothing_made_for_a_registry_in_an_excluded_namespace() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let warnings = create_for_registry(&api_server, "east", EXCLUDED, false).await;
    assert!(warnings.to_string().contains("webhook.excludedNamespaces"), "{warnings}");
    assert_eq!(server.get::<RoleBinding>(EXCLUDED, NAME), None);
}

#[tokio::test]
async fn do_many_pods_at_once_cause_one_preparation() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let pods = (0..50).map(|_| create(&api_server, "chain", "default"));
    assert!(futures::future::join_all(pods).await.iter().all(String::is_empty));
    assert_eq!(server.count(Verb::Create, "serviceaccounts"), 1);
    assert_eq!(server.count(Verb::Create, "rolebindings"), 1);
}

#[tokio::test]
async fn do_two_replicas_prepare_the_same_namespace_without_harm() {
    let server = cluster();
    let replicas = [Replica::start(&server).await, Replica::start(&server).await];
    let [a, b] = [replicas[0].api_server(&server).await, replicas[1].api_server(&server).await];
    let accounts: Vec<String> = (0..10).map(|number| format!("account-{number}")).collect();
    let pods = accounts.iter().enumerate().map(|(number, account)| {
        let api_server = if number % 2 == 0 { &a } else { &b };
        create(api_server, "chain", account)
    });
    let warnings = futures::future::join_all(pods).await;
    assert!(warnings.iter().all(String::is_empty), "{warnings:?}");
    let mut expected = accounts.clone();
    expected.push(NAME.to_owned());
    assert_eq!(bound(&server, "chain"), expected, "no replica undoes what the other did");
}

#[tokio::test]
async fn are_subjects_that_others_added_kept() {
    let server = cluster();
    put_binding(&server, "chain", ROLE, json!({}), json!([{"kind": "Group", "name": "operators"}]));
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    assert_eq!(create(&api_server, "chain", "mine").await, "");
    assert_eq!(bound(&server, "chain"), ["geth-peering", "mine", "operators"]);
}

#[tokio::test]
async fn is_a_binding_of_another_role_replaced_if_it_is_ours_and_else_named() {
    let server = cluster();
    let ours = json!({"app.kubernetes.io/managed-by": "geth-peering"});
    let subject = |namespace: &str| json!([{"kind": "ServiceAccount", "name": "mine", "namespace": namespace}]);
    put_binding(&server, "upgraded", "old-release-sidecar", ours, subject("upgraded"));
    put_binding(&server, "foreign", "view", json!({}), subject("foreign"));
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;

    assert_eq!(create(&api_server, "upgraded", "default").await, "");
    assert_eq!(bound(&server, "upgraded"), [NAME, "mine"]);

    let before: RoleBinding = server.get("foreign", NAME).unwrap();
    let warning = create(&api_server, "foreign", "default").await;
    for word in ["foreign/geth-peering", "view", ROLE, "delete or rename it"] {
        assert!(warning.contains(word), "{word} in {warning}");
    }
    assert_eq!(server.get::<RoleBinding>("foreign", NAME), Some(before), "a user's object is never touched");
}

#[tokio::test]
async fn is_nothing_overwritten_that_the_injector_has_not_seen() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    assert_eq!(create(&api_server, "chain", "mine").await, "");

    server.forbid(Verb::Watch, "rolebindings");
    server.close_watches();
    server.edit("chain", NAME, |binding: &mut RoleBinding| {
        binding.subjects.get_or_insert_default().push(object(json!({"kind": "Group", "name": "operators"})));
    });
    assert_eq!(create(&api_server, "chain", "third").await, "");
    assert_eq!(bound(&server, "chain"), [NAME, "mine", "operators", "third"]);

    put_binding(&server, "foreign", "view", json!({}), json!([]));
    let before: RoleBinding = server.get("foreign", NAME).unwrap();
    let warning = create(&api_server, "foreign", "default").await;
    assert!(warning.contains("delete or rename it"), "{warning}");
    assert_eq!(server.get::<RoleBinding>("foreign", NAME), Some(before));
}

#[tokio::test]
async fn is_a_namespace_that_is_being_deleted_left_in_peace() {
    let server = cluster();
    put_namespace(&server, "chain", true);
    put_namespace(&server, "other", true);
    let _replica = Replica::start(&server).await;
    until_prepared(&server, "chain").await;
    server.edit("", "chain", |namespace: &mut Namespace| {
        namespace.metadata.deletion_timestamp = Some(object(json!("2026-01-01T00:00:00Z")));
    });
    server.delete::<RoleBinding>("chain", NAME);
    server.delete::<ServiceAccount>("chain", NAME);
    // What happens to another namespace afterwards shows that all this has been seen.
    server.delete::<RoleBinding>("other", NAME);
    until_prepared(&server, "other").await;
    assert!(!is_prepared(&server, "chain"));
    assert_eq!(server.count(Verb::Create, "rolebindings"), 3);
}

#[tokio::test]
async fn is_a_preparation_that_failed_tried_again() {
    let server = cluster();
    server.fault(Verb::Create, "serviceaccounts", Fault::Status(500), 1);
    put_namespace(&server, "chain", true);
    put_namespace(&server, "other", true);
    let replica = Replica::start(&server).await;
    until_prepared(&server, "chain").await;
    until_prepared(&server, "other").await;
    assert_eq!(server.count(Verb::Create, "serviceaccounts"), 3);
    let name = r#"geth_peering_injector_namespace_preparations_total{result="failed"}"#;
    assert_eq!(replica.metric(name).await, Some(1.0));
}

#[tokio::test]
async fn does_a_namespace_whose_preparation_hangs_keep_no_other_waiting() {
    let server = cluster();
    server.fault(Verb::Create, "serviceaccounts", Fault::Hang, 1);
    put_namespace(&server, "hangs", true);
    let replica = Replica::start(&server).await;
    until("a call that hangs", async || server.count(Verb::Create, "serviceaccounts") == 1).await;
    put_namespace(&server, "labelled", true);
    let api_server = replica.api_server(&server).await;
    assert_eq!(create(&api_server, "unlabelled", "default").await, "");
    until_prepared(&server, "labelled").await;
    assert!(!is_prepared(&server, "hangs"));
    let failed = r#"geth_peering_injector_namespace_preparations_total{result="failed"}"#;
    assert_eq!(replica.metric(failed).await, None, "it hangs still");
}

#[tokio::test]
async fn is_a_preparation_that_took_too_long_for_its_pod_there_for_the_next() {
    let server = cluster();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (inner, opened) = (server.client(OWN_NAMESPACE), gate.clone());
    let slow = tower::service_fn(move |request: axum::http::Request<kube::client::Body>| {
        let (inner, opened) = (inner.clone(), opened.clone());
        async move {
            let _permit = opened.acquire().await.unwrap();
            inner.send(request).await
        }
    });
    let client = kube::Client::new(slow, OWN_NAMESPACE);
    let preparer = Arc::new(Preparer::new(client, ROLE, Scope::default(), Arc::new(Metrics::default())));
    assert!(matches!(preparer.ensure("chain", "mine", None, false).await, Err(NotReady::Late)));
    assert_eq!(server.writes(), 0);
    gate.add_permits(1);
    until("the namespace is prepared", async || bound(&server, "chain") == [NAME, "mine"]).await;
    assert!(is_prepared(&server, "chain"));
}

#[tokio::test]
async fn does_a_pod_that_could_not_wait_for_its_rights_get_them_later() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    server.fault(Verb::Create, "rolebindings", Fault::Status(500), 1);
    let unbound = api_server.review("/mutate/pods", &review("first", pod_of("default"))).await;
    let pod = patched(pod_of("default"), &unbound);
    assert_eq!(pod["spec"]["serviceAccountName"], NAME, "{unbound}");
    assert_eq!(pod["metadata"]["annotations"]["geth-peering/unbound"], NAME, "it says itself what it is owed");
    server.fault(Verb::Create, "serviceaccounts", Fault::Status(500), 1);
    let without_account = api_server.review("/mutate/pods", &review("second", pod_of("default"))).await;
    assert_eq!(
        patched(pod_of("default"), &without_account)["spec"]["serviceAccountName"],
        "default",
        "a pod whose account does not exist could not be created at all"
    );
    for (response, place, account) in [(unbound, "first", NAME), (without_account, "second", "default")] {
        assert!(response["warnings"].to_string().contains("rights"), "{response}");
        until("the rights", async || bound(&server, place).contains(&account.to_owned())).await;
    }
}

#[tokio::test]
async fn does_an_interrupted_watch_see_what_it_missed() {
    let server = cluster();
    let _replica = Replica::start(&server).await;
    server.compact();
    put_namespace(&server, "chain", true);
    until_prepared(&server, "chain").await;
}

#[tokio::test]
async fn does_an_injector_with_rights_in_two_namespaces_prepare_those_and_touch_no_other() {
    let server = cluster();
    put_namespace(&server, "one", false);
    put_namespace(&server, "two", false);
    put_namespace(&server, "other", true);
    let replica = Replica::launch_with(&server, &["--only-namespace=one,two"]).await;
    replica.until_ready().await;
    until_prepared(&server, "one").await;
    until_prepared(&server, "two").await;
    assert_eq!(server.get::<RoleBinding>("one", NAME).unwrap().role_ref.kind, "Role");
    server.delete::<RoleBinding>("two", NAME);
    until_prepared(&server, "two").await;

    let api_server = replica.api_server(&server).await;
    assert_eq!(create(&api_server, "one", "mine").await, "");
    assert_eq!(bound(&server, "one"), [NAME, "mine"]);
    let warnings = create(&api_server, "other", "mine").await;
    assert!(
        warnings.contains("namespace other is not one of those geth-peering has rights in (rbac.namespaces)"),
        "{warnings}"
    );

    let of_namespaces = ["namespaces", "serviceaccounts", "rolebindings", "pods"];
    for call in server.calls().into_iter().filter(|call| of_namespaces.contains(&call.plural.as_str())) {
        assert!(["one", "two"].contains(&call.namespace.as_str()), "{call:?}");
    }
}
