//! Changes to the RoleBinding of a namespace, each made only to the version that was read.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{RoleBinding, Subject};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use super::NAME;
use super::index::{Holder, SERVICE_ACCOUNT, holders_of};
use crate::api::{ApiError, CALL_DEADLINE, within};

/// A binding that was there a moment ago is not any more; a missing namespace looks the same, but only on creation.
pub(super) fn is_gone(error: &ApiError, existed: bool) -> bool {
    existed && error.is_not_found()
}

/// Adds subjects to exactly the version that was read, and leaves every other field to its owner.
pub(super) async fn change_subjects(
    bindings: &Api<RoleBinding>,
    binding: &RoleBinding,
    namespace: &str,
    subjects: &[Subject],
) -> Result<RoleBinding, ApiError> {
    let patch = json!({
        "metadata": {"resourceVersion": binding.resource_version()},
        "subjects": subjects,
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    let call = bindings.patch(NAME, &params, &patch);
    within(CALL_DEADLINE, format!("change the RoleBinding {namespace}/{NAME}"), call).await
}

/// Deletes exactly the binding that was read; that it is gone already is as good.
pub(super) async fn delete_binding(
    bindings: &Api<RoleBinding>,
    binding: &RoleBinding,
    namespace: &str,
) -> Result<(), ApiError> {
    tracing::info!(%namespace, role = %binding.role_ref.name, "the RoleBinding gives an outdated role; making it anew");
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: binding.uid(), resource_version: binding.resource_version() }),
        ..DeleteParams::default()
    };
    let what = format!("delete the RoleBinding {namespace}/{NAME}, whose role is outdated");
    match within(CALL_DEADLINE, what, bindings.delete(NAME, &params)).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The subjects of `binding` and `accounts`, each once; `None` if it has them all.
pub(super) fn with_accounts(binding: &RoleBinding, accounts: &BTreeSet<Holder>) -> Option<Vec<Subject>> {
    let bound = holders_of(binding);
    let mut lacking = accounts.difference(&bound).map(subject).peekable();
    lacking.peek()?;
    Some(binding.subjects.iter().flatten().cloned().chain(lacking).collect())
}

pub(super) fn subject(account: &Holder) -> Subject {
    Subject {
        kind: SERVICE_ACCOUNT.to_owned(),
        name: account.name.clone(),
        namespace: Some(account.namespace.clone()),
        api_group: None,
    }
}
