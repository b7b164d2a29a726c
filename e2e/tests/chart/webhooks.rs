//! Whom the webhooks concern, and what they can do to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use injector::decision::Decision;
use injector::inject::{Account, Context, inject};
use serde_json::{Value, json};

use super::helm::{Objects, at, render, settings, strings};

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
    let told: BTreeSet<_> =
        objects.flags().into_iter().filter(|(flag, _)| flag == "excluded-namespace").map(|(_, name)| name).collect();
    let excluded = ["kube-system", "kube-public", "kube-node-lease", "geth-peering", "vault"];
    assert_eq!(told, excluded.map(str::to_owned).into(), "or the injector would prepare what no webhook sees");
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

/// The expression of the only condition of a webhook.
fn condition(objects: &Objects, name: &str) -> cel::Program {
    let webhook = webhook(objects, name);
    let conditions = webhook["matchConditions"].as_array().expect("matchConditions");
    assert_eq!(conditions.len(), 1);
    cel::Program::compile(conditions[0]["expression"].as_str().expect("CEL")).expect("CEL")
}

/// Whether the API server asks the injector about this pod, which came by its namespace's label.
fn is_sent(condition: &cel::Program, pod: &Value) -> bool {
    let mut context = cel::Context::default();
    context.add_variable("object", pod.clone()).expect("a variable");
    match condition.execute(&context) {
        Ok(cel::Value::Bool(sent)) => sent,
        other => panic!("{other:?} for {pod}"),
    }
}

/// What the injector decides about a pod that came by its namespace's label.
fn decision(pod: &Value) -> Decision {
    let settings = settings();
    inject(pod, &Context { settings: &settings, account: &Account::Ready }).decision
}

/// Every pod of the injector's own tests, without the label that some of them have.
fn known_pods() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../injector/tests/golden");
    let files = fs::read_dir(folder).expect("golden files").map(|entry| entry.expect("a file").path());
    let inputs = files.filter(|path| path.to_string_lossy().ends_with(".input.yaml"));
    let pods: Vec<Value> = inputs
        .map(|path| serde_saphyr::from_str(&fs::read_to_string(path).expect("a text")).expect("YAML"))
        .map(|mut pod: Value| {
            pod["metadata"]["labels"] = json!({});
            pod
        })
        .collect();
    assert!(pods.len() >= 25, "the inputs are there");
    pods
}

/// The words of a list in the part of the injector that recognises Geth.
fn words_of(list: &str) -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../injection/src/inject/geth.rs");
    let source = fs::read_to_string(source).expect("the injector's source");
    let rest = source.split_once(&format!("const {list}: ")).unwrap_or_else(|| panic!("no list {list}")).1;
    let list = rest.split_once("= [").and_then(|(_, rest)| rest.split_once("];")).expect("a list").0;
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn is_every_pod_that_the_injector_would_recognise_sent_to_it() {
    let condition = condition(&render(&json!({})), BY_NAMESPACE);
    let of = |container: Value| json!({"metadata": {}, "spec": {"containers": [{"name": "web"}, container]}});
    let images = words_of("IMAGES");
    let written = [
        json!({"name": "geth", "image": "my/chain", "command": ["/start.sh"]}),
        json!({"name": "el", "image": "my/chain", "command": ["/usr/local/bin/geth"]}),
        json!({"name": "el", "image": "my/chain", "command": ["sh", "-c"], "args": ["cd /data; exec geth --http"]}),
        json!({"name": "el", "image": "my/chain", "args": ["geth", "--http"]}),
    ];
    let by_image = images.iter().map(|image| json!({"name": "el", "image": format!("r:5000/a/{image}:v1@sha256:00")}));
    let pods: Vec<Value> = written.into_iter().chain(by_image).map(of).chain(known_pods()).collect();
    assert!(pods.len() >= 25 + 4 + 4);
    for pod in pods {
        assert_ne!(decision(&pod), Decision::NoGethContainer, "{pod}");
        assert!(is_sent(&condition, &pod), "{pod}");
    }
    // What an annotation says counts whatever the rest looks like.
    let told = json!({
        "metadata": {"annotations": {"geth-peering/container": "el"}},
        "spec": {"containers": [{"name": "el", "image": "my/chain"}]},
    });
    assert_ne!(decision(&told), Decision::NoGethContainer);
    assert!(is_sent(&condition, &told));
}

#[test]
fn does_a_pod_that_cannot_be_geth_never_wait_for_the_injector() {
    let condition = condition(&render(&json!({})), BY_NAMESPACE);
    for pod in [
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "web", "image": "nginx"}]}}),
        json!({"metadata": {}, "spec": {"containers": [
            {"name": "web", "image": "nginx", "command": ["sleep"], "args": ["9"]}, {"name": "beacon", "image": "sigp/lighthouse"},
        ]}}),
        json!({"metadata": {"annotations": {"team/geth-peering": "x"}}, "spec": {"containers": [{"name": "web"}]}}),
        // As somebody writes it whom the API server is about to correct.
        json!({"metadata": {}, "spec": {}}),
        json!({"metadata": {}, "spec": {"containers": null}}),
    ] {
        assert_eq!(decision(&pod), Decision::NoGethContainer, "{pod}");
        assert!(!is_sent(&condition, &pod), "{pod}");
    }
    let labelled = webhook(&render(&json!({})), LABELLED);
    assert_eq!(labelled.get("matchConditions"), None, "who has the label is told why it cannot be injected");
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
