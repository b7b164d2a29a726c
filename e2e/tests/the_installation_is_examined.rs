//! Do `helm test` and `injector check` say that an installation is well when it is, and what is wrong when it is not?

use anyhow::{Result, ensure};
use e2e::cluster::{OPT_IN, in_namespace};
use e2e::install;
use injector::check::{Finding, Verdict, examine};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;

fn told(findings: &[Finding], verdict: Verdict) -> Vec<String> {
    findings.iter().filter(|finding| finding.verdict == verdict).map(ToString::to_string).collect()
}

#[tokio::test]
async fn does_helm_test_pass() -> Result<()> {
    in_namespace(async |_| install::test().await.map(drop)).await
}

#[tokio::test]
async fn does_check_find_what_is_wrong_and_nothing_else() -> Result<()> {
    in_namespace(async |namespace| {
        let client = &namespace.client;
        let well = examine(client, None, &namespace.name).await;
        // Two lines of the webhooks, one of the injectors, one for each of two certificates, rights, injection, pods.
        ensure!(well.len() >= 8 && told(&well, Verdict::Good).len() == well.len(), "{well:#?}");

        let elsewhere = examine(client, None, "kube-system").await;
        let wrong = told(&elsewhere, Verdict::Wrong);
        ensure!(wrong.len() == 1 && wrong[0].contains("without the sidecar"), "{wrong:?}");

        let nothing = told(&examine(client, Some("no-such"), &namespace.name).await, Verdict::Wrong);
        ensure!(nothing.len() == 1 && nothing[0].contains("there is no MutatingWebhookConfiguration"), "{nothing:?}");

        // As one that was there before: the label comes when nobody is asked any more.
        namespace
            .create::<Pod>(json!({
                "metadata": {"name": "early"},
                "spec": {"nodeName": "nowhere", "containers": [{"name": "geth", "image": "none"}]},
            }))
            .await?;
        let label = Patch::Merge(json!({"metadata": {"labels": {OPT_IN: "enabled"}}}));
        namespace.api::<Pod>().patch("early", &PatchParams::default(), &label).await?;
        let early = told(&examine(client, None, &namespace.name).await, Verdict::Wrong);
        ensure!(early.len() == 1 && early[0].contains(&format!("{}/early", namespace.name)), "{early:?}");
        Ok(())
    })
    .await
}
