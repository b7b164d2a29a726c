//! Does a restart of the injector, an upgrade or an uninstall leave running networks alone?
//!
//! These tests take the installation away and bring it back, so they take turns.

use anyhow::{Context, Result, ensure};
use e2e::admission::{dry_run, geth_pod, is_untouched, other_pod, refusal};
use e2e::away::{self, Before};
use e2e::cluster::{NAME, Namespace, OPT_IN, RELEASE, in_namespace};
use e2e::network::Network;
use e2e::{install, mesh, node, pods, wait};
use futures::FutureExt;
use injector::check::{Verdict, examine};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, resume_unwind};

/// The webhook of pods with the label.
const LABELLED_PODS: &str = "labelled-pods.injector.geth-peering";

/// The webhook of pods without it, in namespaces that have it.
const PODS_OF_LABELLED_NAMESPACES: &str = "pods-of-labelled-namespaces.injector.geth-peering";

/// The section of the README that tells how the product is removed.
const SECTION: &str = "Upgrade and uninstall";

#[tokio::test]
async fn does_a_network_outlive_all_injectors_and_an_upgrade_and_grow_as_soon_as_it_can() -> Result<()> {
    let _turn = away::turn().await;
    in_namespace(async |namespace| {
        let (network, before) = away::running_network(namespace).await?;
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
async fn does_a_network_live_on_without_any_injector_while_only_new_geths_wait_for_one() -> Result<()> {
    let _turn = away::turn().await;
    in_namespace(async |namespace| {
        let (network, before) = away::running_network(namespace).await?;
        in_namespace(async |labelled| {
            labelled.label(json!({OPT_IN: "enabled"})).await?;
            wait::until("Geths of the labelled namespace are injected", wait::SOON, async || {
                let pod = dry_run(labelled, &geth_pod(json!({}), json!({}))).await?;
                ensure!(pod.to_string().contains(pods::MARKER), "not yet: {pod}");
                Ok(())
            })
            .await?;
            without_injectors(&namespace.client, async || only_geths_wait(namespace, labelled, &network, &before).await)
                .await
        })
        .await?;
        mesh::full_and_registered(namespace, &network.selector(), 3).await.context("with injectors again")?;
        before.is_untouched(namespace, &network).await
    })
    .await
}

#[tokio::test]
async fn does_a_network_outlive_an_uninstall_that_leaves_only_what_it_needs() -> Result<()> {
    let _turn = away::turn().await;
    in_namespace(async |namespace| {
        let (network, before) = away::running_network(namespace).await?;
        away::while_away(&namespace.client, async |_| uninstalled(namespace, &network, before).await).await?;
        away::grows(namespace, &network).await.context("after it was installed again")
    })
    .await
}

#[tokio::test]
async fn does_what_the_readme_says_remove_all_that_an_uninstall_leaves() -> Result<()> {
    away::instead_of_the_installation(async |namespace, network, values| {
        is_removed(namespace, network).await?;

        let mut only: Value = serde_saphyr::from_str(values)?;
        only["rbac"] = json!({"namespaces": [namespace.name]});
        install::install(&only.to_string()).await?;
        install::injectors_available(&namespace.client).await?;
        network.create(namespace).await?;
        mesh::full_and_registered(namespace, &network.selector(), 2).await?;
        install::uninstall().await?;
        is_removed(namespace, network).await.context("rights in one namespace")
    })
    .await
}

#[tokio::test]
async fn does_what_helm_renders_work_without_helm() -> Result<()> {
    away::instead_of_the_installation(async |namespace, network, values| {
        let objects = install::render(values).await?;
        let outcome = applied(namespace, network, &objects).await;
        install::run("kubectl", &["delete", "--wait", "--ignore-not-found", "-f", "-"], &objects).await?;
        outcome
    })
    .await
}

#[tokio::test]
async fn does_an_installation_with_rights_in_one_namespace_serve_that_and_no_other() -> Result<()> {
    away::instead_of_the_installation(async |namespace, network, values| {
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
        away::grows(namespace, network).await?;
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
    away::instead_of_the_installation(async |namespace, network, values| {
        let mut guarded: Value = serde_saphyr::from_str(values)?;
        guarded["webhook"]["failurePolicy"] = json!("Ignore");
        guarded["guard"] = json!({"enabled": true, "actions": ["Deny"]});
        guarded["networkPolicy"] = json!({"enabled": true});
        guarded["flowSchema"] = json!({"enabled": true, "namespaces": [namespace.name]});
        away::grows_with(namespace, network, &guarded.to_string()).await?;

        install::scale(&namespace.client, 0).await?;
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
    away::instead_of_the_installation(async |namespace, network, values| {
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
            away::grows_with(namespace, network, &existing.to_string()).await?;
            let renewed = put().await?;
            install::bring_secrets().await?;
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
    away::grows(namespace, network).await?;
    let bundles = install::ca_bundles(&namespace.client).await?;
    install::run("kubectl", &["diff", "-f", "-"], objects).await.context("applied again it would change something")?;
    install::run("kubectl", &["apply", "-f", "-"], objects).await?;
    ensure!(install::ca_bundles(&namespace.client).await? == bundles, "applying took the caBundle away");
    Ok(())
}

/// Does something while there are no injectors, and brings them back whatever happens.
async fn without_injectors(client: &Client, something: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let replicas = install::scale(client, 0).await?;
    let outcome = AssertUnwindSafe(something()).catch_unwind().await;
    install::scale(client, replicas).await?;
    install::injectors_available(client).await?;
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// What is to be seen while there are no injectors.
async fn only_geths_wait(
    namespace: &Namespace,
    labelled: &Namespace,
    network: &Network,
    before: &Before,
) -> Result<()> {
    let refused = async |namespace: &Namespace, labels: Value, webhook: &str| {
        wait::until("a new Geth is refused for want of an injector", wait::SOON, async || {
            let message = refusal(namespace, &geth_pod(labels.clone(), json!({}))).await?;
            ensure!(message.contains(webhook), "{message}");
            Ok(())
        })
        .await
    };
    refused(namespace, json!({OPT_IN: "enabled"}), LABELLED_PODS).await?;
    refused(labelled, json!({}), PODS_OF_LABELLED_NAMESPACES).await?;
    is_untouched(namespace, &geth_pod(json!({}), json!({}))).await.context("a Geth that nobody wants peered")?;
    is_untouched(labelled, &other_pod(json!({}))).await.context("a pod without Geth in a labelled namespace")?;

    network.scale(namespace, 3).await?;
    wait::until("the Events of the StatefulSet tell whom it waits for", wait::SOON, async || {
        let events = namespace.api::<Event>().list(&ListParams::default()).await?.items;
        let told = events.iter().any(|event| event.message.iter().any(|text| text.contains(LABELLED_PODS)));
        ensure!(told, "not among {} Events", events.len());
        Ok(())
    })
    .await?;
    before.is_untouched(namespace, network).await
}

/// Takes the network away, does what the README says, and looks for what is left.
async fn is_removed(namespace: &Namespace, network: &Network) -> Result<()> {
    network.delete(namespace).await?;
    install::run("sh", &["-euc", removal()?], "").await?;
    wait::until("nothing is left", wait::SOON, async || {
        let found = away::objects_of_the_product(&namespace.client, &namespace.name).await?;
        ensure!(found.is_empty(), "found {found:?}");
        Ok(())
    })
    .await
}

/// The commands which the README has for what an uninstall leaves: the last ones of their section.
fn removal() -> Result<&'static str> {
    let section = include_str!("../../README.md").split("\n## ").find(|text| text.starts_with(SECTION));
    let block = section.and_then(|text| text.rsplit("```sh\n").next()?.split("```").next());
    block.with_context(|| format!("the README has no commands under {SECTION:?}"))
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
        let found = away::objects_of_the_product(&namespace.client, &namespace.name).await?;
        ensure!(found == BTreeSet::from(kept.clone()), "found {found:?}");
        Ok(())
    })
    .await?;
    before.is_untouched(namespace, network).await?;

    node::kill_and_await_restart(namespace, "geth-0", "geth").await?;
    mesh::full_and_registered(namespace, &network.selector(), 2).await.context("Geth killed after the uninstall")?;
    Ok(())
}
