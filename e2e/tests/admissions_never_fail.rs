//! Is every pod admitted while certificates rotate, injectors are replaced and nodes are drained?
//!
//! Pods are created without a pause meanwhile, as dry runs, each of which goes to the webhook as any other.

use anyhow::{Context, Result, ensure};
use e2e::admission::{dry_run, geth_pod};
use e2e::cluster::{NAME, Namespace, OPT_IN, RELEASE, in_namespace};
use e2e::measure::figure;
use e2e::{install, pods, wait};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A new authority is trusted for half a minute before anything is served that it signed.
const ROTATED: Duration = Duration::from_secs(120);

/// How often the authority rotates; another number, for a longer test, by this variable.
const ROTATIONS: usize = 2;
const ROTATIONS_VARIABLE: &str = "E2E_ROTATIONS";

#[derive(Default)]
struct Count {
    admitted: usize,
    failed: Vec<String>,
}

/// Calls `test` while pods are created without a pause; all of them have to be injected.
async fn under_load(what: &str, namespace: &Namespace, test: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let count = Arc::new(Mutex::new(Count::default()));
    let (target, counted) =
        (Namespace { client: namespace.client.clone(), name: namespace.name.clone() }, count.clone());
    let load = tokio::spawn(async move {
        let pod = geth_pod(json!({OPT_IN: "enabled"}), json!({}));
        loop {
            let failure = match dry_run(&target, &pod).await {
                Ok(pod) if pod.to_string().contains(pods::MARKER) => None,
                Ok(_) => Some("a pod was created without a sidecar".to_owned()),
                Err(error) => Some(format!("{error:#}")),
            };
            let mut count = counted.lock().unwrap_or_else(PoisonError::into_inner);
            match failure {
                None => count.admitted += 1,
                Some(failure) => count.failed.push(failure),
            }
        }
    });
    let outcome = test().await;
    load.abort();
    outcome?;
    let count = count.lock().unwrap_or_else(PoisonError::into_inner);
    figure(&format!("pods admitted during {what}"), format_args!("{}, failed {}", count.admitted, count.failed.len()));
    ensure!(count.admitted > 0, "none was created");
    ensure!(count.failed.is_empty(), "{} failed, the first with: {}", count.failed.len(), count.failed[0]);
    Ok(())
}

/// The injectors rotate when nobody can sign any more: the Secret is gone. Who serves goes on until what comes is trusted.
async fn rotate(namespace: &Namespace) -> Result<()> {
    let client = &namespace.client;
    let before = install::certificates(client).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), RELEASE);
    secrets.delete(&format!("{NAME}-ca"), &DeleteParams::default()).await?;
    wait::until("all injectors serve a certificate of a new authority", ROTATED, async || {
        let now = install::certificates(client).await?;
        ensure!(now.iter().all(|certificate| !before.contains(certificate)), "some serve the old one");
        Ok(())
    })
    .await
}

async fn replace_injectors(namespace: &Namespace) -> Result<()> {
    let client = &namespace.client;
    let before = names(namespace).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), RELEASE);
    // As `kubectl rollout restart` does.
    let moment = json!({"e2e/restarted-at": jiff::Timestamp::now().to_string()});
    let patch = json!({"spec": {"template": {"metadata": {"annotations": moment}}}});
    deployments.patch(&format!("{NAME}-injector"), &PatchParams::default(), &Patch::Strategic(patch)).await?;
    gone(namespace, &before).await
}

/// As `kubectl drain` does with the pods of a node, here with all of them at once: the PodDisruptionBudget lets go one
/// after the other.
async fn evict_injectors(namespace: &Namespace) -> Result<()> {
    let before = names(namespace).await?;
    let injectors: Api<Pod> = Api::namespaced(namespace.client.clone(), RELEASE);
    for name in &before {
        wait::until("the injector may be evicted", wait::PODS, async || {
            injectors.evict(name, &EvictParams::default()).await.context("not yet")?;
            Ok(())
        })
        .await?;
    }
    gone(namespace, &before).await
}

async fn names(namespace: &Namespace) -> Result<Vec<String>> {
    Ok(install::injector_pods(&namespace.client).await?.iter().map(ResourceExt::name_any).collect())
}

/// Waits until others have taken the place of these injectors.
async fn gone(namespace: &Namespace, before: &[String]) -> Result<()> {
    wait::until("the injectors are others", wait::PODS, async || {
        let now = names(namespace).await?;
        ensure!(now.iter().all(|name| !before.contains(name)), "{now:?}");
        Ok(())
    })
    .await?;
    install::injectors_available(&namespace.client).await
}

#[tokio::test]
async fn is_every_pod_admitted_while_certificates_rotate_and_injectors_come_and_go() -> Result<()> {
    let rotations = std::env::var(ROTATIONS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(ROTATIONS);
    in_namespace(async |namespace| {
        under_load("a rollout of the injectors", namespace, async || replace_injectors(namespace).await).await?;
        under_load("an eviction of all injectors", namespace, async || evict_injectors(namespace).await).await?;
        under_load(&format!("{rotations} rotations of authority and certificates"), namespace, async || {
            for _ in 0..rotations {
                rotate(namespace).await?;
            }
            Ok(())
        })
        .await
    })
    .await
}
