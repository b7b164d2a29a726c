//! Is a pod that cannot be injected refused with a sentence that helps, and is everything else left alone?

use anyhow::{Context, Result, ensure};
use e2e::admission::{dry_run, geth_pod, is_untouched, other_pod, refusal};
use e2e::cluster::{NAME, OPT_IN, in_namespace};
use e2e::{pods, wait};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

#[tokio::test]
async fn does_a_refusal_tell_what_is_wrong_and_what_to_write() -> Result<()> {
    let enabled = || json!({OPT_IN: "enabled"});
    let annotated = |key: &str, value: &str| geth_pod(enabled(), json!({key: value}));
    let mut two_geths = geth_pod(enabled(), json!({}));
    let mut second = two_geths["spec"]["containers"][0].clone();
    second["name"] = json!("geth-archive");
    two_geths["spec"]["containers"] = json!([two_geths["spec"]["containers"][0], second]);
    let cases = [
        ("no Geth", other_pod(enabled()), vec!["geth-peering/container"]),
        ("two Geths", two_geths, vec!["geth-peering/container", "geth", "geth-archive"]),
        (
            "a container that is not there",
            annotated("geth-peering/container", "nobody"),
            vec!["geth-peering/container", "nobody"],
        ),
        (
            "an unknown annotation",
            annotated("geth-peering/contianer", "geth"),
            vec!["geth-peering/contianer", "container"],
        ),
        ("a bad number", annotated("geth-peering/run-as-user", "root"), vec!["geth-peering/run-as-user", "root"]),
        (
            "a bad word",
            annotated("geth-peering/service-account", "mine"),
            vec!["geth-peering/service-account", "mine", "keep", "replace"],
        ),
        ("a bad quantity", annotated("geth-peering/memory-limit", "lots"), vec!["geth-peering/memory-limit", "lots"]),
        (
            "a ConfigMap without rights",
            annotated("geth-peering/configmap", "another"),
            vec!["another", "registry.configMapNames"],
        ),
        (
            "another value of the label",
            geth_pod(json!({OPT_IN: "true"}), json!({})),
            vec!["true", "enabled", "disabled"],
        ),
    ];
    in_namespace(async |namespace| {
        for (case, pod, words) in &cases {
            let sentence = refusal(namespace, pod).await.with_context(|| format!("a pod with {case}"))?;
            for word in words {
                ensure!(sentence.contains(word), "a pod with {case} is refused without a word of {word:?}: {sentence}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn do_the_events_of_a_statefulset_show_why_its_pods_are_refused() -> Result<()> {
    in_namespace(async |namespace| {
        let mut template =
            geth_pod(json!({OPT_IN: "enabled", "app": "geth"}), json!({"geth-peering/container": "nobody"}));
        template["metadata"]["name"].take();
        let spec = json!({"serviceName": "geth", "selector": {"matchLabels": {"app": "geth"}}, "template": template});
        namespace.create::<StatefulSet>(json!({"metadata": {"name": "geth"}, "spec": spec})).await?;
        wait::until("an event tells why", wait::SOON, async || {
            let events = namespace.api::<Event>().list(&ListParams::default()).await?.items;
            let told =
                events.iter().any(|event| event.message.iter().any(|text| text.contains("geth-peering/container")));
            ensure!(told, "not among {} events", events.len());
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn does_a_dry_run_leave_nothing_behind() -> Result<()> {
    in_namespace(async |namespace| {
        let pod = dry_run(namespace, &geth_pod(json!({OPT_IN: "enabled"}), json!({}))).await?;
        ensure!(pod.to_string().contains(pods::MARKER), "a dry run does not show what would be injected: {pod}");

        let all = &ListParams::default();
        let mut found: Vec<String> = vec![];
        found.extend(namespace.api::<ServiceAccount>().list(all).await?.iter().map(ResourceExt::name_any));
        found.extend(namespace.api::<RoleBinding>().list(all).await?.iter().map(ResourceExt::name_any));
        found.extend(namespace.api::<ConfigMap>().list(all).await?.iter().map(ResourceExt::name_any));
        ensure!(found.iter().all(|name| name != NAME), "a dry run made objects: {found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn is_a_pod_without_the_label_left_exactly_as_it_was() -> Result<()> {
    in_namespace(async |namespace| is_untouched(namespace, &geth_pod(json!({"app": "geth"}), json!({}))).await).await
}

#[tokio::test]
async fn are_others_in_a_labelled_namespace_left_exactly_as_they_were() -> Result<()> {
    in_namespace(async |namespace| {
        namespace.label(json!({OPT_IN: "enabled"})).await?;
        // The API server learns of the label a moment later; without this the test could pass for that reason.
        wait::until("Geths of the namespace are injected", wait::SOON, async || {
            let pod = dry_run(namespace, &geth_pod(json!({}), json!({}))).await?;
            ensure!(pod.to_string().contains(pods::MARKER), "not yet: {pod}");
            Ok(())
        })
        .await?;
        is_untouched(namespace, &other_pod(json!({"app": "web"}))).await.context("a pod without Geth")?;
        is_untouched(namespace, &geth_pod(json!({OPT_IN: "disabled"}), json!({})))
            .await
            .context("a Geth that opted out")
    })
    .await
}
