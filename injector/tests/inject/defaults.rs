//! Annotations on a namespace, as defaults for its pods.

use std::collections::BTreeMap;

use injector::decision::Decision;
use injector::inject::{Account, Defaults, Outcome, Survey};
use serde_json::{Value, json};

use crate::{patched, settings};

/// What the namespace `chain` says.
fn namespace(annotations: &[(&str, &str)]) -> Defaults {
    let annotations = annotations.iter().map(|(name, value)| (format!("geth-peering/{name}"), (*value).to_owned()));
    Defaults::of("chain", &annotations.collect::<BTreeMap<_, _>>())
}

fn injected(pod: &Value, defaults: &Defaults) -> Outcome {
    Survey::of(pod, &settings(), defaults).inject(&Account::Ready)
}

/// A Geth in a labelled namespace; `container` and `pod` are merged in.
fn pod(container: Value, pod: Value) -> Value {
    let mut object = json!({
        "metadata": {"name": "geth-0"},
        "spec": {"containers": [{"name": "geth", "image": "ethereum/client-go:v1.17.5"}]}
    });
    json_patch::merge(&mut object["spec"]["containers"][0], &container);
    json_patch::merge(&mut object, &pod);
    object
}

fn labelled(mut pod: Value) -> Value {
    pod["metadata"]["labels"] = json!({"geth-peering": "enabled"});
    pod
}

fn sidecar(pod: &Value, outcome: &Outcome) -> Value {
    patched(pod, outcome)["spec"]["initContainers"][0].clone()
}

fn variable(container: &Value, name: &str) -> Option<String> {
    let entry = container["env"].as_array()?.iter().find(|entry| entry["name"] == name)?;
    Some(entry["value"].as_str()?.to_owned())
}

#[test]
fn does_what_a_namespace_says_hold_for_pods_that_say_nothing_else() {
    let defaults = namespace(&[("network", "devnet"), ("log-level", "debug"), ("memory-limit", "128Mi")]);
    for pod in [pod(json!({}), json!({})), labelled(pod(json!({}), json!({})))] {
        let outcome = injected(&pod, &defaults);
        assert_eq!((outcome.decision, outcome.warnings.len()), (Decision::Injected, 0), "{outcome:?}");
        let sidecar = sidecar(&pod, &outcome);
        assert_eq!(variable(&sidecar, "PEERING_NETWORK").as_deref(), Some("devnet"));
        assert_eq!(variable(&sidecar, "LOGGING").as_deref(), Some("DEBUG"));
        assert_eq!(sidecar["resources"]["limits"]["memory"], "128Mi");
        assert!(injected(&patched(&pod, &outcome), &defaults).patch.is_empty(), "a second time changes nothing");
        let annotations = &patched(&pod, &outcome)["metadata"]["annotations"];
        assert_eq!(*annotations, json!({"geth-peering/injected": "0.1.0"}), "they stay the namespace's");
    }

    let own = pod(json!({}), json!({"metadata": {"annotations": {"geth-peering/log-level": "error"}}}));
    let sidecar = sidecar(&own, &injected(&own, &defaults));
    assert_eq!(variable(&sidecar, "LOGGING").as_deref(), Some("ERROR"));
    assert_eq!(variable(&sidecar, "PEERING_NETWORK").as_deref(), Some("devnet"));
}

#[test]
fn does_what_a_geth_is_told_itself_come_before_what_its_namespace_says() {
    let volume = json!({"args": ["--ipcpath=/own/geth.ipc"], "volumeMounts": [{"name": "d", "mountPath": "/own"}]});
    for (defaults, container, more, expected) in [
        (("ipc-path", "/ns/geth.ipc"), volume, json!({}), ("IPC_PATH", "/own/geth.ipc")),
        (("ipc-path", "/ns/geth.ipc"), json!({}), json!({}), ("IPC_PATH", "/ns/geth.ipc")),
        (("run-as-user", "1000"), json!({"securityContext": {"runAsUser": 7}}), json!({}), ("uid", "7")),
        (
            ("run-as-user", "1000"),
            json!({"securityContext": {"runAsUser": 7}}),
            json!({"metadata": {"annotations": {"geth-peering/run-as-user": "8"}}}),
            ("uid", "8"),
        ),
        (("run-as-user", "1000"), json!({"securityContext": {"runAsNonRoot": true}}), json!({}), ("uid", "1000")),
        (("max-peers", "60"), json!({"args": ["--maxpeers=30"]}), json!({}), ("PEERING_MAX_PEERS", "30")),
        (("max-peers", "60"), json!({}), json!({}), ("PEERING_MAX_PEERS", "60")),
    ] {
        let (key, value) = defaults;
        let pod = pod(container, more);
        let outcome = injected(&pod, &namespace(&[(key, value)]));
        assert_eq!((outcome.decision, &outcome.warnings), (Decision::Injected, &Vec::new()), "{:?}", outcome.message);
        let sidecar = sidecar(&pod, &outcome);
        let found = match expected.0 {
            "uid" => Some(sidecar["securityContext"]["runAsUser"].to_string()),
            name => variable(&sidecar, name),
        };
        assert_eq!(found.as_deref(), Some(expected.1), "{pod}");
        // The namespace may say something else by the time the API server asks again.
        let moved = namespace(&[(key, if key == "ipc-path" { "/moved/geth.ipc" } else { "9" })]);
        assert!(injected(&patched(&pod, &outcome), &moved).patch.is_empty(), "{pod}");
    }
}

#[test]
fn does_a_namespace_name_the_container_of_those_pods_that_have_it() {
    let defaults = namespace(&[("container", "node")]);
    let container = |pod: &Value| injected(pod, &defaults).audit["container"].clone();
    assert_eq!(container(&pod(json!({"name": "node", "image": "chain"}), json!({}))), "node");
    assert_eq!(container(&pod(json!({}), json!({}))), "geth");
    let other = injected(&labelled(pod(json!({"name": "web", "image": "nginx"}), json!({}))), &defaults);
    assert_eq!((other.decision, other.denied), (Decision::NoGethContainer, true));
}

#[test]
fn is_a_mistake_of_the_namespace_told_as_its_own() {
    let geth = pod(json!({}), json!({"metadata": {"annotations": {"geth-peering/colour": "red"}}}));
    let defaults = namespace(&[("log-level", "LOUD"), ("colour", "blue")]);
    let outcome = injected(&labelled(geth.clone()), &defaults);
    assert_eq!((outcome.decision, outcome.denied), (Decision::InvalidAnnotation, true));
    let message = outcome.message.unwrap();
    assert!(
        message.contains("annotation geth-peering/log-level=\"LOUD\" of namespace chain: write DEBUG"),
        "{message}"
    );
    assert!(message.contains("annotation geth-peering/colour=\"red\": there is no such annotation"), "{message}");
    assert!(!message.contains("blue"), "what the pod writes itself takes its place: {message}");

    let passed = injected(&geth, &defaults);
    assert_eq!((passed.denied, passed.patch.is_empty()), (false, true));
    assert!(passed.warnings[0].contains(&message), "{:?}", passed.warnings);

    let own = pod(json!({}), json!({"metadata": {"annotations": {"geth-peering/log-level": "INFO"}}}));
    assert_eq!(injected(&own, &namespace(&[("log-level", "LOUD")])).decision, Decision::Injected);

    // What is found out later than by reading it.
    let patch = namespace(&[("patch", r#"[{"op":"remove","path":"/nothing"}]"#)]);
    let message = injected(&pod(json!({}), json!({})), &patch).message.unwrap();
    assert!(message.contains("annotation geth-peering/patch of namespace chain: "), "{message}");
}

#[test]
fn do_a_request_of_the_pod_and_a_limit_of_its_namespace_have_to_fit() {
    let request = json!({"metadata": {"annotations": {"geth-peering/memory-request": "1Gi"}}});
    let pod = labelled(pod(json!({}), request));
    assert_eq!(injected(&pod, &namespace(&[("memory-limit", "2Gi")])).decision, Decision::Injected);
    let outcome = injected(&pod, &namespace(&[("memory-limit", "512Mi")]));
    assert_eq!(outcome.decision, Decision::InvalidAnnotation);
    let message = outcome.message.unwrap();
    assert!(
        message.contains("limited to 512Mi (annotation geth-peering/memory-limit of namespace chain)"),
        "{message}"
    );
    assert!(message.contains("request 1Gi of memory and"), "{message}");
}

#[test]
fn does_a_pod_that_is_no_geth_hear_nothing_of_its_namespaces_mistakes() {
    let web = pod(json!({"name": "web", "image": "nginx"}), json!({}));
    let outcome = injected(&web, &namespace(&[("colour", "red")]));
    assert_eq!((outcome.decision, outcome.warnings.len()), (Decision::NoGethContainer, 0));
}

#[test]
fn are_the_injectors_own_marks_and_what_is_not_ours_left_aside_on_a_namespace() {
    let annotations = ["geth-peering/injected", "geth-peering/undo", "geth-peering", "other/colour"];
    let annotations = annotations.map(|key| (key.to_owned(), "x".to_owned())).into();
    assert_eq!(Defaults::of("chain", &annotations), Defaults::of("chain", &BTreeMap::new()));
}
