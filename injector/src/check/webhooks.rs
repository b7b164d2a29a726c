//! The webhook configuration: whether it is there, whom it calls, and whom API servers trust because of it.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::ResourceExt as _;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Finding;
use crate::events::is_ours;
use crate::tls::ca::Validity;
use crate::tls::{algorithm, server_name};

/// How many webhooks the chart has.
const WEBHOOKS: usize = 3;
/// An authority that ends sooner is worth a word; the injector renews its own 120 days before.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// One installation, as its webhook configuration describes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Installation {
    name: String,
    webhooks: usize,
    /// The different bundles of its webhooks, PEM; an empty one where there is none.
    bundles: Vec<Vec<u8>>,
    pub(super) namespace: String,
    pub(super) service: String,
}

/// The installation of this name, or the only one.
///
/// # Errors
/// A finding that says what is there instead.
pub(super) fn find(list: Vec<MutatingWebhookConfiguration>, name: Option<&str>) -> Result<Installation, Finding> {
    let ours = |configuration: &MutatingWebhookConfiguration| {
        name.map_or_else(|| is_ours(configuration), |name| configuration.name_any() == name)
    };
    let mut found: Vec<_> = list.into_iter().filter(ours).collect();
    let Some(configuration) = found.pop() else {
        return Err(Finding::wrong(
            "there is no MutatingWebhookConfiguration of geth-peering, so no pod is ever injected",
            "install the chart, or upgrade it if it was deleted",
        ));
    };
    if let Some(another) = found.pop() {
        return Err(Finding::wrong(
            format!("geth-peering is installed twice: {} and {}", another.name_any(), configuration.name_any()),
            "uninstall one; or examine one of them, with --webhook-configuration",
        ));
    }
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let mut bundles: Vec<Vec<u8>> = webhooks
        .iter()
        .map(|webhook| webhook.client_config.ca_bundle.as_ref().map(|bundle| bundle.0.clone()).unwrap_or_default())
        .collect();
    bundles.sort();
    bundles.dedup();
    let service = webhooks.iter().find_map(|webhook| webhook.client_config.service.clone());
    let Some(service) = service else {
        return Err(Finding::wrong(
            format!("the webhooks of {} call no Service", configuration.name_any()),
            "upgrade the chart, which writes it anew",
        ));
    };
    Ok(Installation {
        name: configuration.name_any(),
        webhooks: webhooks.len(),
        bundles,
        namespace: service.namespace,
        service: service.name,
    })
}

impl Installation {
    /// What is to be said of the configuration itself at `now`.
    pub(super) fn judge(&self, now: Timestamp) -> Vec<Finding> {
        let name = &self.name;
        let webhooks = if self.webhooks == WEBHOOKS {
            Finding::good(format!("the webhook configuration {name} has its {WEBHOOKS} webhooks"))
        } else {
            Finding::wrong(
                format!("the webhook configuration {name} has {} webhooks, not {WEBHOOKS}", self.webhooks),
                "upgrade the chart, which writes it anew",
            )
        };
        vec![webhooks, self.judge_bundle(now)]
    }

    fn judge_bundle(&self, now: Timestamp) -> Finding {
        const REPAIR: &str = "a running injector writes it within seconds: look at the injectors' log; with tls.mode \
                              certManager or existing, look at whoever is to write it";
        let name = &self.name;
        let [bundle] = self.bundles.as_slice() else {
            return Finding::wrong(format!("the webhooks of {name} have different caBundles"), REPAIR);
        };
        let certificates = match certificates(bundle) {
            Ok(certificates) if !certificates.is_empty() => certificates,
            Ok(_) => {
                return Finding::wrong(format!("the webhooks of {name} have no caBundle, so no call succeeds"), REPAIR);
            }
            Err(error) => return Finding::wrong(format!("the caBundle of {name} cannot be read: {error}"), REPAIR),
        };
        let ends = certificates.iter().filter_map(|certificate| not_after(certificate)).max();
        match ends {
            Some(end) if end <= now => Finding::wrong(format!("the caBundle of {name} ended at {end}"), REPAIR),
            Some(end) if end.duration_since(now) < SOON => {
                Finding::doubtful(format!("the caBundle of {name} ends soon, at {end}"), REPAIR)
            }
            Some(end) => Finding::good(format!("the caBundle of {name} is good until {end}")),
            None => Finding::wrong(format!("the caBundle of {name} holds no certificate that can be read"), REPAIR),
        }
    }

    /// Whether API servers will accept at `now` that `pod` serves this chain of certificates (PEM).
    pub(super) fn judge_certificate(&self, pod: &str, chain: &str, now: Timestamp) -> Finding {
        match self.verify(chain, now) {
            Ok(end) => {
                let what = format!("{pod} serves a certificate that the caBundle vouches for, until {end}");
                match certificates(chain.as_bytes()).ok().and_then(|chain| algorithm::doubt(&chain)) {
                    Some(doubt) => Finding::doubtful(format!("{what}, but {doubt}"), algorithm::ADVICE),
                    None => Finding::good(what),
                }
            }
            Err(error) => Finding::wrong(
                format!("API servers refuse the certificate of {pod}: {error}"),
                "wait a minute if certificates were just changed; else look at the injector's log",
            ),
        }
    }

    fn verify(&self, chain: &str, now: Timestamp) -> Result<Timestamp, String> {
        let text = |error: rustls::Error| error.to_string();
        let chain = certificates(chain.as_bytes())?;
        let (leaf, others) = chain.split_first().ok_or("it serves none")?;
        let mut roots = RootCertStore::empty();
        for bundle in &self.bundles {
            roots.add_parsable_certificates(certificates(bundle)?);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| format!("the caBundle cannot be used: {error}"))?;
        let name =
            ServerName::try_from(server_name(&self.service, &self.namespace)).map_err(|error| error.to_string())?;
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        verifier.verify_server_cert(leaf, others, &name, &[], time).map_err(text)?;
        not_after(leaf).ok_or_else(|| "it cannot be read".to_owned())
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_rest, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Validity::of(&parsed).ok()?.not_after)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Verdict;
    use super::*;
    use crate::tls::ca::{Leaf, Material};

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn configuration(name: &str, webhooks: usize, bundle: Option<&str>) -> MutatingWebhookConfiguration {
        use base64::Engine as _;
        let bundle = bundle.map(|bundle| base64::engine::general_purpose::STANDARD.encode(bundle));
        let webhooks: Vec<Value> = (0..webhooks)
            .map(|number| {
                json!({
                    "name": format!("n{number}.injector.geth-peering"),
                    "clientConfig": {"caBundle": bundle, "service": {"namespace": "gp", "name": "gp-injector"}},
                    "sideEffects": "None", "admissionReviewVersions": ["v1"],
                })
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"name": name}, "webhooks": webhooks})).unwrap()
    }

    fn verdicts(findings: &[Finding]) -> Vec<Verdict> {
        findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn is_the_one_installation_found() {
        let other = || configuration("other", 0, None);
        assert!(find(vec![other()], None).unwrap_err().to_string().contains("install the chart"));
        let found = find(vec![other(), configuration("a", 3, Some("x"))], None).unwrap();
        assert_eq!((found.name.as_str(), found.namespace.as_str(), found.service.as_str()), ("a", "gp", "gp-injector"));
        let two = || vec![configuration("a", 3, None), configuration("b", 3, None)];
        assert!(find(two(), None).unwrap_err().to_string().contains("installed twice: a and b"));
        assert_eq!(find(two(), Some("b")).unwrap().name, "b");
    }

    #[test]
    fn is_a_bundle_that_nobody_can_use_told() {
        let material = Material::make(now(), "gp-injector", None).unwrap();
        let later = |days: i64| now() + SignedDuration::from_hours(24 * days);
        for (webhooks, bundle, at, expected, words) in [
            (3, Some(material.bundle()), now(), [Verdict::Good, Verdict::Good], "is good until"),
            (2, Some(material.bundle()), now(), [Verdict::Wrong, Verdict::Good], "has 2 webhooks"),
            (3, None, now(), [Verdict::Good, Verdict::Wrong], "have no caBundle"),
            (3, Some("x".into()), now(), [Verdict::Good, Verdict::Wrong], "have no caBundle"),
            (3, Some(material.bundle()), later(340), [Verdict::Good, Verdict::Doubtful], "ends soon"),
            (3, Some(material.bundle()), later(366), [Verdict::Good, Verdict::Wrong], "ended at"),
        ] {
            let installation = find(vec![configuration("a", webhooks, bundle.as_deref())], None).unwrap();
            let findings = installation.judge(at);
            assert_eq!(verdicts(&findings), expected, "{words}");
            assert!(findings.iter().any(|finding| finding.to_string().contains(words)), "{findings:?}");
        }
    }

    #[test]
    fn is_a_certificate_that_api_servers_would_refuse_told() {
        let (own, another) = (Material::make(now(), "a", None).unwrap(), Material::make(now(), "b", None).unwrap());
        let installation = find(vec![configuration("a", 3, Some(&own.bundle()))], None).unwrap();
        let leaf = |material: &Material, name: &str| {
            let leaf = Leaf::mint(now(), &material.current, &[name.to_owned()]).unwrap();
            pem::encode(&pem::Pem::new("CERTIFICATE", leaf.key.cert[0].to_vec()))
        };
        let name = "gp-injector.gp.svc";
        let judged = |chain: &str, at| installation.judge_certificate("pod-0", chain, at);
        let later = now() + SignedDuration::from_hours(25);
        assert_eq!(judged(&leaf(&own, name), now()).verdict, Verdict::Good);
        for (chain, at) in [
            (leaf(&another, name), now()),
            (leaf(&own, "x.y.svc"), now()),
            (leaf(&own, name), later),
            (String::new(), now()),
        ] {
            let finding = judged(&chain, at);
            assert_eq!(finding.verdict, Verdict::Wrong, "{finding}");
        }
    }

    #[test]
    fn is_a_certificate_that_only_some_api_servers_take_doubted() {
        let name = "gp-injector.gp.svc";
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        let installation = find(vec![configuration("a", 3, Some(&chain))], None).unwrap();
        let finding = installation.judge_certificate("pod-0", &chain, now());
        assert_eq!(finding.verdict, Verdict::Doubtful, "{finding}");
        assert!(finding.to_string().contains("Ed25519") && finding.to_string().contains("ECDSA P-256"), "{finding}");
    }
}
