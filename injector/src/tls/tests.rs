//! Everything about certificates that is a matter of time, with a clock that obeys.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp, ToSpan};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::ca::*;
use super::{Published, SETTLE, Step, next, store};

const SERVICE: &str = "geth-peering-injector";
const NAME: &str = "geth-peering-injector.geth-peering.svc";

fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

fn material(now: Timestamp) -> Material {
    Material::make(now, SERVICE, None).unwrap()
}

fn rotated(old: &Material, now: Timestamp) -> Material {
    Material::make(now, SERVICE, Some(old.current.certificate.clone())).unwrap()
}

fn leaf(now: Timestamp, material: &Material) -> Leaf {
    Leaf::mint(now, &material.current, &[NAME.to_owned(), format!("{NAME}.cluster.local")]).unwrap()
}

/// Whether an API server that trusts `bundle` would talk to a server with `leaf` at `now`.
fn accepts(bundle: &str, leaf: &Leaf, name: &str, now: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let since_epoch = std::time::Duration::from_secs(now.as_second().try_into().unwrap());
    verifier
        .verify_server_cert(
            &leaf.key.cert[0],
            &[],
            &ServerName::try_from(name.to_owned()).unwrap(),
            &[],
            UnixTime::since_unix_epoch(since_epoch),
        )
        .is_ok()
}

fn secret(entries: &[(&str, &str)]) -> Secret {
    let data = entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
    Secret { data: Some(data.collect()), ..Secret::default() }
}

#[test]
fn when_does_the_authority_change() {
    let (young, now) = (material(start()), start());
    let overlapping = rotated(&material(now - days(245)), now);
    for (what, stored, at, expected) in [
        ("no secret", Stored::Missing, now, Decision::Create),
        ("garbage", Stored::Garbage("?".into()), now, Decision::Replace),
        ("new", Stored::Held(young.clone()), now, Decision::Keep),
        ("a clock that is half an hour behind", Stored::Held(young.clone()), now - 30.minutes(), Decision::Keep),
        ("before two thirds", Stored::Held(young.clone()), now + days(244), Decision::Keep),
        ("after two thirds", Stored::Held(young.clone()), now + days(245), Decision::Rotate),
        ("expired while switched off", Stored::Held(young.clone()), now + days(4000), Decision::Rotate),
        ("made by a clock far ahead", Stored::Held(young), now - days(300), Decision::Rotate),
        ("just rotated", Stored::Held(overlapping.clone()), now + days(1), Decision::Keep),
        ("overlap over", Stored::Held(overlapping), now + days(2), Decision::Retire),
    ] {
        assert_eq!(decide(at, &stored), expected, "{what}");
    }
}

#[test]
fn does_an_api_server_accept_what_is_served_at_any_time_of_a_rotation() {
    let old = material(start());
    let at = start() + days(245);
    let new = rotated(&old, at);
    let (old_leaf, new_leaf) = (leaf(at - 20.hours(), &old), leaf(at, &new));

    assert!(accepts(&old.bundle(), &old_leaf, NAME, at));
    assert!(accepts(&new.bundle(), &old_leaf, NAME, at), "the new bundle trusts replicas that have not switched");
    assert!(accepts(&new.bundle(), &new_leaf, NAME, at));
    assert!(!accepts(&old.bundle(), &new_leaf, NAME, at), "which is why the bundle has to be published first");

    let retired = Material { previous: None, ..new };
    assert!(!accepts(&retired.bundle(), &old_leaf, NAME, at));
    let over = at + OVERLAP;
    assert!(!accepts(&old.bundle(), &leaf(at, &old), NAME, over), "nothing of the old authority outlives the overlap");
}

#[test]
fn is_a_certificate_good_for_the_names_of_the_service_only_and_for_its_day() {
    let (material, now) = (material(start()), start());
    let leaf = leaf(now, &material);
    let bundle = material.bundle();
    for (name, at, expected) in [
        (NAME.to_owned(), now, true),
        (format!("{NAME}.cluster.local"), now, true),
        ("other.geth-peering.svc".to_owned(), now, false),
        (NAME.to_owned(), now - 59.minutes(), true),
        (NAME.to_owned(), now + 23.hours(), true),
        (NAME.to_owned(), now + 25.hours(), false),
        (NAME.to_owned(), now - 2.hours(), false),
    ] {
        assert_eq!(accepts(&bundle, &leaf, &name, at), expected, "{name} at {at}");
    }
}

#[test]
fn does_a_certificate_end_with_its_authority() {
    let material = material(start());
    let end = material.current.validity.not_after;
    assert_eq!(leaf(end - 1.hour(), &material).validity.not_after, end);
}

#[test]
fn do_all_replicas_read_the_same_bundle_from_the_secret() {
    let material = rotated(&material(start() - days(245)), start());
    let previous = material.previous.clone().unwrap();
    let stored = secret(&[
        ("ca.crt", &material.current.certificate),
        ("ca.key", &material.current.key),
        ("previous.crt", &previous),
    ]);
    let Stored::Held(read) = store::read(Some(&stored)) else { panic!("not readable") };
    assert_eq!(read, material);
    assert_eq!(read.bundle(), format!("{}{previous}", material.current.certificate));
}

#[test]
fn is_everything_but_a_whole_authority_garbage() {
    let (good, other) = (material(start()).current, material(start()).current);
    let not_an_authority = {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    for (what, entries) in [
        ("empty", vec![]),
        ("no key", vec![("ca.crt", good.certificate.as_str())]),
        ("no certificate", vec![("ca.key", good.key.as_str())]),
        ("not PEM", vec![("ca.crt", "hello"), ("ca.key", &good.key)]),
        ("not a key", vec![("ca.crt", &good.certificate), ("ca.key", "hello")]),
        ("key of another", vec![("ca.crt", &good.certificate), ("ca.key", &other.key)]),
        ("not an authority", vec![("ca.crt", &not_an_authority.0), ("ca.key", &not_an_authority.1)]),
        (
            "a previous one that API servers would refuse",
            vec![("ca.crt", &good.certificate), ("ca.key", &good.key), ("previous.crt", "hello")],
        ),
    ] {
        let read = store::read(Some(&secret(&entries)));
        assert!(matches!(read, Stored::Garbage(_)), "{what}: {read:?}");
    }
    assert_eq!(store::read(None), Stored::Missing);
}

#[test]
fn does_a_key_stay_out_of_the_log() {
    let material = material(start());
    assert!(!format!("{material:?}").contains("PRIVATE"), "{material:?}");
}

#[test]
fn is_the_bundle_published_before_a_certificate_needs_it() {
    let now = start() + days(245);
    let old = material(start());
    let new = material(now - days(10));
    let (mine, old_leaf) = (leaf(now, &new), leaf(now, &old));
    let stored = Stored::Held(new.clone());
    let known = Published::Since(now - 1.minute());
    for (what, at, published, serving, expected) in [
        ("first start, nothing is published yet", now, Published::Nowhere, None, Step::Serve),
        ("then everybody is told", now, Published::Differs, Some(&mine), Step::Publish),
        ("nothing to publish to", now, Published::Nowhere, Some(&mine), Step::Rest),
        ("done", now, known, Some(&mine), Step::Rest),
        ("two thirds of the day are over", now + 16.hours(), known, Some(&mine), Step::Serve),
        ("just before", now + 15.hours(), known, Some(&mine), Step::Rest),
        ("clock set back by a day", now - 23.hours(), known, Some(&mine), Step::Serve),
        ("rotated, unpublished", now, Published::Differs, Some(&old_leaf), Step::Publish),
        ("published this moment", now, Published::Since(now), Some(&old_leaf), Step::Rest),
        ("published and settled", now + SETTLE, Published::Since(now), Some(&old_leaf), Step::Serve),
        ("old, but publishing fails", now + 22.hours(), Published::Differs, Some(&old_leaf), Step::Publish),
        ("about to be useless", now + 23.hours(), Published::Differs, Some(&old_leaf), Step::Serve),
    ] {
        assert_eq!(next(at, Some(&stored), published, serving), expected, "{what}");
    }
    assert_eq!(next(now, None, Published::Nowhere, None), Step::Rest, "the Secret was not looked at yet");
    let old = Stored::Held(old);
    assert_eq!(next(now, Some(&old), known, Some(&old_leaf)), Step::Write(Decision::Rotate), "the Secret comes first");
}
