//! Calls to the API server: each has a deadline, and its failures have names.
//!
//! kube itself waits for an answer for ever and, unless told otherwise, repeats a
//! refused call up to 15 times (kube-client 5.0, `client/retry.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{Stream, StreamExt, future};
use k8s_openapi::api::core::v1::Pod;
use kube::core::Request;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, Resource as _};
use thiserror::Error;

/// How long one call may take where nobody waits for it.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Longer than a watch can be silent: the server ends it after 290 s, kube gives up at 295 s.
/// It is what ends a list that is never answered.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The label of everything the injector creates; what has it may be replaced, anything else is a user's.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "geth-peering");

/// [`MANAGED_BY`] as an object's labels.
pub fn managed_by_us() -> BTreeMap<String, String> {
    let (key, value) = MANAGED_BY;
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The API server said no, or could not be reached.
    #[error("cannot {what}: {}", describe(source))]
    Failed {
        /// What was to be done.
        what: String,
        /// What kube says.
        source: Box<kube::Error>,
    },
    /// No answer within the deadline.
    #[error("cannot {what}: the API server did not answer in time")]
    Late {
        /// What was to be done.
        what: String,
    },
}

impl ApiError {
    /// `what` was to be done and could not be.
    pub(crate) fn failed(what: impl Into<String>, source: kube::Error) -> Self {
        Self::Failed { what: what.into(), source: Box::new(source) }
    }

    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Failed { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.as_ref()),
                _ => None,
            },
            Self::Late { .. } => None,
        }
    }

    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }

    /// Whoever asks may not. Webhooks, quotas and Pod Security answer 403 as well.
    pub fn is_forbidden_by_rbac(&self) -> bool {
        self.status().is_some_and(|status| status.code == 403 && says_rbac(&status.message))
    }

    /// Somebody else created the object first.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_already_exists)
    }

    /// Somebody else changed the object first: its resourceVersion is no longer current.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_conflict)
    }

    /// Somebody else changed the object first: a `test` of a JSON Patch failed, which is a 422
    /// and not a 409 (apiserver `endpoints/handlers/patch.go`).
    pub fn is_failed_test(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_invalid)
    }
}

/// Whether these are the words for a missing right, `pods is forbidden: User "…" cannot create resource "pods" …`
/// (apiserver `endpoints/handlers/responsewriters/errors.go`, `forbiddenMessage`). Others say of pods what those cannot be.
fn says_rbac(message: &str) -> bool {
    let rest = message.split_once("is forbidden: User \"").and_then(|(_, rest)| rest.split_once("\" cannot "));
    let object = rest.and_then(|(_, rest)| rest.split_once(' ')).map(|(_verb, object)| object);
    object.is_some_and(|object| object.starts_with("resource \""))
}

/// The message of the API server alone, without the dump of the whole status that kube appends.
fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Requests for the pods of a namespace, whose answers are read as something else than whole pods.
pub(crate) fn at_pods(namespace: &str) -> Request {
    Request::new(Pod::url_path(&(), Some(namespace)))
}

/// Performs one call, `what` in words ("create the Secret a/b"), within `deadline`.
///
/// # Errors
/// If the call fails or takes longer.
pub async fn within<T>(
    deadline: Duration,
    what: impl Into<String>,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result.map_err(|source| ApiError::failed(what, source)),
        Err(_) => Err(ApiError::Late { what: what.into() }),
    }
}

/// A client for the cluster this process runs in, or for the current kubeconfig.
///
/// # Errors
/// If there is neither.
pub async fn client() -> anyhow::Result<Client> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}

/// A watch whose failures are logged, waited out (0.8 s to 30 s) and not passed on.
pub fn steady<T: Send + 'static>(
    what: &'static str,
    events: impl Stream<Item = watcher::Result<T>> + Send + 'static,
) -> futures::stream::BoxStream<'static, T> {
    events
        .default_backoff()
        .filter_map(move |event| {
            future::ready(event.inspect_err(|error| tracing::warn!(%error, "cannot watch {what}; trying again")).ok())
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_missing_right_told_from_what_else_forbids_a_pod() {
        let user = r#"User "system:serviceaccount:geth-peering:geth-peering-test" cannot"#;
        for (message, expected) in [
            (
                format!(r#"pods is forbidden: {user} create resource "pods" in API group "" in the namespace "chain""#),
                true,
            ),
            (
                format!(
                    r#"pods "a" is forbidden: {user} get resource "pods/proxy" in API group "" at the cluster scope"#
                ),
                true,
            ),
            (r#"admission webhook "policy.io" denied the request: pods cannot be privileged"#.to_owned(), false),
            (r#"admission webhook "x" denied the request: resource "pods" cannot be created"#.to_owned(), false),
            (r#"pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot"#.to_owned(), false),
            (
                r#"pods "a" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"#
                    .to_owned(),
                false,
            ),
        ] {
            assert_eq!(says_rbac(&message), expected, "{message}");
        }
    }
}
