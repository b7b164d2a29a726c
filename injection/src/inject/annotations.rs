//! The annotations `geth-peering/...` with which a pod, or its namespace, deviates from what the administrator set.
//!
//! They are read strictly: a key that does not exist or a value that cannot be would otherwise be a setting that someone
//! believes in and that has no effect. All mistakes are reported together.

use std::collections::BTreeMap;

use json_patch::{Patch, PatchOperation};
use serde_json::Value;
use sidecar::config::{LogLevel, MAX_SOCKET_PATH};

use super::Settings;
use super::advertise::Advertised;
use super::defaults::{Defaults, of_namespace};
use super::quantity::Quantity;
use super::text;

/// What all keys begin with.
pub(super) const PREFIX: &str = "geth-peering/";

/// The injector's own mark: the version that injected the pod. Its value is not judged, since it comes along when
/// somebody copies a running pod.
pub const INJECTED: &str = "geth-peering/injected";

/// The injector's own mark on a pod that it let in before the account under which the pod runs had its rights: the account's
/// name. They are owed to it by whoever reads this, so its value is not judged either.
pub const UNBOUND: &str = "geth-peering/unbound";

/// Where the registry of a pod is, if not in its own namespace.
pub const REGISTRY_NAMESPACE: &str = "geth-peering/registry-namespace";

/// How to take out again what was put into a manifest. Only manifests carry it; its value is judged when it is used.
pub const UNDO: &str = "geth-peering/undo";

/// Every key a user may write, without the prefix.
const KEYS: [&str; 18] = [
    "container",
    "network",
    "configmap",
    "registry-namespace",
    "ipc-path",
    "run-as-user",
    "run-as-group",
    "image",
    "log-level",
    "cpu-request",
    "memory-request",
    "memory-limit",
    "max-peers",
    "min-peers",
    "advertise",
    "service-account",
    "native-sidecar",
    "patch",
];

/// The largest user or group ID that Kubernetes accepts (`validation.IsValidUserID`).
const MAX_ID: i64 = i32::MAX as i64;

/// Operations that the annotation `geth-peering/patch` may hold, and the names in the path of each. A sidecar needs a
/// handful; with more of both, values could be nested deeper than the stack reaches.
const MAX_OPERATIONS: usize = 64;
const MAX_PATH: usize = 32;

/// What to do about the pod's ServiceAccount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AccountChoice {
    /// Replace `default`, keep any other.
    #[default]
    Automatic,
    /// Keep it, whatever it is.
    Keep,
    /// Replace it, whatever it is.
    Replace,
}

/// What the annotations of a pod and its namespace say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Overrides {
    pub(super) container: Option<String>,
    pub(super) network: Option<String>,
    pub(super) configmap: Option<String>,
    pub(super) registry_namespace: Option<String>,
    pub(super) ipc_path: Option<String>,
    pub(super) run_as_user: Option<i64>,
    pub(super) run_as_group: Option<i64>,
    pub(super) image: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) cpu_request: Option<String>,
    pub(super) memory_request: Option<String>,
    pub(super) memory_limit: Option<String>,
    pub(super) max_peers: Option<u32>,
    pub(super) min_peers: Option<u32>,
    pub(super) advertise: Option<Advertised>,
    pub(super) account: AccountChoice,
    pub(super) native: Option<bool>,
    pub(super) patch: Option<Patch>,
    /// The names of those that are not the pod's own, each with the namespace that has it.
    pub(super) inherited: BTreeMap<String, String>,
}

impl Overrides {
    /// Reads a pod's annotations, and those of its namespace.
    ///
    /// # Errors
    /// A sentence for every mistake.
    pub(super) fn parse(pod: &Value, defaults: &Defaults, settings: &Settings) -> Result<Self, Vec<String>> {
        let mut read = Self::default();
        let mut mistakes = Vec::new();
        for annotation in defaults.with(pod) {
            if let Err(allowed) = read.take(annotation.name, annotation.value, settings) {
                let (name, value) = (text::shown(annotation.name), text::quoted(annotation.value));
                let whose = annotation.namespace.map(of_namespace).unwrap_or_default();
                mistakes.push(format!("annotation {PREFIX}{name}={value}{whose}: {allowed}"));
            }
            if let Some(namespace) = annotation.namespace {
                read.inherited.insert(annotation.name.to_owned(), namespace.to_owned());
            }
        }
        if let Err(mistake) = read.memory_fits(settings) {
            mistakes.push(mistake);
        }
        if mistakes.is_empty() { Ok(read) } else { Err(mistakes) }
    }

    /// Whether the annotation of this name is the namespace's, so that it gives way to what the pod itself says.
    pub(super) fn is_inherited(&self, name: &str) -> bool {
        self.inherited.contains_key(name)
    }

    /// The annotation of this name as sentences call it.
    pub(super) fn called(&self, name: &str) -> String {
        let whose = self.inherited.get(name).map(|namespace| of_namespace(namespace)).unwrap_or_default();
        format!("annotation {PREFIX}{name}{whose}")
    }

    /// Takes one annotation; the error says what is allowed.
    fn take(&mut self, name: &str, value: &str, settings: &Settings) -> Result<(), String> {
        match name {
            "container" => self.container = Some(dns_label(value)?),
            "network" => self.network = Some(network(value)?),
            "configmap" => self.configmap = Some(configmap(value, settings)?),
            "registry-namespace" => self.registry_namespace = Some(registry_namespace(value, settings)?),
            "ipc-path" => self.ipc_path = Some(socket_path(value)?),
            "run-as-user" => self.run_as_user = Some(id(value)?),
            "run-as-group" => self.run_as_group = Some(id(value)?),
            "image" => self.image = Some(image(value)?),
            "log-level" => {
                value.parse::<LogLevel>().map_err(|_| "write DEBUG, INFO, WARNING, ERROR or CRITICAL".to_owned())?;
                self.log_level = Some(value.to_ascii_uppercase());
            }
            "cpu-request" => self.cpu_request = Some(quantity(value, "100m")?),
            "memory-request" => self.memory_request = Some(quantity(value, "32Mi")?),
            "memory-limit" => self.memory_limit = Some(quantity(value, "64Mi")?),
            "max-peers" => {
                let number = value.parse().ok().filter(|n| *n > 0);
                self.max_peers = Some(number.ok_or("write a whole number above 0, such as 50")?);
            }
            "min-peers" => {
                self.min_peers =
                    Some(value.parse().map_err(|_| "write a whole number, such as 2; 0 waits for no peer")?);
            }
            "advertise" => self.advertise = Some(value.parse()?),
            "service-account" => {
                self.account = match value {
                    "keep" => AccountChoice::Keep,
                    "replace" => AccountChoice::Replace,
                    _ => return Err("write keep or replace".into()),
                }
            }
            "native-sidecar" => self.native = Some(value.parse().map_err(|_| "write true or false")?),
            "patch" => self.patch = Some(patch(value)?),
            "injected" | "unbound" | "undo" => {}
            _ => return Err(format!("there is no such annotation; there are {PREFIX}{{{}}}", KEYS.join(","))),
        }
        Ok(())
    }

    /// The API server would refuse a request above the limit in words that name neither annotation.
    fn memory_fits(&self, settings: &Settings) -> Result<(), String> {
        if self.memory_request.is_none() && self.memory_limit.is_none() {
            return Ok(());
        }
        let request = self.memory_request.as_deref().unwrap_or(&settings.memory_request);
        let limit = self.memory_limit.as_deref().unwrap_or(&settings.memory_limit);
        let whose = |name: &str| {
            if self.is_inherited(name) { format!(" ({})", self.called(name)) } else { String::new() }
        };
        match (request.parse::<Quantity>(), limit.parse::<Quantity>()) {
            (Ok(requested), Ok(limited)) if requested > limited => Err(format!(
                "the sidecar would request {} of memory{} and be limited to {}{}: \
                 set both annotations {PREFIX}memory-request and {PREFIX}memory-limit, the request not above the limit",
                text::shown(request),
                whose("memory-request"),
                text::shown(limit),
                whose("memory-limit")
            )),
            _ => Ok(()),
        }
    }
}

fn dns_label(value: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if value.is_empty() || value.len() > 63 || !value.chars().all(allowed) {
        return Err("write the name of the container that runs Geth".into());
    }
    Ok(value.to_owned())
}

fn network(value: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if value.is_empty() || value.len() > 63 || !value.chars().all(allowed) {
        return Err("write a name of at most 63 letters, digits, '-', '_' and '.'".into());
    }
    Ok(value.to_owned())
}

fn configmap(value: &str, settings: &Settings) -> Result<String, String> {
    if settings.configmap_names.iter().any(|name| name == value) {
        return Ok(value.to_owned());
    }
    let names = settings.configmap_names.join(", ");
    Err(format!(
        "the sidecars' rights cover only {names}; write one of these, \
         or have the administrator add the name to the chart value registry.configMapNames"
    ))
}

fn registry_namespace(value: &str, settings: &Settings) -> Result<String, String> {
    if settings.registry_namespaces.iter().any(|name| name == value) {
        return Ok(value.to_owned());
    }
    let names = match settings.registry_namespaces.as_slice() {
        [] => "none is".to_owned(),
        names => format!("these are: {}", names.join(", ")),
    };
    Err(format!(
        "only namespaces in the chart value registry.namespaces are open to pods of others, and {names}; \
         have the administrator add this one, or take the annotation out"
    ))
}

fn socket_path(value: &str) -> Result<String, String> {
    let clean = super::ipc::clean(value);
    if value.starts_with('/') && !value.ends_with('/') && !value.contains('$') && clean.len() <= MAX_SOCKET_PATH {
        return Ok(clean);
    }
    Err(format!(
        "write the absolute path of Geth's IPC socket, without variables and at most {MAX_SOCKET_PATH} bytes long, \
         such as {}",
        super::ipc::DEFAULT_SOCKET
    ))
}

fn id(value: &str) -> Result<i64, String> {
    let digits = !value.is_empty() && value.chars().all(|c| c.is_ascii_digit());
    let number = value.parse().ok().filter(|n| digits && (0..=MAX_ID).contains(n));
    number.ok_or_else(|| format!("write a number from 0 to {MAX_ID}: the ID under which Geth runs"))
}

fn image(value: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    if !value.starts_with(|c: char| c.is_ascii_alphanumeric()) || !value.chars().all(allowed) {
        return Err("write an image reference, such as registry.example/geth-peering/sidecar:0.1.0".into());
    }
    Ok(value.to_owned())
}

fn quantity(value: &str, example: &str) -> Result<String, String> {
    match value.parse::<Quantity>() {
        Ok(quantity) if quantity > Quantity::ZERO => Ok(value.to_owned()),
        _ => Err(format!("write a quantity above 0 as Kubernetes does, such as {example}")),
    }
}

fn patch(value: &str) -> Result<Patch, String> {
    let patch: Patch = serde_json::from_str(value).map_err(|error| {
        format!(
            "write a JSON Patch whose paths begin at the sidecar container, \
             such as [{{\"op\":\"add\",\"path\":\"/resources/limits/cpu\",\"value\":\"1\"}}] ({})",
            text::error(&error)
        )
    })?;
    // Two copies double what is there, so thirty fill any memory.
    if patch.iter().any(|operation| matches!(operation, PatchOperation::Copy(_) | PatchOperation::Move(_))) {
        return Err("copy and move are not supported; write add, remove, replace or test".into());
    }
    if patch.len() > MAX_OPERATIONS || patch.iter().any(|operation| operation.path().count() > MAX_PATH) {
        return Err(format!("write at most {MAX_OPERATIONS} operations, each with a path of at most {MAX_PATH} parts"));
    }
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(annotations: Value) -> Result<Overrides, Vec<String>> {
        let pod = json!({"metadata": {"annotations": annotations}});
        Overrides::parse(&pod, &Defaults::default(), &Settings::example())
    }

    #[test]
    fn is_every_annotation_understood() {
        let read = parse(json!({
            "geth-peering/container": "node",
            "geth-peering/network": "devnet-7",
            "geth-peering/configmap": "geth-peering",
            "geth-peering/ipc-path": "/data//geth.ipc",
            "geth-peering/run-as-user": "10001",
            "geth-peering/run-as-group": "0",
            "geth-peering/image": "localhost:5000/sidecar@sha256:00",
            "geth-peering/log-level": "debug",
            "geth-peering/cpu-request": "50m",
            "geth-peering/memory-request": "16Mi",
            "geth-peering/memory-limit": "128Mi",
            "geth-peering/max-peers": "100",
            "geth-peering/min-peers": "2",
            "geth-peering/advertise": "203.0.113.7:31303",
            "geth-peering/service-account": "keep",
            "geth-peering/native-sidecar": "false",
            "geth-peering/patch": r#"[{"op":"remove","path":"/livenessProbe"}]"#,
            "geth-peering/injected": "any text",
            "geth-peering/unbound": "any text",
            "somebody.else/container": "!!"
        }))
        .unwrap();
        assert_eq!(read.container.as_deref(), Some("node"));
        assert_eq!(read.ipc_path.as_deref(), Some("/data/geth.ipc"));
        assert_eq!((read.run_as_user, read.run_as_group), (Some(10001), Some(0)));
        assert_eq!(read.log_level.as_deref(), Some("DEBUG"));
        assert_eq!((read.max_peers, read.min_peers), (Some(100), Some(2)));
        assert_eq!(read.advertise, "203.0.113.7:31303".parse().ok());
        assert_eq!((read.account, read.native), (AccountChoice::Keep, Some(false)));
        assert_eq!(read.patch.unwrap().len(), 1);
    }

    #[test]
    fn is_every_mistake_reported_with_key_value_and_what_to_write() {
        let refused = [
            ("container", "Geth!", "name of the container"),
            ("network", "a b", "63 letters"),
            ("network", "", "63 letters"),
            ("configmap", "other", "registry.configMapNames"),
            ("registry-namespace", "other", "registry.namespaces are open to pods of others, and none is"),
            ("ipc-path", "geth.ipc", "absolute path"),
            ("ipc-path", "/data/$X.ipc", "without variables"),
            ("ipc-path", "/data/", "absolute path"),
            ("run-as-user", "geth", "a number from 0"),
            ("run-as-user", "-1", "a number from 0"),
            ("run-as-user", "+1", "a number from 0"),
            ("run-as-group", "2147483648", "a number from 0"),
            ("image", "", "image reference"),
            ("image", "a b", "image reference"),
            ("log-level", "LOUD", "WARNING"),
            ("cpu-request", "much", "such as 100m"),
            ("memory-request", "-1", "such as 32Mi"),
            ("memory-limit", "0", "such as 64Mi"),
            ("max-peers", "0", "above 0"),
            ("max-peers", "many", "above 0"),
            ("service-account", "mine", "keep or replace"),
            ("native-sidecar", "yes", "true or false"),
            ("patch", "{}", "JSON Patch"),
            ("patch", r#"[{"op":"increase","path":"/x"}]"#, "JSON Patch"),
            ("min-peers", "-1", "whole number"),
            ("advertise", "", "write IP:PORT"),
            ("advertise", "geth.example.org:30303", "a host name is not taken"),
            ("advertise", "203.0.113.7:0", "from 1 to 65535"),
            ("advertise", "127.0.0.1:30303", "no other pod reaches"),
            ("colour", "red", "geth-peering/{container,"),
        ];
        for (name, value, hint) in refused {
            let mistakes = parse(json!({format!("{PREFIX}{name}"): value})).unwrap_err();
            assert_eq!(mistakes.len(), 1, "{name}: {mistakes:?}");
            let mistake = &mistakes[0];
            assert!(mistake.contains(&format!("geth-peering/{name}={value:?}")), "{mistake}");
            assert!(mistake.contains(hint), "{mistake}");
        }
        assert_eq!(parse(json!({"geth-peering/image": "", "geth-peering/x": ""})).unwrap_err().len(), 2);
    }

    #[test]
    fn is_a_patch_that_could_fill_the_memory_or_the_stack_refused() {
        let read = |patch: Vec<Value>| parse(json!({"geth-peering/patch": json!(patch).to_string()}));
        let bomb = json!({"op": "copy", "from": "/env", "path": "/env/-"});
        let moved = json!({"op": "move", "from": "/env", "path": "/x"});
        for patch in [vec![bomb; 2], vec![moved]] {
            let mistakes = read(patch).unwrap_err();
            assert!(mistakes[0].contains("write add, remove, replace or test"), "{mistakes:?}");
        }
        let add = |path: String| json!({"op": "add", "path": path, "value": 1});
        assert!(read(vec![add("/x".into()); 64]).is_ok());
        assert!(read(vec![add("/x".into()); 65]).unwrap_err()[0].contains("at most 64 operations"));
        assert!(read(vec![add("/x".repeat(32))]).is_ok());
        assert!(read(vec![add("/x".repeat(33))]).unwrap_err()[0].contains("at most 32 parts"));
    }

    #[test]
    fn is_a_mistake_no_longer_than_one_reads() {
        let long = "x".repeat(100_000);
        let patch = format!(r#"[{{"op":"{long}","path":"/x"}}]"#);
        for (key, value) in [("image", &format!("\n{long}")), (long.as_str(), &long), ("patch", &patch)] {
            let mistakes = parse(json!({format!("{PREFIX}{key}"): value})).unwrap_err();
            assert!(mistakes[0].len() < 800 && !mistakes[0].contains('\n'), "{mistakes:?}");
        }
    }

    #[test]
    fn is_a_memory_request_above_the_limit_told_in_words_of_ours() {
        let over = parse(json!({"geth-peering/memory-request": "1Gi"})).unwrap_err();
        assert!(over[0].contains("geth-peering/memory-limit"), "{over:?}");
        assert!(parse(json!({"geth-peering/memory-limit": "1Mi"})).is_err());
        assert!(parse(json!({"geth-peering/memory-request": "1Gi", "geth-peering/memory-limit": "1024Mi"})).is_ok());
    }
}
