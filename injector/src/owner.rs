//! Who is told about a pod: the workload that a person wrote. Of a Deployment's pod that is the Deployment, not the ReplicaSet
//! that it made and that nobody looks at.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::Api;

use crate::api::{CALL_DEADLINE, within};

/// The API group and version of both kinds.
const APPS: &str = "apps/v1";

/// The controller of an object of `namespace`, in which it is, too.
pub(crate) fn controller(object: &ObjectMeta, namespace: &str) -> Option<ObjectReference> {
    let owner = object.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    Some(reference(owner, namespace))
}

/// Who is told about a pod that is there: its controller, or the pod itself if it has none.
pub(crate) fn of_pod(pod: &ObjectMeta, namespace: &str) -> ObjectReference {
    controller(pod, namespace).unwrap_or_else(|| ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    })
}

fn reference(owner: &OwnerReference, namespace: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        uid: Some(owner.uid.clone()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    }
}

/// The Deployment that made `owner`, if that is a ReplicaSet and can be looked at; else `owner` itself: an Event there is better
/// than none.
pub(crate) async fn workload(client: &Client, owner: ObjectReference) -> ObjectReference {
    let (Some(namespace), Some(name)) = (owner.namespace.as_deref(), owner.name.as_deref()) else { return owner };
    if !is(&owner, "ReplicaSet") {
        return owner;
    }
    let api: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    let call = api.get_metadata(name);
    match within(CALL_DEADLINE, format!("read the ReplicaSet {namespace}/{name}"), call).await {
        Ok(replica_set) => deployment(&owner, &replica_set.metadata).unwrap_or(owner),
        Err(error) => {
            tracing::debug!("{error}; it is told itself");
            owner
        }
    }
}

/// The Deployment that made the ReplicaSet of this reference and these metadata.
fn deployment(replica_set: &ObjectReference, metadata: &ObjectMeta) -> Option<ObjectReference> {
    // One of the same name that was made since belongs to somebody else.
    if replica_set.uid.is_some() && replica_set.uid != metadata.uid {
        return None;
    }
    controller(metadata, replica_set.namespace.as_deref()?).filter(|owner| is(owner, "Deployment"))
}

fn is(owner: &ObjectReference, kind: &str) -> bool {
    owner.api_version.as_deref() == Some(APPS) && owner.kind.as_deref() == Some(kind)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn is_a_replica_set_followed_to_the_deployment_that_made_it_and_to_nobody_else() {
        let replica_set: ObjectReference = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "geth-5f", "uid": "r-1", "namespace": "chain",
        }))
        .unwrap();
        let made_by = |api: &str, kind: &str, uid: &str| -> ObjectMeta {
            let owner: Value =
                json!({"apiVersion": api, "kind": kind, "name": "geth", "uid": "d-1", "controller": true});
            serde_json::from_value(json!({"name": "geth-5f", "uid": uid, "ownerReferences": [owner]})).unwrap()
        };
        let found = deployment(&replica_set, &made_by("apps/v1", "Deployment", "r-1")).unwrap();
        assert_eq!((found.kind.as_deref(), found.name.as_deref()), (Some("Deployment"), Some("geth")));
        assert_eq!((found.uid.as_deref(), found.namespace.as_deref()), (Some("d-1"), Some("chain")));
        for metadata in [
            made_by("argoproj.io/v1alpha1", "Rollout", "r-1"),
            made_by("example.org/v1", "Deployment", "r-1"),
            made_by("apps/v1", "Deployment", "r-2"),
            ObjectMeta { uid: Some("r-1".to_owned()), ..ObjectMeta::default() },
        ] {
            assert_eq!(deployment(&replica_set, &metadata), None, "{metadata:?}");
        }
    }
}
