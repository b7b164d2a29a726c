//! What a user reads after installing.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::helm::{OLDEST_KUBERNETES, at, chart, read, render_text_of};

/// The notes for these values. `helm template` prints none, so a copy of the chart renders them into an object.
fn notes(name: &str, values: &Value) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chart-notes-{name}"));
    let _absent = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("templates")).expect("a folder");
    for file in ["Chart.yaml", "values.yaml", "values.schema.json", "templates/_helpers.tpl"] {
        fs::copy(chart().join(file), folder.join(file)).expect(file);
    }
    let template = format!(
        "{{{{- define \"notes\" -}}}}{}{{{{- end -}}}}\nnotes: {{{{ include \"notes\" . | toJson }}}}\n",
        read("templates/NOTES.txt")
    );
    fs::write(folder.join("templates/notes.yaml"), template).expect("a file");
    let text = render_text_of(&folder, values, OLDEST_KUBERNETES).expect("the notes render");
    let object: Value = serde_saphyr::from_str(&text).expect("YAML");
    object["notes"].as_str().expect("text").to_owned()
}

#[test]
fn do_the_notes_show_the_next_command() {
    let notes = notes("default", &json!({}));
    for command in [
        "kubectl -n geth-peering rollout status deployment/geth-peering-injector",
        "helm -n geth-peering test geth-peering",
        "kubectl label namespace NAMESPACE geth-peering=enabled",
        "kubectl -n NAMESPACE annotate statefulset NAME geth-peering=enabled",
        "metadata: {labels: {geth-peering: enabled}}",
        "kubectl -n NAMESPACE get configmap geth-peering -o yaml",
    ] {
        assert!(notes.contains(command), "{command} is not in:\n{notes}");
    }
}

#[test]
fn do_the_notes_follow_the_names_in_use() {
    let notes = notes("names", &json!({"fullnameOverride": "gp", "registry": {"configMapNames": ["nodes", "others"]}}));
    assert!(notes.contains("deployment/gp-injector"), "{notes}");
    assert!(notes.contains("get configmap nodes "), "{notes}");
    assert!(notes.contains("ClusterRole gp-sidecar stays"), "{notes}");
}

#[test]
fn do_the_notes_name_the_roles_that_stay_where_there_is_one_in_each_namespace() {
    let notes = notes("namespaces", &json!({"rbac": {"namespaces": ["chain", "other"]}}));
    assert!(notes.contains("In chain, other the Role geth-peering-sidecar stays"), "{notes}");
    assert!(!notes.contains("ClusterRole"), "{notes}");
}

#[test]
fn do_the_notes_warn_of_risks_and_only_of_risks() {
    let pushed = |values: Value| {
        let mut all = json!({"image": {"repository": "r/injector"}, "sidecar": {"image": {"repository": "r/sidecar"}}});
        json_patch::merge(&mut all, &values);
        all
    };
    for (name, values, warning) in [
        ("one", pushed(at("replicas", json!(1))), Some("Set replicas to 2 or more")),
        ("ignore", pushed(at("webhook.failurePolicy", json!("Ignore"))), Some("starts without a sidecar")),
        ("alerts", pushed(at("prometheusRule.enabled", json!(true))), Some("Set podMonitor.enabled=true unless")),
        (
            "policy",
            pushed(json!({"networkPolicy": {"enabled": true, "webhookFrom": [{"podSelector": {}}]}})),
            Some("If the API server is not among them, no Geth pod"),
        ),
        ("pdb", pushed(at("podDisruptionBudget.enabled", json!(false))), Some("may evict all injectors at once")),
        (
            "nowhere",
            at("image.repository", json!("r/injector")),
            Some("WARNING: sidecar.image is geth-peering/sidecar:"),
        ),
        (
            "nowhere-2",
            at("sidecar.image.repository", json!("r/sidecar")),
            Some("WARNING: image is geth-peering/injector:"),
        ),
        ("mirror", at("global.imageRegistry", json!("r.example")), None),
        ("fine", pushed(json!({})), None),
    ] {
        let notes = notes(name, &values);
        assert_eq!(notes.matches("WARNING").count(), usize::from(warning.is_some()), "{values}:\n{notes}");
        assert!(notes.contains(warning.unwrap_or_default()), "{values}:\n{notes}");
    }
}
