//! A running injector and what tests ask it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use fakes::apiserver::ApiServer;
use hyper_util::rt::{TokioExecutor, TokioIo};
use injector::cli::{Cli, Command};
use injector::config::Config;
use injector::inject::Settings;
use injector::run::{Injector, Patience};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Namespace;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const OWN_NAMESPACE: &str = "geth-peering";
pub(crate) const CA_SECRET: &str = "geth-peering-ca";
pub(crate) const CONFIGURATION: &str = "geth-peering";
pub(crate) const EXCLUDED: &str = "vault";
pub(crate) const ROLE: &str = "geth-peering-sidecar";
pub(crate) const SERVER_NAME: &str = "geth-peering-injector.geth-peering.svc";

/// How long anything that should happen soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// An object of any kind, from JSON.
pub(crate) fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A cluster in which the chart was just installed.
pub(crate) fn cluster() -> ApiServer {
    let server = ApiServer::new();
    server.put::<k8s_openapi::api::apps::v1::Deployment>(&object(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "geth-peering-injector", "namespace": OWN_NAMESPACE},
        "spec": {"selector": {}, "template": {}},
    })));
    put_configuration(&server);
    server
}

/// What `helm install` and `helm upgrade` write: webhooks without a bundle.
pub(crate) fn put_configuration(server: &ApiServer) {
    let webhook = |name: &str| {
        json!({
            "name": name,
            "admissionReviewVersions": ["v1"],
            "sideEffects": "NoneOnDryRun",
            "clientConfig": {"service": {"name": "geth-peering-injector", "namespace": OWN_NAMESPACE}},
        })
    };
    server.put::<MutatingWebhookConfiguration>(&object(json!({
        "metadata": {"name": CONFIGURATION},
        "webhooks": [webhook("pods.geth-peering.io"), webhook("workloads.geth-peering.io")],
    })));
}

/// The bundle, if all webhooks have the same.
pub(crate) fn bundle(server: &ApiServer) -> Option<String> {
    let configuration: MutatingWebhookConfiguration = server.get("", CONFIGURATION)?;
    let mut bundles =
        configuration.webhooks?.into_iter().map(|webhook| Some(webhook.client_config.ca_bundle?.0)).collect::<Vec<_>>();
    bundles.dedup();
    let [Some(bundle)] = bundles.as_slice() else { return None };
    Some(String::from_utf8(bundle.clone()).unwrap())
}

pub(crate) fn put_namespace(server: &ApiServer, name: &str, labelled: bool) {
    let labels = if labelled { json!({"geth-peering": "enabled"}) } else { json!({}) };
    server.put::<Namespace>(&object(json!({"metadata": {"name": name, "labels": labels}})));
}

/// A namespace whose label has any value.
pub(crate) fn put_namespace_with(server: &ApiServer, name: &str, value: &str) {
    server.put::<Namespace>(&object(json!({"metadata": {"name": name, "labels": {"geth-peering": value}}})));
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(what, wait).await;
}

/// Waits for what should end soon.
pub(crate) async fn soon<T>(what: &str, end: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, end).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Where to reach a port that listens on every address.
pub(crate) fn local(address: SocketAddr) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
}

/// What a replica is told, but for its name.
pub(crate) const FLAGS: [&str; 12] = [
    "serve",
    "--namespace=geth-peering",
    "--deployment=geth-peering-injector",
    "--service=geth-peering-injector",
    "--webhook-configuration=geth-peering",
    "--ca-secret=geth-peering-ca",
    "--sidecar-role=geth-peering-sidecar",
    "--sidecar-image=geth-peering/sidecar:0.1.0",
    "--registry-namespace=shared,vault",
    "--excluded-namespace=kube-system,vault",
    "--https-port=0",
    "--http-port=0",
];

/// What becomes of [`FLAGS`] and `more`.
pub(crate) fn config(more: &[&str]) -> Config {
    let name = ["--pod-name=geth-peering-injector-0"];
    let cli: Cli = clap::Parser::parse_from(["injector"].iter().chain(&FLAGS).chain(&name).chain(more));
    let Command::Serve(args) = cli.command else { unreachable!("it is told to serve") };
    args.check().unwrap()
}

/// What a replica injects.
pub(crate) fn settings() -> Settings {
    config(&[]).inject
}

/// One replica.
pub(crate) struct Replica {
    pub(crate) https: SocketAddr,
    pub(crate) http: SocketAddr,
    terminate: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Replica {
    /// Starts one and waits until it is ready.
    pub(crate) async fn start(server: &ApiServer) -> Self {
        let replica = Self::launch(server).await;
        replica.until_ready().await;
        replica
    }

    /// Starts one.
    pub(crate) async fn launch(server: &ApiServer) -> Self {
        Self::launch_with(server, &[]).await
    }

    /// Starts one that is told more.
    pub(crate) async fn launch_with(server: &ApiServer, more: &[&str]) -> Self {
        let config = config(more);
        let injector = Injector::bind(config, server.client(OWN_NAMESPACE)).await.unwrap();
        let (https, http) = (local(injector.https), local(injector.http));
        let (terminate, terminated) = oneshot::channel::<()>();
        let patience = Patience { unready: Duration::ZERO, drain: SOON };
        let terminated = async {
            let _either_is_an_order = terminated.await;
        };
        let task = tokio::spawn(injector.run(terminated, patience));
        Self { https, http, terminate: Some(terminate), task }
    }

    pub(crate) async fn until_ready(&self) {
        until("readiness", async || self.get("/readyz").await.0 == StatusCode::OK).await;
    }

    /// Sends SIGTERM, as it were.
    pub(crate) fn terminate(&mut self) {
        self.terminate.take();
    }

    /// Waits for the end and returns its result.
    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        tokio::time::timeout(SOON, self.task).await.expect("it ends").unwrap()
    }

    /// GET on the plain port.
    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// The value of a metric, labels and all as they are printed.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").await.1;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Connects as an API server that trusts `bundle`.
    pub(crate) async fn connect(&self, bundle: &str, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        connect(self.https, bundle, alpn).await
    }

    /// A client of HTTP/2 that trusts the bundle of the webhook configuration, as API servers do.
    pub(crate) async fn api_server(&self, server: &ApiServer) -> Client {
        Client::new(self.connect(&bundle(server).unwrap(), b"h2").await.unwrap()).await
    }
}

/// Connects to `address` as an API server that trusts `bundle`.
pub(crate) async fn connect(address: SocketAddr, bundle: &str, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    connect_with(address, bundle, alpn, rustls::DEFAULT_VERSIONS).await
}

/// The same by one that speaks only these versions of TLS.
pub(crate) async fn connect_with(
    address: SocketAddr,
    bundle: &str,
    alpn: &[u8],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(SERVER_NAME).unwrap(), stream).await
}

/// One open HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Client(hyper::client::conn::http2::SendRequest<Body>);

impl Client {
    pub(crate) async fn new(stream: TlsStream<TcpStream>) -> Self {
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// POST.
    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
        let request = Request::post(format!("https://{SERVER_NAME}{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.into())
            .unwrap();
        let answer = self.0.clone().send_request(request).await.unwrap();
        let code = answer.status();
        let body = to_bytes(Body::new(answer.into_body()), usize::MAX).await.unwrap();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Asks for a decision and returns the response in the answer.
    pub(crate) async fn review(&self, path: &str, review: &Value) -> Value {
        let (code, body) = self.post(path, review.to_string()).await;
        assert_eq!(code, StatusCode::OK, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        answer["response"].clone()
    }
}

/// A pod that runs Geth, owned by a StatefulSet.
pub(crate) fn geth_pod(labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "geth-0", "labels": labels,
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "geth", "uid": "1234", "controller": true},
            ],
        },
        "spec": {
            "serviceAccountName": "default",
            "containers": [{"name": "geth", "image": "ethereum/client-go:v1.17.5", "args": ["--nodiscover"]}],
        },
    })
}

/// The review of the creation of `pod`.
pub(crate) fn review(namespace: &str, pod: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "6b5f", "operation": "CREATE", "namespace": namespace, "dryRun": false,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {"username": "system:serviceaccount:kube-system:statefulset-controller"},
            "object": pod,
        },
    })
}

/// `object` with the patch of `response` applied.
pub(crate) fn patched(mut object: Value, response: &Value) -> Value {
    use base64::Engine as _;
    assert_eq!(response["allowed"], true, "{response}");
    let patch = base64::engine::general_purpose::STANDARD.decode(response["patch"].as_str().unwrap_or("W10=")).unwrap();
    json_patch::patch(&mut object, &serde_json::from_slice::<json_patch::Patch>(&patch).unwrap()).unwrap();
    object
}
