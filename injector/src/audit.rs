//! A look, now and then, at the pods that there are: some asked for the sidecar and were created while no injector
//! answered, some have a sidecar of another version. Both are told, as metric and as Event on the pod's owner, and nothing
//! is done about them: restarting a node of somebody's chain is not for a program to decide.
//!
//! Only metadata are read, a page at a time, and none is kept. All replicas look; the Event of an owner bears the same name
//! with all of them, so there is one, which the API server forgets after an hour.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ListParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, ResourceExt as _};

use crate::api::{ApiError, CALL_DEADLINE, within};
use crate::events::event;
use crate::inject::{ENABLED, INJECTED, KEY};
use crate::metrics::Metrics;
use crate::prepare::Preparer;

/// How often the pods are looked at.
const EVERY: Duration = Duration::from_secs(300);
/// The first look: late enough that a cluster which has just started has its pods.
const FIRST: Duration = Duration::from_secs(30);
/// How many pods are read at once.
const PAGE: u32 = 500;
/// How many owners are told about in one look.
const TOLD: usize = 50;

/// What is wrong with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// It asked for the sidecar by its label and has none.
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

    fn note(self, pod: &str) -> String {
        match self {
            Self::Uninjected => format!(
                "pod {pod} asks for peering and has no sidecar, because no injector answered when it was created; \
                 delete it or restart its workload, and it gets one"
            ),
            Self::Outdated => format!(
                "pod {pod} has the sidecar of another version of geth-peering; it works, and gets this version's \
                 when it is created anew"
            ),
        }
    }
}

/// What is wrong with the pod of these metadata, if anything, for an injector of `version`.
#[must_use]
pub fn judge(pod: &ObjectMeta, version: &str) -> Option<Flaw> {
    if pod.deletion_timestamp.is_some() {
        return None;
    }
    let asked = pod.labels.iter().flatten().any(|(key, value)| key == KEY && value == ENABLED);
    match pod.annotations.iter().flatten().find(|(key, _)| *key == INJECTED) {
        Some((_, injected)) => (injected != version).then_some(Flaw::Outdated),
        // By its namespace's label alone nothing is asked: most pods there are no Geth, which metadata do not tell.
        None => asked.then_some(Flaw::Uninjected),
    }
}

/// Calls `see` with the metadata of each pod of a selector, which are read page by page.
///
/// # Errors
/// If a page cannot be had.
pub(crate) async fn each(pods: &Api<Pod>, selector: &str, mut see: impl FnMut(&ObjectMeta)) -> Result<(), ApiError> {
    let mut params = ListParams::default().labels(selector).limit(PAGE);
    loop {
        let page = within(CALL_DEADLINE, "look at the pods", pods.list_metadata(&params)).await?;
        page.items.iter().for_each(|pod| see(&pod.metadata));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// Looks at all pods that may have a sidecar.
pub struct Audit {
    client: Client,
    preparer: Arc<Preparer>,
    metrics: Arc<Metrics>,
    instance: String,
}

/// What one look has found.
#[derive(Default)]
struct Found {
    counts: BTreeMap<Flaw, u64>,
    /// One pod's name for each owner and flaw.
    owners: BTreeMap<(String, Flaw), (ObjectReference, String)>,
}

impl Found {
    fn add(&mut self, pod: &ObjectMeta) {
        let Some(flaw) = judge(pod, env!("CARGO_PKG_VERSION")) else { return };
        *self.counts.entry(flaw).or_default() += 1;
        let owner = pod.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let (Some(owner), Some(namespace), Some(name)) = (owner, &pod.namespace, &pod.name) else { return };
        if self.owners.len() < TOLD {
            let told = (reference(owner, namespace), name.clone());
            self.owners.entry((owner.uid.clone(), flaw)).or_insert(told);
        }
    }
}

fn reference(owner: &OwnerReference, namespace: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        uid: Some(owner.uid.clone()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    }
}

impl Audit {
    /// One that tells what it finds through `metrics`, and by Events in the name of this pod, `instance`.
    pub fn new(client: Client, preparer: Arc<Preparer>, metrics: Arc<Metrics>, instance: &str) -> Self {
        Self { client, preparer, metrics, instance: instance.to_owned() }
    }

    /// Looks until it is dropped.
    pub async fn run(self) -> ! {
        tokio::time::sleep(FIRST).await;
        loop {
            match self.look().await {
                Ok(found) => self.tell(found).await,
                Err(error) => tracing::warn!("{error}; pods without sidecar go unnoticed until the next look"),
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn look(&self) -> Result<Found, ApiError> {
        let mut found = Found::default();
        let within = |namespace: &String| Api::<Pod>::namespaced(self.client.clone(), namespace);
        let visible = match self.preparer.only() {
            Some(namespaces) => namespaces.iter().map(within).collect(),
            None => vec![Api::all(self.client.clone())],
        };
        for pods in visible {
            each(&pods, &format!("{KEY}={ENABLED}"), |pod| found.add(pod)).await?;
        }
        for namespace in self.preparer.labelled() {
            each(&within(&namespace), &format!("!{KEY}"), |pod| found.add(pod)).await?;
        }
        Ok(found)
    }

    async fn tell(&self, found: Found) {
        for flaw in Flaw::ALL {
            self.metrics.found(flaw, found.counts.get(&flaw).copied().unwrap_or_default());
        }
        for ((uid, flaw), (owner, pod)) in found.owners {
            let namespace = owner.namespace.clone().unwrap_or_default();
            let name = format!("{}.{}.{}", owner.name.as_deref().unwrap_or_default(), flaw.word(), uid);
            let event = event(&name, owner, flaw.word(), flaw.note(&pod), &self.instance, Timestamp::now());
            let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
            let params = PostParams::default();
            match within(CALL_DEADLINE, format!("write an Event in {namespace}"), events.create(&params, &event)).await
            {
                Ok(event) => tracing::info!(event = event.name_any(), pod, "{}", flaw.word()),
                Err(error) if error.is_already_exists() => {}
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(metadata: Value) -> Option<Flaw> {
        judge(&serde_json::from_value(metadata).unwrap(), "1.0.0")
    }

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
            (json!({"labels": enabled, "deletionTimestamp": "2026-11-21T00:00:00Z"}), None),
        ] {
            assert_eq!(judged(metadata.clone()), flaw, "{metadata}");
        }
    }

    #[test]
    fn is_a_workload_told_once_however_many_of_its_pods_are_flawed() {
        let mut found = Found::default();
        for number in 0..100 {
            let pod = json!({
                "name": format!("geth-{number}"), "namespace": "chain", "labels": {"geth-peering": "enabled"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "controller": true,
                    "name": "geth", "uid": if number < 99 { "one".to_owned() } else { "two".to_owned() }}],
            });
            found.add(&serde_json::from_value(pod).unwrap());
        }
        assert_eq!(found.counts, BTreeMap::from([(Flaw::Uninjected, 100)]));
        let told: Vec<_> = found.owners.values().map(|(_, pod)| pod.as_str()).collect();
        assert_eq!(told, ["geth-0", "geth-99"]);
    }
}
