//! The authority, the bundle and the certificates of running replicas.

use std::sync::Arc;

use fakes::apiserver::{ApiServer, Verb};
use injector::tls::ca::{Leaf, Material, OVERLAP};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::*;

const SERVICE: &str = "geth-peering-injector";

fn stored(server: &ApiServer, key: &str) -> Option<String> {
    let secret: Secret = server.get(OWN_NAMESPACE, CA_SECRET)?;
    Some(String::from_utf8(secret.data?.get(key)?.0.clone()).unwrap())
}

fn put_secret(server: &ApiServer, entries: &[(&str, &str)]) {
    let entries: std::collections::BTreeMap<_, _> = entries.iter().copied().collect();
    let data =
        entries.into_iter().map(|(key, value)| (key.to_owned(), k8s_openapi::ByteString(value.as_bytes().to_vec())));
    server.put(&Secret {
        data: Some(data.collect()),
        ..object(json!({"metadata": {"name": CA_SECRET, "namespace": OWN_NAMESPACE, "labels": {"kept": "yes"}}}))
    });
}

fn put_authority(server: &ApiServer, made: Timestamp) -> Material {
    let material = Material::make(made, SERVICE, None).unwrap();
    put_secret(server, &[("ca.crt", &material.current.certificate), ("ca.key", &material.current.key)]);
    material
}

async fn is_trusted(replica: &Replica, bundle: &str) -> bool {
    replica.connect(bundle, b"h2").await.is_ok()
}

#[tokio::test]
async fn does_an_installation_need_nobody_to_make_certificates() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    assert!(is_trusted(&replica, &bundle(&server).unwrap()).await);
    assert_eq!(bundle(&server), stored(&server, "ca.crt"));

    let secret: Secret = server.get(OWN_NAMESPACE, CA_SECRET).unwrap();
    let owner = secret.metadata.owner_references.unwrap().remove(0);
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Deployment", SERVICE), "so that uninstalling removes it");
    let deployment: Deployment = server.get(OWN_NAMESPACE, SERVICE).unwrap();
    assert_eq!((owner.api_version.as_str(), Some(owner.uid)), ("apps/v1", deployment.metadata.uid));
    let expiry = replica.metric("geth_peering_injector_certificate_expiry_timestamp_seconds").await.unwrap();
    let day = Timestamp::now().as_second() as f64 + 24.0 * 3600.0;
    assert!((expiry - day).abs() < 3600.0, "{expiry}");
}

#[tokio::test]
async fn is_no_authority_made_that_would_outlive_an_uninstall() {
    let server = cluster();
    let _replica = Replica::start(&server).await;
    // As an uninstall goes: the Deployment, then what belonged to it, and only then the last injector.
    server.delete::<Deployment>(OWN_NAMESPACE, SERVICE);
    let asked = server.count(Verb::Get, "deployments");
    server.delete::<Secret>(OWN_NAMESPACE, CA_SECRET);
    until("a look for the Deployment", async || server.count(Verb::Get, "deployments") > asked + 1).await;
    assert!(server.get::<Secret>(OWN_NAMESPACE, CA_SECRET).is_none());
}

#[tokio::test]
async fn do_replicas_that_start_together_end_with_one_authority() {
    let server = cluster();
    let (a, b) = tokio::join!(Replica::start(&server), Replica::start(&server));
    let c = Replica::start(&server).await;
    for replica in [&a, &b, &c] {
        assert!(is_trusted(replica, &bundle(&server).unwrap()).await);
    }
    assert_eq!(bundle(&server), stored(&server, "ca.crt"));
}

#[tokio::test]
async fn do_replicas_that_see_an_old_authority_together_replace_it_once() {
    let server = cluster();
    let old = put_authority(&server, Timestamp::now() - SignedDuration::from_hours(300 * 24));
    let (a, b) = tokio::join!(Replica::start(&server), Replica::start(&server));
    let expected = format!("{}{}", stored(&server, "ca.crt").unwrap(), old.current.certificate);
    assert_eq!(bundle(&server), Some(expected.clone()));
    assert!(is_trusted(&a, &expected).await && is_trusted(&b, &expected).await);
}

#[tokio::test]
async fn does_a_bundle_come_back_that_an_upgrade_wiped() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let before = bundle(&server).unwrap();
    put_configuration(&server);
    until("the bundle is back", async || bundle(&server).as_ref() == Some(&before)).await;
    server.delete::<MutatingWebhookConfiguration>("", CONFIGURATION);
    put_configuration(&server);
    until("and in a new configuration too", async || bundle(&server).as_ref() == Some(&before)).await;
    assert!(is_trusted(&replica, &before).await);
    assert_eq!(server.count(Verb::Update, "mutatingwebhookconfigurations"), 0, "it is only ever patched");
}

#[tokio::test]
async fn does_a_replica_that_lags_behind_never_undo_what_another_published() {
    let server = cluster();
    let _replica = Replica::start(&server).await;
    let before = bundle(&server).unwrap();
    // Its watch of the Secret breaks, another replica rotates, and an upgrade wipes the bundle.
    server.forbid(Verb::List, "secrets");
    server.forbid(Verb::Watch, "secrets");
    server.close_watches();
    let new = Material::make(Timestamp::now(), SERVICE, Some(before)).unwrap();
    server.edit(OWN_NAMESPACE, CA_SECRET, |secret: &mut Secret| {
        let entries = [
            ("ca.crt", &new.current.certificate),
            ("ca.key", &new.current.key),
            ("previous.crt", new.previous.as_ref().unwrap()),
        ];
        let data = entries.map(|(key, value)| (key.to_owned(), k8s_openapi::ByteString(value.as_bytes().to_vec())));
        secret.data = Some(data.into());
    });
    put_configuration(&server);
    until("a bundle", async || bundle(&server).is_some()).await;
    assert_eq!(bundle(&server), Some(new.bundle()));
}

#[tokio::test]
async fn is_an_old_authority_replaced_and_trusted_for_a_while() {
    let server = cluster();
    let old = put_authority(&server, Timestamp::now() - SignedDuration::from_hours(300 * 24));
    let replica = Replica::start(&server).await;
    let new = stored(&server, "ca.crt").unwrap();
    assert_ne!(new, old.current.certificate);
    assert_eq!(stored(&server, "previous.crt").as_ref(), Some(&old.current.certificate));
    assert_eq!(bundle(&server).unwrap(), format!("{new}{}", old.current.certificate));
    assert!(is_trusted(&replica, &new).await);
    let secret: Secret = server.get(OWN_NAMESPACE, CA_SECRET).unwrap();
    assert_eq!(secret.metadata.labels.unwrap()["kept"], "yes", "what others wrote stays");
}

#[tokio::test]
async fn does_trust_in_a_replaced_authority_end() {
    let server = cluster();
    let current = Material::make(Timestamp::now() - OVERLAP - OVERLAP, SERVICE, None).unwrap().current;
    let previous = Material::make(Timestamp::now(), SERVICE, None).unwrap().current;
    put_secret(
        &server,
        &[("ca.crt", &current.certificate), ("ca.key", &current.key), ("previous.crt", &previous.certificate)],
    );
    let _replica = Replica::start(&server).await;
    until("only the current one", async || bundle(&server).as_ref() == Some(&current.certificate)).await;
    assert_eq!(stored(&server, "previous.crt"), None);
}

#[tokio::test]
async fn is_a_secret_that_nobody_can_use_replaced() {
    let server = cluster();
    put_secret(&server, &[("ca.crt", "garbage"), ("tls.key", "x")]);
    let replica = Replica::start(&server).await;
    assert!(is_trusted(&replica, &bundle(&server).unwrap()).await);
    assert_eq!(bundle(&server), stored(&server, "ca.crt"));
}

#[tokio::test]
async fn does_every_call_work_while_the_secret_is_deleted_and_made_anew() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let (open, before) = (replica.api_server(&server).await, bundle(&server).unwrap());
    server.delete::<Secret>(OWN_NAMESPACE, CA_SECRET);
    until("a new authority", async || {
        let now = bundle(&server).unwrap();
        assert!(is_trusted(&replica, &now).await, "at no time is the certificate unknown to API servers");
        now != before
    })
    .await;
    assert!(bundle(&server).unwrap().ends_with(&before), "the old one is trusted on");
    let pod = geth_pod(json!({"geth-peering": "enabled"}));
    patched(pod.clone(), &open.review("/mutate/pods", &review("chain", pod)).await);
}

#[tokio::test]
async fn does_a_new_certificate_leave_open_connections_alone() {
    use injector::tls::resolver::{Resolver, server_config};
    let names = [SERVER_NAME.to_owned()];
    let (old, new) = [(); 2].map(|()| Material::make(Timestamp::now(), SERVICE, None).unwrap()).into();
    let resolver = Arc::new(Resolver::default());
    let config = Arc::new(server_config(resolver.clone()).unwrap());
    let bound = injector::server::Bound::bind(0, Some(config), Arc::default()).await.unwrap();
    let address = local(bound.address().unwrap());
    let router = axum::Router::new().route("/", axum::routing::post(|| async { "here" }));
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(bound.serve(router, stop.clone(), std::time::Duration::ZERO));

    assert!(connect(address, &old.bundle(), b"h2").await.is_err(), "without a certificate there is no handshake");
    resolver.serve(Leaf::mint(Timestamp::now(), &old.current, &names).unwrap().key);
    let open = Client::new(connect(address, &old.bundle(), b"h2").await.unwrap()).await;
    resolver.serve(Leaf::mint(Timestamp::now(), &new.current, &names).unwrap().key);
    assert_eq!(open.post("/", "").await.1, "here", "the open connection goes on");
    assert!(connect(address, &old.bundle(), b"h2").await.is_err(), "new ones get the new certificate");
    assert!(connect(address, &new.bundle(), b"h2").await.is_ok());
}

#[tokio::test]
async fn is_tls_1_2_spoken_and_1_3_and_nothing_older() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let bundle = bundle(&server).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let stream = connect_with(replica.https, &bundle, b"http/1.1", &[version]).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
    }

    // Hellos of two clients that differ in nothing but the latest version they know (RFC 5246, 7.4.1.2): TLS 1.2 and 1.1.
    for (minor, expected) in [(3, HANDSHAKE), (2, ALERT)] {
        let mut old = TcpStream::connect(replica.https).await.unwrap();
        old.write_all(&hello(minor)).await.unwrap();
        let mut kind = [0];
        soon("an answer", old.read_exact(&mut kind)).await.unwrap();
        assert_eq!(kind[0], expected, "3.{minor}");
    }
}

/// The type of a TLS record (RFC 5246, 6.2.1).
const ALERT: u8 = 21;
/// Another one.
const HANDSHAKE: u8 = 22;

/// The first record of a client that knows versions up to 3.`minor`: `TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256`, no
/// compression, and the extensions for P-256 and ECDSA with SHA-256.
fn hello(minor: u8) -> Vec<u8> {
    let groups = [0, 10, 0, 4, 0, 2, 0, 23];
    let points = [0, 11, 0, 2, 1, 0];
    let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
    let extensions = [&groups[..], &points, &signatures].concat();
    let length = |part: &[u8]| u8::try_from(part.len()).unwrap();
    let body = [&[3, minor][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0], &[0, length(&extensions)], &extensions];
    let body = body.concat();
    let handshake = [&[1, 0, 0, length(&body)][..], &body].concat();
    [&[HANDSHAKE, 3, 1, 0, length(&handshake)][..], &handshake].concat()
}
