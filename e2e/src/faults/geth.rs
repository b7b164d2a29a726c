//! What may happen to a Geth while its sidecar runs on.

use super::scene::{Scene, of_pod};
use super::{Fault, Healed, When};
use crate::cluster::Namespace;
use crate::network::Network;
use crate::node::{self, Signal};
use crate::pods;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use std::time::{Duration, Instant};

/// The Geth that suffers.
const VICTIM: &str = "geth-1";

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault {
            name: "geth-killed",
            done: "one of three Geths gets SIGKILL; kubelet starts it again in place",
            healed: "",
            lasts: None,
            // a_pod_comes_back asks it too.
            when: When::Alone,
            deed: |namespace, _| Box::pin(killed(namespace)),
        },
        Fault {
            name: "geth-frozen",
            done: "one of three Geths stands still (SIGSTOP) for {} s, then goes on",
            healed: "",
            lasts: Some(60),
            when: When::Alone,
            deed: |namespace, lasts| Box::pin(frozen(namespace, lasts)),
        },
        Fault {
            name: "geth-new-key",
            done: "one of three Geths loses its node key and is killed; it starts in place with a new one",
            healed: "",
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(new_key(namespace)),
        },
        Fault {
            name: "geth-new-address",
            done: "the pod of one of three Geths is deleted; it comes back with the same node key at another address",
            healed: "",
            lasts: None,
            // a_pod_comes_back asks it too.
            when: When::Alone,
            deed: |namespace, _| Box::pin(new_address(namespace)),
        },
        Fault {
            name: "geth-socket-deleted",
            done: "Geth's socket is deleted, then its sidecar killed, which says that there is no socket while all links stay; \
                   then Geth is killed, which alone makes a new socket",
            healed: "counted from the kill of Geth",
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(socket_deleted(namespace)),
        },
        Fault {
            name: "geth-out-of-memory",
            done: "one of three Geths is killed by the kernel because its container is out of memory",
            healed: "",
            lasts: None,
            when: When::Quick,
            deed: |namespace, _| Box::pin(out_of_memory(namespace)),
        },
    ]
}

async fn killed(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let start = Instant::now();
    node::kill_and_await_restart(namespace, VICTIM, "geth").await?;
    scene.heals(start, of_pod(VICTIM)).await
}

async fn frozen(namespace: &Namespace, lasts: Duration) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    node::signal(namespace, VICTIM, "geth", Signal::Stop).await?;
    let end = Instant::now() + lasts;
    let mute = scene.status_until(VICTIM, "that its Geth is mute", |status| status["geth"]["state"] == "mute").await;
    tokio::time::sleep_until(end.into()).await;
    node::signal(namespace, VICTIM, "geth", Signal::Continue).await?;
    let healed = scene.heals(Instant::now(), of_pod(VICTIM)).await?;
    mute.map(|_| healed)
}

async fn new_key(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let start = Instant::now();
    let lose_key = "rm /proc/$pid/root/data/geth/nodekey && kill -KILL $pid";
    node::and_await_restart(namespace, VICTIM, "geth", lose_key).await?;
    let (healed, geths) = scene.heals_with(3, start, of_pod(VICTIM)).await?;
    let now = geths.iter().find(|geth| geth.pod == VICTIM).context("it is gone")?;
    let before = scene.geth(VICTIM)?;
    ensure!(now.key != before.key && now.uid == before.uid, "not the case to be tried: {before:?} became {now:?}");
    Ok(healed)
}

async fn new_address(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of(namespace, Network::of(3).labelled().with_kept_keys()).await?;
    let start = Instant::now();
    namespace.api::<Pod>().delete(VICTIM, &DeleteParams::default()).await?;
    let (healed, geths) = scene.heals_with(3, start, of_pod(VICTIM)).await?;
    let now = geths.iter().find(|geth| geth.pod == VICTIM).context("it is gone")?;
    let before = scene.geth(VICTIM)?;
    ensure!(now.key == before.key && now.ip != before.ip, "not the case to be tried: {before:?} became {now:?}");
    Ok(healed)
}

async fn socket_deleted(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let socket = "test -S /proc/$pid/root/run/geth-peering/geth.ipc && rm /proc/$pid/root/run/geth-peering/geth.ipc";
    node::beside(namespace, VICTIM, "geth", socket).await?;
    // The connection that the sidecar has does not need the file.
    scene
        .heals(Instant::now(), super::scene::none)
        .await
        .context("with the socket deleted and the sidecar connected")?;
    node::kill_and_await_restart(namespace, VICTIM, pods::SIDECAR).await?;
    let status = scene
        .status_until(VICTIM, "that there is no socket", |status| {
            status["geth"]["reason"].as_str().is_some_and(|reason| reason.contains("no socket"))
        })
        .await?;
    scene.all_links_stay().await?;
    let start = Instant::now();
    node::kill_and_await_restart(namespace, VICTIM, "geth").await?;
    let healed = scene.heals(start, of_pod(VICTIM)).await?;
    Ok(healed.with_note(format!("said before: \"{}\"", status["geth"]["reason"].as_str().unwrap_or_default())))
}

async fn out_of_memory(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let start = Instant::now();
    node::and_await_restart(namespace, VICTIM, "geth", USE_UP_MEMORY).await?;
    let healed = scene.heals(start, of_pod(VICTIM)).await?;
    let pod = namespace.api::<Pod>().get(VICTIM).await?;
    let geth = pods::container_statuses(&pod).find(|status| status.name == "geth").context("no Geth")?;
    let end = geth.last_state.as_ref().and_then(|state| state.terminated.as_ref()).context("it never ended")?;
    let reason = end.reason.as_deref().unwrap_or_default();
    ensure!(reason == "OOMKilled", "Geth ended for another reason: {end:?}");
    Ok(healed)
}

/// Leaves the container 8 MiB more than it uses (cgroup v1 or v2) and uses them up with another process; of the two,
/// the kernel then takes the one with the highest score, which is made to be Geth.
const USE_UP_MEMORY: &str = r#"
    group=$(sed -n 's|^[0-9]*:memory:|/sys/fs/cgroup/memory|p' /proc/$pid/cgroup)
    if [ "$group" ]; then limit=$group/memory.limit_in_bytes used=$group/memory.usage_in_bytes
    else group=$(sed -n 's|^0::|/sys/fs/cgroup|p' /proc/$pid/cgroup) limit=$group/memory.max used=$group/memory.current; fi
    echo 1000 >/proc/$pid/oom_score_adj
    echo $(($(cat "$used") + 8388608)) >"$limit"
    crictl exec "$id" tail /dev/zero >/dev/null 2>&1 || true"#;
