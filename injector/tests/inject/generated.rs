//! Rules that hold for any pod, tried on pods put together at random from what people write.

use injector::decision::Decision;
use injector::manifest::{self, Injection};
use proptest::prelude::*;
use proptest::sample::subsequence;
use serde_json::{Map, Value, json};

use crate::{injected, patched, rules, settings};

/// One of these, or nothing, or null.
fn maybe(values: Vec<Value>) -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Value::Null)),
        6 => proptest::sample::select(values).prop_map(Some),
    ]
}

fn object(fields: Vec<(&'static str, Option<Value>)>) -> Value {
    Value::Object(fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect::<Map<_, _>>())
}

/// Some of the items, in their order.
fn some(items: Vec<Value>) -> impl Strategy<Value = Value> {
    let count = items.len();
    subsequence(items, 0..=count).prop_map(Value::Array)
}

fn command_line() -> impl Strategy<Value = (Option<Value>, Option<Value>)> {
    let flags = some(
        [
            "--datadir=/data",
            "--ipcdisable",
            "--http",
            "--ipcpath=/data/geth.ipc",
            "--ipcpath=x.ipc",
            "-ipcpath=/i/g",
            "--ipcdisable=false",
            "--maxpeers=7",
            "--nat=any",
            "--ipcpath=$(X)/g",
            "--sepolia",
            "console",
        ]
        .map(Value::from)
        .to_vec(),
    );
    let script = |flags: &Value| {
        let words: Vec<&str> = flags.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        format!("set -e\nexec geth \\\n  {} \\\n  --identity 'it is me'\n", words.join(" \\\n  "))
    };
    (flags, 0..6_u8).prop_map(move |(flags, shape)| match shape {
        0 => (None, Some(flags)),
        1 => (Some(json!(["geth"])), Some(flags)),
        2 => (Some(json!(["/bin/sh", "-c", script(&flags)])), None),
        3 => (Some(json!(["bash", "-ec"])), Some(json!([script(&flags)]))),
        4 => (Some(json!(["sh", "-c", "exec geth $EXTRA"])), None),
        _ => (Some(Value::Null), Some(Value::Null)),
    })
}

fn security_context() -> impl Strategy<Value = Option<Value>> {
    maybe(vec![
        json!({}),
        json!({"runAsUser": 0}),
        json!({"runAsUser": 10001, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}),
        json!({"runAsUser": 5, "runAsGroup": 6, "runAsNonRoot": null}),
        json!({"runAsNonRoot": true}),
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true}),
    ])
}

fn geth() -> impl Strategy<Value = Value> {
    let env = some(vec![
        json!({"name": "GETH_IPCDISABLE", "value": "true"}),
        json!({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}),
        json!({"name": "POD_IP", "value": "1.2.3.4"}),
        json!({"name": "GETH_NAT", "value": "any"}),
        json!({"name": "GETH_IPCPATH", "value": "/ipc/geth.ipc"}),
        json!({"name": "GETH_MAXPEERS", "value": "9"}),
        json!({"name": "X~/y", "value": ""}),
        json!({"name": "EXTRA", "value": "--ipcdisable --http"}),
    ]);
    let mounts = some(vec![
        json!({"name": "data", "mountPath": "/data"}),
        json!({"name": "data", "mountPath": "/root/.ethereum/", "subPath": "a/b~c"}),
        json!({"name": "ipc", "mountPath": "/ipc", "mountPropagation": "HostToContainer"}),
        json!({"name": "ipc", "mountPath": "/run/geth-peering"}),
    ]);
    let image = proptest::sample::select(vec!["ethereum/client-go:v1.17.5", "geth", "registry:5000/chain", "bare"]);
    (
        command_line(),
        prop_oneof![Just(Value::Null), env],
        prop_oneof![Just(Value::Null), mounts],
        security_context(),
        image,
    )
        .prop_map(|((command, args), env, mounts, context, image)| {
            object(vec![
                ("name", Some(json!("geth"))),
                ("image", Some(json!(image))),
                ("command", command),
                ("args", args),
                ("env", Some(env)),
                ("volumeMounts", Some(mounts)),
                ("securityContext", context),
                ("fieldOfTomorrow", Some(json!({"a": [null, 1.5]}))),
            ])
        })
}

fn annotations() -> impl Strategy<Value = Option<Value>> {
    maybe(vec![
        json!({}),
        json!({"other/key": "x"}),
        json!({"geth-peering/injected": "0.0.1"}),
        json!({"geth-peering/run-as-user": "77"}),
        json!({"geth-peering/service-account": "replace", "geth-peering/network": "n"}),
        json!({"geth-peering/ipc-path": "/sock/geth.ipc", "geth-peering/native-sidecar": "false"}),
        json!({"geth-peering/max-peers": "40"}),
        json!({"geth-peering/patch": r#"[{"op":"add","path":"/env/-","value":{"name":"A","value":"b"}}]"#}),
        json!({"geth-peering/colour": "red"}),
    ])
}

fn pod() -> impl Strategy<Value = Value> {
    let labels = maybe(vec![json!({"geth-peering": "enabled"}), json!({"app": "geth"}), json!({})]);
    let others = some(vec![
        json!({"name": "mesh", "image": "mesh", "args": ["--ipcdisable"]}),
        json!({"name": "beacon", "image": "sigp/lighthouse"}),
        json!({"name": "second", "image": "ethereum/client-go"}),
    ]);
    let init = maybe(vec![json!([]), json!([{"name": "i", "restartPolicy": "Always"}, {"name": "j"}])]);
    let account = maybe(vec![json!("default"), json!("mine"), json!("geth-peering")]);
    let links = maybe(vec![json!(true), json!(false)]);
    let volumes = vec![json!({"name": "data", "emptyDir": {}}), json!({"name": "ipc", "emptyDir": {}})];
    (geth(), others, any::<bool>(), init, (labels, annotations()), (account, links), security_context()).prop_map(
        move |(geth, others, first, init, (labels, annotations), (account, links), context)| {
            let mut containers = others.as_array().cloned().unwrap_or_default();
            containers.insert(if first { 0 } else { containers.len() }, geth);
            json!({
                "metadata": object(vec![("generateName", Some(json!("geth-"))), ("labels", labels), ("annotations", annotations)]),
                "spec": object(vec![
                    ("containers", Some(Value::Array(containers))),
                    ("initContainers", init),
                    ("volumes", Some(Value::Array(volumes.clone()))),
                    ("serviceAccountName", account.clone()),
                    ("serviceAccount", account),
                    ("enableServiceLinks", links),
                    ("securityContext", context),
                ]),
                "status": {}
            })
        },
    )
}

/// Takes parts of the injection out again, as a webhook does that writes a pod anew without knowing all its fields.
fn broken(mut pod: Value, which: u8) -> Value {
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let is_sidecar = container["name"] == "geth-peering";
            let Some(fields) = container.as_object_mut() else { continue };
            if is_sidecar && which & 1 != 0 {
                fields.remove("restartPolicy");
            }
            if is_sidecar && which & 2 != 0 {
                fields.remove("volumeMounts");
            }
        }
    }
    if which & 4 != 0 {
        let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
        volumes.retain(|volume| !volume["name"].as_str().unwrap().starts_with("geth-peering"));
    }
    if which & 8 != 0 {
        pod["spec"]["containers"].as_array_mut().unwrap().insert(0, json!({"name": "added", "image": "late"}));
    }
    pod
}

fn injects(decision: Decision) -> bool {
    matches!(decision, Decision::Injected | Decision::Repaired | Decision::AlreadyInjected)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_any_pod_come_out_whole_and_only_once(pod in pod(), damage in 0..16_u8) {
        let outcome = injected(&pod);
        if outcome.denied || !injects(outcome.decision) {
            prop_assert!(outcome.patch.is_empty());
            prop_assert!(outcome.message.is_some());
            return Ok(());
        }
        let after = patched(&pod, &outcome);
        rules::check(&pod, &after, &outcome);
        let again = injected(&after);
        prop_assert_eq!(again.decision, Decision::AlreadyInjected);
        prop_assert!(again.patch.is_empty(), "changed a second time: {:#}", again.patch);

        let broken = broken(after, damage);
        let repair = injected(&broken);
        prop_assert!(injects(repair.decision), "{:?}", repair.message);
        let repaired = patched(&broken, &repair);
        rules::check(&broken, &repaired, &repair);
        let native = repaired["spec"]["initContainers"].as_array().into_iter().flatten();
        for sidecar in native.filter(|container| container["name"] == "geth-peering") {
            prop_assert_eq!(&sidecar["restartPolicy"], "Always");
        }
        prop_assert!(injected(&repaired).patch.is_empty());
    }

    #[test]
    fn does_uninject_give_back_any_pod_that_was_injected(mut pod in pod()) {
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        let injection = Injection { settings: settings(), namespace: None, rights: false };
        // A pod that is refused, or that is no Geth, stays as it is.
        let Ok(after) = manifest::inject(&pod.to_string(), &injection) else { return Ok(()) };
        let back = manifest::uninject(&after.text).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(serde_json::from_str::<Value>(&back.text).unwrap(), pod);
    }

    #[test]
    fn does_no_text_anywhere_upset_the_injector(text in "\\PC{0,60}", script in "[-a-z \"'`$(){}<>&|;\\\\\n=/#]{0,80}") {
        let pod = json!({
            "metadata": {"annotations": {"geth-peering/ipc-path": text, "geth-peering/image": text, text.as_str(): text}},
            "spec": {"containers": [{"name": "geth", "image": text, "command": ["sh", "-c", script], "args": [text]}]}
        });
        let _ = injected(&pod);
        let plain = json!({"spec": {"containers": [
            {"name": "geth", "command": ["sh", "-c", format!("geth --ipcdisable {script}")], "args": [text]}]}});
        let outcome = injected(&plain);
        if injects(outcome.decision) {
            let after = patched(&plain, &outcome);
            prop_assert!(injected(&after).patch.is_empty());
        }
    }
}
