//! Which keys any API server takes.
//!
//! An API server whose Go was built for FIPS takes keys of RSA and of the curves P-256, P-384 and P-521 (crypto/tls,
//! `boringAllowCert` and its successors), and those of some clouds refuse Ed25519. TLS here (ring) cannot serve P-521.

use rustls::pki_types::CertificateDer;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The shortest RSA key that is still taken, in bits.
const MIN_RSA: usize = 2048;

/// What to do about a [`doubt`].
pub const ADVICE: &str = "use keys of ECDSA P-256, for the authority as well; some managed API servers refuse Ed25519";

/// What some API servers may find wrong with a chain of certificates, as a sentence; none if any takes it.
///
/// A certificate that cannot be read is somebody else's to judge.
pub fn doubt(chain: &[CertificateDer<'_>]) -> Option<String> {
    let mut parsed = chain.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1));
    parsed.find_map(|certificate| {
        let whose = || certificate.subject();
        if let Some(key) = strange(certificate.public_key()) {
            return Some(format!("the key of the certificate \"{}\" is {key}", whose()));
        }
        // Its authority may not be in the chain.
        let signed = certificate.signature_algorithm.algorithm == OID_SIG_ED25519;
        signed.then(|| format!("the certificate \"{}\" is signed by an Ed25519 key", whose()))
    })
}

/// What kind of key this is, if not one that is taken anywhere.
fn strange(key: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= MIN_RSA => None,
        Ok(PublicKey::RSA(rsa)) => Some(format!("RSA of {} bits only", rsa.key_size())),
        Ok(PublicKey::EC(_)) if curve.as_ref().is_some_and(|curve| [OID_EC_P256, OID_NIST_EC_P384].contains(curve)) => {
            None
        }
        Ok(PublicKey::EC(_)) => Some("ECDSA of another curve than P-256 and P-384".to_owned()),
        _ if key.algorithm.algorithm == OID_SIG_ED25519 => Some("Ed25519".to_owned()),
        _ => Some("neither RSA nor ECDSA".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
        PKCS_ED25519, SignatureAlgorithm,
    };
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// A certificate with a key of one kind, signed by an authority with a key of another.
    fn chain(
        leaf: &'static SignatureAlgorithm,
        authority: &'static SignatureAlgorithm,
    ) -> [CertificateDer<'static>; 2] {
        let signer = KeyPair::generate_for(authority).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&signer).unwrap().der().clone();
        let issuer = Issuer::new(params, signer);
        let key = KeyPair::generate_for(leaf).unwrap();
        let signed = CertificateParams::new(["injector.gp.svc".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        [signed.der().clone(), own]
    }

    #[test]
    fn is_a_key_that_some_api_servers_refuse_doubted_wherever_it_is_in_the_chain() {
        let (p256, p384, ed25519) = (&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519);
        for (leaf, authority, served, expected) in [
            (p256, p256, 2, None),
            (p384, p384, 2, None),
            (ed25519, p256, 1, Some("is Ed25519")),
            (p256, ed25519, 1, Some("is signed by an Ed25519 key")),
            (p256, ed25519, 2, Some("is signed by an Ed25519 key")),
        ] {
            let found = doubt(&chain(leaf, authority)[..served]);
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.iter().all(|found| found.contains(expected.unwrap_or_default())), "{found:?}");
        }
    }

    #[test]
    fn is_an_rsa_key_of_usual_length_taken_and_a_short_one_or_a_strange_curve_doubted() {
        let doubt = |pem: &str| doubt(&[CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()]);
        assert_eq!(doubt(RSA_2048), None);
        assert!(doubt(RSA_1024).unwrap().ends_with("is RSA of 1024 bits only"));
        assert!(doubt(SECP256K1).unwrap().contains("another curve than P-256"));
    }

    // Made by `openssl req -x509`: rcgen makes no such keys.
    const RSA_2048: &str = "\
-----BEGIN CERTIFICATE-----
MIIC+zCCAeOgAwIBAgIUabtmVh8onVhWRjZ7H5D1V/9LAl0wDQYJKoZIhvcNAQEL
BQAwDDEKMAgGA1UEAwwBYTAgFw0yNjExMjgxNjUxMjJaGA8yMTI2MTEwNDE2NTEy
MlowDDEKMAgGA1UEAwwBYTCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEB
AKVCuHwc6qkGn+u4k2NEhsY7eCQepyyk7YeNkxKUJOgh4qY9Wicb4WBbNXQo4nAC
zoUm5w7yCcW+gXdfHdgCF/frbmD3c7TDrnTILy8lfbgc1LHaYc43YRPQPD7OdpFc
m4VifpPBVVPHzfuOAuwabotwMm/ewsC7UHdgPWqun08VYjCkpUx7GQo1WJ9sbJ0I
Q8YFjDNT7LTblvZuePmk3lm9uCxgKfKpD9QiXNcFLSi8TvsUkI2i795aT5kK0fUd
tqqRxzrYSIKUd62yLu+IAoww5XP6Qj+8mheyrYDKP5eOodWDycHmydmMlSj9Z8tk
qzTdHYVVpynXPf+4EsmG5HkCAwEAAaNTMFEwHQYDVR0OBBYEFMa0koV9YrPe/WAA
DCTB9Qgbr2YrMB8GA1UdIwQYMBaAFMa0koV9YrPe/WAADCTB9Qgbr2YrMA8GA1Ud
EwEB/wQFMAMBAf8wDQYJKoZIhvcNAQELBQADggEBAI/QaGfY2rw4dJd989GIi8Nl
bIQZoFuERwdDW0EStbRAoEQNY2el3TqQOPd1jjVNTyv/D5aMnbeuLqgbXxBE0Dl5
VJ72Rck1FG3egmA+qZKvmsI4/wkBdNzroSErv3gcyB9pOowzbd7i07f/G/JOOzKm
yN73VSbvXr3IK5r6acu8r0uYrSyq8xKtFfaIYcor/b/K6ElbxtsI7YxJqfYy4alH
Peixy7aN1+2aU11WrA0Y6166eMpqSE+pzYBD/K9i8HDbj1RZC79HtBlHUfH9qpaE
LjjlHpkAsDz3grK/3WnZrE8gPDOKS1OcMaA7xToSMkemhZjWwP/O9Xm4XkmoJVQ=
-----END CERTIFICATE-----
";
    const RSA_1024: &str = "\
-----BEGIN CERTIFICATE-----
MIIB9jCCAV+gAwIBAgIUcADof+ZKdiGf4Hs7ZFVXCZSFBI4wDQYJKoZIhvcNAQEL
BQAwDDEKMAgGA1UEAwwBYTAgFw0yNjExMjgxNjUxMjJaGA8yMTI2MTEwNDE2NTEy
MlowDDEKMAgGA1UEAwwBYTCBnzANBgkqhkiG9w0BAQEFAAOBjQAwgYkCgYEAshz0
F+AXMNJLyULV3vYw9ngFPkDLHswb6w36fTqq2+vVr9VkxQj/eL0YBNweje3YSdPD
GLbiHBOo2HLAgvscuX4ZBNuqCWUiT9btn5of7iHy/ASdGxL1rVphSI2Id0u0Me4/
DzBj4UnxoxabXdARCV3NIYEmIvub39fB2ldsW9kCAwEAAaNTMFEwHQYDVR0OBBYE
FBHnw8hVrU89F+j7yAwgtChI5DYXMB8GA1UdIwQYMBaAFBHnw8hVrU89F+j7yAwg
tChI5DYXMA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQELBQADgYEAazU1SWxC
Og7YF92xFavaqFCN0wU52fNGaHovMdNZky/vsK81owJEARQ2ENNX+5RwyFsvXx/2
8ULEk8AKG5hYPkWpdnV0cjagAttNEq9KB+GZMzraJgodW+NFmwlQvNoeKkIlHyyi
8t/kBMl2tl+TbLKxo+KYKXeMCAnHDCmPmEg=
-----END CERTIFICATE-----
";
    const SECP256K1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBbTCCARKgAwIBAgIUDfwDt14QBIRNQh2NhVaO+zPFe00wCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBYTAgFw0yNjExMjgxNjUxMjJaGA8yMTI2MTEwNDE2NTEyMlow
DDEKMAgGA1UEAwwBYTBWMBAGByqGSM49AgEGBSuBBAAKA0IABAXFW1Xx9lRc0uu7
5plL6KsemqQcP7Brl6pAB+EGLG87GxGd7VEONmitupUj5Pl7D5V0LetQKMaSPsmz
9zyWxP+jUzBRMB0GA1UdDgQWBBSmmTPW//5+D+XeS+heLeualJlftTAfBgNVHSME
GDAWgBSmmTPW//5+D+XeS+heLeualJlftTAPBgNVHRMBAf8EBTADAQH/MAoGCCqG
SM49BAMCA0kAMEYCIQChZRE9Q+UObznofqv+ia59LO82pJwlwYlwzY8meEP80QIh
ANAB0q/ttX1rEwYscWZh7dEvrmddeppdUcQ7w4es4h9k
-----END CERTIFICATE-----
";
}
