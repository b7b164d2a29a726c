//! Where in an object of Kubernetes there are pods.

use serde_json::Value;

/// Calls `visit` with every object in a manifest: the object itself, or the items of a list.
pub(super) fn for_each<E>(object: &mut Value, visit: &mut impl FnMut(&mut Value) -> Result<(), E>) -> Result<(), E> {
    let is_list = object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match object.get_mut("items").and_then(Value::as_array_mut).filter(|_| is_list) {
        Some(items) => items.iter_mut().try_for_each(|item| for_each(item, visit)),
        None => visit(object),
    }
}

/// The pod, or the template of pods, in an object that has one. A resource that this program does not know may have
/// one as well, and may mean something else by it.
pub(super) fn of(object: &mut Value) -> Option<&mut Value> {
    let group = object["apiVersion"].as_str()?.split_once('/').map_or("", |(group, _)| group);
    let place = match (group, object["kind"].as_str()?) {
        ("", "Pod") => return Some(object),
        ("", "PodTemplate") => "/template",
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => "/spec/template",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    object.pointer_mut(place).filter(|template| template.is_object())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn is_every_pod_found_and_nothing_else_taken_for_one() {
        let template = json!({"spec": {"containers": []}});
        for (object, found) in [
            (json!({"apiVersion": "v1", "kind": "Pod", "spec": {}}), true),
            (json!({"apiVersion": "v1", "kind": "PodTemplate", "template": template}), true),
            (json!({"apiVersion": "v1", "kind": "ReplicationController", "spec": {"template": template}}), true),
            (json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"template": template}}), true),
            (json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template}}), true),
            (
                json!({"apiVersion": "batch/v1", "kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": template}}}}),
                true,
            ),
            (json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"template": null}}), false),
            (json!({"apiVersion": "apps/v1", "kind": "StatefulSet"}), false),
            (json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "spec": {"template": template}}), false),
            (json!({"apiVersion": "v1", "kind": "Service", "spec": {}}), false),
            (json!({"kind": "Pod"}), false),
            (json!(null), false),
        ] {
            assert_eq!(of(&mut object.clone()).is_some(), found, "{object}");
        }
    }

    #[test]
    fn are_all_items_of_lists_visited() {
        let mut list = json!({"kind": "List", "items": [{"n": 1}, {"kind": "PodList", "items": [{"n": 2}]}, {"n": 3}]});
        let mut seen = Vec::new();
        for_each(&mut list, &mut |object| {
            seen.push(object["n"].as_i64());
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(seen, [Some(1), Some(2), Some(3)]);
    }
}
