//! What `helm test` does.

use std::collections::BTreeSet;

use serde_json::json;

use super::helm::{at, render, render_test};

const NAME: &str = "geth-peering-test";

#[test]
fn does_helm_test_check_injection_in_a_namespace_that_the_webhooks_see() {
    let objects = render_test(&at("test.namespace", json!("chain")));
    let pod = objects.get("Pod", NAME);
    assert_eq!(pod["metadata"]["namespace"], "geth-peering");
    assert_eq!(pod["spec"]["restartPolicy"], "Never", "or it could not fail");
    let check = &pod["spec"]["containers"][0];
    assert_eq!(check["args"], json!(["check", "--namespace=chain"]));
    assert_eq!(check["image"], render(&json!({})).container()["image"], "no other image is known to be there");
}

#[test]
fn may_the_test_create_pods_in_that_namespace_and_nothing_else() {
    let objects = render_test(&at("test.namespace", json!("chain")));
    let role = objects.get("Role", NAME);
    assert_eq!(role["rules"], json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}]));
    let binding = objects.get("RoleBinding", NAME);
    for object in [role, binding] {
        assert_eq!(object["metadata"]["namespace"], "chain");
    }
    assert_eq!(binding["roleRef"]["name"], NAME);
    let account = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": "geth-peering"}]);
    assert_eq!(binding["subjects"], account);
    assert_eq!(objects.get("Pod", NAME)["spec"]["serviceAccountName"], NAME);
    objects.get("ServiceAccount", NAME);
}

#[test]
fn does_nothing_of_the_test_stay_and_does_no_service_lead_to_it() {
    let objects = render_test(&json!({}));
    assert_eq!(objects.0.len(), 4);
    let weight = |object: &serde_json::Value| object["metadata"]["annotations"]["helm.sh/hook-weight"].to_string();
    for object in &objects.0 {
        let policy = &object["metadata"]["annotations"]["helm.sh/hook-delete-policy"];
        assert_eq!(*policy, "before-hook-creation,hook-succeeded", "{}", object["kind"]);
        let last = object["kind"] == "Pod";
        assert_eq!(weight(object), if last { "\"0\"" } else { "\"-1\"" }, "its account and rights come first");
    }
    let injector = render(&json!({}));
    let selector = &injector.get("Service", "geth-peering-injector")["spec"]["selector"];
    let labels = &objects.get("Pod", NAME)["metadata"]["labels"];
    let selected = selector.as_object().expect("labels").iter().all(|(key, value)| labels[key] == *value);
    assert!(!selected, "the API server would ask it about pods");
    assert!(render_test(&at("test.enabled", json!(false))).0.is_empty());
}

#[test]
fn does_the_test_meet_the_same_pod_security_standard_as_the_injector() {
    let (test, own) = (render_test(&json!({})), render(&json!({})));
    let pod = &test.get("Pod", NAME)["spec"];
    assert_eq!(pod["securityContext"], own.pod()["spec"]["securityContext"]);
    assert_eq!(pod["containers"][0]["securityContext"], own.container()["securityContext"]);
    let keys: BTreeSet<_> = pod.as_object().expect("a pod").keys().map(String::as_str).collect();
    assert!(!keys.contains("hostNetwork") && !keys.contains("volumes"), "{keys:?}");
}
