//! Rules that hold for every pod that was injected.

use injector::inject::Outcome;
use serde_json::Value;

const SIDECAR: &str = "geth-peering";

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn named<'a>(items: &'a [Value], name: &str) -> Option<&'a Value> {
    items.iter().find(|item| item["name"] == name)
}

fn sidecar(pod: &Value) -> &Value {
    let spec = &pod["spec"];
    named(list(spec, "initContainers"), SIDECAR)
        .or_else(|| named(list(spec, "containers"), SIDECAR))
        .unwrap_or_else(|| panic!("no sidecar in {pod:#}"))
}

/// Checks all of them; `before` is the pod as it came, `after` with the patch applied.
pub(crate) fn check(before: &Value, after: &Value, outcome: &Outcome) {
    let containers = list(&before["spec"], "containers");
    let index =
        containers.iter().position(|container| container["name"] == outcome.audit["container"].as_str()).unwrap();
    survives(before, after, "", &format!("/spec/containers/{index}/"));
    only_known_places_change(outcome);
    let geth = named(list(&after["spec"], "containers"), &outcome.audit["container"]).unwrap();
    the_socket_is_shared(after, geth);
    sidecar_is_as_restricted_as_geth(after, geth);
    geth_has_its_socket(geth);
    let mut names: Vec<&Value> = ["initContainers", "containers"]
        .iter()
        .flat_map(|field| list(&after["spec"], field))
        .map(|container| &container["name"])
        .collect();
    names.sort_by_key(ToString::to_string);
    names.dedup();
    let count = list(&after["spec"], "initContainers").len() + list(&after["spec"], "containers").len();
    assert_eq!(names.len(), count, "containers of one name: {after:#}");
}

/// Neither the command line, nor a variable that it refers to, nor Geth's own variable turns the socket off.
fn geth_has_its_socket(geth: &Value) {
    let line = format!("{}{}", geth["command"], geth["args"]);
    assert!(!line.contains("--ipcdisable"), "{line}");
    for entry in list(geth, "env") {
        let name = entry["name"].as_str().unwrap();
        assert_ne!(name, "GETH_IPCDISABLE");
        assert!(!line.contains(&format!("${name}")) || !entry["value"].to_string().contains("ipcdisable"), "{entry}");
    }
}

/// Every node that came in comes out, in its place and with its value, except what the injector says it replaces: three
/// fields, its own marks, and `--ipcdisable` below `geth`.
fn survives(before: &Value, after: &Value, at: &str, geth: &str) {
    let replaced = ["/spec/serviceAccountName", "/spec/serviceAccount", "/spec/enableServiceLinks"];
    let marks = ["/metadata/annotations/geth-peering/injected", "/metadata/annotations/geth-peering/unbound"];
    if before.is_null() || replaced.contains(&at) || marks.contains(&at) {
        return;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let here = format!("{at}/{key}");
                // A sidecar that another webhook broke is repaired.
                let repaired = key == "restartPolicy" && at.starts_with("/spec/initContainers");
                assert!(after.contains_key(key), "{here} is gone");
                if !repaired {
                    survives(value, &after[key], &here, geth);
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            let kept = before.iter().filter(|item| !at.starts_with(geth) || !is_ipc_disable(item));
            for (index, item) in kept.enumerate() {
                assert!(index < after.len(), "{at} lost items");
                survives(item, &after[index], &format!("{at}/{index}"), geth);
            }
        }
        (Value::String(before), Value::String(after)) if at.starts_with(geth) && before.contains("ipcdisable") => {
            let letters = |text: &str| {
                let text =
                    text.replace("--ipcdisable=true", "").replace("--ipcdisable=false", "").replace("--ipcdisable", "");
                text.replace(['\n', ' ', '\\', '"', '\''], "")
            };
            assert_eq!(letters(before), letters(after), "{at}");
        }
        (before, after) => assert_eq!(before, after, "{at}"),
    }
}

fn is_ipc_disable(item: &Value) -> bool {
    let flag = item.as_str().is_some_and(|text| text.trim_start_matches('-').starts_with("ipcdisable"));
    flag || item["name"] == "GETH_IPCDISABLE"
}

fn only_known_places_change(outcome: &Outcome) {
    for operation in outcome.patch.iter() {
        let path = operation.path().to_string();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let known = matches!(
            parts.as_slice(),
            ["metadata"]
                | ["metadata", "annotations"]
                | ["metadata", "annotations", "geth-peering~1injected" | "geth-peering~1unbound"]
                | ["spec", "serviceAccountName" | "serviceAccount" | "enableServiceLinks"]
                | ["spec", "volumes" | "initContainers"]
                | ["spec", "volumes" | "initContainers" | "containers", "-"]
                | ["spec", "containers", _, "env" | "volumeMounts" | "args" | "command", ..]
                | ["spec", "initContainers" | "containers", _, "restartPolicy" | "volumeMounts", ..]
        );
        assert!(known, "{operation}");
    }
}

/// Geth and sidecar see the same file in the same volume under the same name, and the volume exists.
fn the_socket_is_shared(pod: &Value, geth: &Value) {
    let sidecar = sidecar(pod);
    let Some(path) = named(list(sidecar, "env"), "IPC_PATH").and_then(|entry| entry["value"].as_str()) else {
        panic!("no IPC_PATH: {sidecar:#}");
    };
    let holder = |container: &Value| {
        let holds = |mount: &&Value| {
            let at = mount["mountPath"].as_str().unwrap().trim_end_matches('/');
            path.strip_prefix(at).is_some_and(|rest| rest.starts_with('/'))
        };
        let mounts = list(container, "volumeMounts").iter().filter(holds);
        mounts.max_by_key(|mount| mount["mountPath"].as_str().unwrap().len()).cloned()
    };
    let (of_geth, of_sidecar) = (holder(geth).unwrap(), holder(sidecar).unwrap());
    for field in ["name", "mountPath", "subPath", "subPathExpr"] {
        assert_eq!(of_geth[field], of_sidecar[field], "{path} is not shared: {pod:#}");
    }
    let volumes = list(&pod["spec"], "volumes");
    for mount in list(sidecar, "volumeMounts") {
        assert!(named(volumes, mount["name"].as_str().unwrap()).is_some(), "no volume for {mount}");
    }
    // Kubernetes resolves $(X) in a value from entries before it.
    let env = list(geth, "env");
    let at = |name: &str| env.iter().position(|entry| entry["name"] == name);
    for name in ["POD_IP", "PEERING_POD_IP"] {
        if env.iter().any(|entry| entry["name"] == "GETH_NAT" && entry["value"] == format!("extip:$({name})")) {
            assert!(at(name) < at("GETH_NAT") && at(name).is_some(), "{env:#?}");
        }
    }
    let env = list(sidecar, "env");
    if let Some(at) = env.iter().position(|entry| entry["name"] == "PEERING_ADVERTISE") {
        let before = &env[..at];
        let reference = env[at]["value"].as_str().unwrap().split("$(").nth(1).and_then(|rest| rest.split_once(')'));
        assert!(reference.is_none_or(|(name, _)| named(before, name).is_some()), "{env:#?}");
    }
}

/// Where Geth's own container passes Pod Security's level `restricted`, the sidecar does; and it runs as Geth does.
fn sidecar_is_as_restricted_as_geth(pod: &Value, geth: &Value) {
    let (pods, sidecar) = (&pod["spec"]["securityContext"], sidecar(pod));
    // The sidecar of an older version, which is left alone.
    if sidecar["securityContext"].is_null() {
        return;
    }
    let uid = |container: &Value| {
        container["securityContext"]["runAsUser"].as_i64().or(pods["runAsUser"].as_i64()).unwrap_or_default()
    };
    if pod["metadata"]["annotations"]["geth-peering/run-as-user"].is_null() {
        assert_eq!(uid(geth), uid(sidecar), "the socket belongs to Geth's user");
    }
    assert!(!is_restricted(pods, geth) || is_restricted(pods, sidecar), "{sidecar:#}");
}

fn is_restricted(pods: &Value, container: &Value) -> bool {
    let own = &container["securityContext"];
    let either = |field: &str| if own[field].is_null() { &pods[field] } else { &own[field] };
    own["allowPrivilegeEscalation"] == false
        && list(&own["capabilities"], "drop").iter().any(|capability| capability == "ALL")
        && own["capabilities"]["add"].is_null()
        && *either("runAsNonRoot") == true
        && either("runAsUser").as_i64() != Some(0)
        && ["RuntimeDefault", "Localhost"].contains(&either("seccompProfile")["type"].as_str().unwrap_or_default())
        && list(container, "ports").iter().all(|port| port["hostPort"].is_null())
}
