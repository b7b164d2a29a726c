//! Two answers to one question, side by side.

use anyhow::{Result, ensure};
use serde_json::Value;
use std::fmt;

/// Longer texts are cut where they are shown.
const SHOWN: usize = 400;

/// How many differences are shown.
const LINES: usize = 20;

/// A place at which two answers differ.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Where it is.
    pub path: String,
    /// What the real thing says there.
    real: Option<Value>,
    /// What the stand-in says there.
    fake: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (real, fake) = (shown(self.real.as_ref()), shown(self.fake.as_ref()));
        write!(f, "{}: the real one says {real}, the fake {fake}", self.path)
    }
}

/// Where the answer of a stand-in is another one than that of the real thing.
pub fn between(real: &Value, fake: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", Some(real), Some(fake), &mut found);
    found
}

/// Makes sure that a stand-in answers `question` as the real thing does.
///
/// # Errors
/// One line for each place where it does not, by its path.
pub fn same(question: &str, real: &Value, fake: &Value) -> Result<()> {
    let mut lines: Vec<_> = between(real, fake).iter().map(|found| format!("  {found}")).collect();
    let left = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    if left > 0 {
        lines.push(format!("  and {left} more"));
    }
    ensure!(lines.is_empty(), "{question}\n{}", lines.join("\n"));
    Ok(())
}

fn compare(path: &str, real: Option<&Value>, fake: Option<&Value>, found: &mut Vec<Difference>) {
    match (real, fake) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            for name in one.keys().chain(other.keys().filter(|name| !one.contains_key(*name))) {
                compare(&format!("{path}/{name}"), one.get(name), other.get(name), found);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            for i in 0..one.len().max(other.len()) {
                compare(&format!("{path}/{i}"), one.get(i), other.get(i), found);
            }
        }
        (one, other) if one == other => {}
        (one, other) => found.push(Difference { path: path.into(), real: one.cloned(), fake: other.cloned() }),
    }
}

/// A value as JSON, as far as a person would read it.
fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".into(), |value| shorten(&value.to_string()))
}

/// The beginning of a text.
pub fn shorten(text: &str) -> String {
    let short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() { format!("{short}... ({} bytes)", text.len()) } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn is_every_difference_named_by_its_path() {
        let (real, fake) =
            (json!({"a": [1, {"b": 2}], "c": 3, "d": 5}), json!({"a": [1, {"b": 3}, 4], "d": 5, "e": 6}));
        assert_eq!(
            same("what is it?", &real, &fake).unwrap_err().to_string(),
            [
                "what is it?",
                "  /a/1/b: the real one says 2, the fake 3",
                "  /a/2: the real one says nothing, the fake 4",
                "  /c: the real one says 3, the fake nothing",
                "  /e: the real one says nothing, the fake 6",
            ]
            .join("\n")
        );
        same("what is it?", &real, &real).unwrap();
    }
}
