//! The format of a list of nodes: one key of the ConfigMap that holds a JSON list of enode URLs.
//!
//! There are two: [`STATIC_NODES`], which sidecars share that know no entries, and
//! [`EXTERNAL_NODES`], which people write. Anybody may have written anything, so each
//! element counts only if it is what it has to be, and the others do not suffer from it.

use serde_json::value::RawValue;
use thiserror::Error;

use crate::enode::{Enode, EnodeError};

/// The key of the list that earlier sidecars read and write as a whole.
pub const STATIC_NODES: &str = "static-nodes.json";
/// The key of the list of nodes outside the cluster, which people write.
pub const EXTERNAL_NODES: &str = "external-nodes.json";
/// The longest list that is looked at, in bytes: more than a ConfigMap can hold
/// (`MaxSecretSize`, 1 MiB, kubernetes/pkg/apis/core/validation).
pub const MAX_LENGTH: usize = 1 << 20;
/// The most elements that are looked at; so many enodes are longer than [`MAX_LENGTH`].
pub const MAX_ELEMENTS: usize = 10_000;

/// Why a value is no list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Error)]
pub enum ListError {
    /// Longer than [`MAX_LENGTH`].
    #[error("the list is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// More than [`MAX_ELEMENTS`].
    #[error("the list has more than {MAX_ELEMENTS} elements")]
    TooMany,
    /// No JSON list; what is wrong, with its place.
    #[error("the value is not a JSON list of enode URLs: {0}")]
    Format(String),
}

/// Why an element of a list is no node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Error)]
pub enum ElementError {
    /// Something else than a text.
    #[error("is not a text")]
    NotText,
    /// No enode.
    #[error(transparent)]
    Enode(#[from] EnodeError),
}

/// One element of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// It as it is written; empty if it is no text.
    pub text: String,
    /// The node that it names.
    pub node: Result<Enode, ElementError>,
}

impl Element {
    fn new(json: &RawValue) -> Self {
        match serde_json::from_str::<String>(json.get()) {
            Ok(text) => Self { node: text.trim().parse().map_err(ElementError::Enode), text },
            Err(_) => Self { text: String::new(), node: Err(ElementError::NotText) },
        }
    }

    /// The node, if it is named without a query: earlier sidecars die of those with one.
    pub fn plain(&self) -> Option<Enode> {
        self.node.as_ref().ok().copied().filter(|_| !self.text.contains('?'))
    }
}

/// One list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeList {
    /// The value, byte for byte: what a change has to quote.
    pub value: String,
    /// Its elements.
    pub elements: Result<Vec<Element>, ListError>,
}

impl NodeList {
    /// Takes a value apart.
    pub fn parse(value: &str) -> Self {
        Self { value: value.to_owned(), elements: elements(value) }
    }

    /// The elements; none of a value that is no list.
    pub fn iter(&self) -> impl Iterator<Item = &Element> {
        self.elements.iter().flatten()
    }
}

fn elements(value: &str) -> Result<Vec<Element>, ListError> {
    if value.len() > MAX_LENGTH {
        return Err(ListError::TooLong);
    }
    // Where each element begins and ends is all that is kept of it until it is seen to be a text: whatever
    // else somebody put there could take a hundred times as much memory as it is long.
    let values: Vec<&RawValue> = serde_json::from_str(value).map_err(|error| ListError::Format(error.to_string()))?;
    if values.len() > MAX_ELEMENTS {
        return Err(ListError::TooMany);
    }
    Ok(values.into_iter().map(Element::new).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn enode(fill: &str) -> String {
        format!("enode://{}@10.0.0.1:30303", fill.repeat(64))
    }

    #[test]
    fn is_each_element_taken_for_itself() {
        let list = NodeList::parse(&format!(
            r#"["{}", 7, "  {} ", "{}?discport=0", "enode://x", "{}"]"#,
            enode("ab"),
            enode("cd"),
            enode("ef"),
            enode("12").replace("10.0.0.1", "geth-0.geth"),
        ));
        let elements = list.elements.unwrap();
        assert_eq!(
            elements.iter().map(|element| element.node.is_ok()).collect::<Vec<_>>(),
            [true, false, true, true, false, false]
        );
        assert_eq!(elements.iter().filter_map(Element::plain).count(), 2, "with a query it is no plain one");
        assert_eq!(elements[1].node, Err(ElementError::NotText));
    }

    #[test]
    fn is_what_is_no_list_refused_in_few_words() {
        for bad in [
            String::new(),
            "null".into(),
            "{}".into(),
            "[".into(),
            "garbage".into(),
            "[".repeat(500_000),
            format!("\"{}\"", "x".repeat(MAX_LENGTH)),
            format!("[{}0]", "0,".repeat(MAX_ELEMENTS)),
            format!(r#"[{}0]"#, r#"{"":0},"#.repeat(MAX_LENGTH / 8)),
        ] {
            let list = NodeList::parse(&bad);
            assert!(list.elements.unwrap_err().to_string().len() < 300);
        }
        assert_eq!(NodeList::parse("[]").elements, Ok(vec![]));
    }

    #[test]
    fn is_an_element_as_deep_as_a_list_can_hold_one_that_is_no_text() {
        let deep = format!(r#"[{}{}, "{}"]"#, "[".repeat(500_000), "]".repeat(500_000), enode("ab"));
        let elements = NodeList::parse(&deep).elements.unwrap();
        assert!(elements[0].node == Err(ElementError::NotText) && elements[1].node.is_ok());
    }

    proptest! {
        #[test]
        fn does_no_value_make_it_panic_or_name_a_node_that_is_not_written_there(
            value in r#"(\[("\PC{0,200}"|[0-9]{1,3})(,"\PC{0,40}"){0,3}\]|\PC{0,200})"#,
        ) {
            for element in NodeList::parse(&value).iter() {
                if let Ok(node) = &element.node {
                    prop_assert!(element.text.to_lowercase().contains(&node.to_string()));
                }
            }
        }
    }
}
