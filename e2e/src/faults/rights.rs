//! The rights of all sidecars of the cluster, taken away for a while.

use anyhow::{Context, Result};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

/// The role that the injector binds in every network's namespace, as `make install` names it.
const ROLE: &str = "geth-peering-sidecar";

/// Where the rules as they were are kept, so that they can be given back even by another run.
const KEPT: &str = "geth-peering-faults/rules";

/// Leaves the sidecars only what `change` makes of their rules.
///
/// # Errors
/// When there is no such role, or the API server refuses.
pub async fn restrict(client: &Client, change: impl Fn(&mut Vec<PolicyRule>)) -> Result<()> {
    restore(client).await?;
    let mut rules = roles(client).get(ROLE).await?.rules.context("the sidecars have no rights to begin with")?;
    let kept = serde_json::to_string(&rules)?;
    change(&mut rules);
    set(client, json!({"metadata": {"annotations": {KEPT: kept}}, "rules": rules})).await
}

/// Gives the sidecars their rights back, if they were taken.
///
/// # Errors
/// When there is no such role, or the API server refuses.
pub async fn restore(client: &Client) -> Result<()> {
    let annotations = roles(client).get(ROLE).await?.metadata.annotations.unwrap_or_default();
    let Some(kept) = annotations.get(KEPT) else { return Ok(()) };
    let rules: Vec<PolicyRule> = serde_json::from_str(kept)?;
    set(client, json!({"metadata": {"annotations": {KEPT: null}}, "rules": rules})).await
}

async fn set(client: &Client, patch: serde_json::Value) -> Result<()> {
    roles(client).patch(ROLE, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

fn roles(client: &Client) -> Api<ClusterRole> {
    Api::all(client.clone())
}
