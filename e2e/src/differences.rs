//! Two answers to one question, side by side.

use anyhow::{Result, ensure};
use serde_json::Value;

/// Longer texts are cut where they are shown.
const SHOWN: usize = 400;

/// How many differences are shown.
const LINES: usize = 20;

/// Makes sure that a stand-in answers `question` as the real thing does.
///
/// # Errors
/// One line for each place where it does not, by its path.
pub fn same(question: &str, real: &Value, fake: &Value) -> Result<()> {
    let mut lines = Vec::new();
    compare("", Some(real), Some(fake), &mut lines);
    let left = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    if left > 0 {
        lines.push(format!("  and {left} more"));
    }
    ensure!(lines.is_empty(), "{question}\n{}", lines.join("\n"));
    Ok(())
}

fn compare(path: &str, real: Option<&Value>, fake: Option<&Value>, lines: &mut Vec<String>) {
    match (real, fake) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            for name in one.keys().chain(other.keys().filter(|name| !one.contains_key(*name))) {
                compare(&format!("{path}/{name}"), one.get(name), other.get(name), lines);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            for i in 0..one.len().max(other.len()) {
                compare(&format!("{path}/{i}"), one.get(i), other.get(i), lines);
            }
        }
        (one, other) if one == other => {}
        (one, other) => lines.push(format!("  {path}: the real one says {}, the fake {}", shown(one), shown(other))),
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
