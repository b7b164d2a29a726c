//! What becomes of an injection where other webhooks change pods as well?

use anyhow::{Context, Result, ensure};
use e2e::admission::{dry_run, geth_pod};
use e2e::cluster::{OPT_IN, in_namespace};
use e2e::hostile::{Order, with_webhook};
use e2e::network::Network;
use e2e::{install, mesh, pods, wait};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// The injectors count all pods, so these tests take turns; cargo runs one file at a time.
static INJECTORS: Mutex<()> = Mutex::const_new(());

/// What a mesh calls its proxy, and the volume of it.
const PROXY: &str = "proxy";

/// Takes `restartPolicy` out of all init containers, as webhooks do that write a pod anew with types from before native
/// sidecars, and adds a container, as service meshes do.
fn breaks_native_sidecars(pod: &Value) -> Vec<Value> {
    let containers = pod["spec"]["initContainers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let native = containers.iter().enumerate().filter(|(_, container)| !container["restartPolicy"].is_null());
    let remove = |(at, _)| json!({"op": "remove", "path": format!("/spec/initContainers/{at}/restartPolicy")});
    let mut patch: Vec<Value> = native.map(remove).collect();
    let added =
        pod["spec"]["containers"].as_array().into_iter().flatten().any(|container| container["name"] == "added");
    if !added {
        let container = json!({"name": "added", "image": pod["spec"]["containers"][0]["image"],
            "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"]});
        patch.push(json!({"op": "add", "path": "/spec/containers/-", "value": container}));
    }
    patch
}

#[tokio::test]
async fn is_a_sidecar_that_another_webhook_broke_repaired_and_that_webhook_named() -> Result<()> {
    let _turn = INJECTORS.lock().await;
    in_namespace(async |namespace| {
        with_webhook(namespace, Order::After, breaks_native_sidecars, async |name| {
            // An API server learns of a new webhook a moment later.
            wait::until("the other webhook is asked", wait::SOON, async || {
                let pod = dry_run(namespace, &geth_pod(json!({OPT_IN: "enabled"}), json!({}))).await?;
                ensure!(pod["spec"]["containers"].as_array().map(Vec::len) == Some(2), "not yet: {pod}");
                Ok(())
            })
            .await?;
            let network = Network::of(2).labelled();
            network.create(namespace).await?;
            mesh::full_and_registered(namespace, &network.selector(), 2).await?;
            for pod in pods::exactly(namespace, &network.selector(), 2).await? {
                let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
                ensure!(containers.iter().any(|container| container.name == "added"), "what others add stays");
            }
            wait::until("the StatefulSet's Events name the webhook", wait::SOON, async || {
                let events = namespace.api::<Event>().list(&ListParams::default()).await?.items;
                let repaired = events.into_iter().find(|event| event.reason.as_deref() == Some("repaired"));
                let note = repaired.context("no such Event")?.message.unwrap_or_default();
                ensure!(note.contains("restartPolicy") && note.contains(name), "{note}");
                Ok(())
            })
            .await
        })
        .await
    })
    .await
}

/// Puts a native sidecar in front of all init containers, and a volume for it, as mesh proxies do.
fn adds_a_proxy(pod: &Value) -> Vec<Value> {
    let proxy = json!({
        "name": PROXY, "image": pod["spec"]["containers"][0]["image"], "restartPolicy": "Always",
        "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
        "volumeMounts": [{"name": PROXY, "mountPath": "/proxy"}],
    });
    let add = |list: &str, at: &str, item: Value| match pod["spec"][list].as_array() {
        Some(_) => json!({"op": "add", "path": format!("/spec/{list}/{at}"), "value": item}),
        None => json!({"op": "add", "path": format!("/spec/{list}"), "value": [item]}),
    };
    vec![add("initContainers", "0", proxy), add("volumes", "-", json!({"name": PROXY, "emptyDir": {}}))]
}

#[tokio::test]
async fn does_a_geth_behind_a_mesh_proxy_peer_at_the_cost_of_one_call() -> Result<()> {
    let _turn = INJECTORS.lock().await;
    in_namespace(async |namespace| {
        with_webhook(namespace, Order::Before, adds_a_proxy, async |_| {
            let pod = geth_pod(json!({OPT_IN: "enabled"}), json!({}));
            wait::until("the other webhook is asked", wait::SOON, async || {
                let pod = dry_run(namespace, &pod).await?;
                ensure!(pod["spec"]["initContainers"][0]["name"] == PROXY, "not yet: {pod}");
                Ok(())
            })
            .await?;
            let before = install::reviews_of_pods(&namespace.client).await?;
            dry_run(namespace, &pod).await?;
            let calls = install::reviews_of_pods(&namespace.client).await? - before;
            ensure!(calls == 1, "a pod cost {calls} calls");

            let network = Network::of(2).labelled();
            network.create(namespace).await?;
            mesh::full_and_registered(namespace, &network.selector(), 2).await?;
            for pod in pods::exactly(namespace, &network.selector(), 2).await? {
                let spec = pod.spec.context("a spec")?;
                let names: Vec<_> = spec.init_containers.iter().flatten().map(|container| &*container.name).collect();
                ensure!(names == [PROXY, "init", pods::SIDECAR], "they start as {names:?}");
                let kept = spec.volumes.iter().flatten().any(|volume| volume.name == PROXY);
                ensure!(kept, "the proxy's volume is gone: {:?}", spec.volumes);
            }
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn does_a_pod_cost_one_call() -> Result<()> {
    let _turn = INJECTORS.lock().await;
    in_namespace(async |namespace| {
        namespace.label(json!({OPT_IN: "enabled"})).await?;
        let mut pod = geth_pod(json!({OPT_IN: "enabled"}), json!({}));
        // With a token of its own account, as pods have; that is what made API servers ask twice in other products.
        pod["spec"].as_object_mut().context("a spec")?.remove("automountServiceAccountToken");
        wait::until("the namespace is prepared", wait::SOON, async || {
            let pod = dry_run(namespace, &pod).await?;
            ensure!(pod["spec"]["serviceAccountName"] == "geth-peering", "not yet: {pod}");
            Ok(())
        })
        .await?;
        let before = install::reviews_of_pods(&namespace.client).await?;
        for _ in 0..10 {
            dry_run(namespace, &pod).await?;
        }
        let calls = install::reviews_of_pods(&namespace.client).await? - before;
        ensure!(calls == 10, "10 pods cost {calls} calls");
        Ok(())
    })
    .await
}
