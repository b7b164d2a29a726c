//! What may happen to the nodes, and how all of that is undone.

use super::scene::Scene;
use super::{Fault, Healed, When, rights};
use crate::cluster::{self, Namespace, other_tests_are_gone};
use crate::geth::Geth;
use crate::network::Network;
use crate::{install, node, pods, wait};
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// Two on each of two workers.
const SIZE: usize = 4;

/// Where the API server's static pod is written down, and where that is put so that kubelet stops it.
const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
const ASIDE: &str = "/etc/kubernetes/kube-apiserver.yaml";

/// The chain of iptables that holds what these faults drop.
const CHAIN: &str = "GETH-PEERING-FAULTS";

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault {
            name: "cluster-worker-stopped",
            done: "one of two workers is stopped for {} s and started again; four Geths",
            healed: "counted from the start",
            lasts: Some(60),
            when: When::Disruptive,
            deed: |namespace, lasts| Box::pin(worker_stopped(namespace, lasts)),
        },
        Fault {
            name: "cluster-worker-frozen",
            done: "all processes of one of two workers stand still for {} s; four Geths",
            healed: "counted from when they go on",
            lasts: Some(60),
            when: When::Disruptive,
            deed: |namespace, lasts| Box::pin(worker_frozen(namespace, lasts)),
        },
        Fault {
            name: "cluster-workers-apart",
            done: "nothing passes between the pods of two workers for {} s; four Geths",
            healed: "counted from the end of it",
            lasts: Some(120),
            when: When::Disruptive,
            deed: |namespace, lasts| Box::pin(workers_apart(namespace, lasts)),
        },
        Fault {
            name: "cluster-drained",
            done: "kubectl drain of one of two workers; four Geths",
            healed: "counted from the beginning of it",
            lasts: None,
            when: When::Disruptive,
            deed: |namespace, _| Box::pin(drained(namespace)),
        },
    ]
}

/// A network on two workers, and one of them.
async fn on_two_workers(namespace: &Namespace) -> Result<(Scene<'_>, String)> {
    let spread = json!([{"op": "add", "path": "/spec/topologySpreadConstraints", "value": [{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "geth"}},
    }]}]);
    let scene = Scene::of(namespace, Network::of(SIZE).labelled().with_template_patch(spread)).await?;
    let worker = scene.geths.first().context("no Geth")?.node.clone();
    ensure!(scene.geths.iter().any(|geth| geth.node != worker), "all Geths are on {worker}");
    Ok((scene, worker))
}

/// A test of links: those of Geths of this node may go.
fn of_node(node: &str) -> impl Fn(&Geth, &Geth) -> bool {
    move |one, other| one.node == node || other.node == node
}

async fn worker_stopped(namespace: &Namespace, lasts: Duration) -> Result<Healed> {
    let (scene, worker) = on_two_workers(namespace).await?;
    node::engine(&["stop", &worker]).await?;
    tokio::time::sleep(lasts).await;
    let start = Instant::now();
    node::engine(&["start", &worker]).await?;
    scene.heals(start, of_node(&worker)).await
}

async fn worker_frozen(namespace: &Namespace, lasts: Duration) -> Result<Healed> {
    let (scene, worker) = on_two_workers(namespace).await?;
    // Cgroups of version 1 cannot always be frozen at the first try while processes in them start.
    wait::until("the worker stands still", wait::PODS, async || node::engine(&["pause", &worker]).await).await?;
    tokio::time::sleep(lasts).await;
    node::engine(&["unpause", &worker]).await?;
    scene.heals(Instant::now(), of_node(&worker)).await
}

async fn workers_apart(namespace: &Namespace, lasts: Duration) -> Result<Healed> {
    let (scene, worker) = on_two_workers(namespace).await?;
    let nodes = Api::<Node>::all(namespace.client.clone());
    let range = async |name: &str| -> Result<String> {
        nodes.get(name).await?.spec.and_then(|spec| spec.pod_cidr).with_context(|| format!("{name} has no pod range"))
    };
    let other = scene.geths.iter().map(|geth| &geth.node).find(|node| **node != worker).context("no second worker")?;
    let (here, there) = (range(&worker).await?, range(other).await?);
    let cut = r#"iptables -w -N "$1" && iptables -w -A "$1" -s "$2" -d "$3" -j DROP && iptables -w -A "$1" -s "$3" -d "$2" -j DROP &&
        iptables -w -I FORWARD -j "$1""#;
    node::shell(&worker, cut, &[CHAIN, &here, &there]).await?;
    tokio::time::sleep(lasts).await;
    join_again(&worker).await?;
    scene.heals(Instant::now(), |one, other| one.node != other.node).await
}

/// Removes what [`workers_apart`] has put between a node and others.
async fn join_again(node: &str) -> Result<()> {
    let join = r#"if iptables -w -n -L "$1" >/dev/null 2>&1; then
        iptables -w -D FORWARD -j "$1" || true; iptables -w -F "$1"; iptables -w -X "$1"; fi"#;
    node::shell(node, join, &[CHAIN]).await.map(drop)
}

async fn drained(namespace: &Namespace) -> Result<Healed> {
    let (scene, worker) = on_two_workers(namespace).await?;
    let start = Instant::now();
    let arguments = ["drain", &worker, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"];
    let output = Command::new("kubectl").args(arguments).output().await.context("kubectl: is it on the PATH?")?;
    let healing = match output.status.success() {
        true => scene.heals(start, of_node(&worker)).await,
        false => bail!("kubectl drain: {}", String::from_utf8_lossy(&output.stderr).trim()),
    };
    Api::<Node>::all(namespace.client.clone()).uncordon(&worker).await?;
    healing
}

/// Stops the API server, and waits until it is silent.
pub(super) async fn stop_api_server(client: &Client) -> Result<()> {
    let stop = r#"mv "$1" "$2" && crictl stop "$(crictl ps -q --name '^kube-apiserver$')""#;
    node::shell(&control_plane(), stop, &[MANIFEST, ASIDE]).await?;
    wait::until("the API server is down", wait::SOON, async || {
        ensure!(client.apiserver_version().await.is_err(), "it answers");
        Ok(())
    })
    .await
}

/// Starts the API server again if it was stopped, and waits until it answers.
pub(super) async fn start_api_server(client: &Client) -> Result<()> {
    let start = r#"if test -f "$2"; then mv "$2" "$1"; fi"#;
    node::shell(&control_plane(), start, &[MANIFEST, ASIDE]).await?;
    wait::until("the API server answers", wait::PODS, async || {
        Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
        Ok(())
    })
    .await
}

/// The name that kind gives to it.
fn control_plane() -> String {
    format!("{}-control-plane", cluster::name())
}

/// Undoes whatever a fault has left, of this run or an earlier one, and waits until the cluster is well and quiet.
///
/// # Errors
/// When it does not get well.
pub async fn repair(client: &Client) -> Result<()> {
    let filter = format!("label=io.x-k8s.kind.cluster={}", cluster::name());
    let listed = node::engine(&["ps", "--all", "--filter", &filter, "--format", "{{.Names}} {{.State}}"]).await?;
    for (name, state) in listed.lines().filter_map(|line| line.split_once(' ')) {
        match state {
            "running" => {}
            "paused" => drop(node::engine(&["unpause", name]).await?),
            _ => drop(node::engine(&["start", name]).await?),
        }
        join_again(name).await?;
    }
    start_api_server(client).await?;
    rights::restore(client).await?;
    let nodes = Api::<Node>::all(client.clone());
    wait::until("all nodes are Ready", wait::PODS, async || {
        for node in nodes.list(&ListParams::default()).await? {
            let name = node.name_any();
            if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
                nodes.uncordon(&name).await?;
            }
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let ready =
                conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
            ensure!(ready, "{name} is not");
        }
        Ok(())
    })
    .await?;
    wait::until("all pods of the system are Ready", wait::PODS, async || {
        for pod in Api::<Pod>::namespaced(client.clone(), "kube-system").list(&ListParams::default()).await? {
            ensure!(pods::is_ready(&pod), "{} is not", pod.name_any());
        }
        Ok(())
    })
    .await?;
    install::injectors_available(client).await?;
    other_tests_are_gone(client).await
}
