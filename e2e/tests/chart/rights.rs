//! What the two programs are allowed to do.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::helm::{at, render, strings};

/// Each right of a role as one line: `verb group/resource name`.
pub(super) fn rights(role: &Value) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        let names = strings(&rule["resourceNames"]);
        let names = if names.is_empty() { vec!["*"] } else { names };
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    for name in &names {
                        rights.insert(format!("{verb} {group}/{resource} {name}"));
                    }
                }
            }
        }
    }
    rights
}

/// The same, from a table: verbs, resource, name.
fn expected(table: &[(&str, &str, &str)]) -> BTreeSet<String> {
    let lines = table
        .iter()
        .flat_map(|(verbs, resource, name)| verbs.split(' ').map(move |verb| format!("{verb} {resource} {name}")));
    lines.collect()
}

const RBAC: &str = "rbac.authorization.k8s.io";

#[test]
fn may_the_injector_do_what_it_needs_and_nothing_else() {
    let role_bindings = format!("{RBAC}/rolebindings");
    let cluster_roles = format!("{RBAC}/clusterroles");
    for (values, fullname) in [(json!({}), "geth-peering"), (at("fullnameOverride", json!("gp")), "gp")] {
        let objects = render(&values);
        let injector = format!("{fullname}-injector");
        let sidecar = format!("{fullname}-sidecar");
        let ca = format!("{fullname}-ca");
        assert_eq!(
            rights(objects.get("ClusterRole", &injector)),
            expected(&[
                ("list watch", "/namespaces", "*"),
                ("create", "/serviceaccounts", "*"),
                ("list watch", "/serviceaccounts", "geth-peering"),
                ("create", &role_bindings, "*"),
                ("get list watch patch delete", &role_bindings, "geth-peering"),
                ("bind", &cluster_roles, &sidecar),
                ("get list watch patch", "admissionregistration.k8s.io/mutatingwebhookconfigurations", fullname),
                ("list", "admissionregistration.k8s.io/mutatingwebhookconfigurations", "*"),
                ("list", "/pods", "*"),
                ("create", "events.k8s.io/events", "*"),
                ("get", "apps/replicasets", "*"),
            ])
        );
        assert_eq!(
            rights(objects.get("Role", &injector)),
            expected(&[
                ("create", "/secrets", "*"),
                ("get list watch update", "/secrets", &ca),
                ("get", "apps/deployments", &injector),
            ])
        );
    }
}

#[test]
fn may_the_injector_see_of_each_namespace_that_is_named_what_its_label_says_and_of_no_other() {
    for (audit, expected) in [(true, ["get /namespaces a", "get /namespaces b"].as_slice()), (false, &[])] {
        let mut values = at("rbac.namespaces", json!(["a", "b"]));
        values["audit"] = json!({"enabled": audit});
        values["test"] = json!({"enabled": false});
        let objects = render(&values);
        let of_injector = |role: &&Value| role["metadata"]["name"] == "geth-peering-injector";
        let roles = objects.0.iter().filter(|object| object["kind"] == "Role").filter(of_injector);
        let mut seen = BTreeSet::new();
        for role in roles {
            let own = format!(" {}", role["metadata"]["namespace"].as_str().expect("a namespace"));
            let of_namespaces = rights(role).into_iter().filter(|right| right.contains("/namespaces "));
            seen.extend(of_namespaces.inspect(|right| assert!(right.ends_with(&own), "{right} in{own}")));
        }
        assert_eq!(seen, expected.iter().map(|right| (*right).to_owned()).collect());
    }
}

#[test]
fn may_a_sidecar_reach_its_registry_and_nothing_else() {
    let objects = render(&at("registry.configMapNames", json!(["geth-peering", "other"])));
    assert_eq!(
        rights(objects.get("ClusterRole", "geth-peering-sidecar")),
        expected(&[
            ("create", "/configmaps", "*"),
            ("get list watch patch", "/configmaps", "geth-peering"),
            ("get list watch patch", "/configmaps", "other"),
            ("get", "/pods", "*"),
            ("create", "/events", "*"),
        ])
    );
    let without_webhook = json!({"rules": injector::manifest::rules(&["geth-peering".into(), "other".into()])});
    assert_eq!(rights(&without_webhook), rights(objects.get("ClusterRole", "geth-peering-sidecar")));
}

#[test]
fn does_the_injector_know_the_configmaps_that_sidecars_may_use() {
    let objects = render(&at("registry.configMapNames", json!(["b", "a"])));
    let told: Vec<_> = objects.flags().into_iter().filter(|(flag, _)| flag == "configmap").map(|(_, v)| v).collect();
    assert_eq!(told, ["b", "a"], "in this order, because the first is the default");
}

#[test]
fn does_the_injector_know_the_namespaces_whose_registry_others_may_use() {
    let told = |values: Value| -> Vec<String> {
        let flags = render(&values).flags().into_iter();
        flags.filter(|(flag, _)| flag == "registry-namespace").map(|(_, namespace)| namespace).collect()
    };
    assert!(told(json!({})).is_empty());
    assert_eq!(told(at("registry.namespaces", json!(["east", "west"]))), ["east", "west"]);
}

#[test]
fn do_running_networks_keep_their_rights_after_an_uninstall() {
    for object in &render(&json!({})).0 {
        let kept = object["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep";
        let name = object["metadata"]["name"].as_str().expect("a name");
        assert_eq!(kept, object["kind"] == "ClusterRole" && name == "geth-peering-sidecar", "{name}");
    }
}

#[test]
fn do_exactly_the_injectors_pods_get_the_injectors_rights() {
    let objects = render(&json!({}));
    let name = "geth-peering-injector";
    let account = json!([{"kind": "ServiceAccount", "name": name, "namespace": "geth-peering"}]);
    assert_eq!(objects.pod()["spec"]["serviceAccountName"], name);
    assert_eq!(objects.get("ServiceAccount", name)["automountServiceAccountToken"], false);
    assert_eq!(objects.pod()["spec"]["automountServiceAccountToken"], true);

    let bindings: Vec<_> =
        objects.0.iter().filter(|o| o["kind"].as_str().is_some_and(|k| k.ends_with("Binding"))).collect();
    assert_eq!(bindings.len(), 2);
    for (binding, role) in [("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")] {
        let binding = objects.get(binding, name);
        assert_eq!(binding["subjects"], account);
        assert_eq!(binding["roleRef"], json!({"apiGroup": RBAC, "kind": role, "name": name}));
    }
}

#[test]
fn can_account_and_roles_be_somebody_elses() {
    let values = json!({
        "serviceAccount": {"create": false, "name": "mine"}, "rbac": {"create": false}, "test": {"enabled": false},
        "flowSchema": {"enabled": true},
    });
    let objects = render(&values);
    for object in &objects.0 {
        let kind = object["kind"].as_str().expect("a kind");
        assert!(!kind.contains("Role") && kind != "ServiceAccount", "{kind} {}", object["metadata"]["name"]);
    }
    assert_eq!(objects.pod()["spec"]["serviceAccountName"], "mine");
    let subjects = &objects.get("FlowSchema", "geth-peering-injector")["spec"]["rules"][0]["subjects"];
    assert_eq!(subjects[0]["serviceAccount"]["name"], "mine");
    // An account of another name, made by the chart.
    let objects = render(&json!({"serviceAccount": {"name": "platform.mine"}}));
    objects.get("ServiceAccount", "platform.mine");
    assert_eq!(objects.pod()["spec"]["serviceAccountName"], "platform.mine");
    // Each for itself: roles of the chart for an account of somebody else's, in all namespaces or in some.
    for namespaces in [json!([]), json!(["chain"])] {
        let values = json!({
            "serviceAccount": {"create": false, "name": "mine"}, "rbac": {"namespaces": namespaces},
            "test": {"enabled": false},
        });
        let objects = render(&values);
        let bindings: Vec<_> = objects.0.iter().filter(|object| object["subjects"].is_array()).collect();
        assert!(bindings.len() >= 2 && bindings.iter().all(|binding| binding["subjects"][0]["name"] == "mine"));
    }
}
