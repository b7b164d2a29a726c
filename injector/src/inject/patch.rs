//! Builds a JSON Patch while looking at its result.
//!
//! Every change is applied to a working copy of the object received as it is recorded. So a later step sees what an
//! earlier one did, indices are always right, and a patch that comes out of here applies to the object it was made for.
//! (The API server turns a patch that does not apply into an error, whatever the failure policy says.)

use json_patch::jsonptr::{PointerBuf, Token};
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::{Value, json};
use thiserror::Error;

/// The object cannot be changed at this place, because something there has the wrong type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path} is not of the type it must have")]
pub(crate) struct Misshapen {
    path: String,
}

/// A place in the object, from names that need no escaping by the caller.
pub(crate) fn place<const N: usize>(names: [&str; N]) -> PointerBuf {
    PointerBuf::from_tokens(names)
}

/// An object, and the changes made to it so far.
#[derive(Debug)]
pub(crate) struct Edit {
    object: Value,
    operations: Vec<PatchOperation>,
}

impl Edit {
    pub(crate) fn new(object: &Value) -> Self {
        Self { object: object.clone(), operations: Vec::new() }
    }

    /// The object as it is with the changes made so far.
    pub(crate) fn object(&self) -> &Value {
        &self.object
    }

    /// The value at a place, if there is one; null counts as none, as everywhere in the Kubernetes API.
    pub(crate) fn get(&self, place: &PointerBuf) -> Option<&Value> {
        self.object.pointer(place.as_str()).filter(|value| !value.is_null())
    }

    /// Adds an item to the end of a list, which is created where absent or null.
    pub(crate) fn append(&mut self, list: &PointerBuf, item: Value) -> Result<(), Misshapen> {
        match self.get(list) {
            None => self.set(list, json!([item])),
            Some(Value::Array(_)) => {
                let mut end = list.clone();
                end.push_back(Token::from("-"));
                self.apply(PatchOperation::Add(AddOperation { path: end, value: item }))
            }
            Some(_) => Err(Misshapen { path: list.to_string() }),
        }
    }

    /// Gives a member of a map a value; maps on the way are created where absent or null. No change if it has that value.
    pub(crate) fn set(&mut self, member: &PointerBuf, value: Value) -> Result<(), Misshapen> {
        if self.get(member) == Some(&value) {
            return Ok(());
        }
        let tokens: Vec<Token<'_>> = member.tokens().collect();
        for depth in 1..tokens.len() {
            let (above, below) = tokens.split_at(depth);
            let parent = PointerBuf::from_tokens(above);
            if self.get(&parent).is_none() {
                let value = below.iter().rev().fold(value, |inner, name| json!({ name.decoded(): inner }));
                return self.apply(PatchOperation::Add(AddOperation { path: parent, value }));
            }
        }
        self.apply(PatchOperation::Add(AddOperation { path: member.clone(), value }))
    }

    /// Puts a value in the place of one that is there.
    pub(crate) fn replace(&mut self, place: &PointerBuf, value: Value) -> Result<(), Misshapen> {
        self.apply(PatchOperation::Replace(ReplaceOperation { path: place.clone(), value }))
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, place: &PointerBuf) -> Result<(), Misshapen> {
        self.apply(PatchOperation::Remove(RemoveOperation { path: place.clone() }))
    }

    /// The places of the changes so far, in order.
    pub(crate) fn changed(&self) -> Vec<String> {
        self.operations.iter().map(|operation| operation.path().to_string()).collect()
    }

    /// The changes, in order.
    pub(crate) fn into_patch(self) -> Patch {
        Patch(self.operations)
    }

    fn apply(&mut self, operation: PatchOperation) -> Result<(), Misshapen> {
        json_patch::patch(&mut self.object, std::slice::from_ref(&operation))
            .map_err(|error| Misshapen { path: error.path.to_string() })?;
        self.operations.push(operation);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(object: Value, change: impl FnOnce(&mut Edit) -> Result<(), Misshapen>) -> (Value, Value) {
        let mut edit = Edit::new(&object);
        change(&mut edit).unwrap();
        let result = edit.object().clone();
        let patch = edit.into_patch();
        let mut applied = object;
        json_patch::patch(&mut applied, &patch).unwrap();
        assert_eq!(applied, result, "the working copy is what the patch makes of the object");
        (result, serde_json::to_value(patch).unwrap())
    }

    #[test]
    fn is_a_missing_or_null_parent_created() {
        for object in [json!({}), json!({"metadata": null}), json!({"metadata": {"annotations": null}})] {
            let (result, _) = after(object, |edit| edit.set(&place(["metadata", "annotations", "a/b~c"]), json!("d")));
            assert_eq!(result, json!({"metadata": {"annotations": {"a/b~c": "d"}}}));
        }
    }

    #[test]
    fn are_names_with_slash_and_tilde_escaped() {
        let object = json!({"metadata": {"annotations": {"x": "y"}}});
        let (result, patch) = after(object, |edit| edit.set(&place(["metadata", "annotations", "a/b~c"]), json!("d")));
        assert_eq!(result["metadata"]["annotations"], json!({"x": "y", "a/b~c": "d"}));
        assert_eq!(patch[0]["path"], "/metadata/annotations/a~1b~0c");
    }

    #[test]
    fn does_a_list_grow_whether_it_is_there_null_or_absent() {
        for object in [json!({"spec": {}}), json!({"spec": {"volumes": null}}), json!({"spec": {"volumes": []}})] {
            let (result, _) = after(object, |edit| {
                edit.append(&place(["spec", "volumes"]), json!(1))?;
                edit.append(&place(["spec", "volumes"]), json!(2))
            });
            assert_eq!(result, json!({"spec": {"volumes": [1, 2]}}));
        }
    }

    #[test]
    fn is_a_value_that_is_there_already_left_alone() {
        let (_, patch) = after(json!({"a": {"b": 1}}), |edit| edit.set(&place(["a", "b"]), json!(1)));
        assert_eq!(patch, json!([]));
    }

    #[test]
    fn is_a_wrong_type_an_error_and_never_a_patch_that_fails() {
        let object = json!({"spec": {"volumes": "none", "containers": 3}});
        let mut edit = Edit::new(&object);
        assert!(edit.append(&place(["spec", "volumes"]), json!(1)).is_err());
        assert!(edit.set(&place(["spec", "containers", "0", "env"]), json!([])).is_err());
        assert_eq!(edit.object(), &object);
        assert!(edit.into_patch().is_empty());
    }
}
