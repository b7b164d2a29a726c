//! Do pods work as other people write them? Their manifests lie in `pods/`.
//!
//! All shapes are members of one network, so every one of them has to peer with every other.

use anyhow::{Context, Result, ensure};
use e2e::cluster::{OPT_IN, in_namespace};
use e2e::network::create_genesis;
use e2e::{manifest, mesh, pods};
use kube::ResourceExt;
use serde_json::json;

const SHAPES: [&str; 4] = [
    include_str!("pods/shell.yaml"),
    include_str!("pods/script.yaml"),
    include_str!("pods/deployment.yaml"),
    include_str!("pods/ipcpath.yaml"),
];

#[tokio::test]
async fn do_shells_scripts_own_accounts_claims_users_and_sockets_all_peer() -> Result<()> {
    in_namespace(async |namespace| {
        create_genesis(namespace).await?;
        manifest::create(namespace, include_str!("pods/service.yaml")).await?;
        for shape in SHAPES {
            manifest::create(namespace, shape).await?;
        }
        let geths = mesh::full_and_registered(namespace, "network=shapes", SHAPES.len()).await?;

        for pod in pods::live(namespace, "network=shapes").await? {
            let name = pod.name_any();
            ensure!(geths.iter().any(|geth| geth.pod == name), "{name} was replaced meanwhile");
            let account = pod.spec.and_then(|spec| spec.service_account_name).unwrap_or_default();
            let kept = name.starts_with("deployment-") == (account == "operations");
            ensure!(kept, "{name} runs as {account}: an account of the author's own is kept, the default one is not");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn does_a_namespace_that_enforces_restricted_pod_security_take_the_sidecar() -> Result<()> {
    in_namespace(async |namespace| {
        namespace.label(json!({OPT_IN: "enabled", "pod-security.kubernetes.io/enforce": "restricted"})).await?;
        create_genesis(namespace).await?;
        manifest::create(namespace, include_str!("pods/restricted.yaml")).await?;
        mesh::full_and_registered(namespace, "app=restricted", 2).await?;
        let pod = pods::live(namespace, "app=restricted").await?.pop().context("no pod")?;
        ensure!(pods::has_sidecar(&pod), "peered without a sidecar");
        Ok(())
    })
    .await
}
