//! Who takes part in a script, as fakes and as real Geths in pods that nobody injects.

use super::geths::{Geths, World};
use anyhow::{Context, Result};
use e2e::cluster::Namespace;
use e2e::ipc::Socket;
use e2e::network::{CLIQUE_IMAGE, GENESIS, create_genesis};
use e2e::{pods, wait};
use fakes::geth as fake;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};

/// The network of the members, which [`create_genesis`] makes the genesis of.
const NETWORK_ID: u64 = 4711;

/// The name of the other genesis.
const OTHER_GENESIS: &str = "other-genesis";

/// One that takes part.
#[derive(Clone, Copy)]
pub(super) struct Role {
    pub(super) name: &'static str,
    kind: Kind,
    max_peers: usize,
}

/// What one is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A member of the network.
    Member,
    /// Starts from another block.
    OtherGenesis,
    /// Starts from the same block, but calls its network another one.
    OtherNetwork,
    /// Runs with `--dev`, and so without p2p.
    Dev,
    /// A member that is to be killed, and started when the script says so.
    Mortal,
}

impl Role {
    pub(super) const fn member(name: &'static str) -> Self {
        Self { name, kind: Kind::Member, max_peers: 25 }
    }

    pub(super) const fn other_genesis(name: &'static str) -> Self {
        Self { kind: Kind::OtherGenesis, ..Self::member(name) }
    }

    pub(super) const fn other_network(name: &'static str) -> Self {
        Self { kind: Kind::OtherNetwork, ..Self::member(name) }
    }

    pub(super) const fn dev(name: &'static str) -> Self {
        Self { kind: Kind::Dev, ..Self::member(name) }
    }

    pub(super) const fn mortal(name: &'static str) -> Self {
        Self { kind: Kind::Mortal, ..Self::member(name) }
    }

    pub(super) const fn with_max_peers(self, max_peers: usize) -> Self {
        Self { max_peers, ..self }
    }
}

/// The cast as fakes, with their sockets in a folder.
pub(super) async fn fakes<'a>(
    namespace: &'a Namespace,
    cast: &'static [Role],
    folder: &tempfile::TempDir,
) -> Result<Geths<'a>> {
    let world = fake::World::new();
    let (mut geths, mut places) = (Vec::new(), Vec::new());
    for (i, role) in cast.iter().enumerate() {
        let path = folder.path().join(role.name);
        let mut config = fake::Config::new(u16::try_from(i)? + 1, &path);
        (config.network_id, config.max_peers) = (NETWORK_ID, role.max_peers);
        match role.kind {
            Kind::OtherGenesis => config.genesis = format!("0x{}", "7b".repeat(32)),
            Kind::OtherNetwork => config.network_id += 1,
            Kind::Dev => {
                (config.p2p, config.network_id, config.genesis) = (false, 1337, format!("0x{}", "79".repeat(32)));
            }
            Kind::Member | Kind::Mortal => {}
        }
        places.push((Socket::Here(path), config.ip.to_string()));
        geths.push(world.start(config));
    }
    Geths::connect(namespace, cast, World::Fakes(geths), places).await
}

/// The cast as real Geths of this image.
pub(super) async fn pods<'a>(namespace: &'a Namespace, cast: &'static [Role], image: &str) -> Result<Geths<'a>> {
    create_genesis(namespace).await?;
    let text = namespace.api::<ConfigMap>().get(GENESIS).await?.data.and_then(|mut data| data.remove("genesis.json"));
    let genesis: Value = serde_json::from_str(&text.context("the genesis just made")?)?;
    for (map, gas_limit) in [(USED_GENESIS, &genesis["gasLimit"]), (OTHER_GENESIS, &json!("0x1000000"))] {
        let mut genesis = genesis.clone();
        genesis["gasLimit"] = gas_limit.clone();
        if image == CLIQUE_IMAGE {
            // It has to be told so; later ones take it for granted.
            genesis["config"]["terminalTotalDifficultyPassed"] = true.into();
        }
        let map = json!({"metadata": {"name": map}, "data": {"genesis.json": genesis.to_string()}});
        namespace.create::<ConfigMap>(map).await?;
    }
    for role in cast {
        namespace.create::<Pod>(pod(role, image)).await?;
    }
    let ips = cast.iter().map(async |role| {
        wait::until("a Geth has an address", wait::PODS, async || {
            Ok(pods::ip(&namespace.api::<Pod>().get(role.name).await?)?.to_owned())
        })
        .await
    });
    let ips = try_join_all(ips).await?;
    let socket = |role: &Role| Socket::Pod { pod: role.name.into(), path: "/data/geth.ipc".into() };
    let places = cast.iter().zip(ips).map(|(role, ip)| (socket(role), ip)).collect();
    Geths::connect(namespace, cast, World::Pods, places).await
}

/// The name of the members' genesis.
const USED_GENESIS: &str = "used-genesis";

fn pod(role: &Role, image: &str) -> Value {
    let network = if role.kind == Kind::OtherNetwork { NETWORK_ID + 1 } else { NETWORK_ID };
    let init = "geth init --datadir=/data /genesis/genesis.json";
    let geth = format!(
        "geth --datadir=/data --nodiscover --syncmode=full --cache=64 --maxpeers={} --networkid={network}",
        role.max_peers
    );
    let start = match role.kind {
        Kind::Dev => "exec geth --dev --datadir=/data --ipcpath=/data/geth.ipc --cache=64".into(),
        // The container outlives this Geth, so that it can be looked at while there is none.
        Kind::Mortal => format!(
            "{init}; while :; do {geth} || true; until [ -e /data/again ]; do sleep 0.1; done; rm /data/again; done"
        ),
        _ => format!("{init} && exec {geth}"),
    };
    let genesis = if role.kind == Kind::OtherGenesis { OTHER_GENESIS } else { USED_GENESIS };
    json!({
        "metadata": {"name": role.name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "geth",
                "image": image,
                "command": ["sh", "-ec", start],
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "genesis", "mountPath": "/genesis"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "genesis", "configMap": {"name": genesis}}],
        },
    })
}
