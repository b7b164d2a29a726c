//! Does a restart of the injector, an upgrade or an uninstall leave running networks alone?
//!
//! These tests take the installation away and bring it back, so they take turns; cargo runs one file at a time.

use anyhow::{Context, Result, ensure};
use e2e::cluster::{NAME, Namespace, RELEASE, in_namespace};
use e2e::geth::Geth;
use e2e::network::Network;
use e2e::{install, mesh, node, pods, wait};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use kube::discovery::{Discovery, verbs};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, resume_unwind};
use tokio::sync::Mutex;

static INSTALLATION: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn does_a_network_outlive_all_injectors_and_an_upgrade_and_grow_as_soon_as_it_can() -> Result<()> {
    let _turn = INSTALLATION.lock().await;
    in_namespace(async |namespace| {
        let (network, before) = running_network(namespace).await?;
        let injectors = install::namespace(&namespace.client).api::<Pod>();
        for injector in install::injector_pods(&namespace.client).await? {
            injectors.delete(&injector.name_any(), &DeleteParams::default().grace_period(0)).await?;
        }
        // With nobody to inject it the new pod is refused at first; its StatefulSet tries again.
        network.scale(namespace, 3).await?;
        mesh::full_and_registered(namespace, &network.selector(), 3).await?;
        before.is_untouched(namespace, &network).await?;

        let values = install::values().await?;
        let mut other: Value = serde_saphyr::from_str(&values)?;
        other["podAnnotations"] = json!({"upgrade": "replaces every injector"});
        install::install(&other.to_string()).await?;
        before.is_untouched(namespace, &network).await?;
        install::install(&values).await?;
        install::injectors_available(&namespace.client).await?;
        before.is_untouched(namespace, &network).await
    })
    .await
}

#[tokio::test]
async fn does_a_network_outlive_an_uninstall_that_leaves_only_what_it_needs() -> Result<()> {
    let _turn = INSTALLATION.lock().await;
    in_namespace(async |namespace| {
        let (network, before) = running_network(namespace).await?;
        let values = install::values().await?;
        install::uninstall().await?;
        // Whatever happens here, the other tests need the installation.
        let outcome = AssertUnwindSafe(uninstalled(namespace, &network, before)).catch_unwind().await;
        install::install(&values).await?;
        install::injectors_available(&namespace.client).await?;
        outcome.unwrap_or_else(|panic| resume_unwind(panic))?;

        network.scale(namespace, 3).await?;
        mesh::full_and_registered(namespace, &network.selector(), 3).await.context("after it was installed again")?;
        Ok(())
    })
    .await
}

/// What is to be seen while the product is not installed.
async fn uninstalled(namespace: &Namespace, network: &Network, before: Before) -> Result<()> {
    let kept = [
        format!("ClusterRole {NAME}-sidecar"),
        format!("ConfigMap {}/{NAME}", namespace.name),
        format!("RoleBinding {}/{NAME}", namespace.name),
        format!("ServiceAccount {}/{NAME}", namespace.name),
    ];
    wait::until("the uninstall has left what is documented, and nothing else", wait::PODS, async || {
        let found = objects_of_the_product(&namespace.client, &namespace.name).await?;
        ensure!(found == BTreeSet::from(kept.clone()), "found {found:?}");
        Ok(())
    })
    .await?;
    before.is_untouched(namespace, network).await?;

    node::kill_and_await_restart(namespace, "geth-0", "geth").await?;
    mesh::full_and_registered(namespace, &network.selector(), 2).await.context("Geth killed after the uninstall")?;
    Ok(())
}

/// A peered network as it was before something happened to the injector.
struct Before {
    geths: Vec<Geth>,
    restarts: BTreeMap<String, i32>,
}

impl Before {
    /// Neither a container was restarted nor a link lost, not even for a moment.
    async fn is_untouched(&self, namespace: &Namespace, network: &Network) -> Result<()> {
        let restarts = pods::restarts(&pods::live(namespace, &network.selector()).await?);
        for (container, count) in &self.restarts {
            ensure!(restarts.get(container) == Some(count), "{container} was restarted");
        }
        for before in &self.geths {
            let now = e2e::geth::ask(namespace, &namespace.api::<Pod>().get(&before.pod).await?).await?;
            let kept = before.links.iter().all(|(key, ends)| now.links.get(key) == Some(ends));
            ensure!(kept && before.key == now.key, "{before:?} became {now:?}");
        }
        Ok(())
    }
}

async fn running_network(namespace: &Namespace) -> Result<(Network, Before)> {
    let network = Network::of(2).labelled();
    network.create(namespace).await?;
    let geths = mesh::full_and_registered(namespace, &network.selector(), 2).await?;
    let restarts = pods::restarts(&pods::live(namespace, &network.selector()).await?);
    Ok((network, Before { geths, restarts }))
}

/// All objects of all kinds that bear the product's name, and whatever is left in the namespace of the release.
async fn objects_of_the_product(client: &Client, of_network: &str) -> Result<BTreeSet<String>> {
    // kind names nodes after the cluster; helm leaves namespaces to their makers; events are history; every namespace
    // has its own account and root CA.
    let foreign = |kind: &str, name: &str| {
        matches!(kind, "Node" | "CSINode" | "Namespace" | "Event") || matches!(name, "default" | "kube-root-ca.crt")
    };
    let discovery = Discovery::new(client.clone()).run_aggregated().await?;
    let mut found = BTreeSet::new();
    for (resource, capabilities) in discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources) {
        if !capabilities.supports_operation(verbs::LIST) {
            continue;
        }
        let kind = &resource.kind;
        for object in Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default()).await? {
            let (name, namespace) = (object.name_any(), object.namespace());
            let named = name.contains(NAME);
            let ours = match namespace.as_deref() {
                Some(RELEASE) => true,
                Some(other) => named && other == of_network,
                None => named,
            };
            if ours && !foreign(kind, &name) {
                found.insert(
                    namespace.map_or(format!("{kind} {name}"), |namespace| format!("{kind} {namespace}/{name}")),
                );
            }
        }
    }
    Ok(found)
}
