//! Whom the webhooks concern, and what they can do to them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::helm::{Objects, at, render, strings};

const LABELLED: &str = "labelled-pods.injector.geth-peering";
const BY_NAMESPACE: &str = "pods-of-labelled-namespaces.injector.geth-peering";
const WORKLOADS: &str = "annotated-workloads.injector.geth-peering";

type Labels<'a> = BTreeMap<&'a str, &'a str>;

/// Whether a LabelSelector selects an object with these labels, as the API server decides it
/// (apimachinery v0.33, pkg/labels/selector.go: NotIn also selects what lacks the key).
fn selects(selector: &Value, labels: &Labels<'_>) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    equal.into_iter().all(|(key, value)| labels.get(key.as_str()).copied() == value.as_str())
        && expressions.into_iter().all(|expression| {
            let found = labels.get(expression["key"].as_str().expect("a key"));
            let listed = found.is_some_and(|value| strings(&expression["values"]).contains(value));
            match expression["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("Exists") => found.is_some(),
                Some("DoesNotExist") => found.is_none(),
                other => panic!("unknown operator {other:?}"),
            }
        })
}

fn webhooks(objects: &Objects) -> Vec<Value> {
    let configuration = objects.get("MutatingWebhookConfiguration", "geth-peering");
    configuration["webhooks"].as_array().expect("webhooks").clone()
}

fn webhook(objects: &Objects, name: &str) -> Value {
    webhooks(objects).into_iter().find(|w| w["name"] == name).unwrap_or_else(|| panic!("no webhook {name}"))
}

/// The webhooks that see the creation of a pod.
fn asked<'a>(
    objects: &Objects,
    namespace: &'a str,
    namespace_labels: &[(&'a str, &'a str)],
    pod: &Labels<'_>,
) -> Vec<String> {
    let mut labels: Labels<'_> = namespace_labels.iter().copied().collect();
    labels.insert("kubernetes.io/metadata.name", namespace);
    webhooks(objects)
        .iter()
        .filter(|w| w["rules"].as_array().expect("rules").iter().any(|r| strings(&r["resources"]).contains(&"pods")))
        .filter(|w| selects(&w["namespaceSelector"], &labels) && selects(&w["objectSelector"], pod))
        .map(|w| w["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn is_no_ca_bundle_rendered() {
    for webhook in webhooks(&render(&json!({}))) {
        let keys: BTreeSet<_> = webhook["clientConfig"].as_object().expect("an object").keys().cloned().collect();
        assert_eq!(keys, BTreeSet::from(["service".to_owned()]), "{}", webhook["name"]);
    }
}

#[test]
fn may_only_pods_that_opted_in_reach_the_webhooks_and_each_only_one() {
    let objects = render(&json!({}));
    let plain: &[(&str, &str)] = &[];
    let labelled: &[(&str, &str)] = &[("geth-peering", "enabled")];
    for (namespace_labels, pod, expected) in [
        (plain, None, vec![]),
        (plain, Some("enabled"), vec![LABELLED]),
        // The injector refuses it with a sentence, which a selector could not.
        (plain, Some("enable"), vec![LABELLED]),
        (plain, Some("disabled"), vec![]),
        (labelled, None, vec![BY_NAMESPACE]),
        (labelled, Some("enabled"), vec![LABELLED]),
        (labelled, Some("disabled"), vec![]),
        (&[("geth-peering", "disabled")], None, vec![]),
    ] {
        let pod_labels = pod.map(|value| ("geth-peering", value)).into_iter().chain([("app", "geth")]).collect();
        let seen = asked(&objects, "chain", namespace_labels, &pod_labels);
        assert_eq!(seen, expected, "a pod with {pod:?} in a namespace with {namespace_labels:?}");
    }
}

#[test]
fn are_own_and_system_namespaces_left_alone() {
    let objects = render(&at("webhook.excludedNamespaces", json!(["vault", "kube-system"])));
    let opted_in = [("geth-peering", "enabled")];
    for pod in [Labels::new(), Labels::from(opted_in)] {
        for namespace in ["kube-system", "kube-public", "kube-node-lease", "geth-peering", "vault"] {
            assert!(asked(&objects, namespace, &opted_in, &pod).is_empty(), "{namespace}");
        }
        // AKS adds these two to every webhook; were they missing, each would change the other's work for ever.
        for label in [("control-plane", "true"), ("kubernetes.azure.com/managedby", "aks")] {
            assert!(asked(&objects, "chain", &[opted_in[0], label], &pod).is_empty(), "{label:?}");
        }
        assert_eq!(asked(&objects, "chain", &opted_in, &pod).len(), 1);
    }
    let pods = webhook(&objects, LABELLED);
    let workloads = webhook(&objects, WORKLOADS);
    assert_eq!(pods["namespaceSelector"], workloads["namespaceSelector"]);
}

#[test]
fn can_a_pod_that_runs_always_be_changed_and_deleted() {
    let objects = render(&json!({}));
    for name in [LABELLED, BY_NAMESPACE] {
        let rules = &webhook(&objects, name)["rules"];
        let creation = json!([{
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
            "scope": "Namespaced"
        }]);
        assert_eq!(*rules, creation, "{name}");
    }
}

#[test]
fn can_a_workload_be_changed_when_no_injector_answers() {
    for policy in ["Fail", "Ignore"] {
        let objects = render(&at("webhook.failurePolicy", json!(policy)));
        assert_eq!(webhook(&objects, WORKLOADS)["failurePolicy"], "Ignore");
        assert_eq!(webhook(&objects, LABELLED)["failurePolicy"], policy);
        assert_eq!(webhook(&objects, BY_NAMESPACE)["failurePolicy"], policy);
    }
}

#[test]
fn do_workloads_without_our_annotation_never_wait_for_the_injector() {
    let webhook = webhook(&render(&json!({})), WORKLOADS);
    assert_eq!(
        webhook["rules"],
        json!([{
            "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["statefulsets", "deployments"],
            "operations": ["CREATE", "UPDATE"], "scope": "Namespaced"
        }])
    );
    let conditions = webhook["matchConditions"].as_array().expect("matchConditions");
    assert_eq!(conditions.len(), 1);
    // An object may have no annotations at all, and when it is created there is no old one: CEL fails on either
    // unless it is asked first.
    let expression: String = conditions[0]["expression"].as_str().expect("CEL").split_whitespace().collect();
    let annotated =
        |object: &str| format!("has({object}.metadata.annotations)&&'geth-peering'in{object}.metadata.annotations");
    assert_eq!(expression, format!("({})||(oldObject!=null&&{})", annotated("object"), annotated("oldObject")));
}

#[test]
fn does_every_webhook_behave_well_beside_others() {
    let objects = render(&json!({}));
    let names: BTreeSet<_> = webhooks(&objects).iter().map(|w| w["name"].to_string()).collect();
    assert_eq!(names.len(), 3, "names are unique");
    for webhook in webhooks(&objects) {
        assert_eq!(webhook["admissionReviewVersions"], json!(["v1"]));
        assert_eq!(webhook["matchPolicy"], "Equivalent");
        assert_eq!(webhook["reinvocationPolicy"], "IfNeeded");
        assert_eq!(webhook["sideEffects"], "NoneOnDryRun");
        assert_eq!(webhook["timeoutSeconds"], 5);
        let segments = webhook["name"].as_str().expect("a name").split('.').count();
        assert!(segments >= 3, "the API server wants three segments at least: {}", webhook["name"]);
    }
}

#[test]
fn do_the_webhooks_lead_to_the_injector() {
    let objects = render(&at("webhook.port", json!(10250)));
    let service = objects.get("Service", "geth-peering-injector");
    let pod = objects.pod();
    for (name, path) in [(LABELLED, "/mutate/pods"), (BY_NAMESPACE, "/mutate/pods"), (WORKLOADS, "/mutate/workloads")] {
        let target = &webhook(&objects, name)["clientConfig"]["service"];
        assert_eq!(
            *target,
            json!({"name": "geth-peering-injector", "namespace": "geth-peering", "path": path, "port": 443})
        );
    }
    let port = &service["spec"]["ports"][0];
    assert_eq!((&port["port"], &port["targetPort"]), (&json!(443), &json!("https")));
    assert!(
        objects.container()["ports"]
            .as_array()
            .expect("ports")
            .contains(&json!({"name": "https", "containerPort": 10250}))
    );
    assert_eq!(objects.flag("https-port"), "10250");
    assert_eq!(objects.flag("service"), "geth-peering-injector");
    assert_eq!(objects.flag("webhook-configuration"), "geth-peering");

    let labels: Labels<'_> = pod["metadata"]["labels"]
        .as_object()
        .expect("labels")
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str().expect("a string")))
        .collect();
    assert!(selects(&json!({"matchLabels": service["spec"]["selector"]}), &labels));
    assert!(selects(&objects.deployment()["spec"]["selector"], &labels));
}
