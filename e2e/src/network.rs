//! Networks of Geths, written as people write them: a genesis in a ConfigMap, `geth init` before Geth, and nothing
//! that speaks of peering but the opt-in where a test is about it.

use crate::cluster::{Namespace, OPT_IN};
use crate::geth::HTTP_ARGS;
use crate::wait;
use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

/// The image of Geth that the cluster was loaded with.
pub const GETH_IMAGE: &str = "ethereum/client-go:v1.17.5";

/// The last Geth that seals blocks of a Clique network by itself; it speaks eth/68, which [`GETH_IMAGE`] does not.
pub const CLIQUE_IMAGE: &str = "ethereum/client-go:v1.13.15";

/// The name of the ConfigMap that holds `genesis.json`.
pub const GENESIS: &str = "genesis";

/// Where the node keys are mounted, one file a pod.
const KEYS: &str = "/keys";

/// A small Geth that finds nobody by itself.
const GETH_ARGS: &[&str] = &["--datadir=/data", "--nodiscover", "--syncmode=full", "--cache=64"];

/// How many peers a Geth of a network accepts, unless the network says another number.
const MAX_PEERS: usize = 25;

/// A StatefulSet of Geths that are members of one private network.
#[derive(Clone, Debug)]
pub struct Network {
    name: &'static str,
    replicas: usize,
    labels: Value,
    annotations: Value,
    max_peers: usize,
    args: Vec<String>,
    env: Vec<Value>,
    kept_keys: bool,
    template_patch: Value,
}

impl Network {
    /// As many Geths, called `geth-0` and so on, that nobody has asked to peer.
    pub fn of(replicas: usize) -> Self {
        Self {
            name: "geth",
            replicas,
            labels: json!({}),
            annotations: json!({}),
            max_peers: MAX_PEERS,
            args: vec![],
            env: vec![],
            kept_keys: false,
            template_patch: json!([]),
        }
    }

    /// Under another name than `geth`, so that there is room for several in a namespace.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// With the label that asks for peering in the pod template.
    #[must_use]
    pub fn labelled(mut self) -> Self {
        self.labels = json!({OPT_IN: "enabled"});
        self
    }

    /// With an annotation in the pod template.
    #[must_use]
    pub fn with_annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations[key] = value.into();
        self
    }

    /// With Geths that accept so many peers.
    #[must_use]
    pub fn with_max_peers(mut self, max_peers: usize) -> Self {
        self.max_peers = max_peers;
        self
    }

    /// With another argument for Geth.
    #[must_use]
    pub fn with_arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With another variable in Geth's environment.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.push(json!({"name": name, "value": value}));
        self
    }

    /// With node keys from a Secret, so that a pod that is replaced is the same node at another address.
    #[must_use]
    pub fn with_kept_keys(mut self) -> Self {
        self.kept_keys = true;
        self
    }

    /// With a JSON Patch of the pod template, for whatever else a test needs.
    #[must_use]
    pub fn with_template_patch(mut self, patch: Value) -> Self {
        self.template_patch = patch;
        self
    }

    /// How many Geths there are in the beginning.
    pub fn size(&self) -> usize {
        self.replicas
    }

    /// Selects the pods of this network.
    pub fn selector(&self) -> String {
        format!("app={}", self.name)
    }

    /// Creates the network; the genesis too, unless the namespace has it from another one.
    ///
    /// # Errors
    /// When the API server refuses an object.
    pub async fn create(&self, namespace: &Namespace) -> Result<()> {
        if namespace.api::<ConfigMap>().get_opt(GENESIS).await?.is_none() {
            create_genesis(namespace).await?;
        }
        if self.kept_keys {
            namespace.create::<Secret>(self.node_keys()).await?;
        }
        let mut set = self.stateful_set();
        let patch: json_patch::Patch = serde_json::from_value(self.template_patch.clone())?;
        json_patch::patch(&mut set["spec"]["template"], &patch)?;
        namespace.create::<StatefulSet>(set).await?;
        Ok(())
    }

    /// Changes the number of Geths, as `kubectl scale` does.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn scale(&self, namespace: &Namespace, replicas: usize) -> Result<()> {
        self.patch(namespace, json!({"spec": {"replicas": replicas}})).await
    }

    /// Annotates the StatefulSet itself, as `kubectl annotate statefulset` does.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn annotate(&self, namespace: &Namespace, key: &str, value: &str) -> Result<()> {
        self.patch(namespace, json!({"metadata": {"annotations": {key: value}}})).await
    }

    /// Replaces all pods one after the other, as `kubectl rollout restart` does.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn restart(&self, namespace: &Namespace) -> Result<()> {
        let annotations = json!({"restartedAt": jiff::Timestamp::now().to_string()});
        self.patch(namespace, json!({"spec": {"template": {"metadata": {"annotations": annotations}}}})).await
    }

    /// Deletes the StatefulSet, and waits until its pods are gone.
    ///
    /// # Errors
    /// When the API server refuses, or a pod stays.
    pub async fn delete(&self, namespace: &Namespace) -> Result<()> {
        namespace.api::<StatefulSet>().delete(self.name, &DeleteParams::background()).await?;
        wait::until("all Geths are gone", wait::PODS, async || {
            let left = namespace.api::<Pod>().list(&ListParams::default().labels(&self.selector())).await?.items.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await
    }

    async fn patch(&self, namespace: &Namespace, patch: Value) -> Result<()> {
        let patch = Patch::Merge(patch);
        namespace.api::<StatefulSet>().patch(self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    fn stateful_set(&self) -> Value {
        let mut labels = self.labels.clone();
        labels["app"] = self.name.into();
        let mut geth = json!({
            "name": "geth",
            "image": GETH_IMAGE,
            "args": ([GETH_ARGS, HTTP_ARGS].concat()),
            "env": self.env,
            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        });
        push(&mut geth["args"], json!(format!("--maxpeers={}", self.max_peers)));
        for arg in &self.args {
            push(&mut geth["args"], json!(arg));
        }
        let mut volumes = json!([
            {"name": "data", "emptyDir": {}},
            {"name": "genesis", "configMap": {"name": GENESIS}},
        ]);
        if self.kept_keys {
            let pod_name = json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
            push(&mut geth["env"], pod_name);
            push(&mut geth["args"], json!(format!("--nodekey={KEYS}/$(POD_NAME)")));
            push(&mut geth["volumeMounts"], json!({"name": "keys", "mountPath": KEYS}));
            push(&mut volumes, json!({"name": "keys", "secret": {"secretName": self.name}}));
        }
        json!({
            "metadata": {"name": self.name},
            "spec": {
                "replicas": self.replicas,
                "serviceName": self.name,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {"app": self.name}},
                "template": {
                    "metadata": {"labels": labels, "annotations": self.annotations},
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
                        "containers": [geth],
                        "volumes": volumes,
                    },
                },
            },
        })
    }

    /// One key a pod: any 32 bytes are one, but for a handful that random ones never hit.
    fn node_keys(&self) -> Value {
        let key = || (0..32).map(|_| format!("{:02x}", rand::random::<u8>())).collect::<String>();
        let keys: serde_json::Map<_, _> =
            (0..self.replicas).map(|i| (format!("{}-{i}", self.name), key().into())).collect();
        json!({"metadata": {"name": self.name}, "stringData": keys})
    }
}

/// The genesis of the tests' networks: a private chain, merged from its first block on, without accounts.
///
/// # Errors
/// When the API server refuses.
pub async fn create_genesis(namespace: &Namespace) -> Result<()> {
    let genesis = json!({
        "config": {
            "chainId": 4711,
            "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0, "eip158Block": 0, "byzantiumBlock": 0,
            "constantinopleBlock": 0, "petersburgBlock": 0, "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0,
            "terminalTotalDifficulty": 0, "shanghaiTime": 0,
        },
        "difficulty": "0x0",
        "gasLimit": "0x1c9c380",
        "alloc": {},
    });
    let map = json!({"metadata": {"name": GENESIS}, "data": {"genesis.json": genesis.to_string()}});
    namespace.create::<ConfigMap>(map).await?;
    Ok(())
}

fn push(list: &mut Value, item: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}
