//! Do the blocks of a real chain reach every Geth over links that nobody but the product made?
//!
//! The chain is sealed by one Geth, by proof of authority (Clique), which no newer Geth than v1.13.15 does by itself.
//! A newer one reads that genesis too, if it is told of a merge that never comes, but no version of `eth` is common to
//! both.

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Namespace, OPT_IN, in_namespace};
use e2e::geth::{HTTP_ARGS, call};
use e2e::ipc::{Ipc, Socket};
use e2e::network::{CLIQUE_IMAGE, GENESIS, GETH_IMAGE};
use e2e::{measure, mesh, node, wait};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Selects the pods of the network.
const SELECTOR: &str = "app=chain";

/// Who seals blocks, and the key with which it does: that of go-ethereum's own tests (core/blockchain_test.go).
const SIGNER: &str = "71562b71999873db5b286df957af199ec94617f7";
const SIGNER_KEY: &str = "b71c71a67e1177ad4e901695e1b4b9ee17ae16c6668d313eac2f96dbcda3f291";

/// Seals blocks with the account that its second init container imports.
const SEAL: &[&str] = &[
    "--mine",
    "--miner.etherbase=0x71562b71999873db5b286df957af199ec94617f7",
    "--unlock=0x71562b71999873db5b286df957af199ec94617f7",
    "--password=/genesis/password",
    "--allow-insecure-unlock",
];

#[tokio::test]
async fn do_blocks_reach_every_geth_and_one_that_was_killed_catch_up() -> Result<()> {
    in_namespace(async |namespace| {
        create_genesis(namespace).await?;
        create(namespace, "signer", CLIQUE_IMAGE, SEAL).await?;
        for follower in ["follower-0", "follower-1"] {
            create(namespace, follower, CLIQUE_IMAGE, &[]).await?;
        }
        mesh::full_and_registered(namespace, SELECTOR, 3).await?;
        let start = Instant::now();
        let first = height(namespace, "signer").await?;
        for follower in ["follower-0", "follower-1"] {
            follows(namespace, follower, first + 3).await?;
        }
        measure::since("three more blocks at every Geth", start);

        node::kill_and_await_restart(namespace, "follower-1", "geth").await?;
        let start = Instant::now();
        let missed = height(namespace, "signer").await?;
        follows(namespace, "follower-1", missed + 1).await?;
        measure::since("a killed Geth has all blocks again", start);
        mesh::full_and_registered(namespace, SELECTOR, 3).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn are_geths_without_a_common_version_of_eth_kept_apart_and_is_that_said() -> Result<()> {
    in_namespace(async |namespace| {
        create_genesis(namespace).await?;
        create(namespace, "older", CLIQUE_IMAGE, &[]).await?;
        let socket = Socket::Pod { pod: "older".into(), path: "/run/geth-peering/geth.ipc".into() };
        let connect = async || Ipc::connect(namespace, &socket).await;
        let mut older = wait::until("the older one answers", wait::PODS, connect).await?;
        older.result("admin_subscribe", json!(["peerEvents"])).await?;
        // Only now, so that no event is missed.
        create(namespace, "newer", GETH_IMAGE, &[]).await?;
        let start = Instant::now();
        let error = loop {
            ensure!(start.elapsed() < wait::PODS, "no connection was tried");
            let peers = older.result("admin_peers", json!([])).await?;
            let up = |peer: &Value| peer["protocols"]["eth"].is_object();
            ensure!(!peers.as_array().is_some_and(|peers| peers.iter().any(up)), "they are peers: {peers}");
            if let Some(drop) = older.events().iter().find(|event| event["type"] == "drop") {
                break drop["error"].as_str().unwrap_or_default().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        measure::figure("what Geth says of a peer without a common version of eth", &error);
        // Whoever is slower learns only that the other one objects (eth/peerset.go, p2p/peer.go).
        let known = error.contains("without compatible eth support") || error == "subprotocol error";
        ensure!(known, "the older one was told {error:?}");

        for pod in ["older", "newer"] {
            let link = wait::until(&format!("the sidecar of {pod} tells of the other one"), wait::SOON, async || {
                let status = mesh::status(namespace, pod).await?;
                let link = status.pointer("/peers/0").with_context(|| format!("no link in {status}"))?;
                Ok(link.clone())
            })
            .await?;
            measure::figure(&format!("what the sidecar of {pod} says"), &link);
            ensure!(link["state"] != "connected", "{pod}: {link}");
            let named = |reason: &str| reason.contains("no version of the eth protocol in common");
            ensure!(link["reason"].as_str().is_some_and(named), "{pod}: {link}");
        }
        Ok(())
    })
    .await
}

/// The number of the newest block of a Geth.
async fn height(namespace: &Namespace, pod: &str) -> Result<u64> {
    let number = call(namespace, pod, "eth_blockNumber", json!([])).await?;
    let digits = number.as_str().and_then(|number| number.strip_prefix("0x"));
    Ok(u64::from_str_radix(digits.with_context(|| format!("a height of {number}"))?, 16)?)
}

/// Waits until a Geth has the same block as the signer at this height.
async fn follows(namespace: &Namespace, pod: &str, number: u64) -> Result<()> {
    let hash = async |pod: &str| -> Result<Value> {
        let block = call(namespace, pod, "eth_getBlockByNumber", json!([format!("{number:#x}"), false])).await?;
        ensure!(block["hash"].is_string(), "{pod} has no block {number} yet");
        Ok(block["hash"].clone())
    };
    wait::until(&format!("{pod} has block {number}"), wait::PODS, async || {
        let (sealed, found) = (hash("signer").await?, hash(pod).await?);
        ensure!(sealed == found, "block {number} of {pod} is {found}, the signer's is {sealed}");
        Ok(())
    })
    .await
}

async fn create_genesis(namespace: &Namespace) -> Result<()> {
    let genesis = json!({
        "config": {
            "chainId": 4713,
            "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0, "eip158Block": 0, "byzantiumBlock": 0,
            "constantinopleBlock": 0, "petersburgBlock": 0, "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0,
            // Without it the newer one does not start; no chain ever gets there (2^62, one or two a block).
            "terminalTotalDifficulty": 1_u64 << 62,
            "clique": {"period": 1, "epoch": 30000},
        },
        "difficulty": "0x1",
        "gasLimit": "0x1c9c380",
        // 32 bytes for anything, the signers, 65 bytes for a signature (EIP-225).
        "extradata": format!("0x{}{SIGNER}{}", "00".repeat(32), "00".repeat(65)),
        "alloc": {},
    });
    let data = json!({"genesis.json": genesis.to_string(), "key": SIGNER_KEY, "password": "none"});
    namespace.create::<ConfigMap>(json!({"metadata": {"name": GENESIS}, "data": data})).await?;
    Ok(())
}

/// Creates a pod that asks for peering.
async fn create(namespace: &Namespace, name: &str, image: &str, more: &[&str]) -> Result<()> {
    let mounts = json!([{"name": "data", "mountPath": "/data"}, {"name": "genesis", "mountPath": "/genesis"}]);
    let args = ["--datadir=/data", "--nodiscover", "--syncmode=full", "--cache=64", "--maxpeers=25"];
    let init = |name: &str, args: &[&str]| json!({"name": name, "image": image, "args": args, "volumeMounts": mounts});
    let import = ["account", "import", "--lightkdf", "--datadir=/data", "--password=/genesis/password", "/genesis/key"];
    let pod = json!({
        "metadata": {"name": name, "labels": {"app": "chain", OPT_IN: "enabled"}},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "initContainers": [init("init", &["init", "--datadir=/data", "/genesis/genesis.json"]), init("account", &import)],
            "containers": [{
                "name": "geth",
                "image": image,
                "args": ([&args, HTTP_ARGS, more].concat()),
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                "volumeMounts": mounts,
            }],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "genesis", "configMap": {"name": GENESIS}}],
        },
    });
    namespace.create::<Pod>(pod).await?;
    Ok(())
}
