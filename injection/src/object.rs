//! Reads objects of the Kubernetes API.

use std::fmt;

use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Where the API server notes who wrote which field. It is a quarter of an ordinary pod and more of others, in many small
/// maps, which are what costs most; and no decision depends on it.
const MANAGED_FIELDS: Part = Part(&["metadata", "managedFields"]);

/// Reads an object as it is, but for its `metadata.managedFields`.
///
/// # Errors
/// If it is not JSON.
pub(crate) fn without_managed_fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    MANAGED_FIELDS.deserialize(deserializer)
}

/// Reads a value without the part at this path.
struct Part(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any valid JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = match self.0 {
                [last] if name == *last => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
                [first, rest @ ..] if name == *first => members.next_value_seed(Part(rest))?,
                _ => members.next_value()?,
            };
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }

    // The part can be in nothing else than a map.

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Value, A::Error> {
        Value::deserialize(SeqAccessDeserializer::new(items))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> serde_json::Result<Value> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        without_managed_fields(&mut deserializer).and_then(|value| deserializer.end().map(|()| value))
    }

    #[test]
    fn is_everything_read_but_the_managed_fields() {
        let text = r#"{"metadata": {"managedFields": [{"f:a": {}}], "name": "x", "x": {"managedFields": 1}}, "spec": {
            "managedFields": [2], "metadata": {"managedFields": -3}, "all": [null, true, -1, 1, 1.5, "a\u0062", [], {}]}}"#;
        let mut expected: Value = serde_json::from_str(text).unwrap();
        expected["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn is_a_value_of_any_type_read_in_any_place() {
        for value in [json!(null), json!(true), json!(-1), json!(u64::MAX), json!(1.5), json!("a"), json!([{"a": 1}])] {
            assert_eq!(read(&value.to_string()).unwrap(), value);
            let object = json!({ "metadata": value });
            assert_eq!(read(&object.to_string()).unwrap(), object);
        }
    }

    #[test]
    fn is_what_is_no_json_an_error_also_in_what_is_left_out() {
        for text in ["", "{", r#"{"metadata": {"managedFields": [}}"#, r#"{"a": 1"#, "[1,]"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
