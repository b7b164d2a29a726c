//! A serving certificate that somebody else makes: cert-manager, or a person. It lies in a folder, which is a mounted
//! Secret of type `kubernetes.io/tls`, and is served anew whenever it changes.
//!
//! The folder is read every few seconds and not watched: a mounted Secret changes by the swap of a symbolic link
//! (`..data`), of which a watch of the files learns nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::algorithm;
use super::ca::Validity;
use super::resolver::Resolver;
use crate::metrics::Metrics;
use crate::readiness::Latch;

/// The certificate and those that lead to its authority, PEM (`TLSCertKey` of the core API).
pub const CERTIFICATE: &str = "tls.crt";
/// Its private key, PEM (`TLSPrivateKeyKey`).
pub const KEY: &str = "tls.key";
/// How often the folder is read. The kubelet takes up to two minutes to bring a changed Secret into it.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Where the certificate is, and whom it has to name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder.
    pub folder: PathBuf,
    /// The name under which API servers call.
    pub name: String,
}

/// Keeps what is served as the folder has it.
pub struct Reader {
    settings: Settings,
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
    ready: Latch,
    /// What was read last: certificate and key.
    seen: Option<[Vec<u8>; 2]>,
    /// The last failure, which is told once.
    trouble: Option<String>,
}

impl Reader {
    /// One that serves through `resolver`, and opens its latch when it does.
    pub fn new(settings: Settings, resolver: Arc<Resolver>, metrics: Arc<Metrics>, ready: Latch) -> Self {
        Self { settings, resolver, metrics, ready, seen: None, trouble: None }
    }

    /// Works until it is dropped. A certificate that cannot be used leaves the one before it in service.
    pub async fn run(mut self) -> ! {
        loop {
            let trouble = match self.read() {
                Ok(doubt) => {
                    if let Some(doubt) = doubt {
                        tracing::warn!("{doubt}: {}", algorithm::ADVICE);
                    }
                    None
                }
                Err(error) => Some(format!("{error:#}")),
            };
            if let Some(trouble) = trouble.as_ref().filter(|_| trouble != self.trouble) {
                tracing::warn!(folder = %self.settings.folder.display(), "{trouble}");
            }
            self.trouble = trouble;
            tokio::time::sleep(READ_EVERY).await;
        }
    }

    /// Serves what the folder has now. Returns what some API servers may find wrong with it, once for each change.
    fn read(&mut self) -> anyhow::Result<Option<String>> {
        let file = |name| read(self.settings.folder.join(name));
        let files = [file(CERTIFICATE)?, file(KEY)?];
        if self.seen.as_ref() == Some(&files) {
            return Ok(None);
        }
        // Certificate and key may be from before and after a swap. Then they do not fit, and are read again.
        let (key, validity) = certified(&files[0], &files[1], &self.settings.name)?;
        let doubt = algorithm::doubt(&key.cert);
        self.resolver.serve(Arc::new(key));
        self.metrics.certificate_expires(validity.not_after);
        tracing::info!(valid_until = %validity.not_after, "serving the certificate of the folder");
        self.seen = Some(files);
        self.ready.open();
        Ok(doubt)
    }
}

// Not through tokio, which would keep a pool of threads for it: what is mounted from a Secret is in memory.
fn read(file: PathBuf) -> anyhow::Result<Vec<u8>> {
    std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// What rustls serves, and how long, of the content of the two files.
fn certified(certificate: &[u8], key: &[u8], name: &str) -> anyhow::Result<(CertifiedKey, Validity)> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{CERTIFICATE} is not PEM"))?;
    let Some(leaf) = chain.first() else { bail!("{CERTIFICATE} holds no certificate") };
    let (_rest, parsed) = X509Certificate::from_der(leaf).with_context(|| format!("{CERTIFICATE} is not X.509"))?;
    let validity = Validity::of(&parsed)?;
    let server = ServerName::try_from(name).with_context(|| format!("{name} is no name of a server"))?;
    rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, &server).with_context(|| {
        format!("{CERTIFICATE} does not name {name}, by which API servers call: they would refuse it")
    })?;
    let key = PrivateKeyDer::from_pem_slice(key).with_context(|| format!("{KEY} holds no private key"))?;
    let key = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
        .with_context(|| format!("{KEY} does not belong to {CERTIFICATE}"))?;
    Ok((key, validity))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::readiness::Readiness;

    const NAME: &str = "injector.geth-peering.svc";

    /// A certificate for a name, and its key.
    fn pair(name: &str) -> [String; 2] {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        [certificate.pem(), key.serialize_pem()]
    }

    /// A folder as the kubelet mounts a Secret: the files lead through a link that is swapped.
    struct Mounted(PathBuf);

    impl Mounted {
        fn new(test: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("geth-peering-{test}-{}", std::process::id()));
            let _leftover = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            for file in [CERTIFICATE, KEY] {
                std::os::unix::fs::symlink(Path::new("..data").join(file), folder.join(file)).unwrap();
            }
            Self(folder)
        }

        fn swap(&self, version: &str, [certificate, key]: &[String; 2]) {
            let (data, link) = (self.0.join(version), self.0.join("..data_tmp"));
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join(CERTIFICATE), certificate).unwrap();
            std::fs::write(data.join(KEY), key).unwrap();
            std::os::unix::fs::symlink(version, &link).unwrap();
            std::fs::rename(link, self.0.join("..data")).unwrap();
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _best_effort = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn is_an_ed25519_key_served_all_the_same_and_doubted_once() {
        let mounted = Mounted::new("ed25519");
        let (resolver, mut readiness) = (Arc::new(Resolver::default()), Readiness::default());
        let settings = Settings { folder: mounted.0.clone(), name: NAME.to_owned() };
        let latch = readiness.latch("certificate");
        let mut reader = Reader::new(settings, resolver.clone(), Arc::default(), latch);
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let certificate = CertificateParams::new([NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
        mounted.swap("1", &[certificate.pem(), key.serialize_pem()]);
        assert!(reader.read().unwrap().unwrap().contains("Ed25519"));
        assert_eq!((served(&resolver), readiness.missing()), (Some(certificate.der().to_vec()), vec![]));
        assert_eq!(reader.read().unwrap(), None);
        mounted.swap("2", &pair(NAME));
        assert_eq!(reader.read().unwrap(), None);
    }

    fn served(resolver: &Resolver) -> Option<Vec<u8>> {
        resolver.chain().first().map(|certificate| certificate.to_vec())
    }

    fn der(pem: &str) -> Vec<u8> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn is_a_swapped_secret_served_and_a_useless_one_not() {
        let mounted = Mounted::new("swap");
        let (resolver, mut readiness) = (Arc::new(Resolver::default()), Readiness::default());
        let settings = Settings { folder: mounted.0.clone(), name: NAME.to_owned() };
        let latch = readiness.latch("certificate");
        let mut reader = Reader::new(settings, resolver.clone(), Arc::default(), latch);

        let error = format!("{:#}", reader.read().unwrap_err());
        assert!(error.contains("cannot read") && error.contains(CERTIFICATE), "{error}");
        assert_eq!((served(&resolver), readiness.missing()), (None, vec!["certificate"]));

        let first = pair(NAME);
        mounted.swap("1", &first);
        reader.read().unwrap();
        assert_eq!((served(&resolver), readiness.missing()), (Some(der(&first[0])), vec![]));

        let [certificate, key] = pair(NAME);
        for (version, files, expected) in [
            ("2", [certificate.clone(), first[1].clone()], "tls.key does not belong to tls.crt"),
            ("3", pair("another.name"), "does not name injector.geth-peering.svc"),
            ("4", [String::new(), key.clone()], "tls.crt holds no certificate"),
            ("5", [certificate.clone(), "no key".to_owned()], "tls.key holds no private key"),
        ] {
            mounted.swap(version, &files);
            let error = format!("{:#}", reader.read().unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert_eq!(served(&resolver), Some(der(&first[0])), "{version}");
        }

        mounted.swap("6", &[certificate.clone(), key]);
        reader.read().unwrap();
        assert_eq!(served(&resolver), Some(der(&certificate)));
    }
}
