//! Where the webhooks' certificate comes from, and who tells the API servers whom to trust.

use serde_json::{Value, json};

use super::helm::{Objects, at, render, strings};
use super::rights::rights;

const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

fn existing(ca: &str) -> Value {
    at("tls", json!({"mode": "existing", "existing": {"secretName": "mine", "caBundle": ca}}))
}

/// The caBundle of each webhook.
fn bundles(objects: &Objects) -> Vec<&Value> {
    let webhooks =
        objects.get("MutatingWebhookConfiguration", "geth-peering")["webhooks"].as_array().expect("webhooks");
    webhooks.iter().map(|webhook| &webhook["clientConfig"]["caBundle"]).collect()
}

fn is_there(objects: &Objects, kind: &str, name: &str) -> bool {
    objects.0.iter().any(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

#[test]
fn does_nobody_but_its_one_writer_write_the_ca_bundle() {
    for values in [json!({}), at("tls.mode", json!("certManager")), existing("")] {
        assert!(bundles(&render(&values)).iter().all(|bundle| bundle.is_null()), "{values}");
    }
    assert_eq!(
        bundles(&render(&existing(CA))),
        ["LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUIKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo="; 3]
    );
}

#[test]
fn does_the_injector_read_the_secret_that_holds_the_certificate() {
    for (values, secret) in [(at("tls.mode", json!("certManager")), "geth-peering-certificate"), (existing(""), "mine")]
    {
        let objects = render(&values);
        let mount = &objects.container()["volumeMounts"][0];
        assert_eq!(objects.flag("tls-folder"), mount["mountPath"], "{values}");
        let volume = &objects.pod()["spec"]["volumes"][0];
        assert_eq!((&volume["name"], &volume["secret"]["secretName"]), (&mount["name"], &json!(secret)));
    }
}

#[test]
fn has_the_injector_no_rights_that_only_an_authority_of_its_own_needs() {
    for values in [at("tls.mode", json!("certManager")), existing("")] {
        let objects = render(&values);
        for kind in ["Role", "RoleBinding"] {
            assert!(!is_there(&objects, kind, "geth-peering-injector"), "{kind}");
        }
        let rights = rights(objects.get("ClusterRole", "geth-peering-injector"));
        let writes = |right: &&String| right.starts_with("patch admissionregistration.k8s.io/");
        assert_eq!(rights.iter().find(writes), None);
    }
}

#[test]
fn does_cert_manager_make_what_api_servers_ask_for() {
    let objects = render(&at("tls.mode", json!("certManager")));
    let certificate = &objects.get("Certificate", "geth-peering-certificate")["spec"];
    assert_eq!(strings(&certificate["dnsNames"]), ["geth-peering-injector.geth-peering.svc"]);
    assert_eq!(certificate["secretName"], "geth-peering-certificate");
    let webhooks = objects.get("MutatingWebhookConfiguration", "geth-peering");
    let injected = &webhooks["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
    assert_eq!(injected, "geth-peering/geth-peering-certificate");

    // Unless an issuer is named, each of the chain is made: one that signs itself, an authority, and its issuer.
    let (ca, issuer) = ("geth-peering-certificate-ca", &certificate["issuerRef"]);
    assert_eq!(issuer["name"], ca);
    let authority = &objects.get("Certificate", ca)["spec"];
    assert_eq!((&authority["isCA"], &authority["secretName"]), (&json!(true), &json!(ca)));
    // Its Secrets stay when Helm has gone; the README's command for what stays finds them.
    for spec in [certificate, authority] {
        assert_eq!(spec["secretTemplate"]["labels"]["app.kubernetes.io/managed-by"], "geth-peering");
    }
    // What the injectors serve is good under the authority of before and after its renewal, for both have one key.
    assert_eq!(authority["privateKey"]["rotationPolicy"], "Never");
    assert_eq!(objects.get("Issuer", ca)["spec"]["ca"]["secretName"], ca);
    assert!(is_there(&objects, "Issuer", authority["issuerRef"]["name"].as_str().expect("a name")));

    let issuer = json!({"name": "internal", "kind": "ClusterIssuer"});
    let objects = render(&at("tls", json!({"mode": "certManager", "certManager": {"issuerRef": issuer}})));
    assert_eq!(objects.get("Certificate", "geth-peering-certificate")["spec"]["issuerRef"], issuer);
    assert!(!is_there(&objects, "Issuer", ca));
}
