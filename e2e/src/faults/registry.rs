//! What may be done to the ConfigMap. The links must stay, whatever it is.

use super::scene::{Scene, none};
use super::{Fault, Healed, When};
use crate::cluster::{NAME, Namespace};
use crate::node::{self, Signal};
use crate::{mesh, pods, registry, wait};
use anyhow::{Context, Result, bail, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const VICTIM: &str = "geth-1";

/// The key of a pod that does not exist.
const STRANGER: &str = "geth-9";

/// What all values of a ConfigMap may hold together (`MaxSecretSize`, pkg/apis/core/types.go of Kubernetes).
const MIB: usize = 1 << 20;
/// What is left of it for keys and lists.
const SPARE: usize = 8 << 10;

/// How long a sidecar stands still: less than its probes allow, and more than the others wait before they let go of a
/// node that has left the registry.
const STAND_STILL: Duration = Duration::from_secs(8);

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault {
            name: "registry-deleted",
            done: "the ConfigMap is deleted",
            healed: "",
            lasts: None,
            // registry_heals asks it too, as it does for the next two.
            when: When::Alone,
            deed: |namespace, _| Box::pin(damaged(namespace, None)),
        },
        Fault {
            name: "registry-emptied",
            done: "all keys are removed",
            healed: "",
            lasts: None,
            when: When::Alone,
            deed: |namespace, _| Box::pin(damaged(namespace, Some(json!({"data": null})))),
        },
        Fault {
            name: "registry-own-key-garbled",
            done: "the entry of a live pod becomes garbage",
            healed: "",
            lasts: None,
            when: When::Alone,
            deed: |namespace, _| Box::pin(damaged(namespace, Some(json!({"data": {VICTIM: "{\"enode\": 7"}})))),
        },
        Fault {
            name: "registry-other-key-garbled",
            done: "the same while the sidecar that owns the entry stands still for 8 s, so that the others have to live with it",
            healed: "counted from when it goes on",
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(other_garbled(namespace)),
        },
        Fault {
            name: "registry-full",
            done: "somebody fills the ConfigMap up to 1 MiB; a fourth Geth joins, whose sidecar says why it cannot register; \
                   then the filling is removed",
            healed: "counted from the removal, four Geths",
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(full(namespace)),
        },
        Fault {
            name: "registry-immutable",
            done: "the ConfigMap is made immutable; a fourth Geth joins, whose sidecar says why it cannot register; \
                   then the ConfigMap is deleted, which is all that can be done to it",
            healed: "counted from the deletion, four Geths",
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(immutable(namespace)),
        },
        Fault {
            name: "registry-loopback",
            done: "an entry of a pod that does not exist, at 127.0.0.1",
            healed: HOSTILE,
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(at(namespace, "127.0.0.1")),
        },
        Fault {
            name: "registry-host-name",
            done: "an entry of a pod that does not exist, at a host name",
            healed: HOSTILE,
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(at(namespace, "kubernetes.default.svc")),
        },
        Fault {
            name: "registry-wrong-address",
            done: "an entry of a pod that does not exist, with the key of a live Geth at an address where nobody is",
            healed: HOSTILE,
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(wrong_address(namespace)),
        },
        Fault {
            name: "registry-megabyte",
            done: "an entry of a pod that does not exist, with an enode of as many bytes as fit into the ConfigMap",
            healed: HOSTILE,
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(megabyte(namespace)),
        },
    ]
}

/// What is to come of hostile entries.
const HOSTILE: &str = "every sidecar shows it with a reason, or it is removed from the registry; no Geth has a peer of it; all links stay";

/// Damages the ConfigMap by a merge patch (none: deletes it).
async fn damaged(namespace: &Namespace, damage: Option<Value>) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let start = Instant::now();
    match damage {
        Some(damage) => patch(namespace, damage).await?,
        None => drop(registry::api(namespace).delete(NAME, &DeleteParams::default()).await?),
    }
    scene.heals(start, none).await
}

async fn other_garbled(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    node::signal(namespace, VICTIM, pods::SIDECAR, Signal::Stop).await?;
    patch(namespace, json!({"data": {VICTIM: "{\"enode\": 7"}})).await?;
    tokio::time::sleep(STAND_STILL).await;
    let stay = scene.all_links_stay().await;
    node::signal(namespace, VICTIM, pods::SIDECAR, Signal::Continue).await?;
    let healed = scene.heals(Instant::now(), none).await?;
    stay.map(|()| healed)
}

async fn full(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    // The list of static nodes may be written between the look and the patch, which then does not fit.
    wait::until("the ConfigMap is full", wait::SOON, async || {
        let data = registry::api(namespace).get(NAME).await?.data.unwrap_or_default();
        let used: usize = data.values().map(String::len).sum();
        patch(namespace, json!({"data": {"filling": "x".repeat(MIB - used)}})).await
    })
    .await?;
    joins_when(scene, async || patch(namespace, json!({"data": {"filling": null}})).await).await
}

async fn immutable(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    patch(namespace, json!({"immutable": true})).await?;
    joins_when(scene, async || {
        registry::api(namespace).delete(NAME, &DeleteParams::default()).await?;
        Ok(())
    })
    .await
}

/// A fourth Geth joins a network whose registry cannot be written, and is a member once the obstacle is removed.
async fn joins_when(scene: Scene<'_>, remove_obstacle: impl AsyncFnOnce() -> Result<()>) -> Result<Healed> {
    scene.network.scale(scene.namespace, 4).await?;
    let what = "that it cannot register";
    let reason = wait::until(&format!("the sidecar of geth-3 says {what}"), wait::SOON * 2, async || {
        let status = mesh::status(scene.namespace, "geth-3").await?;
        let reason = status.pointer("/registry/reason").and_then(Value::as_str).unwrap_or_default().to_owned();
        let answered = status.pointer("/geth/state").is_some_and(|state| state == "up");
        ensure!(answered && !reason.is_empty(), "it gives no reason: {status}");
        Ok(reason)
    })
    .await;
    let stay = scene.all_links_stay().await;
    remove_obstacle().await?;
    let (healed, _) = scene.heals_with(4, Instant::now(), none).await?;
    let but = || format!("healed after {:.1} s, but", healed.after.as_secs_f64());
    stay.with_context(but)?;
    let reason = reason.with_context(but)?;
    let reason: String = reason.chars().take(120).collect();
    Ok(healed.with_note(format!("said before: \"{reason}\"")))
}

/// An entry that is the victim's own but for pod, key and host, so that nothing else speaks against it.
async fn stranger(scene: &Scene<'_>, key: &str, host: &str) -> Result<Value> {
    let data = registry::api(scene.namespace).get(NAME).await?.data.unwrap_or_default();
    let mut entry: Value = serde_json::from_str(data.get(VICTIM).context("no entry of the victim")?)?;
    entry["enode"] = json!(format!("enode://{key}@{host}:30303"));
    entry["podUid"] = json!("99999999-9999-4999-8999-999999999999");
    Ok(entry)
}

async fn at(namespace: &Namespace, host: &str) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let entry = stranger(&scene, &"7".repeat(128), host).await?;
    put(scene, entry.to_string()).await
}

async fn wrong_address(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let key = &scene.geth(VICTIM)?.key;
    let entry = stranger(&scene, key, "203.0.113.1").await?;
    put(scene, entry.to_string()).await
}

async fn megabyte(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let used: usize =
        registry::api(namespace).get(NAME).await?.data.unwrap_or_default().values().map(String::len).sum();
    let rest = stranger(&scene, "", "10.0.0.1").await?.to_string().len();
    // Keys count too, and the list of static nodes grows by itself.
    let room = MIB - used - rest - SPARE;
    let entry = stranger(&scene, &"7".repeat(room), "10.0.0.1").await?;
    put(scene, entry.to_string()).await
}

/// Puts a hostile entry into the registry and waits until nothing can come of it any more.
async fn put(scene: Scene<'_>, entry: String) -> Result<Healed> {
    let namespace = scene.namespace;
    let start = Instant::now();
    patch(namespace, json!({"data": {STRANGER: entry}})).await?;
    let ends = wait::until("the entry is removed or shown with a reason", wait::PODS, async || {
        let map = registry::api(namespace).get(NAME).await?;
        if !map.data.unwrap_or_default().contains_key(STRANGER) {
            return Ok("the entry was removed".to_owned());
        }
        let mut reason = String::new();
        for geth in &scene.geths {
            let status = mesh::status(namespace, &geth.pod).await?;
            let is_stranger = |peer: &&Value| peer["pod"] == STRANGER;
            let shown = status["peers"].as_array().into_iter().flatten().find(is_stranger);
            match shown.map(|shown| (shown["state"].as_str(), shown["reason"].as_str())) {
                Some((Some("invalid" | "duplicate"), Some(said))) => reason = said.chars().take(100).collect(),
                other => bail!("{} shows it as {other:?}", geth.pod),
            }
        }
        Ok(format!("the entry stays, shown as: \"{reason}\""))
    })
    .await?;
    let after = start.elapsed();
    // Whoever wrote it takes it away; nothing may have happened meanwhile.
    patch(namespace, json!({"data": {STRANGER: null}})).await?;
    let healed = scene.heals(start, none).await?;
    Ok(Healed { after, ..healed }.with_note(ends))
}

async fn patch(namespace: &Namespace, patch: Value) -> Result<()> {
    registry::api(namespace).patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}
