//! The injector's pods, and what else is created.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use injector::cli::Cli;
use serde_json::{Value, json};

use super::helm::{OLDEST_KUBERNETES, at, chart, helm, metadata, render, render_text};

/// Every flag with which the injector serves.
fn flags_of_the_injector() -> BTreeSet<String> {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("what the chart runs");
    serve.get_arguments().filter_map(|flag| flag.get_long()).map(str::to_owned).collect()
}

/// The flag of a variable's name without `INJECTOR_`.
fn flag_of(variable: &str) -> String {
    variable.to_lowercase().replace('_', "-")
}

#[test]
fn is_everything_created_that_is_needed_and_nothing_else() {
    let objects = render(&json!({}));
    let created: BTreeSet<_> = objects
        .0
        .iter()
        .map(|object| {
            assert!(object["metadata"]["annotations"]["helm.sh/hook"].is_null(), "no hooks: {object}");
            format!("{} {}", object["kind"].as_str().expect("kind"), object["metadata"]["name"].as_str().expect("name"))
        })
        .collect();
    // No Secret: the injector makes that of its CA, which another rendering would overwrite.
    let expected = [
        "ClusterRole geth-peering-injector",
        "ClusterRole geth-peering-sidecar",
        "ClusterRoleBinding geth-peering-injector",
        "Deployment geth-peering-injector",
        "MutatingWebhookConfiguration geth-peering",
        "PodDisruptionBudget geth-peering-injector",
        "Role geth-peering-injector",
        "RoleBinding geth-peering-injector",
        "Service geth-peering-injector",
        "ServiceAccount geth-peering-injector",
    ];
    assert_eq!(created, expected.map(str::to_owned).into());
    assert_eq!(objects.0.len(), expected.len());
}

#[test]
fn does_every_flag_of_the_injector_get_a_value() {
    // By default no namespace's registry is open to others, and none is the only one.
    let objects = render(&json!({"registry": {"namespaces": ["shared"]}, "rbac": {"namespaces": ["shared"]}}));
    let others = render(&at("tls", json!({"mode": "existing", "existing": {"secretName": "mine"}})));
    let mut given: BTreeSet<_> = [objects.flags(), others.flags()]
        .into_iter()
        .flatten()
        .map(|(flag, value)| {
            assert!(!value.is_empty(), "--{flag} is empty");
            flag
        })
        .collect();
    for variable in objects.container()["env"].as_array().expect("env") {
        let name = variable["name"].as_str().expect("a name");
        given.insert(flag_of(name.strip_prefix("INJECTOR_").expect("the injector's variables begin with INJECTOR_")));
    }
    assert_eq!(given, flags_of_the_injector());
}

#[test]
fn does_the_injector_know_the_objects_that_the_chart_creates() {
    for (values, fullname) in [(json!({}), "geth-peering"), (at("fullnameOverride", json!("gp")), "gp")] {
        let objects = render(&values);
        for (flag, kind, suffix) in [
            ("deployment", "Deployment", "-injector"),
            ("service", "Service", "-injector"),
            ("webhook-configuration", "MutatingWebhookConfiguration", ""),
            ("sidecar-role", "ClusterRole", "-sidecar"),
        ] {
            let name = format!("{fullname}{suffix}");
            objects.get(kind, &name);
            assert_eq!(objects.flag(flag), name);
        }
        assert_eq!(objects.flag("namespace"), "geth-peering");
    }
}

#[test]
fn does_the_pod_meet_the_restricted_pod_security_standard() {
    let objects = render(&json!({}));
    let pod = &objects.pod()["spec"];
    assert_eq!(pod["securityContext"], json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}));
    assert_eq!(
        objects.container()["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]}
        })
    );
    for shared in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
        assert!(pod[shared].is_null(), "{shared}");
    }
}

#[test]
fn does_the_injector_never_ask_to_be_injected() {
    let objects = render(&json!({}));
    for object in [objects.deployment(), objects.pod()] {
        for map in ["labels", "annotations"] {
            let keys = object["metadata"][map].as_object().into_iter().flatten();
            for (key, _) in keys {
                assert!(!key.starts_with("geth-peering"), "{key}");
            }
        }
    }
}

#[test]
fn are_two_injectors_spread_over_nodes_and_never_drained_at_once() {
    let objects = render(&json!({}));
    let deployment = &objects.deployment()["spec"];
    assert_eq!(deployment["replicas"], 2);
    // An update that took the old one first would leave nobody to answer where only one runs.
    assert_eq!(deployment["strategy"]["rollingUpdate"], json!({"maxUnavailable": 0, "maxSurge": 1}));

    let spread = &objects.pod()["spec"]["topologySpreadConstraints"][0];
    assert_eq!(spread["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(spread["whenUnsatisfiable"], "ScheduleAnyway", "one node must be enough");
    assert_eq!(spread["labelSelector"], deployment["selector"]);

    let budget = &objects.get("PodDisruptionBudget", "geth-peering-injector")["spec"];
    assert_eq!(budget["selector"], deployment["selector"]);
    assert_eq!(budget["maxUnavailable"], 1);
}

#[test]
fn can_the_disruption_budget_never_block_a_drain() {
    for (maximum, accepted) in [
        (json!(1), true),
        (json!(2), true),
        (json!("1%"), true),
        (json!("100%"), true),
        (json!(0), false),
        (json!("0%"), false),
        (json!("1"), false),
        (json!("101%"), false),
    ] {
        let values = at("podDisruptionBudget.maxUnavailable", maximum.clone());
        assert_eq!(render_text(&values).is_ok(), accepted, "{maximum}");
    }
    let objects = render(&at("replicas", json!(1)));
    let budget = &objects.get("PodDisruptionBudget", "geth-peering-injector")["spec"];
    assert_eq!(budget["maxUnavailable"], 1, "with minAvailable, a single injector could not be moved");
    assert!(budget["minAvailable"].is_null());
    assert_eq!(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow");
}

#[test]
fn do_the_probes_reach_the_port_that_the_injector_listens_on() {
    let objects = render(&at("httpPort", json!(9000)));
    let container = objects.container();
    assert!(container["ports"].as_array().expect("ports").contains(&json!({"name": "http", "containerPort": 9000})));
    assert_eq!(objects.flag("http-port"), "9000");
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": "http"}));
    }
}

#[test]
fn does_the_chart_carry_the_version_of_the_programs() {
    let chart = metadata();
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(env!("CARGO_PKG_VERSION")), &chart["version"]));
}

#[test]
fn is_the_image_what_tag_and_digest_say() {
    let released = |name| format!("geth-peering/{name}:{}", env!("CARGO_PKG_VERSION"));
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    for (image, expected) in [
        (json!({}), released("DEFAULT")),
        (json!({"tag": "dev-1"}), "geth-peering/DEFAULT:dev-1".to_owned()),
        (json!({"digest": digest}), format!("geth-peering/DEFAULT@{digest}")),
        (json!({"tag": "v1", "digest": digest}), format!("geth-peering/DEFAULT:v1@{digest}")),
        (json!({"repository": "localhost:5000/a/b_c", "tag": "1"}), "localhost:5000/a/b_c:1".to_owned()),
    ] {
        let objects = render(&at("image", image.clone()));
        assert_eq!(objects.container()["image"], expected.replace("DEFAULT", "injector"));
        assert_eq!(objects.flag("sidecar-image"), released("sidecar"));

        let objects = render(&at("sidecar.image", image));
        assert_eq!(objects.flag("sidecar-image"), expected.replace("DEFAULT", "sidecar"));
        assert_eq!(objects.container()["image"], released("injector"));
    }
}

#[test]
fn does_a_global_registry_take_the_place_of_every_images_own() {
    let version = env!("CARGO_PKG_VERSION");
    for (repository, expected) in [
        ("team/injector", "mirror.example:5000/cache/team/injector"),
        ("registry.example/team/injector", "mirror.example:5000/cache/team/injector"),
        ("localhost:5000/injector", "mirror.example:5000/cache/injector"),
        ("localhost/injector", "mirror.example:5000/cache/injector"),
        ("injector", "mirror.example:5000/cache/injector"),
    ] {
        let values = json!({
            "global": {"imageRegistry": "mirror.example:5000/cache", "imagePullSecrets": [{"name": "a"}, {"name": "b"}]},
            "imagePullSecrets": [{"name": "b"}],
            "image": {"repository": repository}, "sidecar": {"image": {"repository": repository}},
        });
        let objects = render(&values);
        assert_eq!(objects.container()["image"], format!("{expected}:{version}"));
        assert_eq!(objects.flag("sidecar-image"), format!("{expected}:{version}"));
        assert_eq!(objects.pod()["spec"]["imagePullSecrets"], json!([{"name": "b"}, {"name": "a"}]));
    }
}

#[test]
fn can_the_injector_be_given_variables_volumes_and_name_servers() {
    let values = json!({
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        "hostNetwork": true, "dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.0.0.10"]},
    });
    let objects = render(&values);
    let (pod, container) = (&objects.pod()["spec"], objects.container());
    assert_eq!(container["env"][1], values["extraEnv"][0]);
    assert_eq!(container["env"][0]["name"], "INJECTOR_POD_NAME");
    assert_eq!(pod["volumes"], values["extraVolumes"]);
    assert_eq!(container["volumeMounts"], values["extraVolumeMounts"]);
    assert_eq!((&pod["dnsPolicy"], &pod["dnsConfig"]), (&json!("None"), &values["dnsConfig"]));
}

#[test]
fn can_injectors_in_the_nodes_network_still_be_updated() {
    let objects = render(&at("hostNetwork", json!(true)));
    let pod = &objects.pod()["spec"];
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["dnsPolicy"], "ClusterFirstWithHostNet");
    // With as many replicas as nodes, a new pod finds no node with free ports until an old one has gone.
    assert_eq!(objects.deployment()["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 1);
}

#[test]
fn does_an_own_selector_of_a_spread_constraint_stay_untouched() {
    let own = json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]});
    let constraint = json!({
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": own
    });
    let objects = render(&at("topologySpreadConstraints", json!([constraint])));
    assert_eq!(objects.pod()["spec"]["topologySpreadConstraints"], json!([constraint]));
}

/// The objects of a release of this name in this namespace.
fn installed_as(release: &str, namespace: &str, values: &Value) -> Vec<Value> {
    let folder = chart();
    let folder = folder.to_str().expect("a path in UTF-8");
    let arguments = ["template", release, folder, "--namespace", namespace, "--kube-version", OLDEST_KUBERNETES];
    serde_saphyr::from_multiple(&helm(&arguments, values).expect("renders")).expect("YAML")
}

#[test]
fn are_long_names_cut_to_what_kubernetes_accepts() {
    for object in installed_as(&"r".repeat(53), "chain", &json!({})) {
        let name = object["metadata"]["name"].as_str().expect("a name");
        assert!(name.len() <= 63, "{name}");
    }
}

#[test]
fn does_a_name_stay_a_name_when_yaml_would_read_a_number() {
    let objects = installed_as("1", "2", &json!({"nameOverride": "true", "priorityClassName": "3"}));
    for object in &objects {
        let metadata = &object["metadata"];
        let namespace = &metadata["namespace"];
        let of_the_test = object["metadata"]["annotations"]["helm.sh/hook"] == "test";
        assert!(namespace.is_null() || namespace == "2" || of_the_test, "{object}");
        assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], "1");
        assert_eq!(metadata["labels"]["app.kubernetes.io/name"], "true");
    }
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").expect("a Deployment");
    assert_eq!(deployment["spec"]["template"]["spec"]["priorityClassName"], "3");
    assert_eq!(deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"], "1");
}
