//! Annotated StatefulSets and Deployments.
//!
//! The annotation `geth-peering` on a workload puts the label of that name into its pod template, so that
//! `kubectl annotate` alone rolls its pods into peering, and out of it again.

use json_patch::Patch;
use serde_json::{Value, json};

use crate::decision::Decision;
use crate::inject::{
    Account, DISABLED, Defaults, ENABLED, Edit, KEY, OptIn, Outcome, Refusal, Settings, Survey, place, text,
};
use crate::review::{Operation, Review};

/// Decides about a workload that is created or updated, in a namespace that says this for its pods.
#[must_use]
pub fn mutate(review: &Review, settings: &Settings, defaults: &Defaults) -> Outcome {
    let applicable = matches!(review.operation, Operation::Create | Operation::Update)
        && review.sub_resource.is_empty()
        && review.object["spec"]["template"].is_object()
        && review.object["metadata"]["deletionTimestamp"].is_null();
    if !applicable {
        return Outcome::unchanged(Decision::NotApplicable);
    }
    let workload = &review.object;
    let (now, before) = (annotation(workload), annotation(&review.old_object));
    let outcome = match (now, before) {
        (Some(ENABLED), _) => add_label(review, settings, defaults),
        (Some(DISABLED), _) | (None, Some(ENABLED)) => remove_label(workload),
        (None, _) => Ok(Outcome::unchanged(Decision::WorkloadUnchanged)),
        (Some(other), _) => {
            let message = bad_annotation(other);
            if now == before {
                // It came while no injector looked. Whoever changes something else now must be able to.
                Ok(Outcome::changed(Decision::BadWorkloadAnnotation, Patch::default(), vec![message]))
            } else {
                Err(Refusal::new(Decision::BadWorkloadAnnotation, message))
            }
        }
    };
    outcome.unwrap_or_else(|refusal| Outcome::refused(refusal, OptIn::PodLabel))
}

/// What is said of a workload's annotation that is neither of the two values.
#[must_use]
pub fn bad_annotation(value: &str) -> String {
    format!("annotation {KEY}={}: write {ENABLED} or {DISABLED}", text::quoted(value))
}

fn annotation(workload: &Value) -> Option<&str> {
    workload["metadata"]["annotations"][KEY].as_str()
}

fn label(workload: &Value) -> Option<&str> {
    workload["spec"]["template"]["metadata"]["labels"][KEY].as_str()
}

fn add_label(review: &Review, settings: &Settings, defaults: &Defaults) -> Result<Outcome, Refusal> {
    let workload = &review.object;
    let mut edit = Edit::new(workload);
    edit.set(&place(["spec", "template", "metadata", "labels", KEY]), json!(ENABLED))?;
    let patch = edit.into_patch();
    let warnings = foresee(workload, &patch, settings, defaults);
    let decision =
        if label(workload) == Some(ENABLED) { Decision::WorkloadUnchanged } else { Decision::TemplateLabelled };
    Ok(Outcome::changed(decision, patch, warnings))
}

fn remove_label(workload: &Value) -> Result<Outcome, Refusal> {
    // A label that says something else is the user's own.
    if label(workload) != Some(ENABLED) {
        return Ok(Outcome::unchanged(Decision::WorkloadUnchanged));
    }
    if selects_by_label(workload) {
        let warning = format!(
            "the label {KEY} stays in the pod template, because the workload selects its pods by it; \
             take it out of spec.selector first, which means to make the workload anew"
        );
        return Ok(Outcome::changed(Decision::WorkloadUnchanged, Patch::default(), vec![warning]));
    }
    let mut edit = Edit::new(workload);
    edit.remove(&place(["spec", "template", "metadata", "labels", KEY]))?;
    // The injector does not look at the namespace here, and its label may come later.
    let warning = format!(
        "the label {KEY} is out of the pod template; in a namespace that is labelled {KEY}={ENABLED} that is not enough: \
         there, write the label {KEY}: {DISABLED} into the pod template"
    );
    Ok(Outcome::changed(Decision::TemplateUnlabelled, edit.into_patch(), vec![warning]))
}

/// Whether pods without the label would no longer belong to the workload.
fn selects_by_label(workload: &Value) -> bool {
    let selector = &workload["spec"]["selector"];
    let expressions = selector["matchExpressions"].as_array().map(Vec::as_slice).unwrap_or_default();
    !selector["matchLabels"][KEY].is_null() || expressions.iter().any(|expression| expression["key"] == KEY)
}

/// What the pods of this template will meet. Told here, because this is where a person is looking: the refusal of a pod
/// shows up only in the workload's Events.
fn foresee(workload: &Value, patch: &Patch, settings: &Settings, defaults: &Defaults) -> Vec<String> {
    let mut template = json!({ "spec": { "template": workload["spec"]["template"] } });
    if json_patch::patch(&mut template, patch).is_err() {
        return Vec::new();
    }
    let template = &template["spec"]["template"];
    // How the account fares is found out when a pod comes.
    let outcome = Survey::of(template, settings, defaults).inject(&Account::Ready);
    match outcome.message {
        Some(message) if outcome.denied => vec![format!("pods of this template will be refused: {message}")],
        _ => outcome.warnings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(annotations: Value, labels: Value) -> Value {
        json!({
            "kind": "StatefulSet",
            "metadata": {"name": "geth", "annotations": annotations},
            "spec": {
                "selector": {"matchLabels": {"app": "geth"}},
                "tomorrow": {"field": 1},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "geth", "image": "ethereum/client-go:v1.17.5"}]}
                }
            }
        })
    }

    fn review(object: Value, old_object: Value) -> Review {
        Review {
            api_version: "admission.k8s.io/v1".into(),
            uid: "1".into(),
            resource: "statefulsets".into(),
            sub_resource: String::new(),
            namespace: "chain".into(),
            name: "geth".into(),
            operation: if old_object.is_null() { Operation::Create } else { Operation::Update },
            dry_run: false,
            object,
            old_object,
        }
    }

    /// The outcome, and the object with its patch applied; what the patch makes must need no further change.
    fn mutated(object: Value, old_object: Value) -> (Outcome, Value) {
        let outcome = mutate(&review(object.clone(), old_object.clone()), &Settings::example(), &Defaults::default());
        let mut patched = object;
        json_patch::patch(&mut patched, &outcome.patch).unwrap();
        let again = mutate(&review(patched.clone(), old_object), &Settings::example(), &Defaults::default());
        assert!(again.patch.is_empty(), "not idempotent: {}", again.patch);
        (outcome, patched)
    }

    fn template_labels(workload: &Value) -> &Value {
        &workload["spec"]["template"]["metadata"]["labels"]
    }

    #[test]
    fn does_the_annotation_alone_label_the_template() {
        for (labels, expected) in [
            (json!({"app": "geth"}), json!({"app": "geth", KEY: ENABLED})),
            (json!(null), json!({KEY: ENABLED})),
            (json!({"app": "geth", KEY: DISABLED}), json!({"app": "geth", KEY: ENABLED})),
        ] {
            let (outcome, patched) = mutated(workload(json!({KEY: ENABLED}), labels), Value::Null);
            assert_eq!(outcome.decision, Decision::TemplateLabelled);
            assert_eq!(template_labels(&patched), &expected);
            assert_eq!(patched["spec"]["tomorrow"], json!({"field": 1}));
            assert_eq!(outcome.warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn does_a_template_without_metadata_get_the_label() {
        let mut object = workload(json!({KEY: ENABLED}), json!({}));
        object["spec"]["template"].as_object_mut().unwrap().remove("metadata");
        let (_, patched) = mutated(object, Value::Null);
        assert_eq!(template_labels(&patched), &json!({KEY: ENABLED}));
    }

    #[test]
    fn does_disabling_or_removing_the_annotation_take_the_label_out() {
        let labels = json!({"app": "geth", KEY: ENABLED});
        let old = workload(json!({KEY: ENABLED}), labels.clone());
        for annotations in [json!({KEY: DISABLED}), json!({}), json!(null)] {
            let (outcome, patched) = mutated(workload(annotations, labels.clone()), old.clone());
            assert_eq!(outcome.decision, Decision::TemplateUnlabelled);
            assert_eq!(template_labels(&patched), &json!({"app": "geth"}));
            // In a labelled namespace the pods would be injected all the same.
            assert!(
                outcome.warnings[0].contains("geth-peering: disabled into the pod template"),
                "{:?}",
                outcome.warnings
            );
        }
    }

    #[test]
    fn is_a_label_that_the_user_wrote_left_alone() {
        let own = workload(json!({}), json!({KEY: ENABLED}));
        for (object, old) in [
            (own.clone(), Value::Null),
            (own.clone(), own),
            (workload(json!({KEY: DISABLED}), json!({KEY: DISABLED})), Value::Null),
            (workload(json!(null), json!(null)), Value::Null),
        ] {
            let (outcome, patched) = mutated(object.clone(), old);
            assert_eq!(outcome.decision, Decision::WorkloadUnchanged);
            assert_eq!(patched, object);
        }
    }

    #[test]
    fn does_a_label_that_the_workload_selects_by_stay() {
        let labels = json!({"app": "geth", KEY: ENABLED});
        for selector in
            [json!({"matchLabels": {KEY: ENABLED}}), json!({"matchExpressions": [{"key": KEY, "operator": "Exists"}]})]
        {
            let mut object = workload(json!({KEY: DISABLED}), labels.clone());
            object["spec"]["selector"] = selector;
            let (outcome, patched) = mutated(object.clone(), Value::Null);
            assert_eq!(patched, object);
            assert!(outcome.warnings[0].contains("spec.selector"), "{:?}", outcome.warnings);
        }
    }

    #[test]
    fn is_a_bad_value_refused_with_what_to_write() {
        for value in ["", "true", "Enabled"] {
            let (outcome, _) = mutated(workload(json!({KEY: value}), json!({})), Value::Null);
            assert_eq!((outcome.decision, outcome.denied), (Decision::BadWorkloadAnnotation, true));
            assert!(outcome.message.unwrap().contains("write enabled or disabled"));
        }
    }

    #[test]
    fn does_a_bad_value_from_before_keep_nobody_from_changing_the_workload() {
        let old = workload(json!({KEY: "true"}), json!({"app": "geth"}));
        let mut scaled = old.clone();
        scaled["spec"]["replicas"] = json!(3);
        let (outcome, patched) = mutated(scaled.clone(), old.clone());
        assert_eq!((outcome.decision, outcome.denied), (Decision::BadWorkloadAnnotation, false));
        assert_eq!(patched, scaled);
        assert!(outcome.warnings[0].contains("write enabled or disabled"), "{:?}", outcome.warnings);
        let (worse, _) = mutated(workload(json!({KEY: "yes".repeat(1000)}), json!({})), old);
        assert!(worse.denied && worse.message.unwrap().len() < 200);
    }

    #[test]
    fn is_whoever_annotates_warned_of_pods_that_cannot_be_injected() {
        let mut object = workload(json!({KEY: ENABLED}), json!({}));
        object["spec"]["template"]["spec"]["containers"][0] = json!({"name": "web", "image": "nginx"});
        let (outcome, _) = mutated(object, Value::Null);
        assert!(!outcome.denied);
        assert!(outcome.warnings[0].contains("geth-peering/container"), "{:?}", outcome.warnings);
    }

    #[test]
    fn is_anything_but_the_workload_itself_passed() {
        let object = workload(json!({KEY: ENABLED}), json!({}));
        let scale = Review { sub_resource: "scale".into(), ..review(object.clone(), Value::Null) };
        let delete = Review { operation: Operation::Delete, ..review(Value::Null, object.clone()) };
        let mut going = review(object, Value::Null);
        going.object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        for review in [scale, delete, going] {
            let outcome = mutate(&review, &Settings::example(), &Defaults::default());
            assert_eq!((outcome.decision, outcome.patch.is_empty()), (Decision::NotApplicable, true));
        }
    }
}
