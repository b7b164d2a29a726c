//! What sidecars may do where no injector prepares namespaces: the objects that have to be applied with the pods.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::api::managed_by_us;
use crate::inject::{ACCOUNT_NAME, AccountPlan};

/// Name of the Role and the RoleBinding. Not that of the injector's own RoleBinding, whose role is another and cannot be
/// changed.
const NAME: &str = "geth-peering-sidecar";

/// An account, by namespace and name.
type Account = (String, String);

/// Which accounts need rights in which namespace.
#[derive(Debug, Default)]
pub(super) struct Needed {
    accounts: BTreeMap<String, BTreeSet<Account>>,
    to_create: BTreeSet<String>,
}

impl Needed {
    /// A pod of `namespace` will run with the account of `plan`.
    pub(super) fn by(&mut self, namespace: &str, plan: &AccountPlan) {
        if plan.name == ACCOUNT_NAME {
            self.to_create.insert(namespace.to_owned());
        }
        for place in [Some(namespace), plan.registry.as_deref()].into_iter().flatten() {
            let account = (namespace.to_owned(), plan.name.clone());
            self.accounts.entry(place.to_owned()).or_default().insert(account);
        }
    }

    /// The objects that give them.
    pub(super) fn objects(&self, configmaps: &[String]) -> Vec<Value> {
        let accounts = self.to_create.iter().map(|namespace| {
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(namespace, ACCOUNT_NAME),
                "automountServiceAccountToken": false })
        });
        let rights = self.accounts.iter().flat_map(|(namespace, accounts)| {
            let subjects: Vec<Value> = accounts
                .iter()
                .map(|(namespace, name)| json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace }))
                .collect();
            [
                json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                    "metadata": metadata(namespace, NAME), "rules": rules(configmaps) }),
                json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                    "metadata": metadata(namespace, NAME), "subjects": subjects,
                    "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME } }),
            ]
        });
        accounts.chain(rights).collect()
    }
}

/// Whether an object of a manifest is one of these.
pub(super) fn is_ours(object: &Value) -> bool {
    let ours = managed_by_us();
    object["kind"].as_str().is_some_and(|kind| ["ServiceAccount", "Role", "RoleBinding"].contains(&kind))
        && ours.iter().all(|(key, value)| object["metadata"]["labels"][key] == **value)
}

fn metadata(namespace: &str, name: &str) -> Value {
    json!({ "name": name, "namespace": namespace, "labels": managed_by_us() })
}

/// What the chart's ClusterRole for sidecars allows; a test of the chart compares them.
#[must_use]
pub fn rules(configmaps: &[String]) -> Value {
    json!([
        { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"] },
        { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": configmaps,
            "verbs": ["get", "list", "watch", "patch"] },
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] },
        { "apiGroups": [""], "resources": ["events"], "verbs": ["create"] },
    ])
}
