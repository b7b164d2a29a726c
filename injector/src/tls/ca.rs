//! The injector's own certificate authority: what it consists of, when it has to
//! change, and the serving certificates it signs.
//!
//! Nothing here reads a clock or talks to anybody. `now` is always wall clock time:
//! a monotonic clock stands still while a machine sleeps, a certificate does not.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long an authority lives. Long enough that rotation is rare, short enough that
/// a stolen key does not serve for ever; cert-manager gives its own webhook's
/// authority the same year (pkg/server/tls/authority, v1.21).
pub const CA_LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
/// A new authority is made when this much of the old one's life is left: a third,
/// so that an injector which is switched off for months still meets a valid one.
pub const CA_RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(120 * 24);
/// How long a serving certificate lives. Each replica makes its own and nobody
/// stores it, so a short life costs nothing.
pub const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// A new serving certificate is made when this much of the old one's life is left.
pub const LEAF_RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(8);
/// How far certificates reach back, for API servers whose clock is behind ours.
pub const BACKDATE: SignedDuration = SignedDuration::from_hours(1);
/// How long a replaced authority stays trusted: until no certificate that it signed
/// can still be valid, and as long again.
pub const OVERLAP: SignedDuration = SignedDuration::from_hours(2 * 24);

/// What can be wrong with certificates.
#[derive(Debug, Error)]
pub enum CaError {
    /// A certificate or key could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// rustls does not take what was made.
    #[error("cannot use the certificate: {0}")]
    Use(#[from] rustls::Error),
    /// Stored data is not what it should be.
    #[error("{0}")]
    Unreadable(String),
    /// A time that no certificate can hold.
    #[error("no certificate can be made for this time: {0}")]
    Time(#[from] jiff::Error),
}

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: Timestamp,
    /// The last moment.
    pub not_after: Timestamp,
}

impl Validity {
    /// That of a certificate.
    ///
    /// # Errors
    /// If it holds a time that there is not.
    pub fn of(certificate: &X509Certificate<'_>) -> Result<Self, jiff::Error> {
        let validity = certificate.validity();
        Ok(Self {
            not_before: Timestamp::from_second(validity.not_before.timestamp())?,
            not_after: Timestamp::from_second(validity.not_after.timestamp())?,
        })
    }

    /// Whether the certificate has to be replaced at `now` if that should happen
    /// `renew_before` its end. One that begins in the future was made by a clock that
    /// was wrong, and is useless until then.
    fn is_due(&self, now: Timestamp, renew_before: SignedDuration) -> bool {
        now < self.not_before || self.not_after.duration_since(now) <= renew_before
    }

    fn new(now: Timestamp, lifetime: SignedDuration) -> Result<Self, CaError> {
        Ok(Self { not_before: now.checked_sub(BACKDATE)?, not_after: now.checked_add(lifetime)? })
    }
}

/// A certificate authority: certificate, key and what is known of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// The certificate, PEM.
    pub certificate: String,
    /// The private key, PEM (PKCS #8).
    pub key: String,
    /// Read from the certificate.
    pub validity: Validity,
}

/// Everything the Secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// Signs serving certificates.
    pub current: Authority,
    /// Certificate (PEM) of the authority before it, trusted until no replica can use it any more.
    pub previous: Option<String>,
}

/// The Secret as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// There is none.
    Missing,
    /// There is one, but it cannot be used: why.
    Garbage(String),
    /// There is a usable one.
    Held(Material),
}

/// What has to be done with the Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Keep,
    /// Make the first authority.
    Create,
    /// Make an authority in the place of data that nobody can use.
    Replace,
    /// Make a new authority and keep the certificate of the current one as the previous.
    Rotate,
    /// Stop trusting the previous authority.
    Retire,
}

/// What has to be done at `now` with the Secret as it is `stored`.
pub fn decide(now: Timestamp, stored: &Stored) -> Decision {
    match stored {
        Stored::Missing => Decision::Create,
        Stored::Garbage(_) => Decision::Replace,
        Stored::Held(material) if material.current.validity.is_due(now, CA_RENEW_BEFORE) => Decision::Rotate,
        Stored::Held(Material { current, previous: Some(_) })
            if now.duration_since(current.validity.not_before) >= OVERLAP + BACKDATE =>
        {
            Decision::Retire
        }
        Stored::Held(_) => Decision::Keep,
    }
}

impl Material {
    /// A new authority named after `service`; `previous` is the certificate of the one it replaces.
    ///
    /// # Errors
    /// If no key or certificate can be made.
    pub fn make(now: Timestamp, service: &str, previous: Option<String>) -> Result<Self, CaError> {
        Ok(Self { current: Authority::make(now, service)?, previous })
    }

    /// What API servers have to trust: the current and the previous certificate, PEM.
    ///
    /// It is a function of the Secret alone, so all replicas compute the same bytes.
    pub fn bundle(&self) -> String {
        let mut bundle = self.current.certificate.clone();
        bundle.push_str(self.previous.as_deref().unwrap_or_default());
        bundle
    }
}

impl Authority {
    fn make(now: Timestamp, service: &str) -> Result<Self, CaError> {
        let validity = Validity::new(now, CA_LIFETIME)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        // A name of its own for each authority: verifiers pick issuers by name.
        let name = format!("{service} CA {}", validity.not_before.strftime("%Y-%m-%dT%H:%M:%SZ"));
        set_name_and_validity(&mut params, &name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Self::read(&certificate, &key.serialize_pem())
    }

    /// Reads an authority back and checks that it can be one.
    ///
    /// # Errors
    /// With what is wrong: not PEM, not an authority's certificate, or a key of another certificate.
    pub fn read(certificate: &str, key: &str) -> Result<Self, CaError> {
        let unreadable = |what: &str| CaError::Unreadable(what.to_owned());
        let der = check_certificate(certificate)?;
        let (_rest, parsed) = X509Certificate::from_der(&der)
            .map_err(|error| CaError::Unreadable(format!("the certificate is not X.509: {error}")))?;
        let pair = KeyPair::from_pem(key)
            .map_err(|error| CaError::Unreadable(format!("the private key cannot be read: {error}")))?;
        if !parsed.is_ca() {
            return Err(unreadable("the certificate is not that of an authority"));
        }
        if parsed.public_key().raw != pair.subject_public_key_info() {
            return Err(unreadable("the private key belongs to another certificate"));
        }
        let validity = Validity::of(&parsed)?;
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), validity })
    }
}

/// Checks that `certificate` is one certificate in PEM: API servers refuse a bundle that holds anything else.
///
/// # Errors
/// If it is not.
pub fn check_certificate(certificate: &str) -> Result<CertificateDer<'static>, CaError> {
    CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|error| CaError::Unreadable(format!("the certificate is not PEM: {error}")))
}

/// Not derived: the key must never reach a log.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// A serving certificate, ready for rustls.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// What rustls serves.
    pub key: Arc<CertifiedKey>,
    /// From when until when.
    pub validity: Validity,
    /// The certificate (PEM) of the authority that signed it.
    pub signed_by: String,
}

impl Leaf {
    /// Makes a serving certificate for `names`, valid from `now` and signed by `authority`.
    ///
    /// # Errors
    /// If no key or certificate can be made.
    pub fn mint(now: Timestamp, authority: &Authority, names: &[String]) -> Result<Self, CaError> {
        let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
        let mut validity = Validity::new(now, LEAF_LIFETIME)?;
        validity.not_after = validity.not_after.min(authority.validity.not_after);
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.to_vec())?;
        set_name_and_validity(&mut params, names.first().map_or("", String::as_str), validity);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&pair, &issuer)?;
        let key = PrivateKeyDer::try_from(pair.serialize_der())
            .map_err(|error| CaError::Unreadable(format!("the new key cannot be read: {error}")))?;
        let provider = rustls::crypto::ring::default_provider();
        let key = CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider)?;
        Ok(Self { key: Arc::new(key), validity, signed_by: authority.certificate.clone() })
    }

    /// Whether it has to be replaced because of its age.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.validity.is_due(now, LEAF_RENEW_BEFORE)
    }

    /// Whether it is about to be useless.
    pub fn is_ending(&self, now: Timestamp) -> bool {
        self.validity.is_due(now, BACKDATE)
    }
}

fn set_name_and_validity(params: &mut CertificateParams, name: &str, validity: Validity) {
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |time: Timestamp| epoch + std::time::Duration::from_secs(time.as_second().try_into().unwrap_or(0));
    params.not_before = at(validity.not_before);
    params.not_after = at(validity.not_after);
}
