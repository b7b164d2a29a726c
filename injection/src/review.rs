//! The AdmissionReview as it comes in and as it goes out.
//!
//! Only what the injector needs is read; the object itself stays raw JSON, so that fields this build knows nothing of
//! are neither lost nor judged. The answer is a type of its own as well: its patch has to be base64 of the JSON Patch
//! (`k8s.io/api/admission/v1`, `AdmissionResponse.patch` is `[]byte`).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::inject::{Outcome, text};
use crate::object::without_managed_fields;

/// The only version there is since Kubernetes 1.22.
const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// HTTP status code of every refusal. Not 422: `kubectl apply --force` takes that one as a reason to delete the object.
const DENIED: u16 = 403;

/// Begins every warning, so that people know whom it comes from: `kubectl` prints no sender.
const WARNING_PREFIX: &str = "geth-peering: ";

/// What is being done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// The object is new.
    Create,
    /// The object changes.
    Update,
    /// The object goes.
    Delete,
    /// A connection to the object, such as `kubectl exec`.
    Connect,
}

/// One question of the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// Echoed in the answer.
    pub api_version: String,
    /// Identifies the question; the answer must carry the same.
    pub uid: String,
    /// Resource of the request, such as `pods`.
    pub resource: String,
    /// Subresource, such as `scale`; empty for the object itself.
    pub sub_resource: String,
    /// Namespace of the object, a DNS label; the object itself may not say it yet. Empty where an object has none.
    pub namespace: String,
    /// Name of the object; empty when the API server is to make one from `generateName`.
    pub name: String,
    /// What is being done.
    pub operation: Operation,
    /// True if nothing may be written anywhere on behalf of this request.
    pub dry_run: bool,
    /// The object as it shall become, without its `managedFields`; null on deletion.
    pub object: Value,
    /// The object as it is, without its `managedFields`; null on creation.
    pub old_object: Value,
}

/// Why a body is no review. The HTTP answer is 400. What the messages quote is clipped and escaped: it may come from
/// anybody.
#[derive(Debug, Error)]
pub enum ReviewError {
    /// Not JSON, or not of the shape of a review.
    #[error("the body is not an AdmissionReview: {0}")]
    Shape(String),
    /// A review of a version or kind that this webhook does not speak.
    #[error("expected apiVersion {API_VERSION}, kind {KIND}, got apiVersion {api_version}, kind {kind}")]
    Version {
        /// The body's `apiVersion`, in quotes.
        api_version: String,
        /// The body's `kind`, in quotes.
        kind: String,
    },
    /// An answer instead of a question.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// The namespace, in quotes, is none; it would go into URLs and the log.
    #[error("the request's namespace {0} is not a DNS label")]
    Namespace(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(default)]
    resource: GroupVersionResource,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    operation: Operation,
    #[serde(default, deserialize_with = "without_managed_fields")]
    object: Value,
    #[serde(default, deserialize_with = "without_managed_fields")]
    old_object: Value,
    #[serde(default)]
    dry_run: Option<bool>,
}

#[derive(Default, Deserialize)]
struct GroupVersionResource {
    resource: String,
}

/// Whether a text is a name as namespaces have it (RFC 1123, `validation.IsDNS1123Label` of Kubernetes).
fn is_dns_label(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('-') && !text.ends_with('-')
}

impl Review {
    /// Reads a request body.
    ///
    /// # Errors
    /// When the body is not a question of a version that this webhook speaks.
    pub fn parse(body: &[u8]) -> Result<Self, ReviewError> {
        // As a whole, which costs less than string by string.
        let body = std::str::from_utf8(body).map_err(|error| ReviewError::Shape(text::error(&error)))?;
        let Envelope { api_version, kind, request } =
            serde_json::from_str(body).map_err(|error| ReviewError::Shape(text::error(&error)))?;
        if api_version != API_VERSION || kind != KIND {
            let (api_version, kind) = (text::quoted(&api_version), text::quoted(&kind));
            return Err(ReviewError::Version { api_version, kind });
        }
        let request = request.ok_or(ReviewError::NoRequest)?;
        if !request.namespace.is_empty() && !is_dns_label(&request.namespace) {
            return Err(ReviewError::Namespace(text::quoted(&request.namespace)));
        }
        Ok(Self {
            api_version,
            uid: request.uid,
            resource: request.resource.resource,
            sub_resource: request.sub_resource,
            namespace: request.namespace,
            name: request.name,
            operation: request.operation,
            dry_run: request.dry_run.unwrap_or(false),
            object: request.object,
            old_object: request.old_object,
        })
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    api_version: String,
    kind: &'static str,
    response: Answer,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    // The API server refuses a patchType without a patch.
    #[serde(flatten)]
    patch: Option<PatchText>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Status {
    status: &'static str,
    code: u16,
    reason: &'static str,
    message: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct PatchText {
    patch_type: &'static str,
    /// Base64 of a JSON Patch.
    patch: String,
}

impl Response {
    /// The answer that an outcome amounts to.
    #[must_use]
    pub fn new(review: &Review, outcome: &Outcome) -> Self {
        let message = || outcome.message.clone().unwrap_or_else(|| outcome.decision.word().to_owned());
        let status = || Status { status: "Failure", code: DENIED, reason: "Forbidden", message: message() };
        let patch = || PatchText { patch_type: "JSONPatch", patch: BASE64.encode(written(&outcome.patch)) };
        let answer = Answer {
            uid: review.uid.clone(),
            allowed: !outcome.denied,
            status: outcome.denied.then(status),
            patch: (!outcome.denied && !outcome.patch.is_empty()).then(patch),
            audit_annotations: outcome.audit.clone(),
            warnings: outcome.warnings.iter().map(|warning| format!("{WARNING_PREFIX}{warning}")).collect(),
        };
        Self { api_version: review.api_version.clone(), kind: KIND, response: answer }
    }

    /// The body of the HTTP answer, whose status is 200 whatever was decided.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        written(self)
    }
}

/// As JSON.
fn written(json: &impl Serialize) -> Vec<u8> {
    // What has nothing but texts for keys can always be written.
    serde_json::to_vec(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decision::Decision;
    use json_patch::Patch;

    fn body() -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "fieldOfTomorrow": true,
            "request": {
                "uid": "8a1f",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "namespace": "chain",
                "operation": "CREATE",
                "userInfo": {"username": "system:serviceaccount:kube-system:statefulset-controller", "groups": []},
                "object": {"metadata": {"generateName": "geth-"}, "spec": {"tomorrow": [1]}},
                "oldObject": null,
                "dryRun": true,
                "options": {"kind": "CreateOptions"}
            }
        })
    }

    fn parse(body: &Value) -> Result<Review, ReviewError> {
        Review::parse(body.to_string().as_bytes())
    }

    fn answer(outcome: &Outcome) -> Value {
        serde_json::from_slice(&Response::new(&parse(&body()).unwrap(), outcome).to_vec()).unwrap()
    }

    #[test]
    fn is_a_review_of_the_api_server_understood() {
        let review = parse(&body()).unwrap();
        assert_eq!((review.uid.as_str(), review.resource.as_str()), ("8a1f", "pods"));
        assert_eq!((review.namespace.as_str(), review.name.as_str()), ("chain", ""));
        assert_eq!(review.operation, Operation::Create);
        assert!(review.dry_run);
        assert_eq!(review.object["spec"]["tomorrow"], json!([1]));
        assert_eq!(review.old_object, Value::Null);
    }

    #[test]
    fn is_a_body_that_is_no_question_an_error_and_not_a_pass() {
        let with = |pointer: &str, value: Value| {
            let mut body = body();
            *body.pointer_mut(pointer).unwrap() = value;
            parse(&body).unwrap_err()
        };
        for bytes in [b"\xff\xfe".as_slice(), b"{\"fieldOfTomorrow\": \"\xff\"}"] {
            let error = Review::parse(bytes).unwrap_err();
            assert!(matches!(&error, ReviewError::Shape(why) if why.contains("utf-8")), "{error}");
        }
        assert!(matches!(Review::parse(b"[]").unwrap_err(), ReviewError::Shape(_)));
        assert!(matches!(with("/request", Value::Null), ReviewError::NoRequest));
        assert!(matches!(with("/request/operation", json!("EAT")), ReviewError::Shape(_)));
        assert!(matches!(with("/apiVersion", json!("admission.k8s.io/v1beta1")), ReviewError::Version { .. }));
        assert!(matches!(with("/kind", json!("Pod")), ReviewError::Version { .. }));
        assert!(with("/apiVersion", json!("v2")).to_string().contains("admission.k8s.io/v1"));
        for namespace in ["a/b", "..", "Chain", "-a", "a-", "a\nb", "a?x=y", &"x".repeat(64)] {
            assert!(matches!(with("/request/namespace", json!(namespace)), ReviewError::Namespace(_)), "{namespace}");
        }
    }

    #[test]
    fn is_the_error_about_a_hostile_body_one_line_of_bearable_length() {
        let hostile = format!("x\n2026-01-01 ERROR {}", "x".repeat(1_000_000));
        for pointer in ["/apiVersion", "/kind", "/request/operation", "/request/dryRun", "/request/namespace"] {
            let mut body = body();
            *body.pointer_mut(pointer).unwrap() = json!(hostile);
            let message = parse(&body).unwrap_err().to_string();
            assert!(message.len() < 400 && !message.contains('\n'), "{pointer}: {message}");
        }
    }

    #[test]
    fn does_the_patch_travel_as_base64_of_a_json_patch() {
        let operations = json!([{"op": "add", "path": "/metadata/labels", "value": {"a/b": "c"}}]);
        let patch: Patch = serde_json::from_value(operations.clone()).unwrap();
        let outcome = Outcome {
            patch,
            warnings: vec!["look here".into()],
            audit: [("decision".to_owned(), "injected".to_owned())].into(),
            ..Outcome::unchanged(Decision::Injected)
        };
        let answer = answer(&outcome);
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        let response = &answer["response"];
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("8a1f"), &json!(true)));
        assert_eq!(response["patchType"], "JSONPatch");
        let decoded = BASE64.decode(response["patch"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&decoded).unwrap(), operations);
        assert_eq!(response["warnings"], json!(["geth-peering: look here"]));
        assert_eq!(response["auditAnnotations"], json!({"decision": "injected"}));
    }

    #[test]
    fn does_a_refusal_carry_its_sentence_and_no_patch() {
        let outcome = Outcome {
            denied: true,
            message: Some("write it so".into()),
            ..Outcome::unchanged(Decision::NoGethContainer)
        };
        let response = &answer(&outcome)["response"];
        assert_eq!(response["allowed"], false);
        assert_eq!(response["status"]["message"], "write it so");
        assert_eq!(response["status"]["code"], 403);
        assert_eq!((response.get("patch"), response.get("patchType")), (None, None));
    }

    #[test]
    fn is_an_answer_without_patch_free_of_a_patch_type() {
        let response = &answer(&Outcome::unchanged(Decision::AlreadyInjected))["response"];
        // The API server refuses a patchType without a patch.
        assert_eq!((response.get("patch"), response.get("patchType")), (None, None));
    }
}
