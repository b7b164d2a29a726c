//! Does a restart of the injector, an upgrade or an uninstall leave running networks alone?
//!
//! These tests take the installation away and bring it back, so they take turns; cargo runs one file at a time.

use anyhow::{Context, Result, ensure};
use e2e::admission::{dry_run, geth_pod, refusal};
use e2e::cluster::{NAME, Namespace, OPT_IN, RELEASE, in_namespace};
use e2e::geth::Geth;
use e2e::network::Network;
use e2e::{install, mesh, node, pods, wait};
use futures::FutureExt;
use injector::check::{Verdict, examine};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::discovery::{Discovery, verbs};
use kube::{Client, ResourceExt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, resume_unwind};
use tokio::sync::Mutex;

static INSTALLATION: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn does_a_network_outlive_all_injectors_and_an_upgrade_and_grow_as_soon_as_it_can() -> Result<()> {
    let _turn = INSTALLATION.lock().await;
    in_namespace(async |namespace| {
        let (network, before) = running_network(namespace).await?;
        let injectors = install::namespace(&namespace.client).api::<Pod>();
        for injector in install::injector_pods(&namespace.client).await? {
            injectors.delete(&injector.name_any(), &DeleteParams::default().grace_period(0)).await?;
        }
        // With nobody to inject it the new pod is refused at first; its StatefulSet tries again.
        network.scale(namespace, 3).await?;
        mesh::full_and_registered(namespace, &network.selector(), 3).await?;
        before.is_untouched(namespace, &network).await?;

        let values = install::values().await?;
        let mut other: Value = serde_saphyr::from_str(&values)?;
        other["podAnnotations"] = json!({"upgrade": "replaces every injector"});
        install::install(&other.to_string()).await?;
        before.is_untouched(namespace, &network).await?;
        install::install(&values).await?;
        install::injectors_available(&namespace.client).await?;
        before.is_untouched(namespace, &network).await
    })
    .await
}

#[tokio::test]
async fn does_a_network_outlive_an_uninstall_that_leaves_only_what_it_needs() -> Result<()> {
    let _turn = INSTALLATION.lock().await;
    in_namespace(async |namespace| {
        let (network, before) = running_network(namespace).await?;
        while_away(&namespace.client, async |_| uninstalled(namespace, &network, before).await).await?;
        grows(namespace, &network).await.context("after it was installed again")
    })
    .await
}

#[tokio::test]
async fn does_helm_4_install_upgrade_and_roll_back_beside_what_the_injectors_write() -> Result<()> {
    instead_of_the_installation(async |namespace, network, values| {
        let helm4 = "helm4";
        install::install_by(helm4, values).await?;
        install::injectors_available(&namespace.client).await?;
        let bundles = wait::until("the injectors have written the caBundle", wait::SOON, async || {
            let bundles = install::ca_bundles(&namespace.client).await?;
            ensure!(bundles.iter().all(|bundle| !bundle.is_empty()), "a webhook has none");
            Ok(bundles)
        })
        .await?;
        let mut other: Value = serde_saphyr::from_str(values)?;
        other["podAnnotations"] = json!({"upgrade": "replaces every injector"});
        other["webhook"]["timeoutSeconds"] = json!(6);
        install::install_by(helm4, &other.to_string()).await?;
        install::run(helm4, &["rollback", RELEASE, "1", "--namespace", RELEASE, "--wait"], "").await?;
        install::injectors_available(&namespace.client).await?;
        let webhooks = install::webhooks(&namespace.client).get(NAME).await?.webhooks.unwrap_or_default();
        ensure!(webhooks.iter().all(|webhook| webhook.timeout_seconds == Some(5)), "not rolled back");
        ensure!(install::ca_bundles(&namespace.client).await? == bundles, "helm took the caBundle away");
        grows(namespace, network).await?;
        install::run(helm4, &["uninstall", RELEASE, "--namespace", RELEASE, "--wait"], "").await.map(drop)
    })
    .await
}

#[tokio::test]
async fn does_what_helm_renders_work_without_helm() -> Result<()> {
    instead_of_the_installation(async |namespace, network, values| {
        let objects = install::render(values).await?;
        let outcome = applied(namespace, network, &objects).await;
        install::run("kubectl", &["delete", "--wait", "--ignore-not-found", "-f", "-"], &objects).await?;
        outcome
    })
    .await
}

#[tokio::test]
async fn does_an_installation_with_rights_in_one_namespace_serve_that_and_no_other() -> Result<()> {
    instead_of_the_installation(async |namespace, network, values| {
        let mut only: Value = serde_saphyr::from_str(values)?;
        only["rbac"] = json!({"namespaces": [namespace.name]});
        install::install(&only.to_string()).await?;
        install::injectors_available(&namespace.client).await?;
        wait::until("the sidecars' rights come from a Role", wait::SOON, async || {
            let role = namespace.api::<RoleBinding>().get(NAME).await?.role_ref;
            ensure!(role.kind == "Role", "they come from a {}", role.kind);
            Ok(())
        })
        .await?;
        grows(namespace, network).await?;
        install::test().await?;
        let findings = examine(&namespace.client, None, &namespace.name).await;
        ensure!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:#?}");
        in_namespace(async |other| {
            let pod = dry_run(other, &geth_pod(json!({OPT_IN: "enabled"}), json!({}))).await?;
            ensure!(pod["spec"]["initContainers"].is_null(), "a pod of another namespace was injected: {pod}");
            Ok(())
        })
        .await?;
        install::uninstall().await
    })
    .await
}

#[tokio::test]
async fn does_the_guard_refuse_a_pod_that_no_injector_saw_and_no_switch_keep_a_network_from_growing() -> Result<()> {
    instead_of_the_installation(async |namespace, network, values| {
        let mut guarded: Value = serde_saphyr::from_str(values)?;
        guarded["webhook"]["failurePolicy"] = json!("Ignore");
        guarded["guard"] = json!({"enabled": true, "actions": ["Deny"]});
        guarded["networkPolicy"] = json!({"enabled": true});
        guarded["flowSchema"] = json!({"enabled": true, "namespaces": [namespace.name]});
        grows_with(namespace, network, &guarded.to_string()).await?;

        let injector = ["scale", "deployment", "geth-peering-injector", "--namespace", RELEASE, "--replicas=0"];
        install::run("kubectl", &injector, "").await?;
        let pod = geth_pod(json!({OPT_IN: "enabled"}), json!({}));
        wait::until("a pod without the sidecar is refused", wait::SOON, async || {
            let message = refusal(namespace, &pod).await?;
            ensure!(message.contains("has the label geth-peering=enabled and no sidecar"), "{message}");
            Ok(())
        })
        .await?;
        install::uninstall().await
    })
    .await
}

#[tokio::test]
async fn does_an_installation_with_a_certificate_from_elsewhere_follow_its_secret() -> Result<()> {
    instead_of_the_installation(async |namespace, network, values| {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::new([])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let bundle = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);
        let secrets = install::namespace(&namespace.client).api::<Secret>();
        let put = async || -> Result<String> {
            let key = KeyPair::generate()?;
            let name = format!("geth-peering-injector.{RELEASE}.svc");
            let certificate = CertificateParams::new([name])?.signed_by(&key, &issuer)?.pem();
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "type": "kubernetes.io/tls",
                "stringData": {"tls.crt": certificate, "tls.key": key.serialize_pem()},
            });
            secrets.patch("mine", &PatchParams::apply("e2e").force(), &Patch::Apply(secret)).await?;
            Ok(certificate)
        };
        put().await?;
        let mut existing: Value = serde_saphyr::from_str(values)?;
        existing["tls"] = json!({"mode": "existing", "existing": {"secretName": "mine", "caBundle": bundle}});
        // So that not even a ClusterRole is needed.
        existing["rbac"] = json!({"namespaces": [namespace.name]});
        let outcome = async {
            grows_with(namespace, network, &existing.to_string()).await?;
            let renewed = put().await?;
            // A kubelet brings a changed Secret to its pods within a minute or so, or when a pod changes.
            install::run("kubectl", &["annotate", "pods", "--all", "--namespace", RELEASE, "e2e=renewed"], "").await?;
            let lines = |pem: &str| pem.lines().map(str::trim).collect::<String>();
            wait::until("every injector serves the new certificate", wait::PODS, async || {
                let served = install::certificates(&namespace.client).await?;
                ensure!(served.iter().all(|served| lines(served).contains(&lines(&renewed))), "not yet: {served:?}");
                Ok(())
            })
            .await?;
            dry_run(namespace, &geth_pod(json!({OPT_IN: "enabled"}), json!({}))).await?;
            install::uninstall().await
        }
        .await;
        secrets.delete("mine", &DeleteParams::default()).await?;
        outcome
    })
    .await
}

/// What is to be seen while `objects` are the installation.
async fn applied(namespace: &Namespace, network: &Network, objects: &str) -> Result<()> {
    install::run("kubectl", &["apply", "-f", "-"], objects).await?;
    install::injectors_available(&namespace.client).await?;
    grows(namespace, network).await?;
    let bundles = install::ca_bundles(&namespace.client).await?;
    install::run("kubectl", &["diff", "-f", "-"], objects).await.context("applied again it would change something")?;
    install::run("kubectl", &["apply", "-f", "-"], objects).await?;
    ensure!(install::ca_bundles(&namespace.client).await? == bundles, "applying took the caBundle away");
    Ok(())
}

/// As [`while_away`], beside a network that runs.
async fn instead_of_the_installation(
    something: impl AsyncFnOnce(&Namespace, &Network, &str) -> Result<()>,
) -> Result<()> {
    let _turn = INSTALLATION.lock().await;
    in_namespace(async |namespace| {
        let (network, _) = running_network(namespace).await?;
        while_away(&namespace.client, async |values| something(namespace, &network, values).await).await
    })
    .await
}

/// Takes the installation away, does something, and brings the installation back: whatever happens, the other tests need
/// it.
async fn while_away(client: &Client, something: impl AsyncFnOnce(&str) -> Result<()>) -> Result<()> {
    let values = install::values().await?;
    install::uninstall().await?;
    let outcome = AssertUnwindSafe(something(&values)).catch_unwind().await;
    install::install(&values).await?;
    install::injectors_available(client).await?;
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Installs with these values, and sees the network grow by a third Geth.
async fn grows_with(namespace: &Namespace, network: &Network, values: &str) -> Result<()> {
    install::install(values).await?;
    install::injectors_available(&namespace.client).await?;
    grows(namespace, network).await
}

async fn grows(namespace: &Namespace, network: &Network) -> Result<()> {
    network.scale(namespace, 3).await?;
    mesh::full_and_registered(namespace, &network.selector(), 3).await.map(drop)
}

/// What is to be seen while the product is not installed.
async fn uninstalled(namespace: &Namespace, network: &Network, before: Before) -> Result<()> {
    let kept = [
        format!("ClusterRole {NAME}-sidecar"),
        format!("ConfigMap {}/{NAME}", namespace.name),
        format!("RoleBinding {}/{NAME}", namespace.name),
        format!("ServiceAccount {}/{NAME}", namespace.name),
    ];
    wait::until("the uninstall has left what is documented, and nothing else", wait::PODS, async || {
        let found = objects_of_the_product(&namespace.client, &namespace.name).await?;
        ensure!(found == BTreeSet::from(kept.clone()), "found {found:?}");
        Ok(())
    })
    .await?;
    before.is_untouched(namespace, network).await?;

    node::kill_and_await_restart(namespace, "geth-0", "geth").await?;
    mesh::full_and_registered(namespace, &network.selector(), 2).await.context("Geth killed after the uninstall")?;
    Ok(())
}

/// A peered network as it was before something happened to the injector.
struct Before {
    geths: Vec<Geth>,
    restarts: BTreeMap<String, i32>,
}

impl Before {
    /// Neither a container was restarted nor a link lost, not even for a moment.
    async fn is_untouched(&self, namespace: &Namespace, network: &Network) -> Result<()> {
        let restarts = pods::restarts(&pods::live(namespace, &network.selector()).await?);
        for (container, count) in &self.restarts {
            ensure!(restarts.get(container) == Some(count), "{container} was restarted");
        }
        for before in &self.geths {
            let now = e2e::geth::ask(namespace, &namespace.api::<Pod>().get(&before.pod).await?).await?;
            let kept = before.links.iter().all(|(key, ends)| now.links.get(key) == Some(ends));
            ensure!(kept && before.key == now.key, "{before:?} became {now:?}");
        }
        Ok(())
    }
}

async fn running_network(namespace: &Namespace) -> Result<(Network, Before)> {
    let network = Network::of(2).labelled();
    network.create(namespace).await?;
    let geths = mesh::full_and_registered(namespace, &network.selector(), 2).await?;
    let restarts = pods::restarts(&pods::live(namespace, &network.selector()).await?);
    Ok((network, Before { geths, restarts }))
}

/// All objects of all kinds that bear the product's name, and whatever is left in the namespace of the release.
async fn objects_of_the_product(client: &Client, of_network: &str) -> Result<BTreeSet<String>> {
    // kind names nodes after the cluster; helm leaves namespaces to their makers; events are history; every namespace
    // has its own account and root CA.
    let foreign = |kind: &str, name: &str| {
        matches!(kind, "Node" | "CSINode" | "Namespace" | "Event") || matches!(name, "default" | "kube-root-ca.crt")
    };
    let discovery = Discovery::new(client.clone()).run_aggregated().await?;
    let mut found = BTreeSet::new();
    for (resource, capabilities) in discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources) {
        if !capabilities.supports_operation(verbs::LIST) {
            continue;
        }
        let kind = &resource.kind;
        for object in Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default()).await? {
            let (name, namespace) = (object.name_any(), object.namespace());
            let named = name.contains(NAME);
            let ours = match namespace.as_deref() {
                Some(RELEASE) => true,
                Some(other) => named && other == of_network,
                None => named,
            };
            if ours && !foreign(kind, &name) {
                found.insert(
                    namespace.map_or(format!("{kind} {name}"), |namespace| format!("{kind} {namespace}/{name}")),
                );
            }
        }
    }
    Ok(found)
}
