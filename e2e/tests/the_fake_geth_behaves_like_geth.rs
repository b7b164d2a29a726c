//! Does the fake Geth, which the fast tests rest on, answer and peer as real ones do?
//!
//! One script of calls is run on fakes and, at the same time, on real Geths in pods that nobody injects; what each
//! step brought to light is compared. Where they differ, the fake is wrong.

#[path = "the_fake_geth_behaves_like_geth/geths.rs"]
mod geths;

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Namespace, in_namespace};
use e2e::differences::same;
use e2e::ipc::Socket;
use e2e::network::{GENESIS, GETH_IMAGE, create_genesis};
use e2e::{measure, pods, wait};
use fakes::geth::{Config, FakeGeth, World};
use futures::future::try_join_all;
use geths::{Geths, Place};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Members of one network.
const ONE: usize = 0;
const TWO: usize = 1;
const THREE: usize = 2;
/// Starts from another block.
const OTHER_GENESIS: usize = 3;
/// Starts from the same block, but calls its network another one.
const OTHER_NETWORK: usize = 4;
/// Runs with `--dev`, and so without p2p.
const DEV: usize = 5;

const NAMES: [&str; 6] = ["one", "two", "three", "other-genesis", "other-network", "dev"];

/// The network of the members, which [`create_genesis`] makes the genesis of.
const NETWORK_ID: u64 = 4711;

/// What a Geth is dialed at, in both worlds.
const PORT: u16 = 30303;

/// A key that nobody has.
const NOBODY: &str = "9884d6c934660266c45f7e1f13ebd2a8766d3c696770d25ed96923dc1c459f3d\
                      663a4ad3a31a2dc1d044c75708eceec6b4591ad4ad33147a2298a0237508f24d";

/// An address at which nobody is (RFC 5737).
const NOWHERE: &str = "192.0.2.1:30303";

/// How long two Geths are watched that must not find each other; a link takes a fraction of a second.
const WHILE: Duration = Duration::from_secs(4);

/// For so long at least nobody is dialed again.
const MUST_WAIT: Duration = Duration::from_secs(33);

/// Longer than a dial stays in the history (`dialHistoryExpiration`, 35 s, p2p/dial.go).
const AFTER_HISTORY: Duration = Duration::from_secs(60);

#[tokio::test]
async fn does_the_fake_geth_answer_and_peer_as_a_real_one() -> Result<()> {
    in_namespace(async |namespace| {
        let directory = tempfile::tempdir()?;
        let (_fakes, sockets) = start_fakes(&directory)?;
        let mut fake = Geths::connect(namespace, sockets).await?;
        let mut real = Geths::connect(namespace, start_pods(namespace).await?).await?;
        let start = Instant::now();
        tokio::try_join!(script(&mut real), script(&mut fake))?;
        measure::since("one script on real and on fake Geths", start);
        for ((what, real), (other, fake)) in real.steps.iter().zip(&fake.steps) {
            ensure!(what == other, "{what} became {other}");
            same(what, real, fake)?;
        }
        ensure!(real.steps.len() == fake.steps.len(), "one of them did not get to the end");
        Ok(())
    })
    .await
}

/// The script. It waits for what must happen and, at the end, once for what must not.
async fn script(geths: &mut Geths<'_>) -> Result<()> {
    for node in [ONE, OTHER_GENESIS, OTHER_NETWORK, DEV] {
        geths.step("nodeInfo", node, "admin_nodeInfo", json!([])).await?;
    }
    for node in [ONE, TWO, THREE, OTHER_GENESIS, OTHER_NETWORK, DEV] {
        geths.subscribe(node).await?;
    }
    geths.step("a method that is not there", ONE, "admin_nonsense", json!([])).await?;
    geths.step("a subscription that is not there", ONE, "admin_subscribe", json!(["nonsense"])).await?;
    let batch = json!([
        {"jsonrpc": "2.0", "id": 1, "method": "admin_nonsense"},
        {"jsonrpc": "2.0", "id": "2", "method": "admin_peers"},
        {"jsonrpc": "2.0", "id": 3, "method": "admin_addPeer", "params": ["nonsense"]},
    ]);
    for line in [batch.to_string(), "[]".into(), "{}".into()] {
        let answer = geths.nodes[ONE].ipc.raw(&line).await?;
        geths.record(&format!("the line {line}"), answer);
    }
    geths.broken_line(TWO).await?;

    let two = geths.nodes[TWO].enode.clone();
    let key = &two[8..136];
    for url in [
        json!("nonsense"),
        json!(""),
        json!("enode://1234@192.0.2.1:30303"),
        json!(format!("enode://{}@192.0.2.1:30303", "01".repeat(64))),
        json!(format!("enode://{}@192.0.2.1:30303", "zz".repeat(64))),
        json!("enode://192.0.2.1:30303"),
        json!(format!("enode://{NOBODY}@192.0.2.1")),
        json!(format!("enode://{NOBODY}@192.0.2.1:0")),
        json!(format!("enode://{NOBODY}@192.0.2.1:nonsense")),
        json!(format!("enode://{NOBODY}@192.0.2.1:77777")),
        json!(format!("enode://{NOBODY}@192.0.2.1:30303?discport=nonsense")),
        json!(format!("enode://{NOBODY}@:30303")),
        json!(format!("http://{NOBODY}@192.0.2.1:30303")),
        json!("enr:!"),
        json!(5),
    ] {
        for method in ["admin_addPeer", "admin_removePeer", "admin_addTrustedPeer", "admin_removeTrustedPeer"] {
            geths.step(&format!("{method}({url})"), THREE, method, json!([url])).await?;
        }
    }
    geths.step("addPeer of nothing", THREE, "admin_addPeer", json!([])).await?;
    geths.step("removePeer of a stranger", ONE, "admin_removePeer", json!([two])).await?;
    geths.step("removeTrustedPeer of a stranger", ONE, "admin_removeTrustedPeer", json!([two])).await?;

    // Nobody is there; nobody ever gets connected.
    geths.step("addPeer of nobody", ONE, "admin_addPeer", json!([format!("enode://{NOBODY}@{NOWHERE}")])).await?;
    // The second call changes nothing: three is dialed where it is not.
    let (three, key_of_three) = (geths.nodes[THREE].enode.clone(), geths.nodes[THREE].key().to_owned());
    let moved = format!("enode://{key_of_three}@{NOWHERE}");
    geths.step("addPeer at an old address", ONE, "admin_addPeer", json!([moved])).await?;
    geths.step("addPeer at the new address", ONE, "admin_addPeer", json!([three])).await?;

    let dialed = Instant::now();
    geths.step("addPeer", ONE, "admin_addPeer", json!([two])).await?;
    geths.until("are one and two peers?", ONE, TWO, true, wait::SOON).await?;
    geths.step("peers of the dialer", ONE, "admin_peers", json!([])).await?;
    geths.step("peers of the listener", TWO, "admin_peers", json!([])).await?;
    geths.step("addPeer again", ONE, "admin_addPeer", json!([two])).await?;

    let one = geths.nodes[ONE].enode.clone();
    geths.step("addTrustedPeer of a peer", TWO, "admin_addTrustedPeer", json!([one])).await?;
    geths.until_trusted("does two trust one?", TWO, ONE, true).await?;
    geths.step("peers of who does not trust", ONE, "admin_peers", json!([])).await?;
    geths.step("removeTrustedPeer of a peer", TWO, "admin_removeTrustedPeer", json!([one])).await?;
    geths.until_trusted("does two trust one?", TWO, ONE, false).await?;
    geths.step("addTrustedPeer of who is no peer", TWO, "admin_addTrustedPeer", json!([three])).await?;

    // One still wants two, and may not dial it yet. Nor does it after it was told so again.
    geths.step("removePeer of who dialed", TWO, "admin_removePeer", json!([one])).await?;
    geths.step("peers after removePeer", TWO, "admin_peers", json!([])).await?;
    geths.until("are one and two peers?", ONE, TWO, false, wait::SOON).await?;
    geths.step("removePeer of who is no peer any more", ONE, "admin_removePeer", json!([two])).await?;
    geths.step("addPeer within the history", ONE, "admin_addPeer", json!([two])).await?;

    for stranger in [OTHER_GENESIS, OTHER_NETWORK, DEV] {
        let enode = geths.nodes[stranger].enode.clone();
        geths.step("addPeer of a stranger", THREE, "admin_addPeer", json!([enode])).await?;
    }
    let key = key.to_owned();
    geths.step("addPeer without p2p", DEV, "admin_addPeer", json!([two])).await?;
    geths.step("addPeer of a name without an address", DEV, "admin_addPeer", json!([format!("enode://{key}")])).await?;
    // On a machine that took so long to get here, there is little left to see.
    let end = (dialed + MUST_WAIT).min(Instant::now() + WHILE);
    geths.apart("do any get connected that must not?", end).await?;
    for stranger in [OTHER_GENESIS, OTHER_NETWORK] {
        geths.until_dropped(THREE, stranger).await?;
        let enode = geths.nodes[stranger].enode.clone();
        geths.step("removePeer of a stranger", THREE, "admin_removePeer", json!([enode])).await?;
    }
    geths.until("are one and two peers after the history?", ONE, TWO, true, AFTER_HISTORY).await?;

    // By now one has dialed three's old address a second time.
    geths.step("addPeer by who moved", THREE, "admin_addPeer", json!([one])).await?;
    geths.until("are one and three peers?", THREE, ONE, true, wait::SOON).await?;
    geths.step("peers of who had the old address", ONE, "admin_peers", json!([])).await?;
    geths.step("peers of three", THREE, "admin_peers", json!([])).await?;
    geths.step("peers without p2p", DEV, "admin_peers", json!([])).await?;
    geths.all_events().await
}

fn start_fakes(directory: &tempfile::TempDir) -> Result<(Vec<FakeGeth>, Vec<Place>)> {
    let world = World::new();
    let (mut geths, mut sockets) = (Vec::new(), Vec::new());
    for (i, name) in NAMES.iter().enumerate() {
        let path = directory.path().join(name);
        let mut config = Config::new(u16::try_from(i)? + 1, &path);
        config.network_id = NETWORK_ID;
        config.max_peers = 25;
        match i {
            OTHER_GENESIS => config.genesis = format!("0x{}", "7b".repeat(32)),
            OTHER_NETWORK => config.network_id += 1,
            DEV => {
                (config.p2p, config.network_id, config.genesis) = (false, 1337, format!("0x{}", "79".repeat(32)));
            }
            _ => {}
        }
        sockets.push((Socket::Here(path), config.ip.to_string()));
        geths.push(world.start(config));
    }
    Ok((geths, sockets))
}

async fn start_pods(namespace: &Namespace) -> Result<Vec<Place>> {
    create_genesis(namespace).await?;
    let text = namespace.api::<ConfigMap>().get(GENESIS).await?.data.and_then(|mut data| data.remove("genesis.json"));
    let mut other: Value = serde_json::from_str(&text.context("the genesis just made")?)?;
    other["gasLimit"] = "0x1000000".into();
    let map = json!({"metadata": {"name": "other-genesis"}, "data": {"genesis.json": other.to_string()}});
    namespace.create::<ConfigMap>(map).await?;
    for (i, name) in NAMES.iter().enumerate() {
        namespace.create::<Pod>(pod(i, name)).await?;
    }
    let ips = NAMES.map(async |name| {
        wait::until("a Geth has an address", wait::PODS, async || {
            Ok(pods::ip(&namespace.api::<Pod>().get(name).await?)?.to_owned())
        })
        .await
    });
    let ips = try_join_all(ips).await?;
    let socket = |name: &str| Socket::Pod { pod: name.into(), path: "/data/geth.ipc".into() };
    Ok(NAMES.iter().zip(ips).map(|(name, ip)| (socket(name), ip)).collect())
}

fn pod(i: usize, name: &str) -> Value {
    let start = match i {
        DEV => "exec geth --dev --datadir=/data --ipcpath=/data/geth.ipc --cache=64".into(),
        _ => {
            let network = if i == OTHER_NETWORK { NETWORK_ID + 1 } else { NETWORK_ID };
            format!(
                "geth init --datadir=/data /genesis/genesis.json && exec geth --datadir=/data --nodiscover \
                 --syncmode=full --cache=64 --maxpeers=25 --networkid={network}"
            )
        }
    };
    json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "geth",
                "image": GETH_IMAGE,
                "command": ["sh", "-ec", start],
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "genesis", "mountPath": "/genesis"}],
            }],
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "genesis", "configMap": {"name": if i == OTHER_GENESIS { "other-genesis" } else { GENESIS }}},
            ],
        },
    })
}
