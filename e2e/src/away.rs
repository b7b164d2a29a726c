//! An installation that is taken away while a network runs, and brought back.

use crate::cluster::{NAME, Namespace, RELEASE, in_namespace};
use crate::geth::{self, Geth};
use crate::network::Network;
use crate::{install, mesh, pods};
use anyhow::{Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams};
use kube::discovery::{Discovery, verbs};
use kube::{Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, resume_unwind};
use tokio::sync::{Mutex, MutexGuard};

static INSTALLATION: Mutex<()> = Mutex::const_new(());

/// The installation for one test alone, until what is returned is dropped; cargo runs one file of tests at a time.
pub async fn turn() -> MutexGuard<'static, ()> {
    INSTALLATION.lock().await
}

/// As [`while_away`], in turn, beside a network of two that runs.
///
/// # Errors
/// Those of `something`, and when the installation cannot be taken away or brought back.
pub async fn instead_of_the_installation(
    something: impl AsyncFnOnce(&Namespace, &Network, &str) -> Result<()>,
) -> Result<()> {
    let _turn = turn().await;
    in_namespace(async |namespace| {
        let (network, _) = running_network(namespace).await?;
        while_away(&namespace.client, async |values| something(namespace, &network, values).await).await
    })
    .await
}

/// Takes the installation away, does something, and brings the installation back: whatever happens, the other tests need
/// it.
///
/// # Errors
/// Those of `something`, and when the installation cannot be taken away or brought back.
pub async fn while_away(client: &Client, something: impl AsyncFnOnce(&str) -> Result<()>) -> Result<()> {
    let values = install::values().await?;
    install::uninstall().await?;
    let outcome = AssertUnwindSafe(something(&values)).catch_unwind().await;
    install::install(&values).await?;
    install::injectors_available(client).await?;
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Installs with these values, and sees the network grow by a third Geth.
///
/// # Errors
/// When helm fails, or the network does not grow in time.
pub async fn grows_with(namespace: &Namespace, network: &Network, values: &str) -> Result<()> {
    install::install(values).await?;
    install::injectors_available(&namespace.client).await?;
    grows(namespace, network).await
}

/// Sees the network grow by a third Geth.
///
/// # Errors
/// When it does not in time.
pub async fn grows(namespace: &Namespace, network: &Network) -> Result<()> {
    grows_to(namespace, network, 3).await
}

/// Sees the network grow to so many Geths.
///
/// # Errors
/// When it does not in time.
pub async fn grows_to(namespace: &Namespace, network: &Network, size: usize) -> Result<()> {
    network.scale(namespace, size).await?;
    mesh::full_and_registered(namespace, &network.selector(), size).await.map(drop)
}

/// A peered network as it was before something happened to the injector.
pub struct Before {
    geths: Vec<Geth>,
    restarts: BTreeMap<String, i32>,
}

impl Before {
    /// Neither a container was restarted nor a link lost, not even for a moment.
    ///
    /// # Errors
    /// When one was.
    pub async fn is_untouched(&self, namespace: &Namespace, network: &Network) -> Result<()> {
        let restarts = pods::restarts(&pods::live(namespace, &network.selector()).await?);
        for (container, count) in &self.restarts {
            ensure!(restarts.get(container) == Some(count), "{container} was restarted");
        }
        for before in &self.geths {
            let now = geth::ask(namespace, &namespace.api::<Pod>().get(&before.pod).await?).await?;
            let kept = before.links.iter().all(|(key, ends)| now.links.get(key) == Some(ends));
            ensure!(kept && before.key == now.key, "{before:?} became {now:?}");
        }
        Ok(())
    }
}

/// A network of two that is peered.
///
/// # Errors
/// When it is not in time.
pub async fn running_network(namespace: &Namespace) -> Result<(Network, Before)> {
    let network = Network::of(2).labelled();
    network.create(namespace).await?;
    let geths = mesh::full_and_registered(namespace, &network.selector(), 2).await?;
    let restarts = pods::restarts(&pods::live(namespace, &network.selector()).await?);
    Ok((network, Before { geths, restarts }))
}

/// All objects of all kinds that bear the product's name, and whatever is left in the namespace of the release.
///
/// # Errors
/// When the API server does not answer.
pub async fn objects_of_the_product(client: &Client, of_network: &str) -> Result<BTreeSet<String>> {
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
