//! Builds a JSON Patch while looking at its result.
//!
//! Every change is checked against the object as it is with the changes recorded before it. So a later step sees what an
//! earlier one did, and a patch that comes out of here applies to the object it was made for. (The API server turns a patch
//! that does not apply into an error, whatever the failure policy says.)
//!
//! The object itself is not touched: to copy it, apply the changes to the copy and let go of it took a third of the time
//! of an injection.

use std::iter::successors;

use json_patch::jsonptr::{Pointer, PointerBuf, Token};
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::Value;
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

/// A map of these members, which take up no second copy as those of `json!` do.
pub(crate) fn map<const N: usize>(members: [(&str, Value); N]) -> Value {
    members.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

/// An object, and the changes made to it so far.
///
/// Items are taken out of a list from its end on, so that an item's place is always the one it was received at.
#[derive(Debug)]
pub(crate) struct Edit<'a> {
    object: &'a Value,
    operations: Vec<PatchOperation>,
}

impl<'a> Edit<'a> {
    pub(crate) fn new(object: &'a Value) -> Self {
        Self { object, operations: Vec::new() }
    }

    /// The object as it was received.
    pub(crate) fn object(&self) -> &'a Value {
        self.object
    }

    /// The value at a place, if there is one: what the last change that touched it left there, else what was received; null
    /// counts as none, as everywhere in the Kubernetes API. A list or map is as it was received or put there, whatever was
    /// changed within it since.
    pub(crate) fn get(&self, place: &Pointer) -> Option<&Value> {
        let changed = self.operations.iter().rev().find_map(|operation| {
            let inside = place.as_str().strip_prefix(operation.path().as_str())?;
            // It is none if only the beginning of a name is the same.
            let inside = Pointer::parse(inside).ok()?;
            Some(match operation {
                PatchOperation::Add(AddOperation { value, .. })
                | PatchOperation::Replace(ReplaceOperation { value, .. }) => inside.resolve(value).ok(),
                _ => None,
            })
        });
        changed.unwrap_or_else(|| place.resolve(self.object).ok()).filter(|value| !value.is_null())
    }

    /// Adds an item to the end of a list, which is created where absent or null.
    pub(crate) fn append(&mut self, list: &PointerBuf, item: Value) -> Result<(), Misshapen> {
        match self.get(list) {
            None => self.set(list, Value::Array(vec![item])),
            Some(Value::Array(_)) => {
                let mut end = list.clone();
                end.push_back(Token::from("-"));
                self.operations.push(PatchOperation::Add(AddOperation { path: end, value: item }));
                Ok(())
            }
            Some(_) => Err(misshapen(list)),
        }
    }

    /// Gives a member of a map a value; maps on the way are created where absent or null. No change if it has that value.
    pub(crate) fn set(&mut self, member: &PointerBuf, value: Value) -> Result<(), Misshapen> {
        if self.get(member) == Some(&value) {
            return Ok(());
        }
        let (above, parent) = self.innermost(member);
        let missing: Vec<Token<'_>> = member.tokens().skip(above.count()).collect();
        let (true, Some((name, below))) = (parent.is_object(), missing.split_first()) else {
            return Err(misshapen(above));
        };
        let value = below.iter().rev().fold(value, |inner, name| map([(&name.decoded(), inner)]));
        let path = above.with_trailing_token(name.clone());
        self.operations.push(PatchOperation::Add(AddOperation { path, value }));
        Ok(())
    }

    /// Puts a value in the place of one that was received.
    pub(crate) fn replace(&mut self, place: &PointerBuf, value: Value) -> Result<(), Misshapen> {
        self.received(place)?;
        self.operations.push(PatchOperation::Replace(ReplaceOperation { path: place.clone(), value }));
        Ok(())
    }

    /// Takes a value out that was received.
    pub(crate) fn remove(&mut self, place: &PointerBuf) -> Result<(), Misshapen> {
        self.received(place)?;
        self.operations.push(PatchOperation::Remove(RemoveOperation { path: place.clone() }));
        Ok(())
    }

    /// How many changes there are so far.
    pub(crate) fn changes(&self) -> usize {
        self.operations.len()
    }

    /// The changes, in order.
    pub(crate) fn into_patch(self) -> Patch {
        Patch(self.operations)
    }

    /// Looks past the changes, of which there may be one for each item of a list.
    fn received(&self, place: &PointerBuf) -> Result<(), Misshapen> {
        place.resolve(self.object).map(|_| ()).map_err(|_| misshapen(place))
    }

    /// The innermost value that is there on the way to a place, and where it is.
    fn innermost<'p>(&self, place: &'p Pointer) -> (&'p Pointer, &Value) {
        let mut way = successors(place.parent(), |above| above.parent());
        way.find_map(|above| Some((above, self.get(above)?))).unwrap_or((Pointer::root(), self.object))
    }
}

fn misshapen(place: &Pointer) -> Misshapen {
    Misshapen { path: place.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn after(object: Value, change: impl FnOnce(&mut Edit<'_>) -> Result<(), Misshapen>) -> (Value, Value) {
        let mut edit = Edit::new(&object);
        change(&mut edit).unwrap();
        let patch = edit.into_patch();
        let mut result = object.clone();
        json_patch::patch(&mut result, &patch).unwrap();
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
        let mut error = |change: fn(&mut Edit<'_>) -> Result<(), Misshapen>| change(&mut edit).unwrap_err().path;
        assert_eq!(error(|edit| edit.append(&place(["spec", "volumes"]), json!(1))), "/spec/volumes");
        assert_eq!(error(|edit| edit.set(&place(["spec", "containers", "0", "env"]), json!([]))), "/spec/containers");
        assert_eq!(error(|edit| edit.set(&place(["spec", "volumes", "x"]), json!([]))), "/spec/volumes");
        assert_eq!(error(|edit| edit.remove(&place(["spec", "absent"]))), "/spec/absent");
        assert_eq!(error(|edit| edit.replace(&place(["spec", "containers", "0"]), json!(1))), "/spec/containers/0");
        assert!(edit.into_patch().is_empty());
    }

    #[test]
    fn does_a_later_change_see_what_an_earlier_one_did() {
        let object = json!({"metadata": {"annotations": {"a": "1", "ab": "2"}}, "spec": {"args": ["x", "y", "z"]}});
        let annotation = |name| place(["metadata", "annotations", name]);
        let (result, _) = after(object, |edit| {
            edit.remove(&annotation("a"))?;
            assert_eq!((edit.get(&annotation("a")), edit.get(&annotation("ab"))), (None, Some(&json!("2"))));
            edit.set(&annotation("a"), json!("3"))?;
            edit.replace(&annotation("a"), json!("4"))?;
            assert_eq!(edit.get(&annotation("a")), Some(&json!("4")));
            edit.set(&place(["spec", "new", "map"]), json!(1))?;
            edit.set(&place(["spec", "new", "other", "map"]), json!(2))?;
            edit.remove(&place(["spec", "args", "2"]))?;
            edit.remove(&place(["spec", "args", "0"]))?;
            edit.append(&place(["spec", "args"]), json!("end"))
        });
        assert_eq!(result["metadata"]["annotations"], json!({"a": "4", "ab": "2"}));
        assert_eq!(result["spec"], json!({"args": ["y", "end"], "new": {"map": 1, "other": {"map": 2}}}));
    }
}
