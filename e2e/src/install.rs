//! The installation under test: is it there, and taking it away and back with helm.

use crate::cluster::{NAME, Namespace, RELEASE};
use crate::wait;
use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The injector's Deployment.
const INJECTOR: &str = "geth-peering-injector";

/// How the lines of the metric begin that counts what was decided about pods.
const DECISIONS_ABOUT_PODS: &str = "geth_peering_injector_decisions_total{webhook=\"pods\"";

/// The product's chart in this checkout.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../chart");

/// The namespace that the product is installed in.
pub fn namespace(client: &Client) -> Namespace {
    Namespace { client: client.clone(), name: RELEASE.into() }
}

/// Whether the product is there and answers the API server.
///
/// # Errors
/// When it is not, with what to do.
pub async fn ensure_installed(client: &Client) -> Result<()> {
    let deployment = deployments(client).get_opt(INJECTOR).await?;
    let available = deployment.and_then(|deployment| deployment.status?.available_replicas).unwrap_or_default();
    ensure!(
        available > 0,
        "no {INJECTOR} is available in namespace {RELEASE}: run `make install`, or all of it by `make e2e`"
    );
    Ok(())
}

/// The injector's pods.
///
/// # Errors
/// When there is no injector.
pub async fn injector_pods(client: &Client) -> Result<Vec<Pod>> {
    let labels =
        deployments(client).get(INJECTOR).await?.spec.and_then(|spec| spec.selector.match_labels).unwrap_or_default();
    let selector = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    Ok(namespace(client).api::<Pod>().list(&ListParams::default().labels(&selector)).await?.items)
}

/// Waits until as many injectors are available as there should be, and none is left that is about to end: for some
/// seconds API servers may go on asking those, which refuse what they can no longer do.
///
/// # Errors
/// When they are not in time.
pub async fn injectors_available(client: &Client) -> Result<()> {
    wait::until("all injectors are available", wait::PODS, async || {
        let deployment = deployments(client).get(INJECTOR).await?;
        let wanted = deployment.spec.and_then(|spec| spec.replicas);
        let available = deployment.status.and_then(|status| status.available_replicas);
        ensure!(wanted.is_some() && available == wanted, "{available:?} of {wanted:?} are");
        let pods = injector_pods(client).await?;
        let ending = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count();
        ensure!(ending == 0, "{ending} are about to end");
        Ok(())
    })
    .await
}

/// Changes how many injectors there should be, as `kubectl scale` does; how many there should have been before.
///
/// # Errors
/// When the API server refuses.
pub async fn scale(client: &Client, replicas: i32) -> Result<i32> {
    let deployments = deployments(client);
    // None at all are left out.
    let before = deployments.get_scale(INJECTOR).await?.spec.and_then(|spec| spec.replicas).unwrap_or_default();
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch_scale(INJECTOR, &PatchParams::default(), &patch).await?;
    Ok(before)
}

/// The webhooks of the product.
pub fn webhooks(client: &Client) -> Api<MutatingWebhookConfiguration> {
    Api::all(client.clone())
}

/// The certificate authorities that the API server trusts with each of the product's webhooks.
///
/// # Errors
/// When there are no webhooks.
pub async fn ca_bundles(client: &Client) -> Result<Vec<Vec<u8>>> {
    let webhooks = webhooks(client).get(NAME).await?.webhooks.unwrap_or_default();
    Ok(webhooks
        .into_iter()
        .map(|webhook| webhook.client_config.ca_bundle.map(|bundle| bundle.0).unwrap_or_default())
        .collect())
}

/// The certificate that each injector serves, PEM.
///
/// # Errors
/// When one does not say.
pub async fn certificates(client: &Client) -> Result<Vec<String>> {
    let pods = injector_pods(client).await?;
    try_join_all(pods.iter().map(async |pod| ask(client, &pod.name_any(), "certificate").await)).await
}

/// How many reviews of pods all injectors that run have answered.
///
/// # Errors
/// When one does not say.
pub async fn reviews_of_pods(client: &Client) -> Result<u64> {
    let mut count = 0.0;
    for pod in injector_pods(client).await? {
        let metrics = ask(client, &pod.name_any(), "metrics").await?;
        let lines = metrics.lines().filter(|line| line.starts_with(DECISIONS_ABOUT_PODS));
        count += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    // Counters are whole numbers, far below what f64 holds exactly.
    Ok(count as u64)
}

/// Has kubelets bring changed Secrets to the injectors' pods now: a pod that changes gets them at once, others within a
/// minute or so.
///
/// # Errors
/// When kubectl fails.
pub async fn bring_secrets() -> Result<()> {
    run("kubectl", &["annotate", "pods", "--all", "--namespace", RELEASE, "e2e=renewed"], "").await.map(drop)
}

async fn ask(client: &Client, pod: &str, what: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/{RELEASE}/pods/{pod}:8080/proxy/{what}");
    Ok(client.request_text(http::Request::get(path).body(Vec::new())?).await?)
}

/// The values that the release was installed with, as YAML.
///
/// # Errors
/// When there is no such release, or no helm.
pub async fn values() -> Result<String> {
    helm(&["get", "values", RELEASE, "--namespace", RELEASE, "--output", "yaml"], "").await
}

/// `helm test`.
///
/// # Errors
/// When it finds something wrong, with what it says.
pub async fn test() -> Result<String> {
    helm(&["test", RELEASE, "--namespace", RELEASE], "").await
}

/// `helm uninstall`. The injectors may go on answering for some seconds.
///
/// # Errors
/// When helm fails.
pub async fn uninstall() -> Result<()> {
    helm(&["uninstall", RELEASE, "--namespace", RELEASE, "--wait"], "").await.map(drop)
}

/// Installs the chart of this checkout with the values of an earlier [`values`].
///
/// # Errors
/// When helm fails.
pub async fn install(values: &str) -> Result<()> {
    install_by("helm", &[], values).await
}

/// As [`install`], by `helm` of another version and with more options.
///
/// # Errors
/// When it fails.
pub async fn install_by(helm: &str, options: &[&str], values: &str) -> Result<()> {
    install_chart(helm, CHART, options, values).await
}

/// As [`install_by`], but under the number of an earlier version, in the form of a package, as a repository would have it.
///
/// # Errors
/// When it fails.
pub async fn install_earlier_by(helm: &str, values: &str) -> Result<()> {
    const EARLIER: &str = "0.0.1";
    let folder = tempfile::tempdir()?;
    let to = folder.path().to_str().context("a path that is text")?;
    run(helm, &["package", CHART, "--version", EARLIER, "--app-version", EARLIER, "--destination", to], "").await?;
    install_chart(helm, &format!("{to}/geth-peering-{EARLIER}.tgz"), &[], values).await
}

async fn install_chart(helm: &str, chart: &str, options: &[&str], values: &str) -> Result<()> {
    let arguments = ["upgrade", "--install", RELEASE, chart, "--namespace", RELEASE, "--create-namespace", "--wait"];
    run(helm, &[&arguments[..], options, &["--values", "-"]].concat(), values).await.map(drop)
}

/// What the chart of this checkout renders with the values of an earlier [`values`], but for what only `helm test` uses.
///
/// # Errors
/// When helm fails.
pub async fn render(values: &str) -> Result<String> {
    render_elsewhere(RELEASE, RELEASE, values).await
}

/// As [`render`], as another release in another namespace.
///
/// # Errors
/// When helm fails.
pub async fn render_elsewhere(release: &str, namespace: &str, values: &str) -> Result<String> {
    render_with(release, namespace, &["--no-hooks"], values).await
}

/// What `template` of the chart renders, as another release in another namespace.
///
/// # Errors
/// When helm fails.
pub async fn render_template(template: &str, release: &str, namespace: &str, values: &str) -> Result<String> {
    render_with(release, namespace, &["--show-only", &format!("templates/{template}")], values).await
}

async fn render_with(release: &str, namespace: &str, options: &[&str], values: &str) -> Result<String> {
    // Helm asks no cluster for its version here, and believes what it was built with.
    let arguments = ["template", release, CHART, "--namespace", namespace, "--kube-version=1.34", "--values", "-"];
    helm(&[&arguments[..], options].concat(), values).await
}

async fn helm(arguments: &[&str], stdin: &str) -> Result<String> {
    run("helm", arguments, stdin).await
}

/// Runs one of the programs in the folder that `make toolpath` prints, and returns what it says.
///
/// # Errors
/// When it fails, with its complaint.
pub async fn run(program: &str, arguments: &[&str], stdin: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = || format!("{program}: is the folder that `make toolpath` prints on the PATH?");
    let mut child = command.spawn().with_context(started)?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(stdin.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), text(&output.stderr).trim());
    Ok(text(&output.stdout))
}

fn deployments(client: &Client) -> Api<Deployment> {
    Api::namespaced(client.clone(), RELEASE)
}
