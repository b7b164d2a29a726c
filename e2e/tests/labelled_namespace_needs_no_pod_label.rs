//! Is a label on the namespace enough, without a word in any pod?

use anyhow::{Result, ensure};
use e2e::cluster::{NAME, OPT_IN, in_namespace};
use e2e::network::Network;
use e2e::{mesh, pods, wait};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::RoleBinding;
use serde_json::json;

#[tokio::test]
async fn do_geths_in_a_labelled_namespace_peer_without_a_label_of_their_own() -> Result<()> {
    in_namespace(async |namespace| {
        namespace.label(json!({OPT_IN: "enabled"})).await?;
        // Before there is any pod: the first one must not have to wait.
        wait::until("the namespace is prepared", wait::SOON, async || {
            namespace.api::<ServiceAccount>().get(NAME).await?;
            Ok(namespace.api::<RoleBinding>().get(NAME).await?)
        })
        .await?;

        let network = Network::of(3);
        network.create(namespace).await?;
        mesh::full_and_registered(namespace, &network.selector(), 3).await?;
        for pod in pods::live(namespace, &network.selector()).await? {
            let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
            ensure!(account == Some(NAME), "a pod runs as {account:?}");
        }
        Ok(())
    })
    .await
}
