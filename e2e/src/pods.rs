//! Reading pods: which live, what runs in them, and requests to them through the API server.

use crate::cluster::Namespace;
use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use kube::ResourceExt;
use kube::api::ListParams;
use std::collections::BTreeMap;

/// The name of the container that the product adds.
pub const SIDECAR: &str = "geth-peering";

/// The annotation that tells that a pod was injected, and by which version.
pub const MARKER: &str = "geth-peering/injected";

/// The pods of a selector that are meant to run: neither finished nor on their way out.
///
/// # Errors
/// When the API server does not answer.
pub async fn live(namespace: &Namespace, selector: &str) -> Result<Vec<Pod>> {
    let mut pods = namespace.api::<Pod>().list(&ListParams::default().labels(selector)).await?.items;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() && !matches!(phase(pod), "Failed" | "Succeeded"));
    pods.sort_by_key(ResourceExt::name_any);
    Ok(pods)
}

/// As [`live`], and as many as expected.
///
/// # Errors
/// When it is another number.
pub async fn exactly(namespace: &Namespace, selector: &str, expected: usize) -> Result<Vec<Pod>> {
    let pods = live(namespace, selector).await?;
    ensure!(pods.len() == expected, "{} pods of {selector} live, not {expected}", pods.len());
    Ok(pods)
}

/// The phase of a pod, empty before it has one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether the pod is Ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The address of a pod.
///
/// # Errors
/// Before it has one.
pub fn ip(pod: &Pod) -> Result<&str> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    ip.with_context(|| format!("{} has no address yet", pod.name_any()))
}

/// All containers of a pod, those that start first in front.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Whether the product's container is in the pod.
pub fn has_sidecar(pod: &Pod) -> bool {
    containers(pod).any(|container| container.name == SIDECAR)
}

/// The state of all containers of a pod, by name.
pub fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    })
}

/// How often each container of each pod was restarted, by `pod/container`.
pub fn restarts(pods: &[Pod]) -> BTreeMap<String, i32> {
    let of_pod = |pod: &Pod| {
        let name = pod.name_any();
        container_statuses(pod)
            .map(move |status| (format!("{name}/{}", status.name), status.restart_count))
            .collect::<Vec<_>>()
    };
    pods.iter().flat_map(of_pod).collect()
}

/// Sends a request to a port of a pod, through the API server; a body makes it a POST.
///
/// # Errors
/// When the pod does not answer, or answers with an error.
pub async fn request(namespace: &Namespace, pod: &str, port: u16, path: &str, body: Option<Vec<u8>>) -> Result<String> {
    let uri = format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy/{path}", namespace.name);
    let request = match body {
        Some(body) => http::Request::post(uri).header("content-type", "application/json").body(body)?,
        None => http::Request::get(uri).body(Vec::new())?,
    };
    namespace.client.request_text(request).await.map_err(|error| match error {
        kube::Error::Api(status) => anyhow!("{pod}:{port}/{path}: {}", status.message),
        error => anyhow!("{pod}:{port}/{path}: {error}"),
    })
}
