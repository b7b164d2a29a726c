//! What the guard lets pass, decided by its own expressions as the API server would.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::helm::{OLDEST_KUBERNETES, Objects, at, chart, render_for, render_text_of};

/// The first Kubernetes in which ValidatingAdmissionPolicies are stable.
const KUBERNETES: &str = "1.30.0";

fn objects(guard: Value) -> Objects {
    render_for(&at("guard", guard), KUBERNETES)
}

fn evaluate(expression: &Value, context: &cel::Context<'_, '_>) -> cel::Value {
    let expression = expression.as_str().expect("CEL");
    let program = cel::Program::compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    program.execute(context).unwrap_or_else(|error| panic!("{expression}: {error}"))
}

/// What the guard says about a pod: nothing, or each message.
fn complaints(objects: &Objects, pod: &Value) -> Vec<String> {
    let policy = &objects.get("ValidatingAdmissionPolicy", "geth-peering")["spec"];
    let list = |name: &str| policy[name].as_array().expect("a list");
    let mut context = cel::Context::default();
    context.add_variable("object", pod.clone()).expect("a variable");
    if !list("matchConditions").iter().all(|c| evaluate(&c["expression"], &context) == cel::Value::Bool(true)) {
        return Vec::new();
    }
    let mut variables = json!({});
    for variable in list("variables") {
        context.add_variable("variables", variables.clone()).expect("a variable");
        let value = evaluate(&variable["expression"], &context).json().expect("JSON");
        variables[variable["name"].as_str().expect("a name")] = value;
    }
    context.add_variable("variables", variables).expect("a variable");
    let failed = list("validations").iter().filter(|v| evaluate(&v["expression"], &context) == cel::Value::Bool(false));
    failed
        .map(|validation| match &validation["messageExpression"] {
            Value::Null => validation["message"].as_str().expect("a message").to_owned(),
            expression => match evaluate(expression, &context) {
                cel::Value::String(message) => message.to_string(),
                other => panic!("{other:?}"),
            },
        })
        .collect()
}

/// Every pod of the injector's own tests, as it is once injected.
fn injected() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../injector/tests/golden");
    let files = fs::read_dir(folder).expect("golden files").map(|entry| entry.expect("a file").path());
    let outputs = files.filter(|path| path.to_string_lossy().ends_with(".injected.yaml"));
    let pods: Vec<Value> =
        outputs.map(|path| serde_saphyr::from_str(&fs::read_to_string(path).expect("a text")).expect("YAML")).collect();
    assert!(pods.len() >= 25, "the outputs are there");
    pods
}

#[test]
fn does_every_injected_pod_pass_the_guard() {
    let objects = objects(json!({"enabled": true}));
    for pod in injected() {
        assert_eq!(complaints(&objects, &pod), [""; 0], "{pod}");
    }
}

#[test]
fn does_the_guard_say_what_is_missing() {
    let objects = objects(json!({"enabled": true}));
    let geth = json!({"name": "geth", "image": "g", "volumeMounts": [{"name": "ipc", "mountPath": "/ipc"}]});
    let sidecar = json!({
        "name": "geth-peering", "image": "s", "restartPolicy": "Always",
        "env": [{"name": "IPC_PATH", "value": "/ipc/geth.ipc"}],
        "volumeMounts": [{"name": "token", "mountPath": "/ip"}, {"name": "ipc", "mountPath": "/ipc/"}]
    });
    let with = |init: Vec<Value>, containers: Vec<Value>| {
        let mut pod = json!({"metadata": {}, "spec": {"containers": containers}});
        if !init.is_empty() {
            pod["spec"]["initContainers"] = json!(init);
        }
        pod
    };
    let without = |container: &Value, field: &str| {
        let mut container = container.clone();
        container.as_object_mut().expect("an object").remove(field);
        container
    };
    let mut ends = sidecar.clone();
    ends["restartPolicy"] = json!("OnFailure");
    let fine = with(vec![sidecar.clone()], vec![geth.clone()]);
    let mut mirror = with(vec![], vec![geth.clone()]);
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "0"});
    for (pod, complaint) in [
        (fine, None),
        (mirror, None),
        // Ordinary sidecars, and what a person patched, are none of its business.
        (with(vec![], vec![geth.clone(), without(&sidecar, "restartPolicy")]), None),
        (with(vec![without(&sidecar, "env")], vec![geth.clone()]), None),
        (with(vec![], vec![geth.clone()]), Some("no sidecar")),
        (with(vec![json!({"name": "genesis"})], vec![geth.clone()]), Some("no sidecar")),
        (with(vec![ends], vec![geth.clone()]), Some("lacks restartPolicy: Always")),
        (with(vec![without(&sidecar, "restartPolicy")], vec![geth.clone()]), Some("lacks restartPolicy: Always")),
        (with(vec![without(&sidecar, "volumeMounts")], vec![geth.clone()]), Some("socket /ipc/geth.ipc, so they")),
        (
            with(vec![], vec![without(&geth, "volumeMounts"), without(&sidecar, "restartPolicy")]),
            Some("socket /ipc/geth.ipc, so they"),
        ),
        (with(vec![sidecar.clone()], vec![without(&geth, "volumeMounts")]), Some("socket /ipc/geth.ipc, so they")),
    ] {
        let said = complaints(&objects, &pod);
        assert_eq!(said.len(), usize::from(complaint.is_some()), "{pod}: {said:?}");
        assert!(said.iter().all(|said| said.contains(complaint.expect("a complaint"))), "{pod}: {said:?}");
    }
}

#[test]
fn does_the_guard_look_at_new_pods_with_the_label_where_the_webhooks_do() {
    let objects = render_for(
        &json!({"guard": {"enabled": true, "actions": ["Deny"]}, "webhook": {"excludedNamespaces": ["vault"]}}),
        KUBERNETES,
    );
    let policy = &objects.get("ValidatingAdmissionPolicy", "geth-peering")["spec"];
    let webhook = &objects.get("MutatingWebhookConfiguration", "geth-peering")["webhooks"][0];
    let constraints = &policy["matchConstraints"];
    assert_eq!(constraints["resourceRules"], webhook["rules"]);
    assert_eq!(constraints["namespaceSelector"], webhook["namespaceSelector"]);
    assert_eq!(constraints["objectSelector"], json!({"matchLabels": {"geth-peering": "enabled"}}));
    assert_eq!(policy["failurePolicy"], "Ignore", "a guard that fails must not keep pods from starting");
    let binding = &objects.get("ValidatingAdmissionPolicyBinding", "geth-peering")["spec"];
    assert_eq!(*binding, json!({"policyName": "geth-peering", "validationActions": ["Deny"]}));
    for validation in policy["validations"].as_array().expect("validations") {
        let message =
            validation["message"].as_str().expect("the API server wants one beside an expression of two lines");
        assert!(!message.contains('\n'), "the API server refuses it: {message}");
    }
}

#[test]
fn is_the_guard_refused_where_kubernetes_has_no_such_policies() {
    let render = |kubernetes| render_text_of(&chart(), &at("guard.enabled", json!(true)), kubernetes);
    for old in [OLDEST_KUBERNETES, "1.29.9-gke.1"] {
        let error = render(old).expect_err(old);
        assert!(error.contains("guard.enabled needs Kubernetes 1.30"), "{error}");
    }
    for new in [KUBERNETES, "1.30.0-eks-1234", "1.34.4+k3s1"] {
        render(new).unwrap_or_else(|error| panic!("{new}: {error}"));
    }
}
