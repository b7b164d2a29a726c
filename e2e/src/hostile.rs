//! A mutating webhook of somebody else's, which runs in the test and is called by the API server of the cluster.

use crate::cluster::Namespace;
use crate::node::own_address;
use anyhow::{Context, Result};
use axum::Router;
use axum::extract::Json;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::FutureExt;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Where among other webhooks one stands; API servers call them by the names of their configurations.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Before the product's.
    Before,
    /// After the product's.
    After,
}

/// Calls `test` with the name of a webhook while every pod that is created in the namespace goes through its `change`.
///
/// # Errors
/// Those of `test`, and if the webhook cannot be served or configured.
pub async fn with_webhook(
    namespace: &Namespace,
    order: Order,
    change: fn(&Value) -> Vec<Value>,
    test: impl AsyncFnOnce(&str) -> Result<()>,
) -> Result<()> {
    let host = own_address(&namespace.client).await?;
    let listener = TcpListener::bind((host, 0)).await.with_context(|| format!("cannot listen on {host}"))?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([host.to_string()])?.self_signed(&key)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)?;
    let url = format!("https://{}/", listener.local_addr()?);
    let router =
        Router::new().route("/", post(move |Json(review): Json<Value>| async move { Json(answer(&review, change)) }));
    let server = tokio::spawn(serve(listener, Arc::new(tls), router));

    let prefix = match order {
        Order::Before => "aa",
        Order::After => "zz",
    };
    let name = format!("{prefix}-{}", namespace.name);
    let configuration: MutatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": name},
        "webhooks": [{
            "name": format!("{prefix}.e2e.example"), "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            "clientConfig": {"url": url, "caBundle": BASE64.encode(certificate.pem())},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
        }],
    }))?;
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(namespace.client.clone());
    configurations.create(&PostParams::default(), &configuration).await?;
    let outcome = AssertUnwindSafe(test(&name)).catch_unwind().await;
    configurations.delete(&name, &DeleteParams::default()).await?;
    server.abort();
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

fn answer(review: &Value, change: fn(&Value) -> Vec<Value>) -> Value {
    let patch = Value::Array(change(&review["request"]["object"])).to_string();
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {
            "uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch", "patch": BASE64.encode(patch),
        },
    })
}

async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, router: Router) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper_util::service::TowerToHyperService::new(router);
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
            let _ends_with_the_test = connection.await;
        });
    }
}
