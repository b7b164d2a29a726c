//! The sidecar container itself.

use std::collections::BTreeSet;

use json_patch::Patch;
use json_patch::jsonptr::PointerBuf;
use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};
use sidecar::config::{DEFAULT_HTTP_PORT, INJECTED_CONFIGMAP_NAME, env as name};

use super::annotations::INJECTED;
use super::ipc::Holder;
use super::patch::{Edit, Misshapen, map, place};
use super::quantity::Quantity;
use super::{Plan, Refusal, Settings, env, text, user, volume};
use crate::decision::Decision;

/// Name of the container.
pub const NAME: &str = "geth-peering";

/// Variables on which the directory of a mount may depend; each is searched in the container's `env`.
const MAX_VARIABLES: usize = 32;

const NATIVE_LIST: &str = "initContainers";
const CLASSIC_LIST: &str = "containers";

/// Where in a pod a container stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    list: &'static str,
    index: usize,
}

impl Place {
    pub(super) fn pointer(&self) -> PointerBuf {
        place(["spec", self.list, &self.index.to_string()])
    }

    pub(super) fn member(&self, field: &str) -> PointerBuf {
        place(["spec", self.list, &self.index.to_string(), field])
    }
}

/// The sidecar that the pod has already.
///
/// # Errors
/// When a container of somebody else's has its name.
pub(super) fn existing(pod: &Value) -> Result<Option<Place>, Refusal> {
    let found = [NATIVE_LIST, CLASSIC_LIST].into_iter().find_map(|list| {
        let index = pod["spec"][list].as_array()?.iter().position(|container| container["name"] == NAME)?;
        Some(Place { list, index })
    });
    let Some(sidecar) = found else { return Ok(None) };
    let container = &pod["spec"][sidecar.list][sidecar.index];
    let marked = !pod["metadata"]["annotations"][INJECTED].is_null();
    if marked || volume::mounts(container).any(|mount| mount["name"] == volume::TOKEN) {
        return Ok(Some(sidecar));
    }
    Err(Refusal::new(
        Decision::NameTaken,
        format!("the pod has a container named {NAME}, which is the name of the sidecar; rename it"),
    ))
}

/// Adds the sidecar.
pub(super) fn add(edit: &mut Edit<'_>, sidecar: Value, native: bool) -> Result<(), Misshapen> {
    // At the end of the list: it needs no place in front, and nobody's indices shift. Native sidecars are stopped in
    // reverse order, so a service mesh that began before it still carries its last words.
    edit.append(&place(["spec", if native { NATIVE_LIST } else { CLASSIC_LIST }]), sidecar)
}

/// Puts back what other webhooks, which do not know these fields, drop from a sidecar.
pub(super) fn repair(edit: &mut Edit<'_>, sidecar: &Place) -> Result<(), Misshapen> {
    if sidecar.list == NATIVE_LIST {
        // Without it this is an init container that never ends, and Geth never starts.
        edit.set(&sidecar.member("restartPolicy"), json!("Always"))?;
    }
    Ok(())
}

/// Whether the sidecar is to be a native one (KEP-753).
pub(super) fn is_native(plan: &Plan<'_>, settings: &Settings) -> bool {
    plan.overrides.native.unwrap_or(settings.native_sidecars)
}

/// Makes the sidecar for a pod.
///
/// # Errors
/// When the annotation `geth-peering/patch` cannot be applied to it, or a variable it needs is not there.
pub(super) fn build(plan: &Plan<'_>, settings: &Settings) -> Result<Value, Refusal> {
    let overrides = &plan.overrides;
    let or = |own: &Option<String>, default: &str| own.clone().unwrap_or_else(|| default.to_owned());
    let probe = |path: &str, period: u32, timeout: u32, failures: u32| {
        map([
            ("httpGet", json!({ "path": path, "port": DEFAULT_HTTP_PORT, "scheme": "HTTP" })),
            ("periodSeconds", period.into()),
            ("timeoutSeconds", timeout.into()),
            ("failureThreshold", failures.into()),
        ])
    };
    let requests = map([
        ("cpu", or(&overrides.cpu_request, &settings.cpu_request).into()),
        ("memory", or(&overrides.memory_request, &settings.memory_request).into()),
    ]);
    let limits = map([("memory", or(&overrides.memory_limit, &settings.memory_limit).into())]);
    let mut sidecar = map([
        ("name", NAME.into()),
        ("image", or(&overrides.image, &settings.image).into()),
        ("imagePullPolicy", settings.image_pull_policy.clone().into()),
        ("env", variables(plan, settings)?.into()),
        ("ports", json!([{ "name": "peering", "containerPort": DEFAULT_HTTP_PORT, "protocol": "TCP" }])),
        // All that a LimitRange usually adds, so that the pod does not change after us. No CPU limit: it would only
        // slow down the moments in which peers are found.
        ("resources", map([("requests", requests), ("limits", limits)])),
        ("securityContext", user::security_context(&plan.user)),
        ("terminationMessagePolicy", "FallbackToLogsOnError".into()),
        ("volumeMounts", Vec::from(volume::sidecar_mounts(&plan.socket)).into()),
        // No startupProbe: Geth is started only after a native sidecar's has passed, and this one waits for Geth.
        ("readinessProbe", probe("/readyz", 5, 2, 3)),
        ("livenessProbe", probe("/livez", 10, 5, 6)),
    ]);
    if is_native(plan, settings) {
        sidecar["restartPolicy"] = json!("Always");
    }
    if let Some(patch) = &overrides.patch {
        patched(&mut sidecar, patch).map_err(|why| {
            Refusal::new(Decision::InvalidAnnotation, format!("{}: {why}; correct it", overrides.called("patch")))
        })?;
    }
    Ok(sidecar)
}

/// Applies the user's own patch; the error says why its result is no sidecar.
///
/// An API server that cannot decode what a webhook's patch made answers 500 and blames the webhook, so what it could not
/// decode must not get there.
fn patched(sidecar: &mut Value, patch: &Patch) -> Result<(), String> {
    json_patch::patch(sidecar, patch).map_err(|error| text::error(&error))?;
    if sidecar["name"] != NAME {
        return Err("it changes the name of the sidecar container".to_owned());
    }
    let container: Container = serde_json::from_value(sidecar.clone())
        .map_err(|error| format!("its result is not a container as Kubernetes knows it ({})", text::error(&error)))?;
    let resources = container.resources.unwrap_or_default();
    let mut amounts = [resources.limits, resources.requests].into_iter().flatten().flatten();
    match amounts.find(|(_, amount)| amount.0.parse::<Quantity>().is_err()) {
        Some((name, amount)) => {
            Err(format!("{} is no amount of the resource {}", text::quoted(&amount.0), text::shown(&name)))
        }
        None => Ok(()),
    }
}

fn variables(plan: &Plan<'_>, settings: &Settings) -> Result<Vec<Value>, Refusal> {
    let overrides = &plan.overrides;
    let configmap = settings.configmap_names.first().map_or(INJECTED_CONFIGMAP_NAME, String::as_str);
    let literal = |name: &str, value: &str| json!({ "name": name, "value": value });
    let mut list = vec![
        literal(name::LOGGING, overrides.log_level.as_deref().unwrap_or(&settings.log_level)),
        literal(name::IPC_PATH, &plan.socket.path),
        literal(name::CONFIGMAP_NAME, overrides.configmap.as_deref().unwrap_or(configmap)),
        // A pod does not say its namespace before it exists, and a manifest may not know it at all.
        match &overrides.registry_namespace {
            Some(namespace) => literal(name::NAMESPACE, namespace),
            None => env::from_field(name::NAMESPACE, "metadata.namespace"),
        },
        // The name of a pod that has only generateName is not known yet; the kubelet will know it.
        env::from_field(name::POD_NAME, "metadata.name"),
        env::from_field(name::POD_UID, "metadata.uid"),
        env::from_field(name::POD_IP, "status.podIP"),
        env::from_field(name::POD_IPS, "status.podIPs"),
    ];
    if let Some(network) = &overrides.network {
        list.push(literal(name::NETWORK, network));
    }
    if let Some(number) = plan.max_peers.known {
        list.push(literal(name::MAX_PEERS, &number.to_string()));
    }
    if let Some(number) = overrides.min_peers {
        list.push(literal(name::MIN_PEERS, &number.to_string()));
    }
    if let Some(advertised) = &overrides.advertise {
        list.extend(advertised.variables());
    }
    copy_for_sub_path(plan, &mut list)?;
    // Kubernetes resolves $(X) from what stands before: what this one refers to may just have moved to the end.
    list.sort_by_key(|variable| variable["name"] == name::ADVERTISE);
    Ok(list)
}

/// The directory of a mount may depend on variables of Geth's (`subPathExpr`); the same mount in the sidecar needs
/// them too, and those that they are made of, in the same order.
fn copy_for_sub_path(plan: &Plan<'_>, list: &mut Vec<Value>) -> Result<(), Refusal> {
    let Holder::Theirs { mount } = &plan.socket.holder else { return Ok(()) };
    let geth = plan.geth.container;
    let mut needed = BTreeSet::new();
    let mut open = references(mount["subPathExpr"].as_str().unwrap_or_default());
    while let Some(variable) = open.pop() {
        if !needed.insert(variable) {
            continue;
        }
        let refused = |why: &str| {
            let (path, geth) = (text::shown(&plan.socket.path), text::shown(plan.geth.name()));
            let variable = text::shown(variable);
            Refusal::new(
                Decision::IpcPathImpossible,
                format!(
                    "the volume with Geth's IPC socket {path} is mounted in container {geth} with a subPathExpr that \
                     needs the variable {variable}, {why}, or put the socket into another volume"
                ),
            )
        };
        if needed.len() > MAX_VARIABLES {
            return Err(refused("as one of too many; write fewer"));
        }
        let Some(entry) = env::entry(geth, variable) else {
            return Err(refused("which is not in that container's env; write it there"));
        };
        if list.iter().any(|own| own["name"] == variable && own != entry) {
            return Err(refused("which the sidecar needs for itself; give it another name"));
        }
        open.extend(references(entry["value"].as_str().unwrap_or_default()));
    }
    list.retain(|own| !needed.iter().any(|name| own["name"] == *name));
    let variables = geth["env"].as_array().into_iter().flatten();
    list.extend(variables.filter(|entry| needed.iter().any(|name| entry["name"] == *name)).cloned());
    Ok(())
}

/// The variables that a text refers to in Kubernetes' way, `$(NAME)`.
fn references(text: &str) -> Vec<&str> {
    text.split("$(").skip(1).filter_map(|rest| rest.split_once(')')).map(|(name, _)| name).collect()
}
