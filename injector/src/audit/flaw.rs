//! What is wrong with a pod that is there. Pure: a pod's metadata, or the whole pod, go in.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::decision::Decision;
use crate::handler::guarded;
use crate::inject::{Account, Defaults, ENABLED, INJECTED, KEY, OptIn, Settings, Survey};

/// What is wrong with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// It asks for the sidecar, or its namespace does, and it has none.
    Uninjected,
    /// Another version of the injector made its sidecar.
    Outdated,
}

impl Flaw {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Uninjected, Self::Outdated];

    /// The reason of its Event. Part of the public interface: people search for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Uninjected => "uninjected",
            Self::Outdated => "outdated",
        }
    }

    /// The sentence about `pod`, which came in by `opt_in`: what is wrong and what to do.
    pub(super) fn note(self, pod: &str, opt_in: OptIn) -> String {
        match (self, opt_in) {
            (Self::Uninjected, OptIn::PodLabel) => format!(
                "pod {pod} asks for peering and has no sidecar, because no injector answered when it was created; \
                 delete it or restart its workload, and it gets one"
            ),
            (Self::Uninjected, OptIn::NamespaceLabel) => format!(
                "pod {pod} runs Geth in a namespace that asks for peering and has no sidecar: it was created before the \
                 label, or while no injector answered; restart its workload, and it gets one, or label its pods \
                 {KEY}=disabled if they are to have none"
            ),
            (Self::Outdated, _) => format!(
                "pod {pod} has the sidecar of another version of geth-peering; it works, and gets this version's \
                 when it is created anew"
            ),
        }
    }
}

/// By what the pod of these metadata came to be considered.
pub(super) fn opt_in(pod: &ObjectMeta) -> OptIn {
    let labelled = pod.labels.as_ref().is_some_and(|labels| labels.contains_key(KEY));
    if labelled { OptIn::PodLabel } else { OptIn::NamespaceLabel }
}

/// What is wrong with the pod of these metadata, if anything that they show, for an injector of `version`.
#[must_use]
pub fn judge(pod: &ObjectMeta, version: &str) -> Option<Flaw> {
    let asked = pod.labels.iter().flatten().any(|(key, value)| key == KEY && value == ENABLED);
    match mark(pod) {
        Some(injected) => (injected != version).then_some(Flaw::Outdated),
        // By its namespace's label alone nothing is asked: most pods there are no Geth, which metadata do not tell.
        None => asked.then_some(Flaw::Uninjected),
    }
}

/// As [`judge`], of a whole pod in a namespace that asks for peering: one that would be injected if it were created now
/// lacks its sidecar. `defaults` are what its namespace says for its pods.
#[must_use]
pub fn judge_whole(metadata: &ObjectMeta, pod: &Value, settings: &Settings, defaults: &Defaults) -> Option<Flaw> {
    let told = judge(metadata, &settings.version);
    if told.is_some() || mark(metadata).is_some() {
        return told;
    }
    // Of the very code that answers the webhook, so nobody is told of a pod that would come out the same.
    let outcome = guarded(|| Survey::of(pod, settings, defaults).inject(&Account::Ready))?;
    (outcome.decision == Decision::Injected).then_some(Flaw::Uninjected)
}

/// The version that injected a pod.
pub(crate) fn mark(pod: &ObjectMeta) -> Option<&String> {
    pod.annotations.as_ref()?.get(INJECTED)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::example_settings;

    #[test]
    fn is_only_a_pod_told_that_lacks_what_it_asked_for_or_has_what_is_old() {
        let injected = |version: &str| json!({"geth-peering/injected": version});
        let enabled = json!({"geth-peering": "enabled"});
        for (metadata, flaw) in [
            (json!({"labels": enabled}), Some(Flaw::Uninjected)),
            (json!({"labels": enabled, "annotations": injected("1.0.0")}), None),
            (json!({"labels": enabled, "annotations": injected("0.9.0")}), Some(Flaw::Outdated)),
            (json!({"annotations": injected("0.9.0")}), Some(Flaw::Outdated)),
            (json!({"annotations": injected("1.0.0")}), None),
            (json!({}), None),
            (json!({"labels": {"geth-peering": "disabled"}}), None),
        ] {
            let pod: ObjectMeta = serde_json::from_value(metadata.clone()).unwrap();
            assert_eq!(judge(&pod, "1.0.0"), flaw, "{metadata}");
        }
    }

    /// A pod as an API server shows it once it runs.
    fn running(container: &Value) -> Value {
        let mut container = container.clone();
        container["volumeMounts"] =
            json!([{"name": "kube-api-access-x7k2p", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
        json!({
            "metadata": {"name": "geth-0", "namespace": "chain", "uid": "u", "generateName": "geth-"},
            "spec": {
                "containers": [container], "nodeName": "node-1", "serviceAccountName": "default",
                "serviceAccount": "default", "enableServiceLinks": true, "restartPolicy": "Always",
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
                "volumes": [{"name": "kube-api-access-x7k2p", "projected": {"sources": []}}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [{"name": "geth", "ready": true}]},
        })
    }

    fn judged(pod: &Value) -> Option<Flaw> {
        let metadata = serde_json::from_value(pod["metadata"].clone()).unwrap();
        judge_whole(&metadata, pod, &example_settings(), &Defaults::default())
    }

    #[test]
    fn is_a_running_geth_of_a_labelled_namespace_told_if_it_would_be_injected_now() {
        let with = |container: Value, pointer: &str, value: Value| {
            let mut pod = running(&container);
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[field] = value;
            pod
        };
        let geth = || json!({"name": "geth", "image": "ethereum/client-go:v1.17.5"});
        let init = json!({"name": "geth", "image": "ethereum/client-go", "args": ["init", "/genesis.json"]});
        let attach = json!({"name": "x", "image": "ethereum/client-go", "command": ["sh", "-c", "geth attach /x"]});
        let sidecar_by_hand = json!([geth(), {"name": "geth-peering", "image": "sidecar"}]);
        for (pod, flaw) in [
            (running(&geth()), Some(Flaw::Uninjected)),
            (running(&json!({"name": "web", "image": "nginx"})), None),
            (running(&init), None),
            (running(&attach), None),
            (with(geth(), "/status/phase", json!("Pending")), Some(Flaw::Uninjected)),
            (with(geth(), "/metadata/labels", json!({"geth-peering": "disabled"})), None),
            (with(geth(), "/metadata/annotations", json!({"geth-peering/injected": "0.1.0"})), None),
            (with(geth(), "/metadata/annotations", json!({"geth-peering/injected": "0.0.1"})), Some(Flaw::Outdated)),
            // It would come out as it is.
            (with(geth(), "/metadata/annotations", json!({"geth-peering/no-such": "x"})), None),
            (with(geth(), "/spec/containers", sidecar_by_hand), None),
        ] {
            assert_eq!(judged(&pod), flaw, "{pod:#}");
        }
    }
}
