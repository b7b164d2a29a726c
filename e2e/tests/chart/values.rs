//! What a user may set: documented, checked, and never ignored.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::documented::documented;
use super::helm::{
    OLDEST_KUBERNETES, RELEASE, at, chart, helm, own_values, read, refusal, render, render_text, render_text_of,
};

/// Values that are handed to Kubernetes as they are; what is in them is not ours to list.
const KUBERNETES_TYPES: [&str; 25] = [
    "affinity",
    "commonAnnotations",
    "commonLabels",
    "dashboards.annotations",
    "dashboards.labels",
    "deploymentAnnotations",
    "dnsConfig",
    "extraEnv",
    "extraObjects",
    "extraVolumeMounts",
    "extraVolumes",
    "global.imagePullSecrets",
    "imagePullSecrets",
    "networkPolicy.metricsFrom",
    "networkPolicy.webhookFrom",
    "nodeSelector",
    "podAnnotations",
    "podLabels",
    "podMonitor.labels",
    "prometheusRule.labels",
    "resources",
    "serviceAccount.annotations",
    "tls.certManager.issuerRef",
    "tolerations",
    "topologySpreadConstraints",
];

/// Parts of those whose many fields the schema leaves to the API server, and what belongs to other charts.
const OPEN_OBJECTS: [&str; 9] = [
    "/definitions/networkPolicyPeers/items/properties/namespaceSelector",
    "/definitions/networkPolicyPeers/items/properties/podSelector",
    "/properties/affinity/properties/nodeAffinity",
    "/properties/affinity/properties/podAffinity",
    "/properties/affinity/properties/podAntiAffinity",
    "/properties/extraEnv/items/properties/valueFrom",
    "/properties/extraVolumes/items",
    "/properties/global",
    "/properties/topologySpreadConstraints/items/properties/labelSelector",
];

/// One that has everything for which some value needs a newer one than the chart does.
const NEWEST_KUBERNETES: &str = "1.34.0";

fn schema() -> Value {
    serde_json::from_str(&read("values.schema.json")).expect("the schema is JSON")
}

/// The paths of everything that can be set, found by `children`, which names what is below a path.
fn leaves(path: &str, value: &Value, children: &impl Fn(&Value) -> Option<Map<String, Value>>) -> BTreeSet<String> {
    match children(value) {
        Some(below) if !KUBERNETES_TYPES.contains(&path) => below
            .iter()
            .flat_map(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(&path, value, children)
            })
            .collect(),
        _ => BTreeSet::from([path.to_owned()]),
    }
}

/// Every path in values.yaml.
fn paths() -> BTreeSet<String> {
    leaves("", &own_values(), &|value| value.as_object().cloned())
}

#[test]
fn is_every_value_in_the_schema_and_everything_in_the_schema_a_value() {
    let schema = schema();
    let in_schema = leaves("", &schema, &|node| {
        let node = match node["$ref"].as_str() {
            Some(reference) => schema.pointer(reference.trim_start_matches('#')).expect("a definition"),
            None => node,
        };
        node["properties"].as_object().cloned()
    });
    assert_eq!(in_schema, paths());
}

#[test]
fn does_the_schema_close_every_object() {
    fn open(pointer: &str, node: &Value, found: &mut BTreeSet<String>) {
        let Some(fields) = node.as_object() else { return };
        if node["type"] == "object" && !fields.contains_key("additionalProperties") {
            found.insert(pointer.to_owned());
        }
        for (key, value) in fields {
            open(&format!("{pointer}/{key}"), value, found);
        }
    }
    let mut found = BTreeSet::new();
    open("", &schema(), &mut found);
    assert_eq!(found, OPEN_OBJECTS.map(str::to_owned).into());
}

#[test]
fn does_a_misspelt_value_fail_with_its_name() {
    // In `global` there may be what other charts read.
    for path in paths().into_iter().filter(|path| !path.starts_with("global.")) {
        let misspelt = format!("{path}s");
        let name = misspelt.rsplit('.').next().expect("a name");
        let error = refusal(&at(&misspelt, json!("anything")));
        assert!(error.contains(&format!("'{name}' not allowed")), "{misspelt}: {error}");
    }
}

#[test]
fn does_a_wrong_value_fail_and_say_where() {
    for (path, wrong) in [
        ("replicas", json!(0)),
        ("replicas", json!("2")),
        ("image.repository", json!("registry.example/injector:1.0")),
        ("image.repository", json!("")),
        ("image.tag", json!("not a tag")),
        ("image.digest", json!("0123")),
        ("sidecar.image.pullPolicy", json!("always")),
        ("sidecar.native", json!("auto")),
        ("sidecar.logLevel", json!("verbose")),
        ("sidecar.resources.cpuRequest", json!("ten")),
        ("sidecar.resources.memoryLimit", json!("64M")),
        ("log.format", json!("yaml")),
        ("httpPort", json!(80)),
        ("webhook.failurePolicy", json!("fail")),
        ("webhook.timeoutSeconds", json!(31)),
        // Less than the injector may take.
        ("webhook.timeoutSeconds", json!(4)),
        ("webhook.excludedNamespaces", json!("vault")),
        ("webhook.excludedNamespaces", json!(["no_namespace"])),
        ("registry.configMapNames", json!([])),
        ("registry.configMapNames", json!(["a", "a"])),
        ("registry.configMapNames", json!(["Upper"])),
        ("registry.namespaces", json!("shared")),
        ("registry.namespaces", json!(["no.namespace"])),
        ("networkPolicy.webhookFrom", json!([{}])),
        ("tls.mode", json!("helm")),
        ("tls.existing.caBundle", json!("LS0tLS1CRUdJTg==")),
        ("tls.certManager.issuerRef", json!({"kind": "Issuer"})),
        ("guard.actions", json!(["Refuse"])),
        ("podMonitor.interval", json!("1 minute")),
        ("prometheusRule.runbooks", json!("docs/runbooks.md")),
        ("fullnameOverride", json!("a".repeat(55))),
        ("resources", json!({"request": {"cpu": 1}})),
        ("resources", json!({"limits": {"memory": "much"}})),
        ("tolerations", json!([{"operators": "Exists"}])),
        ("topologySpreadConstraints", json!([{"maxSkew": 1, "topologyKey": "zone"}])),
        ("podLabels", json!({"a": "not a label"})),
        ("podAnnotations", json!({"a": 1})),
    ] {
        let error = refusal(&at(path, wrong.clone()));
        let pointer = format!("at '/{}", path.replace('.', "/"));
        assert!(error.contains(&pointer), "{path}={wrong}: {error}");
    }
}

#[test]
fn are_impossible_combinations_refused_with_a_sentence() {
    for (values, sentence) in [
        (json!({"httpPort": 8443}), "webhook.port and httpPort are both 8443"),
        (json!({"hostNetwork": true, "webhook": {"port": 10250}}), "the kubelet of every node listens there"),
        (json!({"hostNetwork": true, "networkPolicy": {"enabled": true}}), "networkPolicy.enabled does nothing with"),
        (at("test.namespace", json!("geth-peering")), "test.namespace is geth-peering, where no pod is injected"),
        (
            json!({"test": {"namespace": "vault"}, "webhook": {"excludedNamespaces": ["vault"]}}),
            "test.namespace is vault, where no pod is injected",
        ),
        (
            json!({"rbac": {"namespaces": ["geth-peering"]}}),
            "rbac.namespaces has geth-peering, where no pod is injected",
        ),
        (
            json!({"rbac": {"namespaces": ["chain"]}, "test": {"namespace": "other"}}),
            "test.namespace is other, which is not in rbac.namespaces",
        ),
        (
            json!({"rbac": {"namespaces": ["chain"]}, "registry": {"namespaces": ["other"]}}),
            "registry.namespaces has other, which is not in rbac.namespaces",
        ),
        (at("serviceAccount.create", json!(false)), "serviceAccount.name is empty"),
        (
            json!({"serviceAccount": {"create": false, "name": "mine", "annotations": {"a/b": "c"}}}),
            "serviceAccount.annotations has no effect with serviceAccount.create=false",
        ),
        (at("rbac.create", json!(false)), "helm test needs rights of its own"),
        (json!({"dnsPolicy": "None"}), "dnsPolicy None needs dnsConfig.nameservers"),
        (
            json!({"extraEnv": [{"name": "INJECTOR_LOG_LEVEL", "value": "DEBUG"}]}),
            "extraEnv must not have INJECTOR_LOG_LEVEL",
        ),
        (json!({"extraVolumeMounts": [{"name": "x", "mountPath": "/x"}]}), "extraVolumeMounts has x, which is not in"),
        (
            json!({"podAnnotations": {"geth-peering/network": "x"}}),
            "podAnnotations must not have geth-peering/network:",
        ),
        (json!({"commonAnnotations": {"helm.sh/hook": "test"}}), "commonAnnotations must not have helm.sh/hook:"),
        (at("tls.mode", json!("existing")), "tls.existing.secretName is empty"),
        (at("tls.existing.secretName", json!("mine")), "tls.existing has no effect with tls.mode=self"),
        (at("tls.certManager.issuerRef.name", json!("mine")), "tls.certManager has no effect with tls.mode=self"),
        (at("guard.actions", json!(["Warn", "Deny"])), "guard.actions has both Deny and Warn"),
        (
            at("sidecar.resources", json!({"memoryRequest": "1Gi", "memoryLimit": "1023Mi"})),
            "memoryRequest (1Gi) is more than sidecar.resources.memoryLimit (1023Mi)",
        ),
        (json!({"podLabels": {"geth-peering": "enabled"}}), "podLabels must not have geth-peering:"),
        (json!({"commonLabels": {"geth-peering": "disabled"}}), "commonLabels must not have geth-peering:"),
        (json!({"podLabels": {"app.kubernetes.io/name": "x"}}), "podLabels must not have app.kubernetes.io/name:"),
        (at("podMonitor.labels", json!({"helm.sh/chart": "x"})), "podMonitor.labels must not have helm.sh/chart:"),
        (json!({"commonLabels": {"helm.sh/chart": "x"}}), "commonLabels must not have helm.sh/chart:"),
    ] {
        let error = refusal(&values);
        assert!(error.contains(sentence), "{values}: {error}");
    }
    // The same values where they are possible.
    for values in [
        json!({"webhook": {"port": 10250}}),
        at("sidecar.resources", json!({"memoryRequest": "1Gi", "memoryLimit": "1024Mi"})),
        at("sidecar.resources", json!({"memoryRequest": "512Ki", "memoryLimit": "1Mi"})),
    ] {
        render(&values);
    }
}

#[test]
fn does_every_value_change_what_is_rendered() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let others = BTreeMap::from([
        ("affinity", json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}})),
        ("audit.enabled", json!(false)),
        ("commonAnnotations", json!({"a/b": "c"})),
        ("commonLabels", json!({"team": "chain"})),
        ("dashboards.annotations", json!({"grafana_folder": "Ethereum"})),
        ("dashboards.enabled", json!(true)),
        ("dashboards.labels", json!({"grafana_dashboard": "yes"})),
        ("deploymentAnnotations", json!({"a/b": "c"})),
        ("dnsConfig", json!({"searches": ["example.org"]})),
        ("dnsPolicy", json!("Default")),
        ("extraEnv", json!([{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}])),
        ("extraObjects", json!([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extra"}}])),
        ("extraVolumeMounts", json!([{"name": "scratch", "mountPath": "/scratch"}])),
        ("extraVolumes", json!([{"name": "scratch", "emptyDir": {}}])),
        ("flowSchema.enabled", json!(true)),
        ("flowSchema.namespaces", json!(["chain"])),
        ("flowSchema.shares", json!(7)),
        ("fullnameOverride", json!("gp")),
        ("global.imagePullSecrets", json!([{"name": "pull"}])),
        ("global.imageRegistry", json!("mirror.example")),
        ("guard.actions", json!(["Deny"])),
        ("guard.enabled", json!(true)),
        ("hostNetwork", json!(true)),
        ("httpPort", json!(9000)),
        ("image.digest", json!(digest)),
        ("image.pullPolicy", json!("Never")),
        ("image.repository", json!("registry.example/i")),
        ("image.tag", json!("v9")),
        ("imagePullSecrets", json!([{"name": "pull"}])),
        ("log.format", json!("json")),
        ("log.level", json!("DEBUG")),
        ("nameOverride", json!("gp")),
        ("networkPolicy.enabled", json!(true)),
        ("networkPolicy.metricsFrom", json!([{"podSelector": {}}])),
        ("networkPolicy.webhookFrom", json!([{"ipBlock": {"cidr": "10.0.0.0/28"}}])),
        ("nodeSelector", json!({"pool": "system"})),
        ("podAnnotations", json!({"a/b": "c"})),
        ("podDisruptionBudget.enabled", json!(false)),
        ("podDisruptionBudget.maxUnavailable", json!("50%")),
        ("podLabels", json!({"a": "b"})),
        ("podMonitor.enabled", json!(true)),
        ("podMonitor.interval", json!("15s")),
        ("podMonitor.labels", json!({"release": "prometheus"})),
        ("podMonitor.namespaces", json!(["chain"])),
        ("priorityClassName", json!("system-cluster-critical")),
        ("prometheusRule.enabled", json!(true)),
        ("prometheusRule.labels", json!({"release": "prometheus"})),
        ("prometheusRule.runbooks", json!("https://example.org/runbooks.md")),
        ("rbac.create", json!(false)),
        ("rbac.namespaces", json!(["chain"])),
        ("registry.configMapNames", json!(["nodes"])),
        ("registry.namespaces", json!(["shared"])),
        ("replicas", json!(3)),
        ("resources", json!({"limits": {"memory": "1Gi"}})),
        ("revisionHistoryLimit", json!(1)),
        ("serviceAccount.annotations", json!({"a/b": "c"})),
        ("serviceAccount.create", json!(false)),
        ("serviceAccount.name", json!("mine")),
        ("sidecar.disableServiceLinks", json!(false)),
        ("sidecar.image.digest", json!(digest)),
        ("sidecar.image.pullPolicy", json!("Always")),
        ("sidecar.image.repository", json!("registry.example/s")),
        ("sidecar.image.tag", json!("v9")),
        ("sidecar.logLevel", json!("ERROR")),
        ("sidecar.native", json!(false)),
        ("sidecar.resources.cpuRequest", json!("1")),
        ("sidecar.resources.memoryLimit", json!("1Gi")),
        ("sidecar.resources.memoryRequest", json!("8Mi")),
        ("test.enabled", json!(false)),
        ("test.namespace", json!("chain")),
        ("tls.certManager.issuerRef", json!({"name": "internal"})),
        ("tls.existing.caBundle", json!("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")),
        ("tls.existing.secretName", json!("another")),
        ("tls.mode", json!("certManager")),
        ("tolerations", json!([{"operator": "Exists"}])),
        ("topologySpreadConstraints", json!([])),
        ("webhook.excludedNamespaces", json!(["vault"])),
        ("webhook.failurePolicy", json!("Ignore")),
        ("webhook.port", json!(10250)),
        ("webhook.timeoutSeconds", json!(9)),
    ]);
    assert_eq!(others.keys().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>(), paths(), "one for each value");
    let text = |values: &Value| {
        let text = render_text_of(&chart(), values, NEWEST_KUBERNETES);
        text.unwrap_or_else(|error| panic!("{values}: {error}"))
    };
    let default = text(&json!({}));
    for (path, value) in others {
        // What belongs to something that is off changes nothing until that is on.
        let switch = path.split_once('.').map(|(group, _)| format!("{group}.enabled"));
        let switch = switch.filter(|switch| switch != path && paths().contains(switch));
        let mut before = switch.map_or(json!({}), |switch| at(&switch, json!(true)));
        let needed = match path {
            "tls.certManager.issuerRef" => at("tls.mode", json!("certManager")),
            "tls.existing.caBundle" | "tls.existing.secretName" => {
                at("tls", json!({"mode": "existing", "existing": {"secretName": "mine"}}))
            }
            "serviceAccount.create" => at("serviceAccount.name", json!("mine")),
            "rbac.create" => at("test.enabled", json!(false)),
            "flowSchema.shares" => at("flowSchema.namespaces", json!(["chain"])),
            "extraVolumeMounts" => json!({"extraVolumes": [{"name": "scratch", "emptyDir": {}}]}),
            _ => json!({}),
        };
        json_patch::merge(&mut before, &needed);
        let mut after = before.clone();
        json_patch::merge(&mut after, &at(path, value));
        let unchanged = if before == json!({}) { default.clone() } else { text(&before) };
        assert_ne!(text(&after), unchanged, "{after} changes nothing");
    }
}

#[test]
fn do_common_labels_reach_every_object_and_the_pods() {
    let objects = render(&json!({"commonLabels": {"team": "chain", "tier": "a"}, "podLabels": {"tier": "b"}}));
    for object in &objects.0 {
        assert_eq!(object["metadata"]["labels"]["team"], "chain", "{}", object["kind"]);
    }
    let labels = &objects.pod()["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["tier"]), (&json!("chain"), &json!("b")), "the narrower one wins");
    let selector = objects.deployment()["spec"]["selector"].to_string();
    assert!(!selector.contains("chain"), "a selector can never change: {selector}");
}

#[test]
fn do_common_annotations_reach_every_object_and_the_pods() {
    let values = json!({
        "commonAnnotations": {"team": "chain", "tier": "a"}, "podAnnotations": {"tier": "b"},
        "serviceAccount": {"annotations": {"tier": "c"}}, "deploymentAnnotations": {"tier": "d"},
    });
    let objects = render(&values);
    for object in &objects.0 {
        let annotations = &object["metadata"]["annotations"];
        assert_eq!(annotations["team"], "chain", "{}", object["kind"]);
        let tier = match object["kind"].as_str() {
            Some("ServiceAccount") => "c",
            Some("Deployment") => "d",
            _ => "a",
        };
        assert_eq!(annotations["tier"], tier, "the narrower one wins: {}", object["kind"]);
    }
    let annotations = &objects.pod()["metadata"]["annotations"];
    assert_eq!(*annotations, json!({"team": "chain", "tier": "b"}));
}

#[test]
fn are_extra_objects_created_with_their_templates_filled_in() {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "{{ .Release.Name }}-one"}, "data": {"replicas": "{{ .Values.replicas }}"}
    });
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ include \"geth-peering.fullname\" . }}-two\n";
    let objects = render(&json!({"extraObjects": [object, text]}));
    assert_eq!(objects.get("ConfigMap", "geth-peering-one")["data"]["replicas"], "2");
    objects.get("ConfigMap", "geth-peering-two");
}

#[test]
fn is_every_value_explained_where_it_stands() {
    let explained: BTreeSet<_> = documented().into_iter().map(|value| value.path).collect();
    assert_eq!(explained, paths());
}

#[test]
fn is_kubernetes_older_than_1_29_refused() {
    let render = |kubernetes| render_text_of(&chart(), &json!({}), kubernetes);
    for old in ["1.20.0", "1.28.15", "1.28.9-gke.1"] {
        let error = render(old).expect_err(old);
        assert!(error.contains("chart requires kubeVersion: >=1.29.0-0"), "{old}: {error}");
    }
    for new in [OLDEST_KUBERNETES, "1.29.3-gke.100", "1.30.0-eks-1234", "1.34.4+k3s1", "1.37.0-beta.0"] {
        render(new).unwrap_or_else(|error| panic!("{new}: {error}"));
    }
}

#[test]
fn does_rendering_twice_give_the_same_bytes() {
    let values = json!({"podLabels": {"b": "1", "a": "2"}, "registry": {"configMapNames": ["b", "a"]}});
    assert_eq!(render_text(&values), render_text(&values), "or tools that compare would always see a change");
}

#[test]
fn does_helm_find_nothing_to_complain_about() {
    let folder = chart();
    let arguments = ["lint", "--strict", folder.to_str().expect("UTF-8"), "--namespace", RELEASE];
    helm(&arguments, &json!({})).expect("no complaint");
}
