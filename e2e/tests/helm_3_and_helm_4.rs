//! Do both versions of helm serve a release, and does the second take over what the first has installed?
//!
//! These tests take the installation away and bring it back, so they take turns.

use anyhow::{Context, Result, bail, ensure};
use e2e::cluster::{NAME, Namespace, RELEASE};
use e2e::network::Network;
use e2e::{away, install, wait};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

const HELM_3: &str = "helm";
const HELM_4: &str = "helm4";

/// What the chart's own values say.
const TIMEOUT: i32 = 5;

#[tokio::test]
async fn does_helm_3_install_upgrade_and_roll_back_beside_what_the_injectors_write() -> Result<()> {
    away::instead_of_the_installation(async |namespace, network, values| {
        is_installed_upgraded_and_rolled_back(namespace, network, values, HELM_3).await
    })
    .await
}

#[tokio::test]
async fn does_helm_4_install_upgrade_and_roll_back_beside_what_the_injectors_write() -> Result<()> {
    away::instead_of_the_installation(async |namespace, network, values| {
        is_installed_upgraded_and_rolled_back(namespace, network, values, HELM_4).await
    })
    .await
}

#[tokio::test]
async fn does_helm_4_take_over_what_helm_3_installed_and_apply_it_on_the_server() -> Result<()> {
    const SERVER: &str = "--server-side=true";
    away::instead_of_the_installation(async |namespace, network, values| {
        let release = Release::new(namespace, values, HELM_3).await?;
        // Helm 4 goes on as Helm 3 began, unless told otherwise.
        release.upgrade(HELM_4, &[], 6).await?;
        release.upgrade(HELM_4, &[SERVER], 7).await?;

        // Somebody's own change is in the way of such an upgrade. What the injectors write is not.
        let change = json!({"webhooks": [{"name": release.webhooks().await?[0].0, "timeoutSeconds": 9}]});
        let somebody = PatchParams { field_manager: Some("somebody".into()), ..PatchParams::default() };
        install::webhooks(&namespace.client).patch(NAME, &somebody, &Patch::Strategic(change)).await?;
        let Err(conflict) = release.upgrade(HELM_4, &[SERVER], 8).await else { bail!("nothing was in the way") };
        let conflict = conflict.to_string();
        ensure!(conflict.contains("timeoutSeconds") && !conflict.contains("caBundle"), "{conflict}");
        release.upgrade(HELM_4, &[SERVER, "--force-conflicts"], 8).await?;

        release.roll_back(HELM_4).await?;
        away::grows(namespace, network).await?;
        release.uninstall(HELM_4).await
    })
    .await
}

/// What every helm has to do.
async fn is_installed_upgraded_and_rolled_back(
    namespace: &Namespace,
    network: &Network,
    values: &str,
    helm: &str,
) -> Result<()> {
    let release = Release::new(namespace, values, helm).await?;
    release.upgrade(helm, &[], 6).await?;
    release.roll_back(helm).await?;
    away::grows(namespace, network).await?;
    release.uninstall(helm).await
}

/// A release whose injectors have written the caBundle, which no helm may take away.
struct Release<'a> {
    namespace: &'a Namespace,
    values: Value,
    bundles: Vec<Vec<u8>>,
}

impl<'a> Release<'a> {
    /// Of an earlier version: what bears its number must not stand in the way of an upgrade, as a selector would.
    async fn new(namespace: &'a Namespace, values: &str, helm: &str) -> Result<Self> {
        install::install_earlier_by(helm, values).await?;
        install::injectors_available(&namespace.client).await?;
        let bundles = wait::until("the injectors have written the caBundle", wait::SOON, async || {
            let bundles = install::ca_bundles(&namespace.client).await?;
            ensure!(bundles.iter().all(|bundle| !bundle.is_empty()), "a webhook has none");
            Ok(bundles)
        })
        .await?;
        let release = Self { namespace, values: serde_saphyr::from_str(values)?, bundles };
        release.is_as_told(TIMEOUT).await?;
        Ok(release)
    }

    /// Replaces every injector, and sets the webhooks' timeout.
    async fn upgrade(&self, helm: &str, options: &[&str], timeout: i32) -> Result<()> {
        let mut values = self.values.clone();
        values["podAnnotations"] = json!({"upgrade": format!("to a timeout of {timeout}")});
        values["webhook"]["timeoutSeconds"] = json!(timeout);
        install::install_by(helm, options, &values.to_string()).await?;
        self.is_as_told(timeout).await
    }

    /// Goes back to how it was installed.
    async fn roll_back(&self, helm: &str) -> Result<()> {
        install::run(helm, &["rollback", RELEASE, "1", "--namespace", RELEASE, "--wait"], "").await?;
        self.is_as_told(TIMEOUT).await.context("after the rollback")
    }

    async fn uninstall(&self, helm: &str) -> Result<()> {
        install::run(helm, &["uninstall", RELEASE, "--namespace", RELEASE, "--wait"], "").await.map(drop)
    }

    async fn is_as_told(&self, timeout: i32) -> Result<()> {
        install::injectors_available(&self.namespace.client).await?;
        let webhooks = self.webhooks().await?;
        ensure!(webhooks.iter().all(|(_, seconds)| *seconds == Some(timeout)), "not {timeout} seconds: {webhooks:?}");
        ensure!(install::ca_bundles(&self.namespace.client).await? == self.bundles, "helm took the caBundle away");
        Ok(())
    }

    /// Name and timeout of each webhook.
    async fn webhooks(&self) -> Result<Vec<(String, Option<i32>)>> {
        let webhooks = install::webhooks(&self.namespace.client).get(NAME).await?.webhooks.unwrap_or_default();
        Ok(webhooks.into_iter().map(|webhook| (webhook.name, webhook.timeout_seconds)).collect())
    }
}
