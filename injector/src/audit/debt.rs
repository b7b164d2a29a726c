//! Rights that are owed to the account of a pod, as the pod itself says. Pure.
//!
//! Anybody can copy the annotation, so it only says where to look: rights go to the account under which a pod with the sidecar
//! runs, which is neither the annotation's choice nor changed by it. Whoever could create that pod gets nothing by this that
//! the pod's creation was not to give.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::handler::guarded;
use crate::inject::{Defaults, REGISTRY_NAMESPACE, Settings, Survey, UNBOUND};

/// What a pod's metadata say is owed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Debt {
    pub(super) namespace: String,
    pub(super) pod: String,
    /// The account that the pod was given, or kept.
    pub(super) account: String,
    /// The namespace of its registry, if it names one.
    pub(super) registry: Option<String>,
}

impl Debt {
    /// None for a pod that says nothing.
    pub(super) fn of(pod: &ObjectMeta) -> Option<Self> {
        let annotation = |key: &str| pod.annotations.as_ref()?.get(key).cloned();
        let account = annotation(UNBOUND)?;
        let (namespace, name) = (pod.namespace.clone()?, pod.name.clone()?);
        Some(Self { namespace, pod: name, account, registry: annotation(REGISTRY_NAMESPACE) })
    }
}

/// The account under which a pod with the sidecar runs, and the namespace of its registry if it, or its namespace for it, names
/// one that it may.
pub(super) fn runs_under(pod: &Value, settings: &Settings, defaults: &Defaults) -> Option<(String, Option<String>)> {
    guarded(|| {
        let survey = Survey::of(pod, settings, defaults);
        survey.runs_under().map(|(account, registry)| (account.to_owned(), registry.map(str::to_owned)))
    })?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::example_settings;

    #[test]
    fn is_only_the_account_of_a_pod_with_the_sidecar_owed_its_rights_whatever_an_annotation_says() {
        let settings = Settings { registry_namespaces: vec!["shared".to_owned()], ..example_settings() };
        let pod = |sidecar: bool, account: &str, registry: Option<&str>| {
            let sidecar = json!({"name": if sidecar { "geth-peering" } else { "other" }, "image": "s", "restartPolicy": "Always"});
            json!({
                "metadata": {"annotations": {
                    "geth-peering/injected": "0.1.0", "geth-peering/unbound": "admin", "geth-peering/registry-namespace": registry,
                }},
                "spec": {
                    "serviceAccountName": account, "initContainers": [sidecar],
                    "containers": [{"name": "geth", "image": "ethereum/client-go"}],
                },
            })
        };
        let owed = |account: &str, registry: Option<&str>| Some((account.to_owned(), registry.map(str::to_owned)));
        for (pod, expected) in [
            (pod(true, "mine", Some("shared")), owed("mine", Some("shared"))),
            // It keeps the account that it has now.
            (pod(true, "default", Some("shared")), owed("default", Some("shared"))),
            (pod(false, "mine", Some("shared")), None),
            (pod(true, "mine", Some("kube-system")), None),
        ] {
            assert_eq!(runs_under(&pod, &settings, &Defaults::default()), expected, "{pod:#}");
        }
    }

    #[test]
    fn is_a_debt_read_of_metadata_alone() {
        let of = |metadata: Value| Debt::of(&serde_json::from_value(metadata).unwrap());
        let annotations = json!({"geth-peering/unbound": "mine", "geth-peering/registry-namespace": "shared"});
        let pod = |annotations: &Value| of(json!({"name": "geth-0", "namespace": "chain", "annotations": annotations}));
        let debt = pod(&annotations).unwrap();
        assert_eq!((debt.namespace.as_str(), debt.pod.as_str()), ("chain", "geth-0"));
        assert_eq!((debt.account.as_str(), debt.registry.as_deref()), ("mine", Some("shared")));
        assert_eq!(pod(&json!({})), None);
    }
}
