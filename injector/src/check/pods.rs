//! The injectors' own pods, the pod that is tried, and the pods that are to have a sidecar.

use clap::Parser as _;
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Finding;
use crate::audit::{Flaw, mark};
use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::inject::{ENABLED, KEY, SIDECAR};

/// The version whose sidecars are up to date.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How many pods a finding names.
const NAMED: usize = 10;

/// What is read of a pod. To read the whole one would be a large part of the program, and what is loaded of that is memory
/// of every injector.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: ObjectMeta,
    pub(super) spec: PodSpec,
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) service_account_name: String,
    init_containers: Vec<Container>,
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Container {
    name: String,
    image: String,
    pub(super) args: Vec<String>,
    ports: Vec<Port>,
    restart_policy: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    name: String,
    container_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// Whether a pod answers.
pub(super) fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
}

/// The injector's container.
pub(super) fn container(pod: &Pod) -> Option<&Container> {
    pod.spec.containers.first()
}

/// The port of probes and metrics.
pub(super) fn http_port(pod: &Pod) -> Option<u16> {
    container(pod)?.ports.iter().find(|port| port.name == "http").map(|port| port.container_port)
}

/// What an injector was told by its flags; none if this program does not understand them, being of another version.
pub(super) fn told(pod: &Pod) -> Option<Config> {
    let flags = container(pod)?.args.clone();
    // Its name it has from a variable.
    let name = format!("--pod-name={}", pod.metadata.name.as_deref()?);
    let Command::Serve(args) =
        Cli::try_parse_from(["injector".to_owned()].into_iter().chain(flags).chain([name])).ok()?.command
    else {
        return None;
    };
    args.check().ok()
}

/// Are there injectors to ask?
pub(super) fn judge_injectors(pods: &[Pod]) -> Finding {
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let advice = "`kubectl describe` its pods, and look at their log; each says on /readyz what it waits for";
    match (ready, pods.len()) {
        (0, 0) => Finding::wrong("no injector runs", "scale its Deployment up, or look why it makes no pods"),
        (0, all) => Finding::wrong(format!("none of {all} injectors is ready"), advice),
        (1, 1) => Finding::doubtful(
            "one injector is ready, and there is no other",
            "set replicas to 2: while the only one restarts, no pod that wants a sidecar is created",
        ),
        (ready, all) if ready < all => Finding::doubtful(format!("{ready} of {all} injectors are ready"), advice),
        (ready, _) => Finding::good(format!("all {ready} injectors are ready")),
    }
}

/// A pod that has to be injected. It is never run, so its image need not exist.
pub(super) fn example() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "geth-peering-check-", "labels": { KEY: ENABLED } },
        "spec": {
            "securityContext": { "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "geth", "image": "ethereum/client-go",
                // What the strictest Pod Security level and a ResourceQuota ask for.
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                "resources": { "requests": { "cpu": "1m", "memory": "1Mi" }, "limits": { "cpu": "1m", "memory": "1Mi" } }
            }]
        }
    })
}

/// Does the pod that was tried have all it needs?
pub(super) fn judge_injected(namespace: &str, pod: &Pod) -> Finding {
    let PodSpec { init_containers: native, containers: classic, .. } = &pod.spec;
    let Some(sidecar) = native.iter().chain(classic).find(|container| container.name == SIDECAR) else {
        return Finding::wrong(
            format!("a pod with the label {KEY}={ENABLED} is created in namespace {namespace} without the sidecar"),
            "is the namespace one of webhook.excludedNamespaces, or the injector's own? Then name another with \
             --namespace. Else no injector answered, and webhook.failurePolicy is Ignore",
        );
    };
    if native.iter().any(|container| container.name == SIDECAR && container.restart_policy != "Always") {
        return Finding::wrong(
            "another webhook takes restartPolicy out of the sidecar, so it would keep Geth from starting",
            "an audit log shows which: patch.webhook.admission.k8s.io/round_*; until it is mended, set sidecar.native=false",
        );
    }
    let image = &sidecar.image;
    Finding::good(format!("a pod in namespace {namespace} gets the sidecar {image} (tried as a dry run)"))
}

/// A pod that is to have a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    name: String,
    flaw: Option<Flaw>,
}

impl Seen {
    /// One with the label and what is wrong with it.
    pub(super) fn of(pod: &ObjectMeta, flaw: Option<Flaw>) -> Self {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        Self { name: format!("{}/{}", text(&pod.namespace), text(&pod.name)), flaw }
    }

    /// One without the label in a namespace that asks for peering; none unless it has a sidecar or lacks one.
    pub(super) fn of_unlabelled(pod: &ObjectMeta, flaw: Option<Flaw>) -> Option<Self> {
        (flaw.is_some() || mark(pod).is_some()).then(|| Self::of(pod, flaw))
    }
}

/// Do the pods that ask for a sidecar have one?
pub(super) fn judge_population(pods: &[Seen]) -> Vec<Finding> {
    let with = |flaw| pods.iter().filter(move |pod| pod.flaw == Some(flaw)).map(|pod| pod.name.as_str()).collect();
    let names = |pods: Vec<&str>| {
        let more = pods.len().saturating_sub(NAMED);
        let named = pods.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        if more == 0 { named } else { format!("{named} and {more} more") }
    };
    let (without, old): (Vec<&str>, Vec<&str>) = (with(Flaw::Uninjected), with(Flaw::Outdated));
    let first = if without.is_empty() {
        Finding::good(format!(
            "all {} pods that ask for peering, or whose namespace does, have the sidecar",
            pods.len()
        ))
    } else {
        Finding::wrong(
            format!(
                "{} pods that ask for peering, or whose namespace does, have no sidecar: {}",
                without.len(),
                names(without)
            ),
            "they were created before the label, or while no injector answered: replace them, with `kubectl rollout \
             restart` of their owner",
        )
    };
    let second = (!old.is_empty()).then(|| {
        Finding::doubtful(
            format!("{} pods were injected by another version than {VERSION}: {}", old.len(), names(old)),
            "they work; to give them this version, replace them when it suits you",
        )
    });
    [first].into_iter().chain(second).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::audit::judge;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn are_there_enough_injectors() {
        let ready = |ready: bool| {
            let status = if ready { "True" } else { "False" };
            pod(json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}))
        };
        for (pods, verdict) in [
            (vec![], Verdict::Wrong),
            (vec![ready(false), ready(false)], Verdict::Wrong),
            (vec![ready(true)], Verdict::Doubtful),
            (vec![ready(true), ready(false)], Verdict::Doubtful),
            (vec![ready(true), ready(true)], Verdict::Good),
        ] {
            assert_eq!(judge_injectors(&pods).verdict, verdict);
        }
        let going = json!({"metadata": {"deletionTimestamp": "2026-11-21T00:00:00Z"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(!is_ready(&pod(going)));
    }

    #[test]
    fn is_an_injection_told_from_half_of_one() {
        let classic = json!({"name": SIDECAR, "image": "s:1"});
        let native = json!({"name": SIDECAR, "image": "s:1", "restartPolicy": "Always"});
        let geth = json!({"name": "geth"});
        for (spec, verdict) in [
            (json!({"containers": [geth], "initContainers": [native]}), Verdict::Good),
            (json!({"containers": [geth, classic]}), Verdict::Good),
            (json!({"containers": [geth], "initContainers": [classic]}), Verdict::Wrong),
            (json!({"containers": [geth]}), Verdict::Wrong),
        ] {
            assert_eq!(judge_injected("n", &pod(json!({"spec": spec}))).verdict, verdict, "{spec}");
        }
    }

    #[test]
    fn is_the_pod_to_try_one_that_is_injected() {
        use crate::config::example_settings;
        use crate::inject::{Account, Context, inject};
        let settings = example_settings();
        let outcome = inject(&example(), &Context { settings: &settings, account: &Account::Ready });
        assert_eq!(outcome.decision.word(), "injected");
        assert!(outcome.warnings.is_empty(), "{:?}", outcome.warnings);
    }

    #[test]
    fn does_check_know_what_the_injectors_were_told() {
        let args = |more: &str| {
            json!([
                "serve",
                "--namespace=gp",
                "--service=gp",
                "--tls-folder=/tls",
                "--sidecar-role=r",
                "--sidecar-image=s:1",
                "--registry-namespace=shared",
                "--excluded-namespace=kube-system",
                more
            ])
        };
        let injector = |args: Value| {
            pod(json!({"metadata": {"name": "gp-0"}, "spec": {"containers": [{"name": "injector", "args": args}]}}))
        };
        let config = told(&injector(args("--audit=true"))).unwrap();
        assert_eq!(config.inject.registry_namespaces, ["shared"]);
        assert!(!config.scope.has("kube-system") && config.scope.has("chain"));
        assert!(told(&injector(args("--flag-of-tomorrow=1"))).is_none(), "nothing is said of what is not understood");
    }

    #[test]
    fn does_a_geth_of_a_labelled_namespace_count_where_it_has_a_sidecar_or_lacks_one() {
        let pod = |annotations: Value| {
            serde_json::from_value::<ObjectMeta>(json!({"name": "p", "annotations": annotations})).unwrap()
        };
        assert_eq!(Seen::of_unlabelled(&pod(json!({})), None), None, "it is no Geth");
        assert!(Seen::of_unlabelled(&pod(json!({})), Some(Flaw::Uninjected)).is_some());
        assert!(Seen::of_unlabelled(&pod(json!({"geth-peering/injected": VERSION})), None).is_some());
    }

    #[test]
    fn are_pods_without_sidecar_or_with_an_old_one_named() {
        let seen = |name: &str, injected: Option<&str>| {
            let annotations = injected.map(|version| json!({"geth-peering/injected": version}));
            let metadata =
                json!({"namespace": "n", "name": name, "labels": {KEY: ENABLED}, "annotations": annotations});
            serde_json::from_value::<ObjectMeta>(metadata).unwrap()
        };
        let now = Some(env!("CARGO_PKG_VERSION"));
        let see = |pod: &ObjectMeta| Seen::of(pod, judge(pod, VERSION));
        let judged = |pods: &[ObjectMeta]| judge_population(&pods.iter().map(see).collect::<Vec<_>>());
        let verdicts = |pods: &[ObjectMeta]| judged(pods).iter().map(|f| f.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(&[]), [Verdict::Good]);
        assert_eq!(verdicts(&[seen("a", now)]), [Verdict::Good]);
        assert_eq!(verdicts(&[seen("a", Some("0.0.1"))]), [Verdict::Good, Verdict::Doubtful]);
        let many: Vec<ObjectMeta> = (0..12).map(|number| seen(&number.to_string(), None)).collect();
        let told = judged(&many)[0].to_string();
        assert!(told.starts_with("WRONG") && told.contains("12 pods") && told.contains("n/9 and 2 more"), "{told}");
    }
}
