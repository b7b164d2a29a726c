//! Golden pairs: `golden/NAME.input.yaml` is a pod as somebody wrote it, `NAME.injected.yaml` what comes of it, headed by the
//! decision and the warnings. `NAME.context.yaml` deviates from the usual settings.
//! `UPDATE_GOLDEN=1 cargo test -p geth-peering-injector --test inject` writes the second anew; read the difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use injector::decision::Decision;
use injector::inject::{Account, Context, Defaults, Lack, Settings, Survey, inject};
use injector::manifest::{self, Injection};
use serde::Deserialize;
use serde_json::Value;

use crate::{patched, rules, settings};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Deviation {
    native_sidecars: Option<bool>,
    disable_service_links: Option<bool>,
    configmap_names: Option<Vec<String>>,
    registry_namespaces: Vec<String>,
    account_not_ready: Option<String>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read(name: &str, kind: &str) -> Option<String> {
    fs::read_to_string(directory().join(format!("{name}.{kind}.yaml"))).ok()
}

/// Names of the files of one kind.
fn names(kind: &str) -> BTreeSet<String> {
    let suffix = format!(".{kind}.yaml");
    fs::read_dir(directory())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(&suffix).map(ToOwned::to_owned))
        .collect()
}

fn context(name: &str) -> (Settings, Account) {
    let deviation: Deviation = read(name, "context").map(|text| parse(name, &text)).unwrap_or_default();
    let usual = settings();
    let settings = Settings {
        native_sidecars: deviation.native_sidecars.unwrap_or(usual.native_sidecars),
        disable_service_links: deviation.disable_service_links.unwrap_or(usual.disable_service_links),
        configmap_names: deviation.configmap_names.unwrap_or(usual.configmap_names.clone()),
        registry_namespaces: deviation.registry_namespaces,
        ..usual
    };
    (settings, deviation.account_not_ready.map_or(Account::Ready, |why| Account::Missing(Lack { why, owed: true })))
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What comes of one input, as the text of its golden file; the rules are checked on the way.
fn result(name: &str) -> String {
    let pod: Value = parse(name, &read(name, "input").unwrap());
    let (settings, account) = context(name);
    let context = Context { settings: &settings, account: &account };
    let outcome = inject(&pod, &context);
    assert!(!outcome.denied, "{name}: {:?}", outcome.message);
    assert_eq!(outcome.audit["decision"], outcome.decision.word());
    let after = patched(&pod, &outcome);
    rules::check(&pod, &after, &outcome);

    let survey = Survey::of(&pod, &settings, &Defaults::default());
    let plan = survey.account().unwrap();
    let named = after["spec"]["serviceAccountName"].as_str().unwrap_or("default");
    assert_eq!(plan.name == named, account == Account::Ready, "{name}: {plan:?} and {named}");

    let again = inject(&after, &context);
    assert_eq!(again.decision, Decision::AlreadyInjected, "{name}");
    assert!(again.patch.is_empty(), "{name} is changed a second time: {:#}", again.patch);

    by_manifest(name, &pod, &after, &settings, &account);

    let warnings = outcome.warnings.iter().map(|warning| format!("# warning: {warning}\n"));
    let heading = format!("# decision: {}\n", outcome.decision.word());
    let yaml = serde_saphyr::to_string(&after).unwrap();
    assert_eq!(parse::<Value>(name, &yaml), after, "{name}: the file says what the patch makes");
    heading + &warnings.collect::<String>() + &yaml
}

/// The same pod as a manifest: it becomes the same, and can be taken back to the last detail.
fn by_manifest(name: &str, pod: &Value, after: &Value, settings: &Settings, account: &Account) {
    // A manifest is injected without knowing any cluster, and what was injected before has lost its way back.
    if *account != Account::Ready || !pod["metadata"]["annotations"]["geth-peering/injected"].is_null() {
        return;
    }
    let manifest = |pod: &Value| {
        let mut manifest = pod.clone();
        manifest["apiVersion"] = "v1".into();
        manifest["kind"] = "Pod".into();
        manifest
    };
    let injection = Injection { settings: settings.clone(), namespace: None, rights: false };
    let original = serde_saphyr::to_string(&manifest(pod)).unwrap();
    let injected = manifest::inject(&original, &injection).unwrap_or_else(|error| panic!("{name}: {error}")).text;
    let mut read: Value = parse(name, &injected);
    let undo = read["metadata"]["annotations"].as_object_mut().unwrap().remove("geth-peering/undo");
    assert!(undo.is_some(), "{name}");
    assert_eq!(read, manifest(after), "{name}");
    let restored: Value = parse(name, &manifest::uninject(&injected).unwrap().text);
    assert_eq!(restored, manifest(pod), "{name}");
}

#[test]
fn does_every_known_shape_come_out_as_it_should() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for name in names("input") {
        let result = result(&name);
        if update {
            fs::write(directory().join(format!("{name}.injected.yaml")), result).unwrap();
        } else if read(&name, "injected").as_ref() != Some(&result) {
            wrong.push(format!("==> {name}.injected.yaml should be\n{result}"));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 writes these anew\n{}", wrong.join("\n"));
}

#[test]
fn does_every_golden_file_belong_to_an_input() {
    let inputs = names("input");
    assert!(inputs.len() >= 25, "the inputs are there");
    for kind in ["injected", "context"] {
        let stale: Vec<String> = names(kind).difference(&inputs).cloned().collect();
        assert!(stale.is_empty(), "no input for {stale:?}.{kind}.yaml");
    }
}
