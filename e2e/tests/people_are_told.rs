//! Does a person learn what only a person can put right, wherever they look?

use anyhow::{Context, Result, ensure};
use e2e::admission::geth_pod;
use e2e::cluster::{Namespace, OPT_IN, in_namespace};
use e2e::network::Network;
use e2e::{install, mesh, pods, wait};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use serde_json::{Value, json};

/// Three Geths need two peers each.
const TOO_FEW: usize = 1;

/// What has to stand there: how large `--maxpeers` has to be.
const REMEDY: &str = "--maxpeers 2";

/// A node key for two: that of go-ethereum's own tests (core/blockchain_test.go).
const NODE_KEY: &str = "b71c71a67e1177ad4e901695e1b4b9ee17ae16c6668d313eac2f96dbcda3f291";

#[tokio::test]
async fn is_a_mesh_that_maxpeers_cannot_hold_told_on_the_page_as_a_metric_and_as_an_event() -> Result<()> {
    in_namespace(async |namespace| {
        Network::of(3).with_max_peers(TOO_FEW).labelled().create(namespace).await?;
        wait::until("the page of the sidecar says it", wait::PODS, async || {
            let page = pods::request(namespace, "geth-0", mesh::SIDECAR_PORT, "", None).await?;
            ensure!(page.contains("<h1>geth-0</h1>") && page.contains(REMEDY), "{page}");
            Ok(())
        })
        .await?;
        wait::until("the metric says it", wait::SOON, async || {
            let metrics = pods::request(namespace, "geth-0", mesh::SIDECAR_PORT, "metrics", None).await?;
            let told = r#"geth_peering_concerns{concern="MeshTooLarge"} 1"#;
            ensure!(metrics.contains(told), "{metrics}");
            Ok(())
        })
        .await?;
        is_told_by_an_event(namespace, "geth-0", "MeshTooLarge", &[REMEDY]).await
    })
    .await
}

#[tokio::test]
async fn is_a_sidecar_of_another_user_than_geth_told_both_users_and_the_annotation() -> Result<()> {
    in_namespace(async |namespace| {
        // Geth's own image runs it as root.
        let network = Network::of(1).labelled().with_annotation("geth-peering/run-as-user", "65532");
        network.create(namespace).await?;
        let told = ["user 65532", "user 0", "geth-peering/run-as-user"];
        wait::until("the sidecar says that it is denied", wait::PODS, async || {
            let status = mesh::status(namespace, "geth-0").await?;
            let reason = status["geth"]["reason"].as_str().unwrap_or_default();
            ensure!(status["geth"]["state"] == "denied" && told.iter().all(|part| reason.contains(part)), "{status}");
            Ok(())
        })
        .await?;
        is_told_by_an_event(namespace, "geth-0", "GethDenied", &told).await
    })
    .await
}

#[tokio::test]
async fn are_two_geths_with_one_node_key_both_told_of_each_other() -> Result<()> {
    in_namespace(async |namespace| {
        Network::of(2).labelled().with_arg(&format!("--nodekeyhex={NODE_KEY}")).create(namespace).await?;
        for (pod, other) in [("geth-0", "geth-1"), ("geth-1", "geth-0")] {
            let told = [other, "has the same node key as this pod", "--nodekey"];
            wait::until(&format!("the sidecar of {pod} is concerned"), wait::PODS, async || {
                let status = mesh::status(namespace, pod).await?;
                let mut concerns = status["concerns"].as_array().into_iter().flatten().filter_map(Value::as_str);
                ensure!(concerns.any(|concern| told.iter().all(|part| concern.contains(part))), "{status}");
                Ok(())
            })
            .await?;
            is_told_by_an_event(namespace, pod, "DuplicateNodeKey", &told).await?;
        }
        Ok(())
    })
    .await
}

/// Waits until `kubectl describe pod` shows one warning of this reason, and all these parts in its sentence. What
/// passes by itself is not worth one, so it takes half a minute.
async fn is_told_by_an_event(namespace: &Namespace, pod: &str, reason: &str, told: &[&str]) -> Result<()> {
    let of_pod = ListParams::default().fields(&format!("involvedObject.name={pod},reason={reason}"));
    wait::until(&format!("kubectl describe pod says {reason}"), wait::SOON, async || {
        let events = namespace.api::<Event>().list(&of_pod).await?.items;
        let event = events.first().context("no Event of that reason")?;
        let message = event.message.as_deref().unwrap_or_default();
        ensure!(events.len() == 1 && event.type_.as_deref() == Some("Warning"), "{events:?}");
        ensure!(told.iter().all(|part| message.contains(part)), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn does_kubectl_show_what_an_annotation_fails_to_do_when_the_pod_is_created() -> Result<()> {
    in_namespace(async |namespace| {
        let mut pod = geth_pod(json!({OPT_IN: "enabled"}), json!({"geth-peering/max-peers": "7"}));
        pod["spec"]["containers"][0]["args"] = json!(["--datadir=/data", "--maxpeers=25"]);
        // kubectl prints the warnings of an API server, and goes on, unless told to fail.
        let create = ["create", "--dry-run=server", "--warnings-as-errors", "--filename=-", "--namespace"];
        let created = install::run("kubectl", &[&create[..], &[&namespace.name]].concat(), &pod.to_string()).await;
        let said = created.err().context("kubectl was told of nothing")?.to_string();
        let warning = "Warning: geth-peering: annotation geth-peering/max-peers=7 has no effect";
        ensure!(said.contains(warning), "{said}");
        Ok(())
    })
    .await
}
