//! Does the registry heal whatever is done to it, and do the links stay up meanwhile?

use anyhow::{Context, Result, ensure};
use e2e::cluster::{NAME, Namespace, in_namespace};
use e2e::network::Network;
use e2e::{measure, mesh, registry};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Instant;

#[tokio::test]
async fn does_a_deleted_emptied_or_garbled_configmap_heal_while_all_links_stay() -> Result<()> {
    in_namespace(async |namespace| {
        let network = Network::of(3).labelled();
        network.create(namespace).await?;
        let geths = mesh::full_and_registered(namespace, &network.selector(), 3).await?;

        let good = registry::api(namespace).get(NAME).await?.data.context("an empty registry")?;
        let mut elsewhere: Value = serde_json::from_str(good.get("geth-1").context("no entry of geth-1")?)?;
        elsewhere["enode"] = json!(format!("enode://{}@203.0.113.1:30303", geths[1].key));
        let mut ghost = elsewhere.clone();
        ghost["enode"] = json!(format!("enode://{}@203.0.113.9:30303", "9".repeat(128)));
        ghost["podUid"] = json!("99999999-9999-4999-8999-999999999999");

        heals_after("deleted", None, namespace, &geths).await?;
        heals_after("emptied", Some(json!({"data": null})), namespace, &geths).await?;
        heals_after("one key removed", Some(json!({"data": {"geth-0": null}})), namespace, &geths).await?;
        heals_after("one key garbled", Some(json!({"data": {"geth-1": "{\"enode\": 7}"}})), namespace, &geths).await?;
        let junk = json!({"data": {"geth-0": "", "geth-1": "\u{0}\u{1}", "geth-2": "[[[[[[", "notes": "by hand: {"}});
        heals_after("all keys garbled, and a foreign one", Some(junk), namespace, &geths).await?;
        let swapped = json!({"data": {"geth-0": good.get("geth-1"), "geth-1": good.get("geth-0")}});
        heals_after("two keys swapped", Some(swapped), namespace, &geths).await?;
        let moved = json!({"data": {"geth-1": elsewhere.to_string()}});
        heals_after("one entry with an address where nobody is", Some(moved), namespace, &geths).await?;
        let haunted = json!({"data": {"geth-9": ghost.to_string()}});
        heals_after("an entry of a pod that does not exist", Some(haunted), namespace, &geths).await
    })
    .await
}

/// Damages the ConfigMap (by a merge patch; none: deletes it), and waits until it tells of all Geths again.
async fn heals_after(
    damage: &str,
    patch: Option<Value>,
    namespace: &Namespace,
    geths: &[e2e::geth::Geth],
) -> Result<()> {
    let (maps, start) = (registry::api(namespace), Instant::now());
    match patch {
        Some(patch) => drop(maps.patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await?),
        None => drop(maps.delete(NAME, &DeleteParams::default()).await?),
    }
    registry::holds_exactly(namespace, geths).await.with_context(|| format!("ConfigMap {damage}"))?;
    measure::since(&format!("registry {damage}: whole again"), start);

    // The very same connections: none was down, not even for a moment.
    let after = mesh::full(namespace, "app=geth", geths.len()).await?;
    for (before, after) in geths.iter().zip(&after) {
        ensure!(before.links == after.links, "ConfigMap {damage}: {before:?} became {after:?}");
    }
    Ok(())
}
