//! The serving certificate as rustls asks for it, exchangeable at any moment.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Holds the certificate that new connections get. Connections that are open keep theirs.
#[derive(Debug, Default)]
pub struct Resolver {
    current: RwLock<Option<Arc<CertifiedKey>>>,
}

impl Resolver {
    /// From now on, `key` is served.
    pub fn serve(&self, key: Arc<CertifiedKey>) {
        // Nothing panics while it holds the lock, and an Option is whole at any time anyway.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    /// The certificates that new connections get, that of the server first; none if nothing is served yet.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|key| key.cert.clone()).unwrap_or_default()
    }

    /// [`chain`](Self::chain) as PEM.
    pub fn pem(&self) -> String {
        let blocks: Vec<_> = self.chain().iter().map(|der| pem::Pem::new("CERTIFICATE", der.to_vec())).collect();
        pem::encode_many(&blocks)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, with the certificate that `resolver` holds.
///
/// # Errors
/// If rustls refuses its own defaults.
pub fn server_config(resolver: Arc<Resolver>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
