//! Do admissions go on after somebody has emptied the `caBundle` of the webhooks, as `kubectl apply` of an old
//! manifest does?

use anyhow::{Result, ensure};
use e2e::admission::{dry_run, geth_pod};
use e2e::cluster::{NAME, OPT_IN, in_namespace};
use e2e::{install, measure, pods, wait};
use kube::api::PostParams;
use serde_json::json;
use std::time::Instant;

#[tokio::test]
async fn is_an_emptied_ca_bundle_filled_again() -> Result<()> {
    in_namespace(async |namespace| {
        let before = install::ca_bundles(&namespace.client).await?;
        ensure!(before.iter().all(|bundle| !bundle.is_empty()), "a webhook had none to begin with");

        let (webhooks, start) = (install::webhooks(&namespace.client), Instant::now());
        let mut configuration = webhooks.get(NAME).await?;
        for webhook in configuration.webhooks.iter_mut().flatten() {
            webhook.client_config.ca_bundle = None;
        }
        webhooks.replace(NAME, &PostParams::default(), &configuration).await?;

        wait::until("every webhook has its CA again", wait::SOON, async || {
            ensure!(install::ca_bundles(&namespace.client).await? == before, "some are missing or others");
            Ok(())
        })
        .await?;
        wait::until("pods are injected again", wait::SOON, async || {
            let pod = dry_run(namespace, &geth_pod(json!({OPT_IN: "enabled"}), json!({}))).await?;
            ensure!(pod.to_string().contains(pods::MARKER), "admitted without injection: {pod}");
            Ok(())
        })
        .await?;
        measure::since("caBundle emptied: pods are injected again", start);
        Ok(())
    })
    .await
}
