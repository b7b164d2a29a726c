//! A proxy before the API server that misbehaves on demand, in this process.
//!
//! It speaks TLS with a certificate that the cluster itself has signed, so sidecars cannot tell it from the API server;
//! they are led to it by the variables in which Kubernetes tells every container where the API server is. Nodes reach
//! it at the address that this machine has towards them.

use crate::cluster::Namespace;
use crate::node::own_address;
use crate::wait;
use anyhow::{Context, Result};
use http::{Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::{Client, Config};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What becomes of requests.
#[derive(Clone, Copy, Debug)]
enum Mood {
    /// They are passed on.
    Honest,
    /// They are answered with this status.
    Answers(StatusCode),
}

/// What becomes of connections, by their number: those up to `silent` stay open and carry nothing any more, those
/// up to `cut` are closed.
#[derive(Clone, Copy, Debug, Default)]
struct Doom {
    silent: usize,
    cut: usize,
}

/// The proxy; gone when dropped.
pub(super) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    upstream: Client,
    mood: watch::Sender<Mood>,
    doom: watch::Sender<Doom>,
    connections: AtomicUsize,
    requests: AtomicUsize,
}

impl Proxy {
    /// Starts it.
    pub(super) async fn start(namespace: &Namespace) -> Result<Self> {
        let ip = own_address(&namespace.client).await?;
        let front = TcpListener::bind((ip, 0)).await.with_context(|| format!("cannot listen on {ip}"))?;
        let address = front.local_addr()?;
        let inner = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let inner_address = inner.local_addr()?;
        let tls = TlsAcceptor::from(Arc::new(server_config(namespace, ip).await?));
        let shared = Arc::new(Shared {
            upstream: anonymous_client().await?,
            mood: watch::Sender::new(Mood::Honest),
            doom: watch::Sender::new(Doom::default()),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(front_door(front, inner_address, shared.clone()));
        tasks.spawn(serve(inner, tls, shared.clone()));
        Ok(Self { address, shared, _tasks: tasks })
    }

    /// The annotation of pods, with its value, that leads their sidecars here.
    pub(super) fn annotation(&self) -> (&'static str, String) {
        let variable =
            |name: &str, value: String| json!({"op": "add", "path": "/env/-", "value": {"name": name, "value": value}});
        let patch = json!([
            variable("KUBERNETES_SERVICE_HOST", self.address.ip().to_string()),
            variable("KUBERNETES_SERVICE_PORT", self.address.port().to_string()),
        ]);
        ("geth-peering/patch", patch.to_string())
    }

    /// From now on, answers every request with this status, after a cut of all connections.
    pub(super) fn answer(&self, status: StatusCode) {
        self.shared.mood.send_replace(Mood::Answers(status));
        self.shared.doom.send_modify(|doom| doom.cut = self.shared.connections.load(Ordering::Relaxed));
    }

    /// Passes on all requests again.
    pub(super) fn behave(&self) {
        self.shared.mood.send_replace(Mood::Honest);
    }

    /// All connections of now stay open and carry nothing any more, for good; new ones work.
    pub(super) fn silence(&self) {
        self.shared.doom.send_modify(|doom| doom.silent = self.shared.connections.load(Ordering::Relaxed));
    }

    /// How many requests have come so far.
    pub(super) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

/// The API server as seen by somebody who shows no certificate: who asks is told by each request's own token.
async fn anonymous_client() -> Result<Client> {
    let mut config = Config::infer().await?;
    config.auth_info = kube::config::AuthInfo::default();
    config.default_retry = false;
    config.read_timeout = None;
    Ok(Client::try_from(config)?)
}

/// A certificate for this address, signed by the cluster as that of a kubelet, the only servers for which it does so.
async fn server_config(namespace: &Namespace, ip: IpAddr) -> Result<rustls::ServerConfig> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::default();
    parameters.subject_alt_names.push(rcgen::SanType::IpAddress(ip));
    parameters.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    parameters.distinguished_name.push(DnType::CommonName, "system:node:faults");
    let request = parameters.serialize_request(&key)?.pem()?;

    let requests = Api::<CertificateSigningRequest>::all(namespace.client.clone());
    let object: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"name": namespace.name},
        "spec": {
            "request": ByteString(request.into_bytes()),
            "signerName": "kubernetes.io/kubelet-serving",
            "usages": ["digital signature", "server auth"],
            "expirationSeconds": 86400,
        },
    }))?;
    requests.create(&PostParams::default(), &object).await?;
    let approved = json!({"status": {"conditions": [{
        "type": "Approved", "status": "True", "reason": "Test", "message": "a proxy of the tests",
    }]}});
    requests.patch_approval(&namespace.name, &PatchParams::default(), &Patch::Merge(approved)).await?;
    let certificate = wait::until("the cluster has signed a certificate", wait::SOON, async || {
        let request = requests.get_status(&namespace.name).await?;
        request.status.and_then(|status| status.certificate).context("not yet")
    })
    .await?;
    requests.delete(&namespace.name, &DeleteParams::default()).await?;

    let chain = CertificateDer::pem_slice_iter(&certificate.0).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_no_client_auth().with_single_cert(chain, key)?)
}

/// Carries bytes between clients and the server behind, for as long as their connection is not doomed.
async fn front_door(listener: TcpListener, inner: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((outside, _)) = listener.accept().await {
        let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let doom = shared.doom.subscribe();
        connections.spawn(async move {
            let Ok(inside) = tokio::net::TcpStream::connect(inner).await else { return };
            let ((outside_in, outside_out), (inside_in, inside_out)) = (outside.into_split(), inside.into_split());
            let mut end = doom.clone();
            tokio::select! {
                () = carry(outside_in, inside_out, number, doom.clone()) => {}
                () = carry(inside_in, outside_out, number, doom) => {}
                _ = end.wait_for(|doom| number <= doom.cut) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: usize, doom: watch::Receiver<Doom>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer).await {
        if number <= doom.borrow().silent {
            // Even its end goes unheard.
            std::future::pending::<()>().await;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Answers requests.
async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), shared.clone());
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request| answer(request, &shared));
            let _ended =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Result<Response<Body>> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let mood = *shared.mood.borrow();
    match mood {
        Mood::Honest => {
            let (head, body) = request.into_parts();
            let body = Body::from(whole(body).await?);
            Ok(shared.upstream.send(Request::from_parts(head, body)).await?)
        }
        Mood::Answers(status) => {
            let body = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status.as_u16(),
                "reason": reason(status), "message": status.canonical_reason(), "metadata": {},
            });
            let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
            if status == StatusCode::TOO_MANY_REQUESTS {
                // As a real one asks (apiserver/pkg/server/filters/priority-and-fairness.go).
                response = response.header(header::RETRY_AFTER, "1");
            }
            Ok(response.body(Body::from(Value::to_string(&body).into_bytes()))?)
        }
    }
}

async fn whole(mut body: Incoming) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        bytes.extend(frame?.into_data().unwrap_or_default());
    }
    Ok(bytes)
}

/// The word of Kubernetes for a status (apimachinery/pkg/apis/meta/v1/types.go).
fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        _ => "InternalError",
    }
}
