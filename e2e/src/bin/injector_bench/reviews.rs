//! The reviews that are sent.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What an API server sends when an ordinary pod of Geth is created.
const REVIEW: &str = include_str!("../../../bench/review.yaml");

/// Namespace of the pod.
pub(crate) const NAMESPACE: &str = "chain";

/// The review of an ordinary pod of Geth that asks for peering.
pub(crate) fn ordinary() -> Result<Value> {
    Ok(serde_saphyr::from_str(REVIEW)?)
}

/// The same pod with so many more variables.
pub(crate) fn with_variables(count: usize) -> Result<Value> {
    let mut review = ordinary()?;
    let env = review.pointer_mut("/request/object/spec/containers/0/env").and_then(Value::as_array_mut);
    env.context("Geth has variables")?.extend(
        (0..count).map(|n| json!({ "name": format!("CHAIN_PARAMETER_{n:04}"), "value": format!("value-{n:05}") })),
    );
    Ok(review)
}

/// The same pod, which refuses peering.
pub(crate) fn refusing() -> Result<Value> {
    let mut review = ordinary()?;
    let label = review.pointer_mut("/request/object/metadata/labels/geth-peering");
    *label.context("the pod has the label")? = json!("disabled");
    Ok(review)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_the_reviews_as_large_as_their_names_say() {
        let kilobytes = |review: Result<Value>| (review.unwrap().to_string().len() as f64 / 1e3 * 10.0).round() / 10.0;
        assert_eq!(kilobytes(ordinary()), 5.4);
        assert_eq!(kilobytes(refusing()), 5.4);
        assert_eq!(kilobytes(with_variables(2000)), 113.4);
        assert_eq!(kilobytes(with_variables(4000)), 221.4);
    }
}
