//! Golden pairs of pods that are refused or left alone: `golden/left-alone/NAME.input.yaml` is the pod, `NAME.decision.yaml`
//! what its author is told. `UPDATE_GOLDEN=1` writes the second anew, as with the other pairs.

use std::fs;
use std::path::{Path, PathBuf};

use injector::manifest::{self, Injection};
use serde_json::{Value, json};

use crate::{injected, settings};

fn file(name: &str, kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/left-alone").join(format!("{name}.{kind}.yaml"))
}

fn read(name: &str, kind: &str) -> Option<Value> {
    Some(serde_saphyr::from_str(&fs::read_to_string(file(name, kind)).ok()?).unwrap())
}

fn names(kind: &str) -> Vec<String> {
    let suffix = format!(".{kind}.yaml");
    let entries = fs::read_dir(file("", "").parent().unwrap()).unwrap();
    let files = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = files.filter_map(|file| file.strip_suffix(&suffix).map(str::to_owned)).collect();
    names.sort();
    names
}

/// What is decided about a pod, which is not changed.
fn decided(name: &str, pod: &Value) -> Value {
    let outcome = injected(pod);
    assert!(outcome.patch.is_empty(), "{name}: {:#}", outcome.patch);
    assert_eq!(outcome.audit["decision"], outcome.decision.word());
    json!({
        "decision": outcome.decision.word(), "denied": outcome.denied, "message": outcome.message,
        "warnings": outcome.warnings,
    })
}

/// The same pod as a manifest: it fails with the same words, or comes out as it is with the same warnings.
fn by_manifest(name: &str, pod: &Value, decided: &Value) {
    let mut manifest = pod.clone();
    (manifest["apiVersion"], manifest["kind"]) = (json!("v1"), json!("Pod"));
    let text = serde_saphyr::to_string(&manifest).unwrap();
    let injection = Injection { settings: settings(), namespace: None, rights: true };
    let (word, message) = (decided["decision"].as_str().unwrap(), decided["message"].as_str().unwrap());
    match manifest::inject(&text, &injection) {
        Err(error) => {
            assert_eq!(decided["denied"], true, "{name}: {error}");
            assert_eq!(error.to_string(), format!("Pod geth-0 cannot be injected ({word}): {message}"));
        }
        Ok(done) => {
            assert_eq!(decided["denied"], false, "{name}");
            assert_eq!(done.text, text, "{name}");
            let warnings = decided["warnings"].as_array().unwrap().iter();
            let warnings = warnings.map(|warning| format!("Pod geth-0: warning: {}\n", warning.as_str().unwrap()));
            assert_eq!(done.report, format!("Pod geth-0: {word}\n{}", warnings.collect::<String>()), "{name}");
        }
    }
}

#[test]
fn is_every_known_pod_that_gets_no_sidecar_told_the_same_by_webhook_and_command() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for name in names("input") {
        let pod = read(&name, "input").unwrap();
        let decided = decided(&name, &pod);
        by_manifest(&name, &pod, &decided);
        let text = serde_saphyr::to_string(&decided).unwrap();
        if update {
            fs::write(file(&name, "decision"), text).unwrap();
        } else if read(&name, "decision").as_ref() != Some(&decided) {
            wrong.push(format!("==> {name}.decision.yaml should be\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 writes these anew\n{}", wrong.join("\n"));
    assert_eq!(names("input"), names("decision"));
    assert!(names("input").len() >= 16, "the inputs are there");
}
