//! A look, now and then, at the pods that there are: some are to have the sidecar and were created before anybody said so or
//! while no injector answered, some have a sidecar of another version. Both are told, as metric and as Event on the pod's
//! owner (on the pod itself if it has none), and nothing is done about them: restarting a node of somebody's chain is not for
//! a program to decide.
//!
//! Of pods with the label only metadata are read. In a namespace that asks for peering these do not tell which of the other
//! pods run Geth; so there pods without the label are read whole, and judged by the code that answers the webhook. None is
//! kept. All replicas look; the Event of an owner bears the same name with all of them, so there is one, which the API server
//! forgets after an hour.
//!
//! Pods that say they were let in without their account's rights are seen as well: the injector that owed these may have ended
//! before it could give them, so whoever reads it owes them anew.

mod debt;
mod flaw;
mod pods;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use crate::api::{ApiError, CALL_DEADLINE, within};
use crate::events::event;
use crate::inject::{OptIn, REGISTRY_NAMESPACE, Settings};
use crate::metrics::Metrics;
use crate::owner::{of_pod, workload};
use crate::prepare::Preparer;
use debt::{Debt, runs_under};
pub(crate) use flaw::mark;
use flaw::opt_in;
pub use flaw::{Flaw, judge, judge_whole};
pub(crate) use pods::{Which, asking, each, each_whole};

/// How often the pods are looked at.
const EVERY: Duration = Duration::from_secs(300);
/// The first look: late enough that a cluster which has just started has its pods.
const FIRST: Duration = Duration::from_secs(30);
/// How many owners are told about in one look.
const TOLD: usize = 50;

/// Looks at all pods that may have a sidecar.
pub struct Audit {
    client: Client,
    preparer: Arc<Preparer>,
    metrics: Arc<Metrics>,
    /// What would be injected.
    settings: Settings,
    instance: String,
}

/// What one look has found.
#[derive(Default)]
struct Found {
    counts: BTreeMap<Flaw, u64>,
    /// For each owner and flaw, one pod: its name, and by what it came to be considered.
    owners: BTreeMap<(String, Flaw), (ObjectReference, String, OptIn)>,
    debts: Vec<Debt>,
}

impl Found {
    fn add(&mut self, pod: &ObjectMeta, flaw: Option<Flaw>) {
        self.debts.extend(Debt::of(pod));
        let Some(flaw) = flaw else { return };
        *self.counts.entry(flaw).or_default() += 1;
        let (Some(namespace), Some(name)) = (&pod.namespace, &pod.name) else { return };
        let owner = of_pod(pod, namespace);
        if self.owners.len() < TOLD {
            let uid = owner.uid.clone().unwrap_or_default();
            self.owners.entry((uid, flaw)).or_insert_with(|| (owner, name.clone(), opt_in(pod)));
        }
    }
}

impl Audit {
    /// One that tells of pods which lack what `settings` say, through `metrics` and by Events in the name of this pod,
    /// `instance`.
    pub fn new(
        client: Client,
        preparer: Arc<Preparer>,
        metrics: Arc<Metrics>,
        settings: Settings,
        instance: &str,
    ) -> Self {
        Self { client, preparer, metrics, settings, instance: instance.to_owned() }
    }

    /// Looks until it is dropped.
    pub async fn run(self) -> ! {
        tokio::time::sleep(FIRST).await;
        loop {
            match self.look().await {
                Ok(mut found) => {
                    self.settle(std::mem::take(&mut found.debts)).await;
                    self.tell(found).await;
                }
                Err(error) => tracing::warn!("{error}; pods without sidecar go unnoticed until the next look"),
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn look(&self) -> Result<Found, ApiError> {
        let mut found = Found::default();
        let within = |namespace: &String| Api::<Pod>::namespaced(self.client.clone(), namespace);
        let scope = self.preparer.scope();
        let (visible, labelled) = match &scope.only {
            Some(namespaces) => (namespaces.iter().map(within).collect(), asking(&self.client, namespaces).await),
            None => (vec![Api::all(self.client.clone())], self.preparer.labelled()),
        };
        for pods in visible {
            let version = &self.settings.version;
            each(&pods, &scope, |pod| found.add(pod, judge(pod, version))).await?;
        }
        for namespace in labelled {
            let defaults = self.preparer.defaults(&namespace);
            let see = |metadata: &ObjectMeta, pod: &Value| {
                found.add(metadata, judge_whole(metadata, pod, &self.settings, &defaults));
            };
            each_whole(&self.client, &scope, &namespace, Which::Unlabelled, see).await?;
        }
        Ok(found)
    }

    /// Owes anew what is owed to these pods. Of those whose account has its rights by now, nobody is asked.
    async fn settle(&self, debts: Vec<Debt>) {
        for Debt { namespace, pod, account, registry } in debts {
            let defaults = self.preparer.defaults(&namespace);
            let registry = registry.as_deref().or_else(|| defaults.get(REGISTRY_NAMESPACE));
            if !self.preparer.lacks(&namespace, &account, registry) {
                continue;
            }
            let see = |_: &ObjectMeta, pod: &Value| {
                if let Some((account, registry)) = runs_under(pod, &self.settings, &defaults)
                    && self.preparer.lacks(&namespace, &account, registry.as_deref())
                {
                    tracing::info!(%namespace, %account, "a pod runs without its rights; it is to get them");
                    self.preparer.owe(&namespace, &account, registry.as_deref());
                }
            };
            let scope = self.preparer.scope();
            if let Err(error) = each_whole(&self.client, &scope, &namespace, Which::Named(&pod), see).await {
                tracing::warn!("{error}; what is owed to pod {pod} waits until the next look");
            }
        }
    }

    async fn tell(&self, found: Found) {
        for flaw in Flaw::ALL {
            self.metrics.found(flaw, found.counts.get(&flaw).copied().unwrap_or_default());
        }
        for ((_, flaw), (owner, pod, opt_in)) in found.owners {
            let owner = workload(&self.client, owner).await;
            let uid = owner.uid.as_deref().unwrap_or_default();
            let namespace = owner.namespace.clone().unwrap_or_default();
            let name = format!("{}.{}.{}", owner.name.as_deref().unwrap_or_default(), flaw.word(), uid);
            let event = event(&name, owner, flaw.word(), flaw.note(&pod, opt_in), &self.instance, Timestamp::now());
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
    use serde_json::json;

    use super::*;

    #[test]
    fn is_a_workload_told_once_however_many_of_its_pods_are_flawed() {
        let mut found = Found::default();
        for number in 0..100 {
            let pod = json!({
                "name": format!("geth-{number}"), "namespace": "chain", "labels": {"geth-peering": "enabled"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "controller": true,
                    "name": "geth", "uid": if number < 99 { "one".to_owned() } else { "two".to_owned() }}],
            });
            found.add(&serde_json::from_value(pod).unwrap(), Some(Flaw::Uninjected));
        }
        assert_eq!(found.counts, BTreeMap::from([(Flaw::Uninjected, 100)]));
        let told: Vec<_> = found.owners.values().map(|(_, pod, _)| pod.as_str()).collect();
        assert_eq!(told, ["geth-0", "geth-99"]);
    }
}
