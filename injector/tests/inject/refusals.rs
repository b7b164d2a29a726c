//! Pods that cannot be injected: what they are told, and that only those are refused which asked for it themselves.

use injector::decision::Decision;
use injector::inject::{Defaults, Survey};
use serde_json::{Value, json};

use crate::{injected, settings};

/// A labelled pod of one Geth container; `container` and `pod` are merged in.
fn pod(container: Value, pod: Value) -> Value {
    let mut object = json!({
        "metadata": {"name": "geth-0", "labels": {"geth-peering": "enabled"}},
        "spec": {"containers": [{"name": "geth", "image": "ethereum/client-go:v1.17.5"}]}
    });
    json_patch::merge(&mut object["spec"]["containers"][0], &container);
    json_patch::merge(&mut object, &pod);
    object
}

fn annotated(key: &str, value: &str) -> Value {
    pod(json!({}), json!({"metadata": {"annotations": {format!("geth-peering/{key}"): value}}}))
}

fn in_namespace(mut pod: Value) -> Value {
    pod["metadata"]["labels"].as_object_mut().unwrap().remove("geth-peering");
    pod
}

#[test]
fn is_a_labelled_pod_that_cannot_be_injected_told_what_to_write() {
    let volume = |name: &str| json!({"spec": {"volumes": [{"name": name, "configMap": {"name": "x"}}]}});
    let containers = |list: Value| json!({"spec": {"containers": list}});
    for (pod, decision, hints) in [
        (
            pod(json!({}), containers(json!([{"name": "web", "image": "nginx"}, {"name": "db", "image": "pg"}]))),
            Decision::NoGethContainer,
            vec!["geth-peering/container: <name>", "web, db"],
        ),
        (
            pod(json!({}), containers(json!([{"name": "a", "image": "geth"}, {"name": "b", "image": "geth"}]))),
            Decision::SeveralGethContainers,
            vec!["geth-peering/container: <name>", "a, b"],
        ),
        (annotated("container", "node"), Decision::InvalidAnnotation, vec!["no such container", "write one of geth"]),
        (
            annotated("log-level", "LOUD"),
            Decision::InvalidAnnotation,
            vec!["geth-peering/log-level=\"LOUD\"", "WARNING"],
        ),
        (annotated("colour", "red"), Decision::InvalidAnnotation, vec!["geth-peering/colour", "log-level"]),
        (annotated("configmap", "mine"), Decision::InvalidAnnotation, vec!["registry.configMapNames", "geth-peering;"]),
        (annotated("min-peers", "some"), Decision::InvalidAnnotation, vec!["whole number"]),
        (
            annotated("advertise", "geth-0.geth:30303"),
            Decision::InvalidAnnotation,
            vec!["host name is not taken", "$(HOST_IP):PORT"],
        ),
        (
            annotated("patch", r#"[{"op":"remove","path":"/nothing"}]"#),
            Decision::InvalidAnnotation,
            vec!["geth-peering/patch", "/nothing"],
        ),
        (
            annotated("patch", r#"[{"op":"replace","path":"/name","value":"x"}]"#),
            Decision::InvalidAnnotation,
            vec!["changes the name"],
        ),
        (
            annotated("patch", r#"[{"op":"replace","path":"/ports","value":"none"}]"#),
            Decision::InvalidAnnotation,
            vec!["geth-peering/patch", "not a container as Kubernetes knows it", "\"none\\\"", "correct it"],
        ),
        (
            annotated("patch", r#"[{"op":"add","path":"/resources/limits/cpu","value":"much"}]"#),
            Decision::InvalidAnnotation,
            vec!["geth-peering/patch", "\"much\" is no amount of the resource cpu"],
        ),
        (
            annotated("patch", r#"[{"op":"copy","from":"/env","path":"/env/-"}]"#),
            Decision::InvalidAnnotation,
            vec!["write add, remove, replace or test"],
        ),
        (
            pod(json!({"args": ["--ipcpath=$(DIR)/geth.ipc"]}), json!({})),
            Decision::IpcPathUnknown,
            vec!["--ipcpath $(DIR)/geth.ipc", "geth-peering/ipc-path: <absolute path>"],
        ),
        (
            pod(json!({"args": ["--ipcpath=/geth.ipc"]}), json!({})),
            Decision::IpcPathImpossible,
            vec!["/geth.ipc", "--ipcpath=/run/geth-peering/geth.ipc"],
        ),
        (
            pod(
                json!({"args": ["--ipcpath=/d/geth.ipc"],
                       "volumeMounts": [{"name": "d", "mountPath": "/d", "subPathExpr": "$(WHO)"}]}),
                json!({}),
            ),
            Decision::IpcPathImpossible,
            vec!["the variable WHO, which is not in that container's env; write it there"],
        ),
        (
            pod(
                json!({"args": ["--ipcpath=/d/geth.ipc"],
                       "env": (0..33).map(|n| json!({"name": format!("V{n}"), "value": "x"})).collect::<Vec<_>>(),
                       "volumeMounts": [{"name": "d", "mountPath": "/d",
                                         "subPathExpr": (0..33).map(|n| format!("$(V{n})")).collect::<String>()}]}),
                json!({}),
            ),
            Decision::IpcPathImpossible,
            vec!["the variable V0, as one of too many; write fewer"],
        ),
        (
            pod(json!({"securityContext": {"runAsNonRoot": true}}), json!({})),
            Decision::UserUnknown,
            vec!["runAsUser", "geth-peering/run-as-user"],
        ),
        (
            pod(json!({}), volume("geth-peering-ipc")),
            Decision::NameTaken,
            vec!["volume named geth-peering-ipc", "rename"],
        ),
        (pod(json!({}), volume("geth-peering-token")), Decision::NameTaken, vec!["geth-peering-token", "rename"]),
        (
            pod(json!({}), json!({"spec": {"initContainers": [{"name": "geth-peering", "image": "mine"}]}})),
            Decision::NameTaken,
            vec!["container named geth-peering", "rename"],
        ),
        (pod(json!({}), json!({"spec": {"os": {"name": "windows"}}})), Decision::WindowsPod, vec!["Linux nodes"]),
        (pod(json!({"env": "none"}), json!({})), Decision::MalformedObject, vec!["/spec/containers/0/env"]),
    ] {
        let outcome = injected(&pod);
        assert_eq!((outcome.decision, outcome.denied), (decision, true), "{pod}: {:?}", outcome.message);
        let message = outcome.message.unwrap();
        for hint in hints {
            assert!(message.contains(hint), "{hint:?} is not in: {message}");
        }
        assert!(outcome.patch.is_empty());

        let passed = injected(&in_namespace(pod));
        assert_eq!((passed.decision, passed.denied, passed.patch.is_empty()), (decision, false, true));
        // A namespace holds much that is no Geth; only what looked like one is worth a word.
        let warned = passed.warnings.iter().any(|warning| warning.contains(&message));
        assert_eq!(warned, decision != Decision::NoGethContainer, "{:?}", passed.warnings);
    }
}

#[test]
fn are_all_wrong_annotations_reported_at_once() {
    let pod = pod(
        json!({}),
        json!({"metadata": {"annotations": {
            "geth-peering/log-level": "LOUD", "geth-peering/colour": "red", "geth-peering/run-as-user": "geth"}}}),
    );
    let message = injected(&pod).message.unwrap();
    for key in ["log-level", "colour", "run-as-user"] {
        assert!(message.contains(&format!("geth-peering/{key}=")), "{message}");
    }
}

#[test]
fn does_a_message_stay_short_however_long_the_text_it_is_about() {
    let long = "x".repeat(100_000);
    let path = format!("/{long}");
    let many: Vec<Value> = (0..1000).map(|n| json!({"name": format!("{n}{long}"), "image": "nginx"})).collect();
    let keys = (0..1000).map(|n| (format!("geth-peering/x{n}"), json!(""))).collect::<serde_json::Map<_, _>>();
    for pod in [
        pod(json!({}), json!({"spec": {"containers": many}})),
        pod(json!({}), json!({"metadata": {"labels": {"geth-peering": long}}})),
        pod(json!({}), json!({"metadata": {"annotations": keys}})),
        pod(json!({"args": [format!("--ipcpath={path}")]}), json!({})),
        pod(json!({"args": [format!("--ipcpath=$(X){path}")]}), json!({})),
        pod(json!({"args": [format!("--ipcpath=~{path}")]}), json!({})),
        pod(json!({"args": ["--ipcpath=/a/b"], "volumeMounts": [{"mountPath": format!("/a{path}")}]}), json!({})),
        pod(json!({"args": ["--ipcpath=/a/b", format!("--datadir=/a{path}")]}), json!({})),
        pod(json!({"args": ["--ipcpath=/a/b"], "workingDir": format!("/a{path}")}), json!({})),
        pod(json!({"name": long, "securityContext": {"runAsNonRoot": true}}), json!({})),
        pod(
            json!({"name": long, "args": ["--ipcpath=/a/b"],
                   "volumeMounts": [{"mountPath": "/a", "subPathExpr": format!("$({long})")}]}),
            json!({}),
        ),
        annotated("patch", &json!([{"op": "remove", "path": path}]).to_string()),
        annotated("patch", &json!([{"op": "replace", "path": "/ports", "value": long}]).to_string()),
        annotated("cpu-request", &long),
    ] {
        let outcome = injected(&pod);
        assert!(outcome.denied);
        let message = outcome.message.unwrap();
        assert!(message.len() < 2500, "{} characters: {}", message.len(), &message[..300]);
    }
}

#[test]
fn is_a_label_that_is_neither_enabled_nor_disabled_refused() {
    for value in ["", "true", "Enabled"] {
        let outcome = injected(&pod(json!({}), json!({"metadata": {"labels": {"geth-peering": value}}})));
        assert_eq!((outcome.decision, outcome.denied), (Decision::BadLabel, true));
        assert!(outcome.message.unwrap().contains("write enabled or disabled"));
    }
}

#[test]
fn does_what_is_none_of_the_injectors_business_pass_in_silence() {
    for (pod, decision) in [
        (pod(json!({}), json!({"metadata": {"labels": {"geth-peering": "disabled"}}})), Decision::Disabled),
        (pod(json!({}), json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})), Decision::NotApplicable),
        (json!(null), Decision::NotApplicable),
        (json!({"metadata": {"name": "geth-0"}}), Decision::NotApplicable),
    ] {
        let outcome = injected(&pod);
        assert_eq!((outcome.decision, outcome.denied), (decision, false), "{pod}");
        assert_eq!((outcome.patch.is_empty(), outcome.warnings.is_empty()), (true, true), "{pod}");
    }
}

#[test]
fn does_a_mirror_pod_pass_with_a_warning_even_if_labelled() {
    let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "0a1b"}}});
    let outcome = injected(&pod(json!({}), mirror));
    assert_eq!((outcome.decision, outcome.denied), (Decision::MirrorPod, false));
    assert!(outcome.patch.is_empty() && outcome.warnings[0].contains("static pod"));
}

#[test]
fn is_no_account_prepared_for_a_pod_that_is_not_injected() {
    let (settings, geth) = (settings(), pod(json!({}), json!({})));
    assert!(Survey::of(&geth, &settings, &Defaults::default()).account().is_some_and(|plan| plan.replaces.is_some()));
    for pod in [
        json!({"metadata": {}, "spec": {"containers": [{"name": "web", "image": "nginx"}]}}),
        annotated("colour", "red"),
        pod(json!({}), json!({"metadata": {"labels": {"geth-peering": "disabled"}}})),
    ] {
        assert_eq!(Survey::of(&pod, &settings, &Defaults::default()).account(), None, "{pod}");
    }
}
