//! Injection without a webhook: manifests go in as text and come out as text.
//!
//! Pure, and by the same code as the webhook's: [`inject`](crate::inject) decides about every pod and every template of
//! pods. What was put in is written down beside it (annotation `geth-peering/undo`), so that it can be taken out again to
//! the last detail. A manifest that cannot be injected though it asks for it, or that cannot be undone, fails the whole
//! stream: half of a network would be worse than an error.

mod documents;
mod rights;
mod template;
mod undo;

use std::fmt::Write as _;

use serde_json::{Value, json};
use thiserror::Error;

use crate::decision::Decision;
use crate::inject::{
    Account, AccountPlan, DISABLED, Defaults, ENABLED, KEY, Outcome, SIDECAR, Settings, Survey, UNDO, text,
};
use crate::workload::bad_annotation;
use documents::Document;
use rights::Needed;

pub use rights::rules;

/// How to inject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// What the sidecars are like.
    pub settings: Settings,
    /// Where manifests that name no namespace will be applied.
    pub namespace: Option<String>,
    /// Add what gives the sidecars their rights.
    pub rights: bool,
}

/// What became of a stream of manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The manifests.
    pub text: String,
    /// What was done to each pod or template, and what people should know, a line each.
    pub report: String,
}

/// Why nothing was written.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not YAML or JSON.
    #[error("manifest {number} cannot be read: {error}")]
    Unreadable {
        /// Its place in the stream, from 1.
        number: usize,
        /// Why.
        error: String,
    },
    /// The result has no text that says the same.
    #[error("a manifest cannot be written: {0}")]
    Unwritable(String),
    /// It asks for peering and cannot have it.
    #[error("{object} cannot be injected ({word}): {message}")]
    Refused {
        /// Kind and name.
        object: String,
        /// The decision's word.
        word: &'static str,
        /// What to write.
        message: String,
    },
    /// It is not known where the rights have to be.
    #[error(
        "{0} names no namespace, and its sidecars need rights in theirs: \
         add --namespace, or --without-rbac if the ServiceAccount and its rights are there already"
    )]
    NoNamespace(String),
    /// What was put in cannot be taken out.
    #[error("{object} cannot be undone: {why}; take the sidecar out of the manifest it was made from")]
    NotUndone {
        /// Kind and name.
        object: String,
        /// What is in the way.
        why: String,
    },
}

/// Puts the sidecar into every Geth pod of a stream of manifests.
///
/// # Errors
/// See [`ManifestError`].
pub fn inject(text: &str, injection: &Injection) -> Result<Rewritten, ManifestError> {
    let mut report = String::new();
    let mut needed = Needed::default();
    let mut documents = documents::read(text)?;
    let mut written = String::new();
    for document in &mut documents {
        let before = document.value.clone();
        template::for_each(&mut document.value, &mut |object| {
            inject_object(object, injection, &mut needed, &mut report)
        })?;
        push(&mut written, &if document.value == before { document.as_read() } else { document.written()? });
    }
    let json = documents.first().is_some_and(Document::is_json);
    for object in needed.objects(&injection.settings.configmap_names) {
        let _ = writeln!(report, "{}: added", named(&object));
        push(&mut written, &Document::new(object, json).written()?);
    }
    Ok(Rewritten { text: written, report })
}

/// Takes out of a stream of manifests what [`inject`] put in.
///
/// # Errors
/// See [`ManifestError`].
pub fn uninject(text: &str) -> Result<Rewritten, ManifestError> {
    let mut report = String::new();
    let mut written = String::new();
    for mut document in documents::read(text)? {
        if rights::is_ours(&document.value) {
            let _ = writeln!(report, "{}: removed", named(&document.value));
            continue;
        }
        let before = document.value.clone();
        template::for_each(&mut document.value, &mut |object| uninject_object(object, &mut report))?;
        push(&mut written, &if document.value == before { document.as_read() } else { document.written()? });
    }
    Ok(Rewritten { text: written, report })
}

/// Adds a document, which has to begin on a line of its own.
fn push(text: &mut String, document: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(document);
}

fn inject_object(
    object: &mut Value,
    injection: &Injection,
    needed: &mut Needed,
    report: &mut String,
) -> Result<(), ManifestError> {
    let (name, namespace) = (named(object), namespace(object));
    let asked = object["metadata"]["annotations"][KEY].as_str().map(str::to_owned);
    let is_pod = object["kind"] == "Pod";
    let Some(template) = template::of(object) else { return Ok(()) };
    let (outcome, account) = match asked.as_deref().filter(|_| !is_pod) {
        Some(DISABLED) => (Outcome::unchanged(Decision::Disabled), None),
        None | Some(ENABLED) => injected(template, &injection.settings)?,
        Some(other) => {
            let message = bad_annotation(other);
            let word = Decision::BadWorkloadAnnotation.word();
            return Err(ManifestError::Refused { object: name, word, message });
        }
    };
    let word = outcome.decision.word();
    let wanted = outcome.denied || asked.as_deref() == Some(ENABLED);
    // What is repaired comes with a message, too.
    if let Some(message) = outcome.message.clone().filter(|_| wanted && outcome.patch.is_empty()) {
        return Err(ManifestError::Refused { object: name, word, message });
    }
    let _ = writeln!(report, "{name}: {word}");
    for warning in &outcome.warnings {
        let _ = writeln!(report, "{name}: warning: {warning}");
    }
    if let Some(plan) = account.filter(|_| injection.rights) {
        match namespace.or_else(|| injection.namespace.clone()) {
            Some(namespace) => needed.by(&namespace, &plan),
            None => return Err(ManifestError::NoNamespace(name)),
        }
    }
    Ok(())
}

/// Injects one pod or template, and writes the way back beside it. Also tells the account that it will run with.
fn injected(template: &mut Value, settings: &Settings) -> Result<(Outcome, Option<AccountPlan>), ManifestError> {
    let mut pod = template.clone();
    // What an earlier injection put in comes out after what this one repairs.
    let earlier = take_record(&mut pod).and_then(Result::ok).unwrap_or_default();
    // Namespaces are somebody else's manifests, and what is on the cluster is not looked at.
    let survey = Survey::of(&pod, settings, &Defaults::default());
    let account = survey.account().cloned();
    let outcome = survey.inject(&Account::Ready);
    let Some(steps) = undo::steps(&pod, &outcome.patch).filter(|steps| !steps.is_empty()) else {
        return Ok((outcome, account));
    };
    json_patch::patch(&mut pod, &outcome.patch).map_err(|error| ManifestError::Unwritable(error.to_string()))?;
    let steps: undo::Steps = steps.into_iter().chain(earlier).collect();
    pod["metadata"]["annotations"][UNDO] = json!(json!(steps).to_string());
    *template = pod;
    Ok((outcome, account))
}

fn uninject_object(object: &mut Value, report: &mut String) -> Result<(), ManifestError> {
    let name = named(object);
    let Some(template) = template::of(object) else { return Ok(()) };
    let not_undone = |why: String| ManifestError::NotUndone { object: name.clone(), why };
    let was_injected = has_sidecar(template);
    let mut pod = template.clone();
    let Some(steps) = take_record(&mut pod) else {
        let reason = format!("it has no annotation {UNDO}, because a webhook injected it");
        return if was_injected { Err(not_undone(reason)) } else { Ok(()) };
    };
    let steps = steps.map_err(|error| not_undone(format!("its annotation {UNDO} cannot be read: {error}")))?;
    undo::take(&mut pod, &steps).map_err(|changed| not_undone(changed.to_string()))?;
    *template = pod;
    let _ = writeln!(report, "{name}: uninjected");
    Ok(())
}

fn has_sidecar(pod: &Value) -> bool {
    let lists = [&pod["spec"]["initContainers"], &pod["spec"]["containers"]];
    lists.into_iter().filter_map(Value::as_array).flatten().any(|container| container["name"] == SIDECAR)
}

/// Takes the way back out of a pod or template.
fn take_record(pod: &mut Value) -> Option<Result<undo::Steps, String>> {
    let record = pod.pointer_mut("/metadata/annotations")?.as_object_mut()?.remove(UNDO)?;
    let text = record.as_str().unwrap_or_default();
    Some(serde_json::from_str(text).map_err(|error| text::error(&error)))
}

/// An object as reports name it.
fn named(object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().or_else(|| metadata["generateName"].as_str()).unwrap_or("without name");
    let kind = object["kind"].as_str().unwrap_or("object");
    match namespace(object) {
        Some(namespace) => text::shown(&format!("{kind} {namespace}/{name}")),
        None => text::shown(&format!("{kind} {name}")),
    }
}

fn namespace(object: &Value) -> Option<String> {
    object["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty()).map(str::to_owned)
}
