//! What the API server would make of a pod, asked by a dry run: nothing is stored and nothing starts.

use crate::cluster::Namespace;
use crate::network::GETH_IMAGE;
use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

/// The pod as it would be stored, with everything that admission put in.
///
/// # Errors
/// When the API server refuses it.
pub async fn dry_run(namespace: &Namespace, pod: &Value) -> Result<Value> {
    let uri = format!("/api/v1/namespaces/{}/pods?dryRun=All", namespace.name);
    let request = http::Request::post(uri).header("content-type", "application/json").body(serde_json::to_vec(pod)?)?;
    Ok(namespace.client.request(request).await?)
}

/// The sentence with which a pod is refused.
///
/// # Errors
/// When the pod is admitted, or the API server does not answer.
pub async fn refusal(namespace: &Namespace, pod: &Value) -> Result<String> {
    match dry_run(namespace, pod).await {
        Ok(pod) => bail!("admitted, not refused: {pod}"),
        Err(error) => match error.downcast::<kube::Error>()? {
            kube::Error::Api(status) => Ok(status.message),
            error => Err(error.into()),
        },
    }
}

/// Whether the API server makes the same of a pod here as where the product never has a say.
///
/// # Errors
/// When it does not.
pub async fn is_untouched(namespace: &Namespace, pod: &Value) -> Result<()> {
    let excluded = Namespace { client: namespace.client.clone(), name: "kube-system".into() };
    let (here, there) = (dry_run(namespace, pod).await?, dry_run(&excluded, pod).await?);
    for part in ["/spec", "/metadata/labels", "/metadata/annotations"] {
        let (here, there) = (here.pointer(part), there.pointer(part));
        ensure!(here == there, "{part} became {here:?} instead of {there:?}");
    }
    Ok(())
}

/// A pod of one Geth, with these labels and annotations.
///
/// It mounts no token of the API server, as the name of such a volume is another one every time.
pub fn geth_pod(labels: Value, annotations: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "geth", "labels": labels, "annotations": annotations},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{"name": "geth", "image": GETH_IMAGE, "args": ["--datadir=/data"]}],
        },
    })
}

/// A pod in which no Geth is to be seen.
pub fn other_pod(labels: Value) -> Value {
    let mut pod = geth_pod(labels, json!({}));
    pod["spec"]["containers"] = json!([{"name": "web", "image": "registry.example/web:1", "command": ["httpd"]}]);
    pod
}
