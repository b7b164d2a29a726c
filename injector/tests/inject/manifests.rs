//! Manifests that are injected without a webhook, as people have them in files.

use std::collections::BTreeMap;

use injector::manifest::{Injection, ManifestError, Rewritten, inject, uninject};
use serde_json::{Value, json};

use crate::settings;

/// A small network as a file: nothing but the StatefulSet is a Geth.
const NETWORK: &str = "\
# The network of the tests.
apiVersion: v1
kind: Service
metadata: {name: geth}   # kept as it is
spec:
  clusterIP: None
---
# Three nodes.
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: geth
spec:
  replicas: 3
  template:
    spec:
      containers:
        - name: geth
          image: ethereum/client-go:v1.17.5
          args: [--datadir=/data, --ipcdisable, --http]
          env:
            - name: ANSWER
              value: \"yes\"
      volumes:
        - name: genesis
          configMap:
            name: genesis
            defaultMode: 0644
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: backup
spec:
  jobTemplate:
    spec:
      template:
        spec:
          containers: [{name: backup, image: rclone}]
";

fn injection() -> Injection {
    Injection { settings: settings(), namespace: Some("chain".into()), rights: true }
}

fn injected(text: &str) -> Rewritten {
    inject(text, &injection()).unwrap_or_else(|error| panic!("{error}"))
}

fn read(text: &str) -> Vec<Value> {
    if text.starts_with('{') {
        return serde_json::Deserializer::from_str(text).into_iter().map(Result::unwrap).collect();
    }
    serde_saphyr::from_multiple_with_options(text, serde_saphyr::options! { legacy_octal_numbers: true }).unwrap()
}

#[test]
fn does_a_file_come_out_with_the_sidecar_and_all_else_untouched() {
    let Rewritten { text, report } = injected(NETWORK);
    let first = NETWORK.split("---").next().unwrap();
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("---\n# Three nodes.\n"), "{text}");
    assert!(text.contains(NETWORK.rsplit("---").next().unwrap()), "{text}");

    let objects = read(&text);
    let pod = &objects[1]["spec"]["template"]["spec"];
    assert_eq!(pod["initContainers"][0]["name"], "geth-peering");
    assert_eq!(pod["serviceAccountName"], "geth-peering");
    assert_eq!(pod["containers"][0]["args"], json!(["--datadir=/data", "--http"]));
    assert_eq!(pod["containers"][0]["env"][0]["value"], "yes");
    assert_eq!(pod["volumes"][0]["configMap"]["defaultMode"], 0o644);

    let lines: Vec<&str> = report.lines().collect();
    assert_eq!(lines[0], "StatefulSet geth: injected");
    assert!(lines[1].starts_with("StatefulSet geth: warning: --ipcdisable was taken out"), "{report}");
    assert!(report.contains("CronJob backup: no-geth-container"), "{report}");
}

#[test]
fn do_the_sidecars_get_their_rights_with_it() {
    let objects = read(&injected(NETWORK).text);
    let mut found: BTreeMap<&str, &Value> = BTreeMap::new();
    for object in &objects[3..] {
        assert_eq!(object["metadata"]["namespace"], "chain");
        found.insert(object["kind"].as_str().unwrap(), object);
    }
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), ["Role", "RoleBinding", "ServiceAccount"]);
    assert_eq!(found["ServiceAccount"]["metadata"]["name"], "geth-peering");
    assert_eq!(
        found["RoleBinding"]["subjects"],
        json!([{"kind": "ServiceAccount", "name": "geth-peering", "namespace": "chain"}])
    );
    assert_eq!(found["RoleBinding"]["roleRef"]["name"], found["Role"]["metadata"]["name"]);
    assert_eq!(found["Role"]["rules"][1]["resourceNames"], json!(["geth-peering"]));

    let without = inject(NETWORK, &Injection { rights: false, ..injection() }).unwrap();
    assert_eq!(read(&without.text).len(), 3);
}

#[test]
fn does_a_workload_that_says_disabled_stay_as_it_is() {
    let mut set = read(NETWORK).swap_remove(1);
    set["metadata"]["annotations"]["geth-peering"] = json!("disabled");
    let text = set.to_string();
    let Rewritten { text: after, report } = injected(&text);
    assert_eq!((after, report.as_str()), (text, "StatefulSet geth: disabled\n"));
}

#[test]
fn does_every_account_get_rights_where_its_registry_is() {
    let pod = |namespace: &str, account: &str, registry: Option<&str>| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "geth", "namespace": namespace,
                "annotations": registry.map(|registry| json!({"geth-peering/registry-namespace": registry}))},
            "spec": {"serviceAccountName": account, "containers": [{"name": "geth", "image": "geth"}]},
        })
        .to_string()
    };
    let text =
        pod("east", "mine", None) + &pod("east", "default", Some("shared")) + &pod("west", "mine", Some("shared"));
    let mut settings = settings();
    settings.registry_namespaces = vec!["shared".into()];
    let injection = Injection { settings, namespace: None, rights: true };
    let text = inject(&text, &injection).unwrap().text;
    let objects = read(&text);
    let bindings: BTreeMap<&str, Vec<String>> = objects
        .iter()
        .filter(|object| object["kind"] == "RoleBinding")
        .map(|object| {
            let subjects = object["subjects"].as_array().unwrap();
            let name = |subject: &Value| format!("{}/{}", subject["namespace"], subject["name"]).replace('"', "");
            (object["metadata"]["namespace"].as_str().unwrap(), subjects.iter().map(name).collect())
        })
        .collect();
    let expected = [
        ("east", vec!["east/geth-peering", "east/mine"]),
        ("shared", vec!["east/geth-peering", "west/mine"]),
        ("west", vec!["west/mine"]),
    ];
    assert_eq!(bindings, expected.map(|(place, names)| (place, names.into_iter().map(str::to_owned).collect())).into());
    let accounts: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "ServiceAccount").collect();
    assert_eq!(accounts.len(), 1);
    assert_eq!(accounts[0]["metadata"]["namespace"], "east");
}

#[test]
fn does_uninject_give_back_what_was_there() {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": read(NETWORK)}).to_string();
    let json: String = read(NETWORK).iter().map(|object| format!("{object:#}\n")).collect();
    for text in [NETWORK.to_owned(), list, json] {
        let injected = injected(&text);
        assert_ne!(injected.text, text);
        let back = uninject(&injected.text).unwrap();
        assert_eq!(read(&back.text), read(&text));
        assert!(back.report.contains("StatefulSet geth: uninjected"), "{}", back.report);
    }
}

#[test]
fn does_injecting_twice_change_nothing() {
    let once = injected(NETWORK).text;
    let twice = inject(&once, &Injection { rights: false, ..injection() }).unwrap();
    assert_eq!(twice.text, once);
    assert!(twice.report.contains("StatefulSet geth: already-injected"), "{}", twice.report);
}

#[test]
fn can_a_manifest_be_undone_after_it_was_edited_and_repaired() {
    let mut objects = read(&injected(NETWORK).text);
    objects.truncate(2);
    let set = &mut objects[1];
    set["spec"]["replicas"] = json!(5);
    let template = &mut set["spec"]["template"];
    template["metadata"]["annotations"]["mine"] = json!("1");
    template["spec"]["initContainers"][0].as_object_mut().unwrap().remove("restartPolicy");
    let repaired = injected(&set.to_string());
    assert!(repaired.report.starts_with("StatefulSet geth: repaired\n"), "{}", repaired.report);
    let back: Value = serde_json::from_str(&uninject(&repaired.text).unwrap().text).unwrap();
    let mut expected = read(NETWORK).swap_remove(1);
    expected["spec"]["replicas"] = json!(5);
    expected["spec"]["template"]["metadata"] = json!({"annotations": {"mine": "1"}});
    assert_eq!(back, expected);
}

#[test]
fn is_a_workload_that_asks_for_peering_repaired_and_not_refused() {
    let mut set = read(&injected(NETWORK).text).swap_remove(1);
    set["metadata"]["annotations"] = json!({"geth-peering": "enabled"});
    set["spec"]["template"]["spec"]["initContainers"][0].as_object_mut().unwrap().remove("restartPolicy");
    let Rewritten { text, report } = injected(&set.to_string());
    assert!(report.starts_with("StatefulSet geth: repaired\n"), "{report}");
    let repaired = read(&text).swap_remove(0);
    assert_eq!(repaired["spec"]["template"]["spec"]["initContainers"][0]["restartPolicy"], "Always");
}

#[test]
fn is_nothing_written_when_something_is_wrong() {
    let text = |change: &dyn Fn(&mut Value)| {
        let mut object = read(NETWORK).swap_remove(1);
        change(&mut object);
        format!("{NETWORK}---\n{object}\n")
    };
    let nowhere = Injection { namespace: None, ..injection() };
    for (text, injection, expected) in [
        (
            text(&|set| set["metadata"]["annotations"]["geth-peering"] = json!("on")),
            injection(),
            "StatefulSet geth cannot be injected (bad-workload-annotation): annotation geth-peering=\"on\": write enabled or disabled",
        ),
        (
            text(&|set| set["spec"]["template"]["metadata"]["labels"]["geth-peering"] = json!("on")),
            injection(),
            "(bad-label)",
        ),
        (
            text(&|set| {
                set["metadata"]["annotations"]["geth-peering"] = json!("enabled");
                set["spec"]["template"]["spec"]["containers"][0] = json!({"name": "x", "image": "y"});
            }),
            injection(),
            "(no-geth-container)",
        ),
        (NETWORK.to_owned(), nowhere, "StatefulSet geth names no namespace"),
    ] {
        let error = inject(&text, &injection).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn is_what_cannot_be_undone_refused_with_the_reason() {
    let mut set = read(&injected(NETWORK).text).swap_remove(1);
    let mut renamed = set.clone();
    renamed["spec"]["template"]["spec"]["initContainers"][0]["name"] = json!("other");
    let error = uninject(&renamed.to_string()).unwrap_err();
    assert!(matches!(error, ManifestError::NotUndone { .. }));
    assert!(error.to_string().contains("/spec/initContainers/0/name is not as it was left"), "{error}");
    set["spec"]["template"]["metadata"]["annotations"].as_object_mut().unwrap().remove("geth-peering/undo");
    assert!(uninject(&set.to_string()).unwrap_err().to_string().contains("a webhook injected it"));
}
