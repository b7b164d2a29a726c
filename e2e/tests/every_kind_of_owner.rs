//! Do Geths peer whoever owns their pods: a Deployment, a StatefulSet, a Job, a CronJob, nobody, or a node's network?
//!
//! All are members of one network, so every one of them has to peer with every other.

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Namespace, OPT_IN, in_namespace};
use e2e::geth::HTTP_ARGS;
use e2e::network::{GENESIS, GETH_IMAGE, create_genesis};
use e2e::{install, mesh, pods, registry, wait};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Selects all members of the network.
const MEMBERS: &str = "network=owners";

/// The members that do not end by themselves: two of the Deployment, three of the StatefulSet, and two pods.
const LASTING: usize = 7;

/// Where the Geth in its node's network listens: not where any other would.
const PORT_OF_NODE: u16 = 30399;

/// What a Job may do with a Geth that it has started: it ends once that has as many peers as there are members that last.
const ENDS: &str = r#" &
ask='{"jsonrpc":"2.0","id":1,"method":"net_peerCount"}'
until wget -qO- --header 'content-type: application/json' --post-data "$ask" http://127.0.0.1:8545 | grep '"0x[7-9a-f]"'
do sleep 1
done
kill $!
wait
"#;

#[tokio::test]
async fn do_geths_of_every_kind_of_owner_peer_and_jobs_end_with_theirs() -> Result<()> {
    in_namespace(async |namespace| {
        create_genesis(namespace).await?;
        let replicas = |owner: &str, count: usize| {
            let selector = json!({"matchLabels": {"owner": owner}});
            json!({"replicas": count, "selector": selector, "template": template(owner, json!({}))})
        };
        let deployment = replicas("deployment", 2);
        namespace.create::<Deployment>(json!({"metadata": {"name": "deployment"}, "spec": deployment})).await?;
        // Each pod is created when the one before it is ready, and is ready when it has a peer.
        let mut set = replicas("statefulset", 3);
        (set["serviceName"], set["podManagementPolicy"]) = (json!("statefulset"), json!("OrderedReady"));
        namespace.create::<StatefulSet>(json!({"metadata": {"name": "statefulset"}, "spec": set})).await?;
        let mut pod = template("nobody", json!({}));
        pod["metadata"]["name"] = json!("pod");
        namespace.create::<Pod>(pod).await?;
        let mut pod = template("nobody", json!({"hostNetwork": true}));
        pod["metadata"]["name"] = json!("host");
        let port = format!("--port={PORT_OF_NODE}");
        pod["spec"]["containers"][0]["args"] = json!([arguments(), vec![&*port]].concat());
        namespace.create::<Pod>(pod).await?;
        let job = json!({"backoffLimit": 0, "template": ending("job")});
        namespace.create::<Job>(json!({"metadata": {"name": "job"}, "spec": job})).await?;
        let job = json!({"backoffLimit": 0, "template": ending("cronjob")});
        let never = json!({"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": job}});
        namespace.create::<CronJob>(json!({"metadata": {"name": "cronjob"}, "spec": never})).await?;
        let now = ["create", "job", "from-cronjob", "--from=cronjob/cronjob", "--namespace", &namespace.name];
        install::run("kubectl", &now, "").await?;

        for job in ["job", "from-cronjob"] {
            is_complete(namespace, job).await?;
        }
        mesh::full(namespace, MEMBERS, LASTING).await?;
        wait::until("all that last are ready", wait::SOON, async || {
            let pods = pods::exactly(namespace, MEMBERS, LASTING).await?;
            let waiting: Vec<_> = pods.iter().filter(|pod| !pods::is_ready(pod)).map(ResourceExt::name_any).collect();
            ensure!(waiting.is_empty(), "{waiting:?} are not");
            Ok(())
        })
        .await?;
        wait::until("the registry tells of them, and no longer of the Jobs' Geths", wait::SOON, async || {
            let entries = registry::entries(namespace).await?;
            let pods = pods::exactly(namespace, MEMBERS, LASTING).await?;
            let names: BTreeSet<_> = pods.iter().map(ResourceExt::name_any).collect();
            ensure!(entries.keys().eq(&names), "it has {:?}", entries.keys());
            let host = pods.iter().find(|pod| pod.name_any() == "host").context("no such pod")?;
            let node = host.status.as_ref().and_then(|status| status.host_ip.as_deref()).context("no node")?;
            let enode = &entries["host"].enode;
            ensure!(enode.ends_with(&format!("@{node}:{PORT_OF_NODE}")), "{enode} is not at node {node}");
            Ok(())
        })
        .await?;
        for pod in namespace.api::<Pod>().list(&ListParams::default().labels(MEMBERS)).await? {
            ensure!(pods::has_sidecar(&pod), "{} peered without a sidecar", pod.name_any());
        }
        Ok(())
    })
    .await
}

async fn is_complete(namespace: &Namespace, job: &str) -> Result<()> {
    wait::until(&format!("{job} is complete"), wait::PODS, async || {
        let status = namespace.api::<Job>().get(job).await?.status.context("no status yet")?;
        let conditions = status.conditions.unwrap_or_default();
        let is = |what: &str| conditions.iter().any(|condition| condition.type_ == what && condition.status == "True");
        ensure!(is("Complete"), "not yet: {conditions:?}");
        Ok(())
    })
    .await
}

fn arguments() -> Vec<&'static str> {
    let geth = ["--datadir=/data", "--nodiscover", "--syncmode=full", "--cache=64", "--maxpeers=25"];
    [&geth[..], HTTP_ARGS].concat()
}

/// The template of a member, with other fields of its `spec`.
fn template(owner: &str, spec: Value) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"network": "owners", "owner": owner, OPT_IN: "enabled"}},
        "spec": {
            "terminationGracePeriodSeconds": 10,
            "initContainers": [{
                "name": "init",
                "image": GETH_IMAGE,
                "args": ["init", "--datadir=/data", "/genesis/genesis.json"],
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "genesis", "mountPath": "/genesis"},
                ],
            }],
            "containers": [{
                "name": "geth",
                "image": GETH_IMAGE,
                "args": arguments(),
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "genesis", "configMap": {"name": GENESIS}}],
        },
    });
    json_patch::merge(&mut template["spec"], &spec);
    template
}

/// As [`template`], of a member that ends.
fn ending(owner: &str) -> Value {
    let mut template = template(owner, json!({"restartPolicy": "Never"}));
    let geth = &mut template["spec"]["containers"][0];
    geth["command"] = json!(["sh", "-c", format!("geth {}{ENDS}", arguments().join(" "))]);
    geth["args"].take();
    template
}
