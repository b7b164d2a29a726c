//! What may happen to the API server, or to the way to it.

use super::proxy::Proxy;
use super::scene::{Scene, none, of_pod};
use super::{Fault, Healed, When, cluster, rights};
use crate::api_requests::Requests;
use crate::cluster::Namespace;
use crate::network::Network;
use crate::{mesh, node, pods, registry, wait};
use anyhow::{Context, Result, ensure};
use http::StatusCode;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const VICTIM: &str = "geth-1";

/// How long requests are counted after the API server is back.
const MINUTE: Duration = Duration::from_secs(60);

/// What is a storm of one sidecar: more requests in a minute, of whatever kind. Seeing the registry again takes a few,
/// and three sidecars that look for the Geth that was killed a few more.
const STORM_OF_ONE: u64 = 40;

/// What is a storm as the API server sees it: more requests for ConfigMaps in a minute than one a second for each of three sidecars.
const STORM: u64 = 180;

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault {
            name: "api-stopped",
            done: "the API server is stopped for {} s; in the middle of that, one of three Geths is killed",
            healed: "counted from when it answers again; the killed Geth is peered before that, the other links stay",
            lasts: Some(300),
            when: When::Disruptive,
            deed: |namespace, lasts| Box::pin(stopped(namespace, lasts)),
        },
        Fault {
            name: "api-watch-forbidden",
            done: "the sidecars' role loses the verb watch (403); all are killed, and one pod is deleted",
            healed: "counted from the deletion, still without watch",
            lasts: None,
            when: When::Disruptive,
            deed: |namespace, _| Box::pin(watch_forbidden(namespace)),
        },
        Fault {
            name: "api-all-forbidden",
            done: "the sidecars' role loses everything for {} s (403); one sidecar is killed, and one pod is deleted",
            healed: "counted from when the role is restored",
            lasts: Some(60),
            when: When::Disruptive,
            deed: |namespace, lasts| Box::pin(all_forbidden(namespace, lasts)),
        },
        Fault {
            name: "api-too-many-requests",
            done: "every request is answered by 429 for {} s, connections are cut; one of three pods is deleted",
            healed: "counted from the end of it",
            lasts: Some(20),
            when: When::Quick,
            deed: |namespace, lasts| Box::pin(storm(namespace, StatusCode::TOO_MANY_REQUESTS, lasts)),
        },
        Fault {
            name: "api-internal-errors",
            done: "every request is answered by 500 for {} s, connections are cut; one of three pods is deleted",
            healed: "counted from the end of it",
            lasts: Some(20),
            when: When::Quick,
            deed: |namespace, lasts| Box::pin(storm(namespace, StatusCode::INTERNAL_SERVER_ERROR, lasts)),
        },
        Fault {
            name: "api-silent",
            done: "all connections to the API server stay open and go silent for good; then one of three pods is deleted",
            healed: "counted from the deletion until the two old sidecars see the new pod",
            lasts: None,
            when: When::Alone,
            deed: |namespace, _| Box::pin(silent(namespace)),
        },
        Fault {
            name: "api-token-expired",
            done: "the token of all three sidecars becomes invalid (401); {} s later they get a valid one, and the ConfigMap is deleted",
            healed: "counted from the deletion, kubelet's delay in delivering the token included",
            lasts: Some(30),
            when: When::Alone,
            deed: |namespace, lasts| Box::pin(token_expired(namespace, lasts)),
        },
    ]
}

async fn stopped(namespace: &Namespace, lasts: Duration) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    let before = (Requests::so_far(&namespace.client).await?, mesh::api_requests(&scene.geths).await?);
    tokio::time::sleep(MINUTE).await;
    let calm = of_config_maps(&Requests::so_far(&namespace.client).await?.since(&before.0));
    let calm_each = since(&before.1, &mesh::api_requests(&scene.geths).await?);
    let service = service(namespace).await?;

    // What is looked up through the API server has to be known before.
    let victim = scene.geth(VICTIM)?.clone();
    let pid = node::beside(namespace, VICTIM, "geth", "echo $pid").await?;
    let meanwhile = async {
        cluster::stop_api_server(&namespace.client).await?;
        tokio::time::sleep(lasts / 2).await;
        scene.all_links_stay().await.context("half way")?;
        let killed = Instant::now();
        node::shell(&victim.node, "kill -KILL \"$1\"", &[pid.trim()]).await?;
        wait::until("the killed Geth is peered again without an API server", wait::SOON, async || {
            let links = crate::geth::ask_on_node(&victim).await?.links.len();
            ensure!(links == 2, "it has {links} links");
            Ok(())
        })
        .await?;
        let back = killed.elapsed().as_secs_f64();
        tokio::time::sleep((lasts / 2).saturating_sub(killed.elapsed())).await;
        anyhow::Ok(back)
    }
    .await;
    cluster::start_api_server(&namespace.client).await?;
    let (start, reads) = (Instant::now(), registry::reads());
    let at_start = mesh::api_requests(&scene.geths).await?;
    let (healed, reached) =
        tokio::try_join!(scene.heals_by_parts(start, of_pod(VICTIM)), reaches(&victim.node, &service, start))?;
    tokio::time::sleep(MINUTE.saturating_sub(start.elapsed())).await;
    // The counters began anew with the API server.
    let all = of_config_maps(&Requests::so_far(&namespace.client).await?.since(&Requests::none()));
    let storm = all.saturating_sub(registry::reads() - reads);
    let storm_each = since(&at_start, &mesh::api_requests(&scene.geths).await?);
    let counts = format!(
        "requests of each sidecar: {calm_each:?} in a minute before, {storm_each:?} in the first minute after; \
         for ConfigMaps in the whole cluster: {calm}, then {storm}"
    );
    ensure!(
        storm <= STORM && storm_each.iter().all(|count| *count <= STORM_OF_ONE),
        "healed after {:?}, but {counts}",
        healed.after
    );
    Ok(healed
        .with_note(format!("the Service of the API server reachable from a node after {reached:.1} s"))
        .with_note(format!("without it the killed Geth was peered after {:.1} s", meanwhile?))
        .with_note(counts))
}

/// By how much each count has grown.
fn since(before: &[u64], after: &[u64]) -> Vec<u64> {
    before.iter().zip(after).map(|(before, after)| after.saturating_sub(*before)).collect()
}

/// Where pods find the API server.
async fn service(namespace: &Namespace) -> Result<String> {
    let service = Api::<Service>::namespaced(namespace.client.clone(), "default").get("kubernetes").await?;
    service.spec.and_then(|spec| spec.cluster_ip).context("the Service kubernetes has no address")
}

/// How many seconds after `start` the API server answers a node at the address at which pods ask it: whatever it answers.
async fn reaches(node: &str, service: &str, start: Instant) -> Result<f64> {
    let ask = r#"curl -skm 2 -o /dev/null "https://$1/version""#;
    wait::until("the API server answers at its Service", wait::PODS, async || {
        node::shell(node, ask, &[service]).await?;
        Ok(start.elapsed().as_secs_f64())
    })
    .await
}

/// How many requests there were for ConfigMaps.
fn of_config_maps(asked: &std::collections::BTreeMap<(String, String), u64>) -> u64 {
    asked.iter().filter(|((resource, _), _)| resource == "configmaps").map(|(_, count)| count).sum()
}

async fn watch_forbidden(namespace: &Namespace) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    rights::restrict(&namespace.client, |rules| {
        rules.iter_mut().for_each(|rule| rule.verbs.retain(|verb| verb != "watch"));
    })
    .await?;
    let healing = async {
        for geth in &scene.geths {
            // A watch that is under way is not asked for its rights again.
            node::kill_and_await_restart(namespace, &geth.pod, pods::SIDECAR).await?;
        }
        scene.heals(Instant::now(), none).await.context("before the deletion")?;
        let start = Instant::now();
        delete_victim(namespace).await?;
        scene.heals(start, of_pod(VICTIM)).await
    }
    .await;
    rights::restore(&namespace.client).await?;
    healing
}

async fn all_forbidden(namespace: &Namespace, lasts: Duration) -> Result<Healed> {
    let scene = Scene::of_three(namespace).await?;
    rights::restrict(&namespace.client, Vec::clear).await?;
    let end = Instant::now() + lasts;
    let reason = async {
        node::kill_and_await_restart(namespace, "geth-0", pods::SIDECAR).await?;
        delete_victim(namespace).await?;
        let blind = |status: &Value| status["registry"]["state"] == "blind";
        scene.status_until("geth-0", "that it sees no registry", blind).await
    }
    .await;
    tokio::time::sleep_until(end.into()).await;
    rights::restore(&namespace.client).await?;
    let healed = scene.heals(Instant::now(), of_pod(VICTIM)).await?;
    let said: String = reason?["registry"]["reason"].as_str().unwrap_or_default().chars().take(120).collect();
    Ok(healed.with_note(format!("said before: \"{said}...\"")))
}

/// Three Geths whose sidecars reach the API server by a proxy.
async fn behind_proxy<'a>(namespace: &'a Namespace, proxy: &Proxy) -> Result<Scene<'a>> {
    let (key, value) = proxy.annotation();
    let scene = Scene::of(namespace, Network::of(3).labelled().with_annotation(key, &value)).await?;
    ensure!(proxy.requests() >= 3, "the sidecars have found another way to the API server");
    Ok(scene)
}

async fn storm(namespace: &Namespace, status: StatusCode, lasts: Duration) -> Result<Healed> {
    let proxy = Proxy::start(namespace).await?;
    let scene = behind_proxy(namespace, &proxy).await?;
    let before = proxy.requests();
    proxy.answer(status);
    let end = Instant::now() + lasts;
    let deleted = delete_victim(namespace).await;
    tokio::time::sleep_until(end.into()).await;
    let asked = proxy.requests() - before;
    proxy.behave();
    let healed = scene.heals(Instant::now(), of_pod(VICTIM)).await?;
    deleted.map(|()| healed.with_note(format!("{asked} requests of three sidecars in the {} s", lasts.as_secs())))
}

async fn silent(namespace: &Namespace) -> Result<Healed> {
    let proxy = Proxy::start(namespace).await?;
    let scene = behind_proxy(namespace, &proxy).await?;
    proxy.silence();
    let start = Instant::now();
    delete_victim(namespace).await?;
    mesh::full(namespace, &scene.network.selector(), 3).await?;
    let peered = start.elapsed().as_secs_f64();
    let healed = scene.heals_within(start, Duration::from_secs(300), of_pod(VICTIM)).await?;
    Ok(healed.with_note(format!("the Geths were a full mesh after {peered:.1} s, as the new one dials")))
}

async fn delete_victim(namespace: &Namespace) -> Result<()> {
    namespace.api::<Pod>().delete(VICTIM, &DeleteParams::default()).await?;
    Ok(())
}

/// The name of the Secret that the tokens are bound to, and of the one in which sidecars find theirs.
const BOND: &str = "bond";
const TOKEN: &str = "token";

/// Instead of the token that kubelet fetches and renews, the sidecars get one from a Secret: its owner can end it.
async fn token_expired(namespace: &Namespace, lasts: Duration) -> Result<Healed> {
    // The account, which the injector otherwise makes with the first pod.
    namespace.label(json!({crate::cluster::OPT_IN: "enabled"})).await?;
    wait::until("the namespace is prepared", wait::SOON, async || {
        Ok(namespace.api::<ServiceAccount>().get(crate::cluster::NAME).await?)
    })
    .await?;
    let ca = namespace.api::<ConfigMap>().get("kube-root-ca.crt").await?.data.unwrap_or_default();
    namespace.create::<Secret>(json!({"metadata": {"name": BOND}})).await?;
    let files = json!({"token": token(namespace).await?, "namespace": namespace.name, "ca.crt": ca.get("ca.crt")});
    namespace.create::<Secret>(json!({"metadata": {"name": TOKEN}, "stringData": files})).await?;

    let volume =
        json!([{"op": "add", "path": "/spec/volumes/-", "value": {"name": TOKEN, "secret": {"secretName": TOKEN}}}]);
    let mount = json!([
        {"op": "test", "path": "/volumeMounts/1/name", "value": "geth-peering-token"},
        {"op": "replace", "path": "/volumeMounts/1/name", "value": TOKEN},
    ]);
    let network = Network::of(3).labelled().with_template_patch(volume);
    let scene = Scene::of(namespace, network.with_annotation("geth-peering/patch", &mount.to_string())).await?;

    namespace.api::<Secret>().delete(BOND, &DeleteParams::default()).await?;
    tokio::time::sleep(lasts).await;
    scene.all_links_stay().await?;
    namespace.create::<Secret>(json!({"metadata": {"name": BOND}})).await?;
    let patch = Patch::Merge(json!({"stringData": {"token": token(namespace).await?}}));
    namespace.api::<Secret>().patch(TOKEN, &PatchParams::default(), &patch).await?;
    registry::api(namespace).delete(crate::cluster::NAME, &DeleteParams::default()).await?;
    scene.heals(Instant::now(), none).await
}

/// A token of the sidecars' account that is valid for as long as the Secret [`BOND`] is there.
async fn token(namespace: &Namespace) -> Result<String> {
    let bond = namespace.api::<Secret>().get(BOND).await?;
    let request: TokenRequest = serde_json::from_value(json!({
        "metadata": {},
        "spec": {
            "audiences": [],
            "expirationSeconds": 3600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": BOND, "uid": bond.metadata.uid},
        },
    }))?;
    let accounts = namespace.api::<ServiceAccount>();
    let answer = accounts.create_token_request(crate::cluster::NAME, &PostParams::default(), &request).await?;
    Ok(answer.status.context("no token")?.token)
}
