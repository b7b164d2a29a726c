//! One request as an API server makes it, on a connection of its own, and what it says about the pod.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use json_patch::Patch;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where a webhook is, and whom to trust there.
pub(crate) struct Webhook {
    pub(crate) port: u16,
    pub(crate) path: &'static str,
    /// The name that its certificate has to be for.
    pub(crate) name: String,
    /// The certificates that are trusted, PEM.
    pub(crate) bundle: String,
}

impl Webhook {
    /// Where it is, for others.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}{}", self.port, self.path)
    }

    /// Sends a review and returns the `response` of the answer.
    ///
    /// # Errors
    /// When there is no answer, or it is none to this review.
    pub(crate) async fn ask(&self, review: &Value) -> Result<Value> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.bundle.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await?;
        let name = ServerName::try_from(self.name.clone())?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let body = review.to_string();
        // 1.0: the answer comes in one piece, and the connection ends.
        let head = format!(
            "POST {} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.path,
            self.name,
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await?;
        let mut answer = vec![];
        // Not everybody ends TLS before TCP, as rustls wants it.
        let _end = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        ensure!(head.split(' ').nth(1) == Some("200"), "{answer}");
        let mut answer: Value = serde_json::from_str(body)?;
        ensure!(answer["response"]["uid"] == review["request"]["uid"], "{answer}");
        Ok(answer["response"].take())
    }

    /// The pod of a review as the answer makes it.
    ///
    /// # Errors
    /// When it is refused, or its patch cannot be applied.
    pub(crate) async fn admitted(&self, review: &Value) -> Result<Value> {
        let response = self.ask(review).await?;
        ensure!(response["allowed"] == true, "{response}");
        let mut pod = review["request"]["object"].clone();
        if let Some(patch) = response["patch"].as_str() {
            json_patch::patch(&mut pod, &serde_json::from_slice::<Patch>(&BASE64.decode(patch)?)?)?;
        }
        Ok(pod)
    }
}
