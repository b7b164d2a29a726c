//! What the webhooks need around them: an API server, certificates, files. Everything is new for each round.

use crate::reviews::NAMESPACE;
use anyhow::{Context, Result};
use fakes::apiserver::ApiServer;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The injector's own namespace, and what its Service and Deployment are called.
pub(crate) const OWN_NAMESPACE: &str = "geth-peering";
pub(crate) const SERVICE: &str = "geth-peering-injector";
pub(crate) const CONFIGURATION: &str = "geth-peering";

/// An API server in memory with what `helm install` makes, as far as it matters, and files for those who need files.
pub(crate) struct World {
    pub(crate) api: ApiServer,
    /// Where it answers, without TLS.
    pub(crate) api_url: String,
    /// The certificate of those who make none themselves; also in the folder, as `tls.crt`, with its `tls.key`.
    pub(crate) certificate: String,
    folder: TempDir,
    serving: JoinHandle<std::io::Result<()>>,
}

impl World {
    /// A new one.
    ///
    /// # Errors
    /// When there is no port or no room for it.
    pub(crate) async fn new() -> Result<Self> {
        let api = ApiServer::new();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let api_url = format!("http://{}", listener.local_addr()?);
        let served = api.clone();
        let serving = tokio::spawn(async move { served.serve(listener).await });
        fill(&api)?;
        let made = rcgen::generate_simple_self_signed([name()])?;
        let world = Self { api, api_url, certificate: made.cert.pem(), folder: TempDir::new()?, serving };
        world.write("tls.crt", &world.certificate)?;
        world.write("tls.key", &made.signing_key.serialize_pem())?;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": world.api_url}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        });
        world.write("kubeconfig", &kubeconfig.to_string())?;
        Ok(world)
    }

    /// Where files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file and says where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder().join(file);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// What the injector wants API servers to trust; empty until it says so.
    pub(crate) fn bundle(&self) -> String {
        let configuration: Option<MutatingWebhookConfiguration> = self.api.get("", CONFIGURATION);
        let webhook = configuration.and_then(|configuration| configuration.webhooks?.into_iter().next());
        let bundle = webhook.and_then(|webhook| webhook.client_config.ca_bundle);
        bundle.and_then(|bundle| String::from_utf8(bundle.0).ok()).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The name under which API servers call the injector.
pub(crate) fn name() -> String {
    injector::tls::server_name(SERVICE, OWN_NAMESPACE)
}

/// A port that nobody listens on.
///
/// # Errors
/// When there is none.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port())
}

fn fill(api: &ApiServer) -> Result<()> {
    api.put(&object::<Deployment>(json!({
        "metadata": {"name": SERVICE, "namespace": OWN_NAMESPACE}, "spec": {"selector": {}, "template": {}},
    }))?);
    let webhook = |name: &str| {
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "NoneOnDryRun",
            "clientConfig": {"service": {"name": SERVICE, "namespace": OWN_NAMESPACE}},
        })
    };
    api.put(&object::<MutatingWebhookConfiguration>(json!({
        "metadata": {"name": CONFIGURATION},
        "webhooks": [webhook("pods.geth-peering.io"), webhook("workloads.geth-peering.io")],
    }))?);
    let labels = json!({"geth-peering": "enabled"});
    api.put(&object::<Namespace>(json!({"metadata": {"name": NAMESPACE, "labels": labels}}))?);
    // By this eks-pod-identity-webhook sees that the pods of an account are to be changed.
    let annotations = json!({"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/geth"});
    let metadata = json!({"name": "default", "namespace": NAMESPACE, "annotations": annotations});
    api.put(&object::<ServiceAccount>(json!({ "metadata": metadata }))?);
    Ok(())
}

fn object<K: DeserializeOwned>(value: Value) -> Result<K> {
    Ok(serde_json::from_value(value)?)
}
