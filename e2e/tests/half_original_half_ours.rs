//! Does a fleet half of which has the earlier sidecar become one mesh, stay it, and leave a clean list behind?
//!
//! The earlier sidecar is a stand-in that runs here and reaches its Geth through the API server.

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Namespace, in_namespace};
use e2e::network::Network;
use e2e::{geth, manifest, mesh, node, pods, registry, wait};
use fakes::original::{KEY, Node, Original};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The earlier sidecar's ConfigMap.
const CONFIGMAP: &str = "geth-shared-static-nodes";
const BOTH: &str = "app in (earlier, by-hand)";

#[tokio::test]
async fn does_a_fleet_half_of_each_become_a_mesh_stay_it_and_end_clean() -> Result<()> {
    let image = std::env::var("SIDECAR_IMAGE").context("SIDECAR_IMAGE is not set: run the tests through `make e2e`")?;
    in_namespace(async |namespace| {
        let earlier = Network::of(2).named("earlier");
        earlier.create(namespace).await?;
        let originals = ["earlier-0", "earlier-1"].map(|pod| original(namespace, pod));
        manifest::create(namespace, &include_str!("pods/by_hand.yaml").replace("SIDECAR_IMAGE", &image)).await?;
        mesh::full(namespace, BOTH, 4).await?;
        lists_exactly(namespace, BOTH, 4).await?;

        for pod in ["earlier-0", "by-hand-0"] {
            node::kill_and_await_restart(namespace, pod, "geth").await?;
            mesh::full(namespace, BOTH, 4).await?;
        }

        for original in originals {
            original.terminate().await;
        }
        earlier.scale(namespace, 0).await?;
        let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
        namespace.api::<StatefulSet>().patch("by-hand", &PatchParams::default(), &patch).await?;
        mesh::full(namespace, "app=by-hand", 4).await?;
        lists_exactly(namespace, BOTH, 4).await
    })
    .await
}

/// Waits until the list names exactly the Geths of a selector.
async fn lists_exactly(namespace: &Namespace, selector: &str, expected: usize) -> Result<()> {
    wait::until("the list names exactly the Geths that live", wait::PODS, async || {
        let geths = mesh::ask(namespace, selector, expected).await?;
        let live: BTreeSet<_> = geths.iter().map(|geth| format!("enode://{}@{}:30303", geth.key, geth.ip)).collect();
        let data = registry::api(namespace).get(CONFIGMAP).await?.data.unwrap_or_default();
        let list: BTreeSet<String> = serde_json::from_str(data.get(KEY).context("there is no list")?)?;
        ensure!(list == live, "it names {list:#?}, and {live:#?} live");
        Ok(())
    })
    .await
}

fn original(namespace: &Namespace, pod: &'static str) -> Original<Beside> {
    let here = Namespace { client: namespace.client.clone(), name: namespace.name.clone() };
    let wait = || Duration::from_secs_f64(rand::random_range(1.0..15.0));
    Original::start(registry::api(namespace), CONFIGMAP, Beside { namespace: Arc::new(here), pod }, wait)
}

/// The place of a sidecar in a pod.
#[derive(Clone)]
struct Beside {
    namespace: Arc<Namespace>,
    pod: &'static str,
}

impl Beside {
    async fn pod(&self) -> Result<Pod> {
        Ok(self.namespace.api::<Pod>().get(self.pod).await?)
    }

    /// A TCP connection from the pod's node, to which pods are as near as to each other.
    async fn connect(&self, address: &str) -> Result<()> {
        const CONNECT: &str = r#"exec perl -MIO::Socket::INET -e '
            IO::Socket::INET->new(PeerAddr => $ARGV[0], Proto => "tcp", Timeout => 3) or die "$@\n"' "$1""#;
        let node = self.pod().await?.spec.and_then(|spec| spec.node_name).context("it is on no node")?;
        node::shell(&node, CONNECT, &[address]).await.map(drop)
    }
}

impl Node for Beside {
    async fn enode(&self) -> Option<String> {
        let pod = self.pod().await.ok()?;
        let key = geth::ask(&self.namespace, &pod).await.ok()?.key;
        Some(format!("enode://{key}@{}:30303", pods::ip(&pod).ok()?))
    }

    async fn accepts(&self, address: &str) -> bool {
        let Ok(live) = pods::live(&self.namespace, BOTH).await else { return false };
        let host = address.rsplit_once(':').map(|(host, _)| host);
        // Behind an address that no pod has, whatever lies beyond the nodes may answer.
        live.iter().any(|pod| pods::ip(pod).ok() == host) && self.connect(address).await.is_ok()
    }

    async fn add_peer(&self, enode: &str) -> bool {
        geth::call(&self.namespace, self.pod, "admin_addPeer", json!([enode])).await.is_ok()
    }
}
