//! The way back from an injection.
//!
//! What is made here from a patch takes back exactly its changes, from the last to the first. Each step first tests that
//! what it takes out is still what was put in, so an object that was edited meanwhile is never damaged: its step fails.

use json_patch::jsonptr::{PointerBuf, Token};
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation};
use serde_json::Value;
use thiserror::Error;

/// Fields that tell which item of a list this is; in lists of containers, variables, volumes and mounts they do.
const IDENTITY: [&str; 2] = ["name", "mountPath"];

/// The steps back, in the order in which they are to be taken. Each is a JSON Patch of its own.
pub(crate) type Steps = Vec<Patch>;

/// A step back that cannot be taken any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path} is not as it was left")]
pub(crate) struct Changed {
    path: String,
}

/// The way back from what `patch` makes of `original`. None if it does not apply to that.
pub(crate) fn steps(original: &Value, patch: &Patch) -> Option<Steps> {
    let mut object = original.clone();
    let mut forward = Vec::new();
    for operation in &patch.0 {
        forward.push(back(&object, operation)?);
        json_patch::patch(&mut object, std::slice::from_ref(operation)).ok()?;
    }
    Some(forward.into_iter().rev().flatten().collect())
}

/// Takes the steps.
///
/// # Errors
/// When one cannot be taken. What those before it did is done then.
pub(crate) fn take(object: &mut Value, steps: &Steps) -> Result<(), Changed> {
    for step in steps {
        if let Err(error) = json_patch::patch(object, step)
            && !is_of_container(step)
        {
            return Err(Changed { path: error.path.to_string() });
        }
    }
    Ok(())
}

/// Whether all that a step does is to remove a list or map that was made for what was put into it. If it is not empty,
/// somebody has come to use it too.
fn is_of_container(step: &Patch) -> bool {
    let empty = |value: &Value| *value == Value::Array(Vec::new()) || *value == Value::Object(serde_json::Map::new());
    matches!(step.0.first(), Some(PatchOperation::Test(test)) if empty(&test.value))
}

/// The steps back from one operation on `object`. None if it does not apply.
fn back(object: &Value, operation: &PatchOperation) -> Option<Steps> {
    Some(match operation {
        PatchOperation::Add(AddOperation { path, value }) => {
            let (path, before) = target(object, path)?;
            out(&path, value, before)
        }
        PatchOperation::Replace(ReplaceOperation { path, value }) => {
            vec![restored(path, value, object.pointer(path.as_str())?)]
        }
        PatchOperation::Remove(RemoveOperation { path }) => {
            let value = object.pointer(path.as_str())?.clone();
            let add = PatchOperation::Add(AddOperation { path: path.clone(), value });
            let (parent, _) = path.split_back()?;
            let mut after = object.clone();
            json_patch::patch(&mut after, std::slice::from_ref(operation)).ok()?;
            let around = after.pointer(parent.as_str())?.clone();
            // Between the items of a list that has changed, the old place would be any place.
            let guard = around.is_array().then(|| test(parent.to_buf(), around));
            vec![Patch(guard.into_iter().chain([add]).collect())]
        }
        PatchOperation::Test(_) => Vec::new(),
        // The injector uses neither.
        PatchOperation::Move(_) | PatchOperation::Copy(_) => return None,
    })
}

/// Where an `add` puts its value, and what is there before.
fn target<'a>(object: &'a Value, path: &PointerBuf) -> Option<(PointerBuf, Option<&'a Value>)> {
    let (parent, last) = path.split_back()?;
    match object.pointer(parent.as_str())? {
        Value::Array(items) => {
            let mut place = parent.to_buf();
            let index = if last.decoded() == "-" { items.len() } else { last.decoded().parse().ok()? };
            place.push_back(Token::from(index));
            Some((place, None))
        }
        map => Some((path.clone(), map.get(last.decoded().as_ref()))),
    }
}

/// The steps that take out what an `add` put there.
fn out(path: &PointerBuf, value: &Value, before: Option<&Value>) -> Steps {
    let child = |name: String| {
        let mut place = path.clone();
        place.push_back(Token::new(name));
        place
    };
    let is_item = path.back().is_some_and(|last| last.decoded().parse::<usize>().is_ok());
    match (value, before) {
        // A list or map that was made for what is in it: its content goes, and then, if nothing else came, it too.
        (Value::Array(items), None | Some(Value::Null)) => {
            let inner = items.iter().enumerate().rev().flat_map(|(at, item)| out(&child(at.to_string()), item, None));
            let empty = Value::Array(Vec::new());
            inner.chain([restored_or_removed(path, vec![test(path.clone(), empty)], before)]).collect()
        }
        (Value::Object(members), None | Some(Value::Null)) if !is_item => {
            let inner = members.iter().rev().flat_map(|(name, member)| out(&child(name.clone()), member, None));
            let empty = Value::Object(serde_json::Map::new());
            inner.chain([restored_or_removed(path, vec![test(path.clone(), empty)], before)]).collect()
        }
        (Value::Object(members), _) if is_item && IDENTITY.iter().any(|name| members.contains_key(*name)) => {
            let named = IDENTITY.iter().filter_map(|name| Some(((*name).to_owned(), members.get(*name)?)));
            let tests = named.map(|(name, value)| test(child(name), value.clone())).collect();
            vec![restored_or_removed(path, tests, before)]
        }
        _ => vec![restored_or_removed(path, vec![test(path.clone(), value.clone())], before)],
    }
}

fn restored(path: &PointerBuf, now: &Value, before: &Value) -> Patch {
    restored_or_removed(path, vec![test(path.clone(), now.clone())], Some(before))
}

fn restored_or_removed(path: &PointerBuf, mut step: Vec<PatchOperation>, before: Option<&Value>) -> Patch {
    step.push(match before {
        Some(old) => PatchOperation::Replace(ReplaceOperation { path: path.clone(), value: old.clone() }),
        None => PatchOperation::Remove(RemoveOperation { path: path.clone() }),
    });
    Patch(step)
}

fn test(path: PointerBuf, value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation { path, value })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the patch makes of the original, and the way back.
    fn there(original: &Value, patch: &Value) -> (Value, Steps) {
        let patch: Patch = serde_json::from_value(patch.clone()).unwrap();
        let steps = steps(original, &patch).unwrap();
        let mut object = original.clone();
        json_patch::patch(&mut object, &patch).unwrap();
        (object, steps)
    }

    #[test]
    fn does_every_kind_of_change_come_undone() {
        for (original, patch) in [
            (json!({}), json!([{"op": "add", "path": "/a", "value": {"b": {"c/d": 1}}}])),
            (json!({"a": null}), json!([{"op": "add", "path": "/a", "value": [{"name": "x"}, {"name": "y"}]}])),
            (json!({"a": [{"name": "x"}]}), json!([{"op": "add", "path": "/a/-", "value": {"name": "y", "z": []}}])),
            (json!({"a": 1}), json!([{"op": "add", "path": "/a", "value": 2}])),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/a", "value": 2}])),
            (
                json!({"a": ["x", "y", "z"]}),
                json!([{"op": "remove", "path": "/a/1"}, {"op": "replace", "path": "/a/1", "value": "Z"}]),
            ),
            (
                json!({"a": {"b": 1}}),
                json!([{"op": "remove", "path": "/a/b"}, {"op": "add", "path": "/a/b", "value": 2}]),
            ),
        ] {
            let (mut object, steps) = there(&original, &patch);
            assert_ne!(object, original);
            take(&mut object, &steps).unwrap();
            assert_eq!(object, original, "{patch}");
        }
    }

    #[test]
    fn does_what_others_added_meanwhile_stay() {
        let original = json!({"env": [{"name": "A"}]});
        let patch = json!([
            {"op": "add", "path": "/annotations", "value": {"ours": "1"}},
            {"op": "add", "path": "/env/-", "value": {"name": "B"}},
            {"op": "add", "path": "/volumes", "value": [{"name": "ours"}]},
        ]);
        let (mut object, steps) = there(&original, &patch);
        object["annotations"]["theirs"] = json!("2");
        object["env"].as_array_mut().unwrap().push(json!({"name": "C"}));
        object["volumes"].as_array_mut().unwrap().push(json!({"name": "theirs"}));
        take(&mut object, &steps).unwrap();
        let expected = json!({
            "annotations": {"theirs": "2"},
            "env": [{"name": "A"}, {"name": "C"}],
            "volumes": [{"name": "theirs"}],
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn is_what_is_no_longer_ours_never_taken_out() {
        for (original, patch, changed, path) in [
            (
                json!({"env": []}),
                json!([{"op": "add", "path": "/env/-", "value": {"name": "B"}}]),
                json!({"env": [{"name": "first"}, {"name": "B"}]}),
                "/env/0/name",
            ),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/a", "value": 2}]), json!({"a": 3}), "/a"),
            (json!({"a": ["x", "y"]}), json!([{"op": "remove", "path": "/a/1"}]), json!({"a": ["q", "x"]}), "/a"),
        ] {
            let (_, steps) = there(&original, &patch);
            let mut object = changed.clone();
            let Changed { path: at } = take(&mut object, &steps).unwrap_err();
            assert_eq!((object, at.as_str()), (changed, path));
        }
    }
}
