//! Why an account does not have a sidecar's rights, in words for whoever creates its pod.

use thiserror::Error;

use super::{NAME, REQUEST_DEADLINE};
use crate::api::ApiError;

/// Why an account does not have a sidecar's rights.
#[derive(Debug, Error)]
pub enum NotReady {
    /// The API server refused or did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Somebody else's binding has our name.
    #[error(
        "the RoleBinding {namespace}/{NAME} was not made by geth-peering and gives the role {found}, not {wanted}; \
         delete or rename it, and it is made anew"
    )]
    Foreign {
        /// Where it is.
        namespace: String,
        /// The role it gives.
        found: String,
        /// The role that sidecars need.
        wanted: String,
    },
    /// Others change the binding all the time.
    #[error("the RoleBinding {namespace}/{NAME} changes faster than it can be written")]
    Contended {
        /// Where it is.
        namespace: String,
    },
    /// The preparation was not done within a request's deadline.
    #[error("the API server did not answer within {} s; it is asked again", REQUEST_DEADLINE.as_secs())]
    Late,
    /// The preparation panicked.
    #[error("geth-peering failed to prepare namespace {namespace}, which is an error in it; its log has the details")]
    Failed {
        /// Which.
        namespace: String,
    },
    /// Nothing is made in this namespace.
    #[error("namespace {namespace} is excluded from peering (webhook.excludedNamespaces), so nothing is made in it")]
    Excluded {
        /// Which.
        namespace: String,
    },
    /// The injector has no rights in this namespace.
    #[error(
        "namespace {namespace} is not one of those geth-peering has rights in (rbac.namespaces), so nothing is made in it"
    )]
    OutOfScope {
        /// Which.
        namespace: String,
    },
    /// Nothing may be written for a dry run.
    #[error("namespace {namespace} is not prepared yet, and a dry run changes nothing; a real request prepares it")]
    DryRun {
        /// Which.
        namespace: String,
    },
}
